"""``spectral-pd fit``: its options, and what it does with them."""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction

import torch
import torch.distributed as dist

from spectral_pd.bases import BASES
from spectral_pd.measuring.encoder import Encoder
from spectral_pd.measuring.report import assess, draw
from spectral_pd.measuring.sources import find_files, open_source
from spectral_pd.measuring.stream import _rank, accumulate


def number(text: str) -> float:
    """A command-line number: ``0.5``, ``1/2`` or ``1e-3``; argparse reports anything else."""
    try:
        return float(Fraction(text))
    except (ValueError, ZeroDivisionError):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number; write 0.5 or 1/2") from None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``spectral-pd fit``; :func:`run` takes what they parse to."""
    add = parser.add_argument
    add("sources", nargs="+", metavar="SOURCE", help="files or folders: pictures, .npy .npz .pt .safetensors, videos")
    data = parser.add_argument_group("data")
    data.add_argument("--size", type=int, nargs="+", metavar="N", help="grid of pictures and frames: one side, or H W")
    data.add_argument("--fit", choices=("resize", "crop"), default="resize", help="centre-crop and shrink, or only cut")
    data.add_argument("--frames", action="store_true", help="stored arrays of rank 4 are one clip (C, T, H, W) each")
    data.add_argument("--clip", type=int, default=16, help="frames of a video that the bootstrap keeps together")
    data.add_argument("--on-error", choices=("skip", "raise"), default="skip", help="files that cannot be read, NaN")
    data.add_argument("--vae", metavar="PATH", help="encode pictures with a diffusers AutoencoderKL folder first")
    fit = parser.add_argument_group("fit")
    fit.add_argument("--basis", choices=sorted(BASES), default="dct", help="orthonormal basis to measure in")
    fit.add_argument("--band", type=number, nargs=2, metavar=("LOW", "HIGH"), help="fit only these cycles per side")
    fit.add_argument("--weights", choices=("uniform", "count", "log"), default="uniform", help="of the bins")
    fit.add_argument("--bootstrap", type=int, default=200, metavar="B", help="replicates for intervals; 0 for none")
    fit.add_argument("--seed", type=int, default=0, help="of the bootstrap")
    fit.add_argument("--scales", type=number, nargs="+", default=[0.5, 1.0], help="report t* for these scales")
    fit.add_argument("--delta", type=number, default=0.01, help="tolerated velocity error for t*")
    run_group = parser.add_argument_group("run")
    run_group.add_argument("--batch-size", type=int, default=16, help="samples a batch")
    run_group.add_argument("--workers", type=int, default=0, help="processes that read ahead")
    run_group.add_argument("--device", help="where to transform and encode, e.g. cuda")
    run_group.add_argument(
        "--resume", metavar="STATE.pt", help="checkpoint: continue from it if it exists, and keep it"
    )
    run_group.add_argument("--checkpoint-every", type=number, default=30.0, metavar="S", help="seconds between them")
    out = parser.add_argument_group("output")
    out.add_argument("--json", metavar="OUT", help="write law and measurement, for 'plan --spectrum'")
    out.add_argument("--table", metavar="OUT", help="write the measured table (Spectrum.load reads it)")
    out.add_argument("--figure", metavar="OUT.png", help="draw spectrum, law and residuals")


@contextmanager
def _process_group(device: str | None) -> Iterator[None]:
    """Join the processes torchrun started; nothing to do without it."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield
        return
    cuda = device is not None and device.startswith("cuda")
    if cuda:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("nccl" if cuda else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def run(args: argparse.Namespace) -> None:
    """``spectral-pd fit``: measure, print the report, write the files asked for (the first process does).

    Raises
    ------
    ValueError, TypeError, OSError, ModuleNotFoundError
        One line of text each; the command line prints it.
    """
    if args.size is not None and len(args.size) > 2:
        raise ValueError(f"--size {' '.join(map(str, args.size))}: give one side, or height and width")
    if args.workers < 0:
        raise ValueError(f"--workers {args.workers} must not be negative")
    size = None if args.size is None else (args.size[0], args.size[-1])
    device = args.device
    if device == "cuda" and "LOCAL_RANK" in os.environ:
        device = f"cuda:{os.environ['LOCAL_RANK']}"
    source = open_source(
        args.sources,
        batch_size=args.batch_size,
        size=size,
        fit=args.fit,
        errors=args.on_error,
        clip=args.clip,
        frames=args.frames,
    )
    names = "\n".join(f"{path} {path.stat().st_size}" for path in find_files(args.sources))
    identity = {
        "files": hashlib.sha256(names.encode()).hexdigest()[:16],
        **{name: getattr(args, name) for name in ("size", "fit", "frames", "clip", "batch_size", "vae")},
    }
    with _process_group(device):
        encoder = None if args.vae is None else Encoder.load(args.vae, device=device or "cpu")
        meter, skipped = accumulate(
            source,
            basis=BASES[args.basis],
            replicates=args.bootstrap,
            seed=args.seed,
            encoder=encoder,
            device=device,
            workers=args.workers,
            resume=args.resume,
            every=args.checkpoint_every,
            identity=identity,
            progress=sys.stderr.isatty(),
        )
        first = _rank()[0] == 0
    if not first:
        return
    measurement = assess(
        meter,
        band=tuple(args.band) if args.band else None,
        weights=args.weights,
        scales=args.scales,
        delta=args.delta,
        source=" ".join(args.sources) + (f" through {args.vae}" if args.vae else ""),
        skipped=skipped,
    )
    print(measurement)
    if args.json:
        measurement.save(args.json)
        print(f"power law and measurement written to {args.json}")
    if args.table:
        measurement.spectrum.save(args.table)
        print(f"spectrum table written to {args.table}")
    if args.figure:
        draw(args.figure, measurement)
        print(f"figure written to {args.figure}")
