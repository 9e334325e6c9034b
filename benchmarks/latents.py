"""Power laws of real latents: distilled autoencoders of FLUX.1, FLUX.2, SD3, SDXL and SD on openly licensed photographs.

    python benchmarks/latents.py --photographs PHOTOGRAPHS --autoencoders AUTOENCODERS [--latents LATENTS] --cache FOLDER

PHOTOGRAPHS is a folder with the unpacked Debian packages that PACKAGES in benchmarks/latent_dit/data.py names, those of the
small latent network and three more (lxqt-themes, sddm-theme-maldives, libjxl-testdata); AUTOENCODERS holds taef1,
taesd3, taesdxl, taesd (diffusers' ``AutoencoderTiny`` folders) and taef2 (encoder.safetensors and decoder.safetensors), all by
madebyollin, MIT; LATENTS holds taesana_1024_lomiri.safetensors and wan21_clip.safetensors, measured as they are.

Photographs are cut to the central square and shrunk (Lanczos), never enlarged: at the model's own size, 1024 or 512 pixels,
those whose short side reaches it. Every autoencoder is measured on each set by itself, where that has five, and on all
together; intervals are 95 %, bootstrap over photographs. Photographs of a set are alike, as frames of a clip are: of all
together, t* and the steps have an interval over sets as well. TAEF1 is the control: the authors measured FLUX.1's own
autoencoder.

What is encoded is kept in the cache, so that a run goes on. Rows go to results/latent_spectra.csv (laws, t* at
scale 1/2 and delta 0.01, steps at full size of 50 with shift 3) and results/latent_clip.csv (WAN).
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import stdev
from typing import Any

import torch
from environment import environment
from PIL import ImageOps
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from spectral_pd import PRESETS, SpectrumMeter, fit_spectrum, make_plan, plan_at, shift_times
from spectral_pd.autoencoders import Autoencoder, load
from spectral_pd.measuring.diagnostics import Estimate
from spectral_pd.measuring.report import Measurement, assess
from spectral_pd.measuring.sources import picture_tensor

HERE = Path(__file__).parent
sys.path.append(str(HERE / "latent_dit"))
from data import LICENCES, MEASURED_ONLY, originals  # noqa: E402

MEASURED = (
    ("taef1", "FLUX.1", 1024),
    ("taef2", "FLUX.2", 1024),
    ("taesd3", "Stable Diffusion 3", 1024),
    ("taesdxl", "SDXL", 1024),
    ("taesd", "Stable Diffusion 1, 2", 512),
    ("taef1", "FLUX.1", 512),
)
"""Autoencoder, model and size of the pictures: the model's own, and of the control one more."""
SCALES, DELTA, REPLICATES = (0.5, 1.0), 0.01, 2000
TIMES, VIDEO_TIMES = shift_times(50, shift=3.0), shift_times(50, shift=5.0)
RESULTS = HERE / "results"


def digest(path: Path) -> str:
    """SHA-256 of an autoencoder's weights: of its file, or of both files one after the other."""
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    sha = hashlib.sha256()
    for file in files:
        sha.update(file.read_bytes())
    return sha.hexdigest()


@dataclass(frozen=True, eq=False)
class Encoded:
    """Latents of photographs, by name, from a cache that is filled as they are asked for."""

    cache: Path
    autoencoder: Path
    pictures: dict[str, Any]

    def latents(self, size: int) -> Iterator[tuple[str, Tensor]]:
        """(name, latents (1, C, size / 8, size / 8)) of every photograph whose short side reaches `size`."""
        model: Autoencoder | None = None
        for name, opened in tqdm(self.pictures.items(), desc=f"{self.autoencoder.name}, {size} pixels"):
            file = self.cache / f"{self.autoencoder.name}-{size}" / f"{name}.safetensors"
            if not file.exists():
                image = ImageOps.exif_transpose(opened())
                if min(image.size) < size:
                    continue
                if model is None:
                    model = load(self.autoencoder)
                    model.model.to(memory_format=torch.channels_last)
                file.parent.mkdir(parents=True, exist_ok=True)
                picture = picture_tensor(image, (size, size))[None].to(memory_format=torch.channels_last)
                # Half the time; A and beta move by less than 0.2 %.
                with torch.autocast("cpu", dtype=torch.bfloat16):
                    encoded = model.encode(picture)
                save_file({"latents": encoded.contiguous()}, file.with_suffix(".part"))
                file.with_suffix(".part").rename(file)
            yield name, load_file(file)["latents"]


