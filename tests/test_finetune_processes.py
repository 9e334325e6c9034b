"""The fine-tuning recipe as processes: two of them compute one's gradient, and a killed one goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

pytest.importorskip("peft", reason="peft is not installed: pip install 'spectral_pd[diffusers]'")
pytest.importorskip("accelerate", reason="accelerate is not installed: pip install 'spectral_pd[diffusers]'")
pytest.importorskip("sklearn")
pytest.importorskip("skimage")
sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

import finetune
from accelerate.state import AcceleratorState, GradientState
from safetensors.torch import load_file
from tiny_dit.model import Config, TinyDiT, save

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(BENCHMARKS.parent)}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    torch.manual_seed(0)
    model = TinyDiT(Config(width=32, depth=1, heads=2))
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    path = tmp_path_factory.mktemp("small") / "weights.safetensors"
    save(model, path, {})
    return path


def arguments(small, run, *options):
    recipe = ["tiny", "--cpu", "--weights", str(small), "--folder", str(run), "--out", str(run / "lora.safetensors")]
    return [*recipe, "--rank", "4", "--batch", "4", "--delta", "0.1", *options]


def command(small, run, *options, processes=1):
    """The recipe in processes of its own; accelerate understands what torchrun tells them."""
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    script = str(BENCHMARKS / "finetune.py")
    return [sys.executable, *(launch if processes > 1 else ()), script, *arguments(small, run, *options)]


def train_here(small, run, *options):
    finetune.train(finetune.parse(arguments(small, run, *options)))
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def first_gradient(run):
    """From AdamW's first moment after one step, (1 - 0.9) g."""
    state = torch.load(run / "checkpoint.pt", weights_only=True)["optimiser"]["state"]
    return torch.cat([state[i]["exp_avg"].flatten() for i in sorted(state)]) / 0.1


REPAIR = ("--objective", "agree", "--informed", "--own", "4", "--scales", "1/2", "1")


@pytest.mark.parametrize("objective", [(), REPAIR], ids=["stage", "agree"])
def test_two_processes_compute_the_gradient_of_one(small, tmp_path, objective):
    one, two = tmp_path / "one", tmp_path / "two"
    options = (*objective, "--steps", "1")
    train_here(small, one, *options)
    subprocess.run(command(small, two, *options, processes=2), env=ENVIRONMENT, check=True, timeout=300)
    expected = first_gradient(one)
    assert expected.abs().max() > 0
    torch.testing.assert_close(first_gradient(two), expected, rtol=1e-3, atol=1e-6 * float(expected.abs().max()))


def test_a_killed_run_goes_on_from_its_checkpoint(small, tmp_path):
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    options = ("--steps", "60", "--checkpoint-every", "5")
    train_here(small, straight, *options)
    process = subprocess.Popen(command(small, killed, *options), env=ENVIRONMENT)
    deadline = time.monotonic() + 200
    while not (killed / "checkpoint.pt").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = torch.load(killed / "checkpoint.pt", weights_only=True)["step"]
    assert 0 < done < 60
    assert done % 5 == 0
    train_here(small, killed, *options)
    a, b = (load_file(run / "lora.safetensors") for run in (straight, killed))
    assert all(torch.equal(a[name], b[name]) for name in a)
