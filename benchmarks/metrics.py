r"""How good are pictures? Distances to the same pictures made otherwise, and between sets of pictures.

PSNR comes from the library's demo, SSIM from scikit-image, FLIP and the features of EfficientNet-Lite0 from the packages of
:mod:`spectral_pd.comparing.metrics`. The others are small implementations of our own, because the packages that hold them
download weights when first used:

    radial spectrum    root mean square over the radial bins of the log ratio of two sets' power
    sliced Wasserstein mean over random directions of the 1-D Wasserstein-1 distance between two sets' 7x7 patches, at every
                       level of a pyramid of 2x2 means, in units of the reference's standard deviation on that level
    naturalness        NIQE's 36 features (generalised Gaussian fits of locally normalised grey levels and of their neighbour
                       products, two scales; Mittal, Soundararajan and Bovik 2013) on 32x32 blocks; the distance between the two
                       sets' Gaussians. Not comparable with published NIQE scores: the pristine set and the blocks differ.

Every set metric first reduces each picture to a row of numbers, so that its interval comes from a bootstrap over pictures.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.special import gamma
from skimage.metrics import structural_similarity
from torch import Tensor

from spectral_pd import DCT
from spectral_pd.comparing.metrics import Features, Measure, load
from spectral_pd.measuring.demo import psnr

Rows = NDArray[np.float64]


def ssim(a: Tensor, b: Tensor) -> Rows:
    """Structural similarity of every pair of pictures in [-1, 1]: (batch,), with the settings of Wang et al. 2004.

    Of these values as they are, whose means are near 0: lower than that of the same pictures in [0, 1].
    """
    options = {"data_range": 2.0, "channel_axis": 0, "gaussian_weights": True, "sigma": 1.5}
    pairs = zip(a.double().numpy(), b.double().numpy(), strict=True)
    return np.array([structural_similarity(x, y, use_sample_covariance=False, **options) for x, y in pairs])


def radial_rows(x: Tensor) -> Rows:
    """Power of every picture in the radial bins 1 .. min(H, W) / 2, mean over channels: (batch, bins)."""
    power = DCT.forward(x.double() - x.double().mean((-2, -1), keepdim=True)).square().mean(1).flatten(1)
    bins = DCT.frequency(tuple(x.shape[-2:])).add(0.5).floor().long().flatten()
    last = min(x.shape[-2:]) // 2
    kept = (bins >= 1) & (bins <= last)
    member = torch.nn.functional.one_hot(bins[kept] - 1, last).double()
    return (power[:, kept] @ member / member.sum(0)).numpy()


def spectrum_distance(rows: Rows, reference: Rows) -> float:
    """Root mean square over bins of the log ratio of mean powers."""
    return float(np.sqrt(np.mean(np.log(rows.mean(0) / reference.mean(0)) ** 2)))


def worst_bin(rows: Rows, reference: Rows) -> float:
    """Largest relative deviation of a bin's mean power."""
    return float(np.abs(rows.mean(0) / reference.mean(0) - 1).max())


