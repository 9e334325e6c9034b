"""What docs/comparison.md, README.md and docs/citation.md say of others: named, with what was read; what can be computed is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import scipy.fft
import torch
from tolerances import assert_close

import spectral_pd as spd

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "comparison.md").read_text()
OTHERS = (
    *("Bottleneck Sampling", "Fresco", "RALU", "MrFlow", "SelfLift", "DVG", "SURF", "LightX2V", "LSSGen", "FreCaS"),
    *("DiffuseHigh", "HiWave", "FreeScale", "Pyramid Flow", "PixelFlow", "FreqCa"),
    *("SGLang", "anima_lora", "sam-extra", "ComfyUI-SPEED", "ComfyUI-MiniMax-H3-SPEED", "HEISS Rapid"),
)
READ = re.compile(r"source|abstract|paper|documentation")


def rows(page: str, section: str) -> list[dict[str, str]]:
    """The table of a section."""
    lines = [
        line for line in page.partition(f"## {section}\n")[2].partition("\n## ")[0].splitlines() if line[:1] == "|"
    ]
    header, _, *body = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [dict(zip(header, cells, strict=True)) for cells in body]


def unsupported(page: str) -> list[str]:
    """Rows that do not say what was read, or that rest on a paper without naming it."""
    missing = [
        r["project"] for r in rows(page, "Other implementations of the paper") if not READ.search(r["state read"])
    ]
    for row in rows(page, "Rival methods"):
        linked = "source" in row["read"] or re.search(r"\]\(https://arxiv\.org/abs/\d{4}\.\d{5}\)", row["method"])
        if not READ.search(row["read"]) or not linked:
            missing.append(row["method"])
    return missing


def test_every_row_says_what_was_read():
    assert not unsupported(PAGE)


def test_a_row_without_its_source_is_noticed():
    """Negative control."""
    assert unsupported(PAGE.replace("[MrFlow](https://arxiv.org/abs/2607.01642)", "MrFlow")) == ["MrFlow"]
    assert len(unsupported(re.sub(r"\| source at f8aee98[^|]*\|", "| |", PAGE))) == 1


@pytest.mark.parametrize("name", OTHERS)
def test_the_field_is_named(name):
    assert name in PAGE


@pytest.mark.parametrize("page", ["README.md", "docs/citation.md"])
def test_coupled_noise_is_not_claimed(page):
    """The last column of "whose is what" has the theorem and the addressed field; who had one noise before is named."""
    text = (ROOT / page).read_text()
    claims = [line.split("|")[2] for line in text.splitlines() if line.startswith("| ") and line.count("|") == 3]
    assert any("equivalence theorem" in claim for claim in claims)
    assert any("addressed by coefficient" in claim for claim in claims)
    assert not any("coupled" in claim for claim in claims)
    assert "https://arxiv.org/abs/2601.07462" in text


def coefficients(state: torch.Tensor) -> torch.Tensor:
    """Orthonormal DCT of the last two axes, by scipy."""
    return torch.from_numpy(scipy.fft.dctn(state.double().numpy(), norm="ortho", axes=(-2, -1)))


def test_a_transition_at_time_zero_returns_the_coarse_picture_upsampled():
    """What PixelGen's script does with a t* that the grid never reaches: expand at t = 0, at the end. Here: an error."""
    generator = torch.Generator().manual_seed(0)
    coarse, noise = torch.randn(3, 8, 8, generator=generator), torch.randn(3, 16, 16, generator=generator)
    picture, time = spd.expand_aligned(coarse, (16, 16), 0.0, noise=noise)
    assert time == 0.0
    upsampled = torch.zeros(3, 16, 16, dtype=torch.float64)
    upsampled[:, :8, :8] = 2 * coefficients(coarse)
    assert_close(coefficients(picture), upsampled, torch.float32)  # no detail at all: the noise does not enter
    later, _ = spd.expand_aligned(coarse, (16, 16), 0.3, noise=noise)
    assert coefficients(later)[:, 8:, 8:].abs().max() > 0.1  # negative control: at any other time there is some
    (row,) = [r for r in rows(PAGE, "The authors' code") if r[""] == "a transition the grid never reaches"]
    assert "PixelGen: the last coarse picture, upsampled at t = 0" in row["authors' code"]
    with pytest.raises(ValueError, match="never reached"):
        spd.make_plan(spd.shift_times(4), lambda omega: 1e-6 / omega, (16, 16), scales=(0.5, 1), delta=0.5)


def test_coupled_noise_in_the_dct_is_what_the_comfyui_node_does():
    """Start from the DCT low band of one full-size noise; a transition takes its new coefficients from the same noise."""
    noise = torch.randn(2, 16, 16, generator=torch.Generator().manual_seed(1))
    band = coefficients(noise)
    assert_close(coefficients(spd.restrict_noise(noise, (8, 8))), band[:, :8, :8], torch.float32)
    new = 0.7 * band
    new[:, :8, :8] = 0
    assert_close(coefficients(spd.expand(torch.zeros(2, 8, 8), (16, 16), 0.7, noise=noise)), new, torch.float32)
