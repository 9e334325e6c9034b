"""FLIP (Andersson et al. 2020) by its authors' ``flip-evaluator``: the mean difference a person sees when two pictures
alternate."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from spectral_pd.comparing.metrics import Measure


def flip(device: torch.device) -> Measure:
    """Mean of the error map at the usual 67 pixels per degree, 0 to 1."""
    from flip_evaluator import evaluate

    def measure(picture: Tensor, prompt: str, reference: Tensor | None) -> float:
        assert reference is not None
        first, second = (np.ascontiguousarray(x.permute(1, 2, 0).float().numpy()) for x in (reference, picture))
        return float(evaluate(first, second, "LDR")[1])

    return measure