class SlicedWasserstein:
    """Patches of every picture projected on fixed random directions, and the distance between two sets of projections."""

    def __init__(
        self, reference: Tensor, *, levels: int = 3, patch: int = 7, patches: int = 16, directions: int = 64
    ) -> None:
        generator = torch.Generator().manual_seed(0)
        self.levels, self.patch = levels, patch
        self.directions = torch.randn(levels, reference.shape[1] * patch**2, directions, generator=generator)
        self.directions /= self.directions.norm(dim=1, keepdim=True)
        self.places = torch.rand(levels, patches, 2, generator=generator)
        self.scales = torch.stack([level.std() for level in self._pyramid(reference)])

    def _pyramid(self, x: Tensor) -> list[Tensor]:
        """Detail of each level, the coarsest level whole."""
        out = []
        for _ in range(self.levels - 1):
            coarse = torch.nn.functional.avg_pool2d(x, 2)
            out.append(x - torch.nn.functional.interpolate(coarse, scale_factor=2, mode="nearest"))
            x = coarse
        return [*out, x]

    def rows(self, x: Tensor) -> Rows:
        """(batch, levels, patches, directions)."""
        projected = []
        for level, scale, places, directions in zip(
            self._pyramid(x), self.scales, self.places, self.directions, strict=True
        ):
            span = torch.tensor(level.shape[-2:]) - self.patch + 1
            corners = (places * span).long().tolist()
            cut = [level[..., i : i + self.patch, j : j + self.patch].flatten(1) for i, j in corners]
            projected.append(torch.stack(cut, 1) / scale @ directions)
        return torch.stack(projected, 1).double().numpy()

    @staticmethod
    def distance(rows: Rows, reference: Rows) -> float:
        """Mean over levels and directions; sets of different sizes are compared at common quantiles."""
        count = min(len(rows), len(reference)) * rows.shape[2]
        at = (np.arange(count) + 0.5) / count

        def quantiles(values: Rows) -> Rows:
            flat = np.sort(values.transpose(1, 3, 0, 2).reshape(values.shape[1], values.shape[3], -1), axis=-1)
            return flat[..., (at * flat.shape[-1]).astype(int)]

        return float(np.abs(quantiles(rows) - quantiles(reference)).mean())


_SHAPES = np.arange(0.2, 10.0, 0.001)
_RATIOS = gamma(2 / _SHAPES) ** 2 / (gamma(1 / _SHAPES) * gamma(3 / _SHAPES))


def _asymmetric(x: Rows) -> list[Rows]:
    """Shape, mean, left and right variance of an asymmetric generalised Gaussian fitted to each row of x (Lasmar et al.)."""
    left = np.sqrt(np.where(x < 0, x**2, 0).sum(1) / np.maximum((x < 0).sum(1), 1)) + 1e-9
    right = np.sqrt(np.where(x > 0, x**2, 0).sum(1) / np.maximum((x > 0).sum(1), 1)) + 1e-9
    skew = left / right
    ratio = np.abs(x).mean(1) ** 2 / np.maximum((x**2).mean(1), 1e-18)
    ratio *= (skew**3 + 1) * (skew + 1) / (skew**2 + 1) ** 2
    shape = _SHAPES[np.abs(_RATIOS - ratio[:, None]).argmin(1)]
    mean = (right - left) * gamma(2 / shape) / np.sqrt(gamma(1 / shape) * gamma(3 / shape))
    return [shape, mean, left**2, right**2]