def measured(latents: Sequence[Tensor], numbers: Sequence[int] | None = None) -> Measurement:
    """The law of latents (1, C, h, w), each an independent sample or, with `numbers`, those of one number together."""
    meter = SpectrumMeter(latents[0].shape[-2:], replicates=REPLICATES, seed=0)
    for number, x in zip(numbers or range(len(latents)), latents, strict=True):
        meter.update(x, index=torch.tensor([number]))
    return assess(meter, scales=SCALES, delta=DELTA)


def full_size_steps(time: float, shape: tuple[int, ...]) -> int:
    """Steps at full size, of 50 with shift 3, after a transition at `time` from half the size."""
    return plan_at(TIMES, (time,), shape, scales=SCALES).split[-1]


def law_row(names: dict[str, str], measurement: Measurement) -> dict[str, Any]:
    """One row: the law, its t*, and the steps these mean, with intervals."""
    sure = measurement.confidence
    assert sure is not None

    def triple(what: str, estimate: Estimate) -> dict[str, str]:
        return {
            what: f"{estimate.value:.6g}",
            f"{what}_low": f"{estimate.low:.6g}",
            f"{what}_high": f"{estimate.high:.6g}",
        }

    (t,) = sure.transition_times
    return {
        **names,
        "grid": "x".join(map(str, measurement.spectrum.shape)),
        "channels": len(measurement.channels),
        "samples": measurement.samples,
        **triple("amplitude", sure.amplitude),
        **triple("exponent", sure.exponent),
        "r2": f"{sure.r2.value:.5f}",
        **triple("transition", t),
        "transition_of_table": f"{t.value - measurement.shift[0]:.6g}",
        "covariance": " ".join(f"{v:.4g}" for v in sure.covariance),
        **{
            f"full_steps{end}": full_size_steps(time, measurement.spectrum.shape)
            for end, time in (("", t.value), ("_low", t.low), ("_high", t.high))
        },
    }


def sets_columns(measurement: Measurement) -> dict[str, Any]:
    """Ends of the intervals of t* and of the steps, of a measurement whose samples are sets."""
    assert measurement.confidence is not None
    (t,) = measurement.confidence.transition_times
    return {
        name: value
        for end, time in (("low", t.low), ("high", t.high))
        for name, value in (
            (f"transition_sets_{end}", f"{time:.6g}"),
            (f"full_steps_sets_{end}", full_size_steps(time, measurement.spectrum.shape)),
        )
    }


def stored(path: Path) -> list[Tensor]:
    """Latents on disk, (N, C, h, w), as samples."""
    return list(load_file(path)["latents"].float().split(1))


def own_spread(latents: Sequence[Tensor], omega: float) -> float:
    """Standard deviation over photographs of ``log P(omega)`` of each one's own law: what content does to one sample."""
    laws = [fit_spectrum(x) for x in latents]
    return stdev(math.log(law(omega)) for law in laws)


