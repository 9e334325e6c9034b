"""The demo on a small scale: every number it prints is recomputed here from the runs."""

from __future__ import annotations

import re

import pytest
import torch

pytest.importorskip("sklearn")
pytest.importorskip("skimage")

from spectral_pd import fit_spectrum
from spectral_pd.measuring import demo


def test_photographs_have_a_natural_spectrum():
    pictures = demo.photographs()
    assert len(pictures) == 7
    crops = demo.random_crops(list(pictures.values()), 70, 256, generator=torch.Generator().manual_seed(0))
    assert crops.shape == (70, 3, 256, 256)
    assert crops.min() >= -1
    assert crops.max() <= 1
    law = fit_spectrum(crops)
    assert 2.3 < law.exponent < 2.9
    assert law.r2 > 0.99


def test_demo_prints_the_comparison_and_draws_it(tmp_path):
    report = demo.run_demo(tmp_path / "demo.png", size=64, steps=20, samples=2)
    assert (tmp_path / "demo.png").read_bytes().startswith(b"\x89PNG")
    assert max(map(len, report.replace(str(tmp_path), "").splitlines())) <= 80
    lines = [
        line
        for line in report.splitlines()
        if re.match(r"(full resolution|progressive|fewer steps|two grids|repaired) .* \d", line)
    ]
    assert len(lines) == 14
    for group in (lines[:4], lines[4:8]):
        reference, ours, paper, fewer = (line.split() for line in group)
        assert reference[-1] == "-"
        assert float(ours[-3]) > float(paper[-3]) + 10, "coupled noise on the full clock stays closest to the same seed"
        assert float(ours[-3]) > float(fewer[-3]) + 10, "and closer than fewer full-size steps of the same cost"
    reference, ours, paper, fewer, two, repaired = (line.split() for line in lines[8:])
    assert float(ours[-3]) > float(paper[-3]), "also with a trained network"
    assert float(two[-3]) > float(fewer[-3]) + 3, "calibrated calls keep its picture best"
    assert float(two[3]) <= float(ours[-5]) * 1.001 or float(two[-5]) <= float(ours[-5]) * 1.001, "at no more cost"
    assert float(repaired[-3]) > float(ours[-3]) + 1, "coarse calls that agree keep more of it"
    assert repaired[1] == ours[-6], "on the same plan"
    told = " ".join(report.partition("The last model is a trained network")[2].split())
    shown = (
        [lines[k].split()[-3] for k in (9, 1, 5)]
        + [lines[k].split()[-1] for k in (9, 11)]
        + [lines[k].split()[-3] for k in (12, 13)]
    )
    assert re.findall(r"\d+\.\d+", told) == shown, "the closing sentences repeat the tables"


def test_demo_without_the_transformer(tmp_path, monkeypatch):
    """An installed package has no benchmarks folder: the demo says so and goes on."""
    assert demo.small_transformer(tmp_path) is None
    monkeypatch.setattr(demo, "small_transformer", lambda: None)
    report = demo.run_demo(size=32, steps=8)
    assert "left out" in report
    assert "what to expect" not in report
    assert (
        sum(bool(re.match(r"(full resolution|progressive|fewer steps) .* \d", line)) for line in report.splitlines())
        == 8
    )


def test_psnr_and_spectrum_error_against_hand_values():
    a = torch.zeros(2, 1, 8, 8)
    b = a.clone()
    b[1] += 0.2
    assert demo.psnr(a, b)[1].item() == pytest.approx(20.0, abs=1e-4)  # 10 log10(4 / 0.04)
    x = torch.randn(4, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    assert demo.spectrum_error(2 * x, x) == pytest.approx(torch.log(torch.tensor(4.0)).item(), rel=1e-5)


def test_crop_larger_than_the_picture_is_refused():
    with pytest.raises(ValueError, match="smaller than a crop"):
        demo.random_crops([torch.zeros(3, 8, 8)], 1, 16, generator=torch.Generator())
