"""The fine-tuning recipe end to end on tiny random models: loss, adapter, metadata, resuming, refusals."""

from __future__ import annotations

import json
import subprocess
import sys
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
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_dit.model import Config, TinyDiT, save
from tiny_pipelines import FLUX, generator

from spectral_pd import DCT, HAAR, plan_at, sample, shift_times
from spectral_pd.adapters import adapt, progressive

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
CALL = "height=128 width=128 num_inference_steps=12 guidance_scale=1.0"


@pytest.fixture(autouse=True)
def one_run_a_test():
    """accelerate keeps one state a process; a recipe is one run of a process."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Weights of a random transformer of 2 blocks with outputs that are not zero."""
    torch.manual_seed(0)
    model = TinyDiT(Config(width=32, depth=2, heads=2))
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    path = tmp_path_factory.mktemp("small") / "weights.safetensors"
    save(model, path, {})
    return path


@pytest.fixture(scope="module")
def flux(tmp_path_factory):
    """A folder with a tiny FLUX pipeline and one with four encoded pictures."""
    root = tmp_path_factory.mktemp("flux")
    FLUX.build().save_pretrained(root / "pipe")
    (root / "latents").mkdir()
    prompt = FLUX.prompt(4, False)
    for i in range(4):
        # Smooth pictures with a caption each: there is something to learn.
        low = torch.randn(4, 4, 4, generator=generator(i))
        picture = torch.nn.functional.interpolate(low[None], (16, 16), mode="bilinear")[0]
        save_file(
            {"latents": picture.contiguous()} | {name: value[i].contiguous() for name, value in prompt.items()},
            root / "latents" / f"{i}.safetensors",
        )
    return root


def tiny(small, run, *options, steps=6):
    arguments = ["tiny", "--weights", str(small), "--folder", str(run), "--out", str(run / "lora.safetensors"), "--cpu"]
    defaults = ["--steps", str(steps), "--batch", "4", "--micro-batch", "2", "--rank", "4", "--delta", "0.1"]
    return finetune.parse([*arguments, *defaults, "--checkpoint-every", "2", *options])


def on_flux(flux, run, *options, steps=4):
    arguments = [str(flux / "pipe"), "--latents", str(flux / "latents"), "--call", CALL, "--folder", str(run)]
    defaults = [
        "--out",
        str(run / "lora.safetensors"),
        "--cpu",
        "--steps",
        str(steps),
        "--batch",
        "2",
        "--delta",
        "0.3",
    ]
    return finetune.parse([*arguments, *defaults, *options])


def log(run):
    return [[float(cell) for cell in line.split(",")] for line in (run / "log.csv").read_text().splitlines()[1:]]


