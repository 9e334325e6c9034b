"""The GPU benchmark, rehearsed: a tiny network through the whole script, and its results file."""

from __future__ import annotations

import csv
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch

pytest.importorskip("diffusers", reason="diffusers is not installed: pip install 'spectral_pd[diffusers]'")

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
cost, full_size = (import_module(name) for name in ("cost", "full_size"))


def tiny(*, reduced: bool = False):
    from diffusers import FluxTransformer2DModel

    return FluxTransformer2DModel(
        guidance_embeds=True,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        axes_dims_rope=(4, 6, 6),
    )


@pytest.fixture
def models(monkeypatch):
    """The script's FLUX entry with a network of 2 blocks of width 32."""
    model = cost.Model("tiny", tiny, cost.MODELS["flux"].inputs, passes=1, text_tokens=512)
    monkeypatch.setitem(cost.MODELS, "tiny", model)
    monkeypatch.setitem(full_size.SETUPS, "tiny", full_size.SETUPS["flux"])


def run(monkeypatch, out: Path, *options: str) -> int:
    command = ["full_size", "--device", "cpu", "--dtype", "float32", "--models", "tiny", "--latent", "16", "16"]
    monkeypatch.setattr(sys, "argv", [*command, "--steps", "10", "--out", str(out), *options])
    return full_size.main()


def test_a_rehearsal_writes_sound_rows(models, monkeypatch, tmp_path):
    out = tmp_path / "rows.csv"
    for _ in range(2):  # the same rows again are replaced, not doubled
        assert run(monkeypatch, out, "--modes", "eager") == 0
    half, quarter = csv.DictReader(out.open(newline=""))
    expected = cost.counted_cost("tiny")
    for row, sizes in ((half, (8, 16)), (quarter, (4, 8, 16))):
        split = [int(n) for n in row["split"].split("+")]
        assert row["model"] == "tiny"
        assert sum(split) == int(row["steps"]) == 10
        assert len(row["step_seconds"].split()) == len(sizes)
        for name in ("seconds", "full_step_seconds", "speedup", "expansion_seconds", "peak_gib"):
            assert float(row[name]) > 0
        predicted = 10 * expected((16, 16)) / sum(n * expected((s, s)) for n, s in zip(split, sizes, strict=True))
        assert float(row["predicted"]) == pytest.approx(predicted, rel=1e-4)
        assert float(row["predicted_over_50"]) == pytest.approx(5 * predicted, rel=1e-4)
        assert all(row[name] for name in ("device", "torch", "diffusers", "python", "commit"))


def test_long_plans_are_priced_from_their_steps(models, monkeypatch, tmp_path):
    out = tmp_path / "rows.csv"
    assert run(monkeypatch, out, "--modes", "eager", "--longest", "0") == 0
    for row in csv.DictReader(out.open(newline="")):
        assert row["seconds"] == ""
        assert float(row["speedup"]) > 0


def test_a_failing_mode_is_reported_and_the_rest_goes_on(models, monkeypatch, tmp_path, capsys):
    def fail(self, **options):
        assert options == {"fullgraph": True, "dynamic": False}
        raise RuntimeError("no compiler")

    monkeypatch.setattr("diffusers.FluxTransformer2DModel.compile_repeated_blocks", fail)
    out = tmp_path / "rows.csv"
    assert run(monkeypatch, out, "--modes", "compile", "eager", "--longest", "0") == 1
    assert "no compiler" in capsys.readouterr().err
    assert {row["mode"] for row in csv.DictReader(out.open(newline=""))} == {"eager"}


def test_an_archive_without_a_repository_knows_its_commit(tmp_path):
    root = Path(__file__).parent.parent
    if shutil.which("git") is None or subprocess.run(["git", "rev-parse"], cwd=root, capture_output=True).returncode:
        pytest.skip("not a git checkout")
    archive = tmp_path / "archive.zip"
    subprocess.run(
        ["git", "archive", "-o", archive, "HEAD", "spectral_pd/comparing/environment.py"], cwd=root, check=True
    )
    shutil.unpack_archive(archive, tmp_path)
    command = [sys.executable, "-c", "import environment; print(environment.commit())"]
    there = tmp_path / "spectral_pd" / "comparing"
    said = subprocess.run(command, cwd=there, capture_output=True, text=True, check=True).stdout
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=True).stdout
    assert len(said.strip()) >= 7
    assert head.startswith(said.strip())


def test_every_setup_has_a_cost():
    assert {"flux", "z-image", "wan"} == set(full_size.SETUPS) <= set(cost.MODELS)
    for setup in full_size.SETUPS.values():
        assert setup.plans
        assert all(scales[-1] == 1 for _, scales in setup.plans)


def test_without_diffusers_it_says_how_to_bring_it_along(monkeypatch, capsys):
    monkeypatch.setattr(full_size.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(sys, "argv", ["full_size"])
    with pytest.raises(SystemExit):
        full_size.main()
    assert "from wheels" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="only where there is no GPU")
def test_without_a_gpu_it_says_how_to_rehearse(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["full_size"])
    with pytest.raises(SystemExit):
        full_size.main()
    assert "--reduced" in capsys.readouterr().err
