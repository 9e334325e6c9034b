"""What can be chosen in a measurement, declared once: the keywords of ``measure`` and the flags of ``spectral-pd fit``."""

# ruff: noqa: RUF009  (option() is dataclasses.field with metadata)

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from functools import wraps
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch

from spectral_pd import inputs
from spectral_pd.bases import BASES, BASIS, DCT, Basis
from spectral_pd.fit import Weights, weights_word
from spectral_pd.inputs import spectra, storage

__all__ = ["Options"]

R = TypeVar("R")


def option(default: Any, parse: inputs.Parser, help: str = "", flag: str = "", /, **argument: Any) -> Any:
    """A field: its default, its parser, and for the command a help text, a flag unlike its name, and what argparse takes."""
    return field(default=default, metadata={"parse": parse, "help": help, "flag": flag, "argument": argument})


@dataclass(frozen=True, kw_only=True)
class Options:
    """What can be chosen in a measurement; every function of this wing takes these as keywords.

    Parameters
    ----------
    size
        Grid of pictures and frames, one side or (height, width); None keeps the stored one, and all must agree.
    fit
        ``"resize"``: centre-crop to the aspect of `size` and shrink by Lanczos; ``"crop"``: cut the centre as it is stored.
    frames
        Stored arrays, and tensors of an iterable, of rank 4 are clips (C, T, H, W), one sample each, not batches.
    clip
        Frames of a video that make one sample.
    errors
        ``"skip"`` leaves out what cannot be read and samples with NaN or infinity, with a line for each and a count;
        ``"raise"`` stops at the first.
    column
        Key of the sample in a dict; None takes ``image``, ``pixel_values``, ``latents``, ``latent`` or ``img``.
    basis, replicates, seed
        As :class:`~spectral_pd.meter.SpectrumMeter`.
    band, weights
        As :func:`~spectral_pd.fit.fit_power_law`.
    scales, delta
        For which scales and which tolerated velocity error t* is reported, as :func:`~spectral_pd.theory.transition_times`.
    level
        Coverage of the intervals, inside (0, 1).
    batch_size
        Samples a batch.
    workers
        Processes that read ahead; only where the number of batches is known.
    device
        Where to transform; None leaves batches where they are.
    resume
        Checkpoint: read if it exists, written every `every` seconds, when an error or Ctrl-C ends the run, and at the end.
        With several processes each has its own, ``NAME.RANKofWORLD``.
    every
        Seconds between checkpoints; 0 writes one after each batch.
    """

    size: tuple[int, int] | None = option(
        None,
        inputs.optional(storage.picture_size),
        "grid of pictures and frames: one side, or H W",
        nargs="+",
        metavar="N",
    )
    fit: Literal["resize", "crop"] = option(
        "resize", inputs.choice("resize", "crop"), "centre-crop and shrink, or only cut", choices=("resize", "crop")
    )
    frames: bool = option(
        False, inputs.instance(bool, "True or False"), "stored arrays of rank 4 are one clip (C, T, H, W) each"
    )
    clip: int = option(16, inputs.count, "frames of a video that the bootstrap keeps together")
    errors: Literal["skip", "raise"] = option(
        "raise",
        inputs.choice("skip", "raise"),
        "files that cannot be read, NaN",
        "--on-error",
        choices=("skip", "raise"),
        default="skip",
    )
    column: str | None = option(None, inputs.optional(inputs.instance(str, "a text")))
    basis: Basis = option(DCT, BASIS, "orthonormal basis to measure in", choices=sorted(BASES), default="dct")
    band: tuple[float, float] | None = option(
        None, inputs.optional(spectra.band), "fit only these cycles per side", nargs=2, metavar=("LOW", "HIGH")
    )
    weights: Weights = option("uniform", weights_word, "of the bins", choices=("uniform", "count", "log"))
    replicates: int = option(
        200, spectra.replicates, "replicates for intervals; 0 for none", "--bootstrap", metavar="B"
    )
    seed: int = option(0, inputs.integer, "of the bootstrap")
    scales: Sequence[float] = option((0.5, 1.0), inputs.scales, "report t* for these scales", nargs="+")
    delta: float = option(0.01, inputs.one_delta, "tolerated velocity error for t*")
    level: float = option(0.95, spectra.level)
    batch_size: int = option(16, inputs.count, "samples a batch")
    workers: int = option(0, inputs.whole(0), "processes that read ahead")
    device: torch.device | None = option(
        None, inputs.optional(storage.device), "where to transform and encode, e.g. cuda", type=str
    )
    resume: Path | None = option(
        None,
        inputs.optional(storage.output_file),
        "checkpoint: continue from it if it exists, and keep it",
        type=str,
        metavar="STATE.pt",
    )
    every: float = option(30.0, storage.seconds, "seconds between them", "--checkpoint-every", metavar="S")

    def __post_init__(self) -> None:
        for f in fields(self):
            object.__setattr__(self, f.name, f.metadata["parse"](getattr(self, f.name), f.name))


NAMES = frozenset(f.name for f in fields(Options))


def chosen(function: Callable[..., R]) -> Callable[..., R]:
    """Take the fields of :class:`Options` as keywords, for a function that takes them as one value, ``options=``."""

    @wraps(function)
    def opened(*args: Any, options: Options | None = None, **keywords: Any) -> R:
        own = {name: keywords.pop(name) for name in NAMES & keywords.keys()}
        return function(*args, options=options or Options(**own), **keywords)

    return opened
