"""Against the same seed's full run, number by number: PSNR, SSIM (scikit-image), and the distance of radial power
spectra."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from spectral_pd.comparing.metrics import Features, Measure, Rows
from spectral_pd.measuring import demo
from spectral_pd.meter import power_spectrum


def psnr(device: torch.device) -> Measure:
    """Peak signal-to-noise ratio in dB."""

    def measure(picture: Tensor, prompt: str, reference: Tensor | None) -> float:
        assert reference is not None
        return demo.psnr(2 * picture[None], 2 * reference[None]).item()  # which takes pictures of a range of 2

    return measure


def ssim(device: torch.device) -> Measure:
    """Structural similarity with the settings of Wang et al. 2004."""
    from skimage.metrics import structural_similarity

    options = {
        "data_range": 1.0,
        "channel_axis": 0,
        "gaussian_weights": True,
        "sigma": 1.5,
        "use_sample_covariance": False,
    }

    def measure(picture: Tensor, prompt: str, reference: Tensor | None) -> float:
        assert reference is not None
        return float(structural_similarity(picture.double().numpy(), reference.double().numpy(), **options))

    return measure


def spectrum(device: torch.device) -> Features:
    """Radial power of a picture in [-1, 1]."""

    def features(picture: Tensor) -> Rows:
        return np.asarray(power_spectrum(2 * picture[None] - 1).power)

    return features


def log_ratio(rows: Rows, reference: Rows) -> float:
    """Root mean square over radial bins of the log ratio of two sets' mean power."""
    return float(np.sqrt(np.mean(np.log(rows.mean(0) / reference.mean(0)) ** 2)))
