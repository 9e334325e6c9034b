"""ImageReward (Xu et al. 2023) by its authors' ``image-reward``, which fetches its weights when first used.

It pins an old ``timm``: where it cannot be installed beside the pipeline, make the pictures without it and measure them
from another environment, in the same folder.
"""

from __future__ import annotations

import torch
from torch import Tensor

from spectral_pd.comparing.metrics import Measure


def image_reward(device: torch.device) -> Measure:
    """What people prefer, given the prompt; standardised on its training data, about -2 to 2."""
    import ImageReward
    from PIL import Image

    network = ImageReward.load("ImageReward-v1.0", device=str(device))

    def measure(picture: Tensor, prompt: str, reference: Tensor | None) -> float:
        pixels = picture.permute(1, 2, 0).mul(255).round().byte().numpy()
        with torch.no_grad():
            return float(network.score(prompt, Image.fromarray(pixels)))

    return measure