def test_flux_learns_and_its_adapter_loads_into_the_stock_pipeline_in_a_fresh_process(flux, tmp_path):
    """Loss falls; the file is diffusers' own layout; a fresh process samples what this one samples."""
    args = on_flux(
        flux, tmp_path, "--rate", "1e-2", "--warmup", "1", "--checkpointing", "--precision", "bf16", steps=45
    )
    finetune.train(args)
    losses = torch.tensor([row[2] for row in log(tmp_path)])
    assert losses[-15:].mean() < 0.85 * losses[:15].mean()

    program = f"""
import sys, torch
sys.path[:0] = [{str(BENCHMARKS)!r}, {str(Path(__file__).parent)!r}]
import finetune
from accelerate.state import AcceleratorState, GradientState
from safetensors import safe_open
from diffusers import FluxPipeline
from tiny_pipelines import FLUX, generator
from spectral_pd.adapters import adapt
from spectral_pd.training import check_metadata
text = dict.fromkeys(("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"))
pipe = FluxPipeline.from_pretrained({str(flux / "pipe")!r}, **text)
pipe.set_progress_bar_config(disable=True)
pipe.load_lora_weights({str(tmp_path)!r}, weight_name="lora.safetensors")
call = adapt(pipe, generator=generator(3), **FLUX.arguments(guided=False, num_inference_steps=12, guidance_scale=1.0))
plan = call.plan(delta=0.3)
with safe_open({str(tmp_path / "lora.safetensors")!r}, "pt") as file:
    assert check_metadata(file.metadata(), plan) == []
torch.save(call.run(plan).images, {str(tmp_path / "fresh.pt")!r})
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=300)
    fresh = torch.load(tmp_path / "fresh.pt", weights_only=True)

    pipe = FLUX.build()
    pipe.set_progress_bar_config(disable=True)
    options = FLUX.arguments(guided=False, num_inference_steps=12, guidance_scale=1.0)
    base = progressive(pipe, generator=generator(3), delta=0.3, **options).images
    plan = adapt(pipe, **options).plan(delta=0.3)
    assert finetune.load_lora(pipe.transformer, tmp_path / "lora.safetensors", plan) == []
    ours = progressive(pipe, generator=generator(3), delta=0.3, **options).images
    torch.testing.assert_close(fresh, ours, rtol=0, atol=1e-5)
    assert (ours - base).abs().max() > 0.05, "the adapter does something"


def test_a_schedule_it_was_not_trained_for_warns(small, tmp_path):
    args = tiny(small, tmp_path, steps=1)
    finetune.train(args)
    with safe_open(tmp_path / "lora.safetensors", "pt") as file:
        metadata = file.metadata()
    assert set(metadata) >= {"spectral_pd.schedule", "spectral_pd.lora"}
    assert json.loads(metadata["spectral_pd.recipe"]) == {name: getattr(args, name) for name in finetune.RECIPE}
    model = finetune.load(small)
    other = plan_at(shift_times(32, shift=3.0), (0.9,), (64, 64), scales=(0.5, 1))
    with pytest.warns(UserWarning, match="transition_times"):
        assert finetune.load_lora(model, tmp_path / "lora.safetensors", other)


def test_before_the_first_step_the_adapter_changes_nothing(small):
    model = finetune.load(small)
    x = torch.randn(2, 3, 32, 32, generator=generator())
    before = model.velocity(x, 0.5)
    finetune.add_lora(model, ("qkv", "down"), rank=4, seed=0)
    assert torch.equal(model.velocity(x, 0.5), before)
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert len(trained) == 2 * 2 * 2
    assert all("lora_" in name for name in trained)
    with pytest.raises(ValueError, match="match no linear layer"):
        finetune.add_lora(finetune.load(small), ("to_q",), rank=4, seed=0)


def test_resuming_is_exact_and_refuses_another_run(small, tmp_path):
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    finetune.train(tiny(small, straight))
    finetune.train(tiny(small, broken, steps=4))
    (broken / "lora.safetensors").unlink()
    finetune.train(tiny(small, broken))
    a, b = (load_file(run / "lora.safetensors") for run in (straight, broken))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert log(straight) == log(broken)
    with pytest.raises(ValueError, match="is of another run"):
        finetune.train(tiny(small, broken, "--clock", "stage", steps=8))


def test_gradient_checkpointing_and_micro_batches_change_nothing(small, tmp_path):
    runs = {"plain": (), "checkpointed": ("--checkpointing",), "one by one": ("--micro-batch", "1")}
    for name, options in runs.items():
        finetune.train(tiny(small, tmp_path / name, *options, steps=1))
    first = gradient(tmp_path / "plain")
    for name in runs:
        torch.testing.assert_close(gradient(tmp_path / name), first, rtol=1e-4, atol=1e-7)


def gradient(run):
    """The first step's gradient, from AdamW's first moment (1 - 0.9) g."""
    state = torch.load(run / "checkpoint.pt", weights_only=True)["optimiser"]["state"]
    return torch.cat([state[i]["exp_avg"].flatten() for i in sorted(state)]) / 0.1


def test_training_states_are_checked_against_the_sampler(monkeypatch):
    plans = [
        plan_at(shift_times(32, shift=3.0), (0.9, 0.7), (64, 64), scales=(0.25, 0.5, 1), basis=basis)
        for basis in (DCT, HAAR)
    ]
    x0, noise = (torch.randn(1, 3, 64, 64, generator=generator(i), dtype=torch.float64) for i in range(2))
    for plan in plans:
        finetune.check_consistency(x0, noise, plan)
    right = finetune.stage_endpoints

    def careless(x0, noise, plan, stage):  # the coarse picture without its division by r
        start, end = right(x0 * (1 + (stage > 0)), noise, plan, stage)
        return start, end

    monkeypatch.setattr(finetune, "stage_endpoints", careless)
    with pytest.raises(RuntimeError, match="differ from the sampler's"):
        finetune.check_consistency(x0, noise, plans[0])


def test_the_control_is_plain_flow_matching_on_the_same_grids(small, tmp_path):
    args = tiny(small, tmp_path)
    model = finetune.build(args)
    plan = model.plan(scales=(0.5, 1), delta=0.1)
    stage = next(finetune.draw(model, plan, args, 0, range(4))).pair
    args.objective = "plain"
    plain = next(finetune.draw(model, plan, args, 0, range(4))).pair
    assert plain.stage == stage.stage
    assert torch.equal(plain.t, stage.t)
    step = next(k for k in range(20) if next(finetune.draw(model, plan, args, k, range(2))).pair.stage == 1)
    plain = next(finetune.draw(model, plan, args, step, range(2))).pair
    args.objective = "stage"
    staged = next(finetune.draw(model, plan, args, step, range(2))).pair
    low = slice(0, 32), slice(0, 32)
    gap = DCT.forward(staged.target - plain.target).abs()
    # The shared band runs along the same line on the full clock; only the new band is made at another speed.
    assert gap[..., low[0], low[1]].max() < 1e-4
    assert gap[..., 32:, 32:].max() > 1e-3


@pytest.mark.parametrize(
    ("options", "message"),
    [(("--batch", "3"), "must be a multiple of micro_batch"), (("--scales", "1/2", "1/3", "1"), "scales")],
)
def test_refusals(small, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        finetune.train(tiny(small, tmp_path, *options))


def test_latents_that_do_not_fit_the_call_are_refused(flux, tmp_path):
    args = on_flux(flux, tmp_path)
    args.call = {**args.call, "height": 64}
    with pytest.raises(ValueError, match="but --call makes a state of"):
        finetune.train(args)
    args.latents = tmp_path / "nothing"
    with pytest.raises(FileNotFoundError, match="encode the pictures first"):
        finetune.train(args)


def test_the_fine_tuned_small_transformer_samples(small, tmp_path):
    finetune.train(tiny(small, tmp_path, steps=1))
    model = finetune.load(small)
    plan = finetune.build(tiny(small, tmp_path)).plan(scales=(0.5, 1), delta=0.1)
    assert finetune.load_lora(model, tmp_path / "lora.safetensors", plan) == []
    out = sample(model.velocity, torch.randn(1, 3, 64, 64, generator=generator()), plan)
    assert bool(torch.isfinite(out).all())
