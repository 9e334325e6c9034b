"""By CLIP (``transformers``): how well a picture fits its prompt (``torchmetrics``), and CMMD between sets."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from spectral_pd.comparing.metrics import Features, Measure, Rows

SCORED, EMBEDDED = "openai/clip-vit-large-patch14", "openai/clip-vit-large-patch14-336"


def clip_score(device: torch.device) -> Measure:
    """Hessel et al. 2021: 100 times the cosine between picture and prompt."""
    from torchmetrics.multimodal import CLIPScore

    network = CLIPScore(model_name_or_path=SCORED).to(device)

    def measure(picture: Tensor, prompt: str, reference: Tensor | None) -> float:
        with torch.no_grad():
            return network(picture.mul(255).round().byte().to(device), prompt).item()

    return measure


def embedding(device: torch.device) -> Features:
    """What CLIP sees, of length 1."""
    from transformers import CLIPImageProcessor, CLIPVisionModelWithProjection

    processor = CLIPImageProcessor.from_pretrained(EMBEDDED)
    network = CLIPVisionModelWithProjection.from_pretrained(EMBEDDED).to(device).eval()

    def features(picture: Tensor) -> Rows:
        given = processor(picture, do_rescale=False, return_tensors="pt").to(device)
        with torch.no_grad():
            embedded = network(**given).image_embeds[0].double()
        return (embedded / embedded.norm()).cpu().numpy()

    return features


def discrepancy(rows: Rows, reference: Rows) -> float:
    """Jayasumana et al. 2024, of embeddings: ``1000 (E k(x, x') + E k(y, y') - 2 E k(x, y))``, a Gaussian kernel of
    width 10."""

    def kernel(a: Rows, b: Rows) -> float:
        apart = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T
        return float(np.exp(-apart / (2 * 10.0**2)).mean())

    return 1000 * (kernel(rows, rows) + kernel(reference, reference) - 2 * kernel(rows, reference))
