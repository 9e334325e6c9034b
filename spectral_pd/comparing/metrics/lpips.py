"""LPIPS (Zhang et al. 2018) by ``torchmetrics``, on AlexNet's features: torchvision fetches those when first used."""

from __future__ import annotations

import torch
from torch import Tensor

from spectral_pd.comparing.metrics import Measure


def lpips(device: torch.device) -> Measure:
    """Distance of deep features to the same seed's full run."""
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

    network = LearnedPerceptualImagePatchSimilarity(net_type="alex", normalize=True).to(device)

    def measure(picture: Tensor, prompt: str, reference: Tensor | None) -> float:
        assert reference is not None
        with torch.no_grad():
            return network(picture[None].to(device), reference[None].to(device)).item()

    return measure