def clip_rows(path: Path, spread: float) -> list[dict[str, Any]]:
    """WAN 2.1: one clip against the authors' fit under each reading of the grid they made it on.

    `z` is the clip's distance from a reading in units of what content does to one sample; the evidence for a reading over the
    other is ``exp((z'^2 - z^2) / 2)``, and a factor below 3 decides nothing.
    """
    clip = load_file(path)["latents"].float()
    channels = clip.flatten(0, 1)  # (C, T, h, w): neighbours in time correlate, channels hardly
    frames = channels.transpose(0, 1)
    correlation = {"channel": neighbours(channels), "time": neighbours(frames)}
    law = fit_spectrum(frames)
    grid = tuple(clip.shape[-2:])
    cut = min(grid) / 4
    rows = []
    readings = {
        name: replace(PRESETS["wan"], shape=fitted_on)
        for name, fitted_on in {"1280x720": (90, 160), "832x480": (60, 104)}.items()
    }
    z = {name: math.log(law(cut) / reading.at(grid)(cut)) / spread for name, reading in readings.items()}
    for name, reading in readings.items():
        there = reading.at(grid)
        (other,) = (value for key, value in z.items() if key != name)
        rows.append(
            {
                "reading": name,
                "grid": "x".join(map(str, reading.shape or ())),
                "amplitude_there": f"{there.amplitude:.4g}",
                "clip_grid": "x".join(map(str, grid)),
                "clip_amplitude": f"{law.amplitude:.4g}",
                "clip_exponent": f"{law.exponent:.4g}",
                "clip_r2": f"{law.r2:.4f}",
                "correlation_of_channels": f"{correlation['channel']:.3f}",
                "correlation_of_frames": f"{correlation['time']:.3f}",
                "log_ratio_at_cut": f"{math.log(law(cut) / there(cut)):.3f}",
                "spread": f"{spread:.3f}",
                "z": f"{z[name]:.3f}",
                "odds": f"{math.exp((other**2 - z[name] ** 2) / 2):.2f}",
                **{
                    f"split_at_{run}": "+".join(map(str, make_plan(VIDEO_TIMES, reading, size, scales=SCALES).split))
                    for run, size in {"480p": (60, 104), "720p": (90, 160)}.items()
                },
            }
        )
    return rows


def neighbours(x: Tensor) -> float:
    """Correlation of each plane of x (n, planes, h, w) with the next along the first axis, planes centred."""
    centred = x - x.mean((-2, -1), keepdim=True)
    a, b = centred[:-1], centred[1:]
    return float((a * b).sum() / (a.square().sum() * b.square().sum()).sqrt())


def write(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*dict.fromkeys(name for row in rows for name in row), *environment()])
        writer.writeheader()
        writer.writerows({**row, **environment()} for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photographs", type=Path, required=True)
    parser.add_argument("--autoencoders", type=Path, required=True)
    parser.add_argument("--latents", type=Path)
    parser.add_argument("--cache", type=Path, required=True)
    args = parser.parse_args()
    sets = LICENCES | MEASURED_ONLY
    pictures = originals(args.photographs, sets)
    groups = {name: group for group, names in sets.items() for name in names}
    rows = []
    for encoder, model, size in MEASURED:
        path = args.autoencoders / encoder
        found = dict(Encoded(args.cache, path, pictures).latents(size))
        names = {"encoder": encoder, "model": model, "sha256": digest(path), "pixels": str(size)}
        for group in [*sets, "all"]:
            mine = {name: x for name, x in found.items() if group in (groups[name], "all")}
            if len(mine) < 5:  # they give no interval worth the name
                continue
            latents = list(mine.values())
            rows.append(law_row(names | {"set": group}, measured(latents)))
            if group == "all":
                rows[-1] |= sets_columns(measured(latents, [list(sets).index(groups[name]) for name in mine]))
        if (encoder, size) == ("taef1", 1024):
            spread = own_spread(list(found.values()), 32.0)  # half the highest frequency, as the cut
    if args.latents:
        sana = args.latents / "taesana_1024_lomiri.safetensors"
        names = {"encoder": "taesana", "model": "Sana", "sha256": digest(sana), "pixels": "1024", "set": "lomiri"}
        rows.append(law_row(names, measured(stored(sana))))
        write(RESULTS / "latent_clip.csv", clip_rows(args.latents / "wan21_clip.safetensors", spread))
    write(RESULTS / "latent_spectra.csv", rows)


if __name__ == "__main__":
    main()