def natural_rows(x: Tensor, block: int = 32) -> Rows:
    """NIQE's features of every picture: (batch, blocks, 36)."""
    grey = (x.double().clamp(-1, 1).add(1) * 127.5).mean(1)
    scales = []
    for scale, side in ((grey, block), (torch.nn.functional.avg_pool2d(grey[:, None], 2)[:, 0], block // 2)):
        picture = scale.numpy()
        smooth = gaussian_filter(picture, (0, 7 / 6, 7 / 6), truncate=2.6)
        spread = np.sqrt(np.abs(gaussian_filter(picture**2, (0, 7 / 6, 7 / 6), truncate=2.6) - smooth**2))
        normal = (picture - smooth) / (spread + 1)
        blocks = normal.reshape(len(normal), normal.shape[1] // side, side, normal.shape[2] // side, side)
        blocks = blocks.transpose(0, 1, 3, 2, 4).reshape(-1, side, side)
        shape, _, left, right = _asymmetric(blocks.reshape(len(blocks), -1))
        features = [shape, (left + right) / 2]
        for shift in ((0, 1), (1, 0), (1, 1), (1, -1)):
            product = blocks * np.roll(blocks, shift, (1, 2))
            features += _asymmetric(product.reshape(len(blocks), -1))
        scales.append(np.stack(features, 1))
    return np.concatenate(scales, 1).reshape(len(grey), -1, 36)


def natural_distance(rows: Rows, reference: Rows) -> float:
    """Distance between the Gaussians of two sets of features: ``sqrt(d^T ((S1 + S2) / 2)^-1 d)``, d the gap of the means."""
    a, b = rows.reshape(-1, rows.shape[-1]), reference.reshape(-1, reference.shape[-1])
    gap = a.mean(0) - b.mean(0)
    spread = (np.cov(a, rowvar=False) + np.cov(b, rowvar=False)) / 2
    return float(np.sqrt(gap @ np.linalg.pinv(spread) @ gap))


@cache
def _measure(name: str) -> Measure | Features:
    return load(name)


def flip(a: Tensor, b: Tensor) -> Rows:
    """FLIP of every pair of pictures in [-1, 1], the reference second: (batch,), 0 for the same, at most 1."""
    pairs = zip((a.clamp(-1, 1) + 1) / 2, (b.clamp(-1, 1) + 1) / 2, strict=True)
    return np.array([_measure("flip")(x, "", y) for x, y in pairs])


def feature_rows(x: Tensor) -> Rows:
    """Pooled features of EfficientNet-Lite0, trained on ImageNet, of pictures in [-1, 1]: (batch, 1280)."""
    return np.stack([_measure("fid-lite")(picture) for picture in (x.clamp(-1, 1) + 1) / 2])


def feature_distance(rows: Rows, reference: Rows) -> float:
    """Sliced Wasserstein-1 distance of two sets of features, in the reference's standard deviations on each direction."""
    directions = np.random.default_rng(0).standard_normal((rows.shape[1], 256))
    mine, theirs = rows @ directions, reference @ directions
    at = (np.arange(min(len(rows), len(reference))) + 0.5) / min(len(rows), len(reference))
    a, b = (np.sort(x, axis=0)[(at * len(x)).astype(int)] for x in (mine, theirs))
    return float((np.abs(a - b) / theirs.std(0)).mean())


class Decoded:
    """How decoded pictures in [-1, 1] differ from those of the full runs of the same seeds, as columns of a row.

    psnr (median), ssim and flip (means) compare pictures of one seed; spectrum, features and natural compare the two sets.
    Each has a 95 % interval over seeds, that of a set's distance from the same seeds drawn again in both.
    """

    def __init__(self, reference: Tensor) -> None:
        self.reference = reference
        self.known = (radial_rows(reference), feature_rows(reference), natural_rows(reference))

    def columns(self, x: Tensor) -> dict[str, str]:
        one_by_one = {"ssim": ssim(x, self.reference), "flip": flip(x, self.reference)}
        found = {"psnr": interval(lambda r: float(np.median(r)), psnr(x, self.reference).numpy())}
        found |= {name: interval(lambda r: float(r.mean()), values) for name, values in one_by_one.items()}
        sets = {
            "spectrum": (spectrum_distance, radial_rows),
            "features": (feature_distance, feature_rows),
            "natural": (natural_distance, natural_rows),
        }
        for (name, (distance, reduced)), reference in zip(sets.items(), self.known, strict=True):
            both = np.stack([reduced(x), reference], 1)
            found[name] = interval(lambda r, distance=distance: distance(r[:, 0], r[:, 1]), both)
        each = (columns(name, values, digits=2 if name == "psnr" else 4) for name, values in found.items())
        return {key: text for three in each for key, text in three.items()}


def columns(name: str, values: tuple[float, float, float], *, digits: int = 4) -> dict[str, str]:
    """What :func:`interval` found, as three columns of a row: value, low, high."""
    return {name + end: f"{value:.{digits}f}" for end, value in zip(("", "_low", "_high"), values, strict=True)}


def interval(statistic: Callable[[Rows], float], rows: Rows, *, draws: int = 40) -> tuple[float, float, float]:
    """(value, low, high): a statistic of a set and its 95 % interval from a bootstrap over the set's pictures.

    A distance between sets is biased upwards by resampling, so the interval is the value plus and minus 1.96 standard
    deviations of the bootstrap rather than the bootstrap's own quantiles.
    """
    rng = np.random.default_rng(0)
    value = statistic(rows)
    if not np.isfinite(value):
        return value, value, value
    spread = np.std([statistic(rows[rng.integers(len(rows), size=len(rows))]) for _ in range(draws)], ddof=1)
    return value, value - 1.96 * float(spread), value + 1.96 * float(spread)
