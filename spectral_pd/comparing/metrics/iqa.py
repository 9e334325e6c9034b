"""Quality without a reference by ``pyiqa``: CLIP-IQA, NIQE, MUSIQ. It fetches weights and NIQE's parameters when first
used.

``pyiqa`` is not among the package's extras: its licence allows no commercial use.
"""

from __future__ import annotations

import torch
from torch import Tensor

from spectral_pd.comparing.metrics import Measure


def _iqa(name: str, device: torch.device) -> Measure:
    import pyiqa

    network = pyiqa.create_metric(name, device=device)

    def measure(picture: Tensor, prompt: str, reference: Tensor | None) -> float:
        with torch.no_grad():
            return float(network(picture[None].to(device)))

    return measure


def clip_iqa(device: torch.device) -> Measure:
    """Wang et al. 2023: CLIP between "Good photo." and "Bad photo.", 0 to 1."""
    return _iqa("clipiqa", device)


def niqe(device: torch.device) -> Measure:
    """Mittal et al. 2013: distance of local statistics from those of pristine photographs; pictures of at least 96
    pixels."""
    return _iqa("niqe", device)


def musiq(device: torch.device) -> Measure:
    """Ke et al. 2021, trained on KonIQ: opinion score, 0 to 100."""
    return _iqa("musiq", device)
