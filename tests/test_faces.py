"""The pretrained face denoiser of the benchmarks: its layers against plain modules, that it denoises, and its rows."""

from __future__ import annotations

import csv
import os
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch
from tolerances import assert_close

from spectral_pd import DCT, GaussianField, PowerLaw, make_plan

for name in ("accelerate", "diffusers", "scipy", "skimage"):
    pytest.importorskip(name)
ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))
networks = import_module("networks")
WEIGHTS = Path(os.environ.get("SPECTRAL_PD_FACES", ROOT.parent / "shared/data/denoisers/celeba_gray_rf43.safetensors"))


def plain(state, *, first_linear=True):
    """The authors' network of plain modules: no ReLU after the first convolution."""
    layers = []
    for i in range(21):
        weight = state[f"conv_layers.{i}.weight"]
        layers.append(torch.nn.Conv2d(*weight.shape[1::-1], 3, padding=1, bias=False))
        layers[-1].weight.data = weight
        if 0 < i < 20:
            sd, gamma = (state[f"BN_layers.{i - 1}.{name}"] for name in ("running_sd", "gammas"))
            norm = torch.nn.BatchNorm2d(64, eps=0.0).eval()
            norm.running_var, norm.weight.data = sd.flatten() ** 2, gamma.flatten()
            layers += [norm, torch.nn.ReLU()]
        elif i == 0 and not first_linear:
            layers.append(torch.nn.ReLU())
    return torch.nn.Sequential(*layers)


def random_state():
    generator = torch.Generator().manual_seed(0)
    state = {}
    for i in range(21):
        shape = (64 if i < 20 else 1, 64 if i else 1, 3, 3)
        state[f"conv_layers.{i}.weight"] = 0.1 * torch.randn(shape, generator=generator)
        if 0 < i < 20:
            state[f"BN_layers.{i - 1}.running_sd"] = 0.5 + torch.rand(1, 64, 1, 1, generator=generator)
            state[f"BN_layers.{i - 1}.gammas"] = 0.5 + torch.rand(1, 64, 1, 1, generator=generator)
    return state


@torch.no_grad()
def test_the_layers_are_the_authors():
    """Folded scales and the linear first layer, against plain modules; with a ReLU after the first it is another network."""
    state, x, t = random_state(), torch.randn(2, 1, 12, 12, generator=torch.Generator().manual_seed(1)), 0.4
    found = networks.face_velocity(networks.face_layers(state), x, t)
    for linear in (True, False):
        residual = 2 * plain(state, first_linear=linear)((x / (1 - t) + 1) / 2)
        expected = (x - (x / (1 - t) - residual)) / t
        if linear:
            assert_close(found, expected)
        else:
            assert (found - expected).abs().max() > 0.1 * expected.abs().max()


def test_a_start_below_one_has_the_power_of_pictures():
    """Low frequencies stand far above the noise there, which white noise would not; at time 1 it is the noise itself."""
    faces = networks.FACES
    power = DCT.forward(faces.start(256, 0, "cpu").double()).square().mean((0, 1))
    expected = (1 - faces.first) ** 2 * GaussianField(faces.law, (64, 64)).power() + faces.first**2
    assert (power / expected).log().mean().abs() < 0.02
    assert power[0, 1] > 20 * faces.first**2
    assert torch.equal(networks.TRANSFORMER.start(2, 0, "cpu"), networks.TRANSFORMER.noise(2, 0, "cpu"))


@pytest.mark.skipif(not WEIGHTS.exists(), reason=f"needs {networks.FACE_WEIGHTS}")
@torch.no_grad()
def test_it_denoises():
    """A face at the noise levels its description names; of the wrong network at most half of the noise is removed."""
    from skimage import data
    from skimage.transform import resize

    face = torch.from_numpy(resize(data.astronaut().mean(2) / 255, (256, 256), anti_aliasing=True)).float()
    face = 2 * face[None, None, 10:90, 75:155] - 1
    noise = torch.randn(face.shape, generator=torch.Generator().manual_seed(0))
    velocity = networks.face_denoiser(WEIGHTS).velocity("cpu")
    for sigma, least in ((0.1, 26.0), (0.39, 20.0), (1.0, 15.0)):
        t = 2 * sigma / (1 + 2 * sigma)
        x = (1 - t) * face + t * noise
        denoised = x - t * velocity(x, t)
        assert 10 * torch.log10(4 / (denoised - face).square().mean()) > least
        assert abs(float(((x / (1 - t) - denoised) * noise).mean()) / (2 * sigma) - 1) < 0.2


def test_absent_weights_are_named():
    with pytest.raises(SystemExit, match="local-probability-models-of-images"):
        networks.face_denoiser(Path("nowhere.safetensors"))


def rows():
    with (ROOT / "benchmarks" / "results" / "faces.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_committed_rows_are_of_these_plans():
    """Splits and speedups follow from the rows' law; 64 seeds, 32 of controls, 16 of other sides; less delta keeps more."""
    kept = {}
    for row in rows():
        side, first = int(row["side"]), float(row["first"])
        many = side == 64 and row["start"] == "within its noise" and row["way"] != "full run, float32"
        assert int(row["seeds"]) >= (64 if many else 32 if side == 64 else 16)
        if row["way"] == "progressive":
            law = PowerLaw(float(row["amplitude"]), float(row["exponent"]), shape=(side, side))
            times = networks.Network("", 1, 1.0, first=first).times
            plan = make_plan(times, law, side, scales=(1 / 2, 1), delta=float(row["delta"]))
            assert "+".join(map(str, plan.split)) == row["split"]
            assert abs(plan.speedup() - float(row["speedup"])) < 1e-3
            kept.setdefault((row["start"], side), []).append((float(row["delta"]), float(row["psnr"])))
    assert kept
    for pairs in kept.values():
        values = [psnr for _, psnr in sorted(pairs)]
        assert values == sorted(values, reverse=True)


def test_an_exact_denoiser_loses_less():
    """The control of the rows: consistent sizes, the same plans and starts. What is lost beyond it is the network's."""
    by_plan = {(row["start"], row["side"], row["delta"], row["way"]): row for row in rows()}
    for (*plan, way), row in by_plan.items():
        if way == "progressive":
            exact = by_plan[(*plan, "exact")]
            assert float(exact["psnr_low"]) > float(row["psnr_high"])
            assert abs(float(exact["contrast"]) - 1) < 0.02
