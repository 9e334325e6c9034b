"""Command line: ``spectral-pd fit``, ``spectral-pd plan``, ``spectral-pd demo`` (also ``python -m spectral_pd``).

Exit status: 0 success, 1 a problem with the data or numbers given (one line on standard error), 2 wrong usage.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from spectral_pd import __version__
from spectral_pd.bases import BASES
from spectral_pd.schedule import make_plan, shift_times
from spectral_pd.spectrum import PRESETS, PowerLaw, SpectrumMeter, fit_power_law

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}
ARRAY_SUFFIXES = {".npy", ".npz", ".pt"}


def number(text: str) -> float:
    """A command-line number: ``0.5``, ``1/2`` or ``1e-3``."""
    try:
        return float(Fraction(text))
    except (ValueError, ZeroDivisionError):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number; write 0.5 or 1/2") from None


def expand_sources(sources: Sequence[str]) -> list[Path]:
    """The files named, folders replaced by the images and arrays directly inside, sorted."""
    files: list[Path] = []
    for source in map(Path, sources):
        if source.is_dir():
            files += sorted(p for p in source.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES | ARRAY_SUFFIXES)
        elif source.is_file():
            files.append(source)
        else:
            raise FileNotFoundError(f"no such file or folder: {source}")
    if not files:
        raise ValueError(
            f"no images or arrays in {', '.join(sources)}; known: {sorted(IMAGE_SUFFIXES | ARRAY_SUFFIXES)}"
        )
    return files


def load_source(path: Path, size: int | None) -> Tensor:
    """One file as (..., H, W): an image in [-1, 1], centre-cropped to a square and resized to `size`; or stored arrays."""
    suffix = path.suffix.lower()
    if suffix == ".npy":
        return torch.from_numpy(np.load(path))
    if suffix == ".npz":
        with np.load(path) as arrays:
            if len(arrays.files) != 1:
                raise ValueError(f"{path} holds {len(arrays.files)} arrays {arrays.files}; save one array a file")
            return torch.from_numpy(arrays[arrays.files[0]])
    if suffix == ".pt":
        value = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(value, Tensor):
            raise TypeError(f"{path} holds a {type(value).__name__}; save one tensor")
        return value
    if suffix not in IMAGE_SUFFIXES:
        raise ValueError(f"{path}: unknown suffix {suffix!r}; known: {sorted(IMAGE_SUFFIXES | ARRAY_SUFFIXES)}")
    try:
        from PIL import Image
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("reading images needs pillow: pip install 'spectral_pd[demo]'") from error
    with Image.open(path) as image:
        rgb = image.convert("RGB")
    side = min(rgb.size)
    left, top = ((n - side) // 2 for n in rgb.size)
    square = rgb.crop((left, top, left + side, top + side))
    if size is not None and size != side:
        if size > side:
            raise ValueError(f"{path} is {side} pixels on its shorter side; --size {size} would enlarge it")
        square = square.resize((size, size), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(square, dtype=np.float32)).permute(2, 0, 1) / 127.5 - 1


def run_fit(args: argparse.Namespace) -> None:
    meter: SpectrumMeter | None = None
    files = expand_sources(args.sources)
    for path in tqdm(files, desc="measuring", unit="file", disable=not sys.stderr.isatty()):
        x = load_source(path, args.size)
        if x.ndim < 2:
            raise ValueError(f"{path} has shape {tuple(x.shape)}; spectra need at least (height, width)")
        meter = meter or SpectrumMeter(x.shape[-2:], basis=BASES[args.basis])
        try:
            meter.update(x)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{path}: {error}") from None
    assert meter is not None
    spectrum = meter.result()
    law = fit_power_law(spectrum, band=tuple(args.band) if args.band else None)
    print(f"{len(files)} files, {meter.planes} planes of {'x'.join(map(str, meter.shape))}, basis {args.basis}")
    print(f"P(omega) = A omega^-beta   A = {law.amplitude:.6g}   beta = {law.exponent:.6f}   R2 = {law.r2:.6f}")
    print("omega in cycles per shorter side, orthonormal transform; A belongs to this grid")
    if law.r2 is not None and law.r2 < 0.95:
        print(f"warning: R2 = {law.r2:.4f}: a power law describes these data poorly", file=sys.stderr)
    if args.json:
        law.save(args.json)
        print(f"power law written to {args.json}")
    if args.table:
        spectrum.save(args.table)
        print(f"spectrum table written to {args.table}")
    if args.figure:
        import matplotlib

        matplotlib.use("Agg")
        from spectral_pd.plotting import plot_spectrum

        figure = plot_spectrum(spectrum, law).figure
        figure.savefig(args.figure, dpi=120)  # type: ignore[union-attr]
        print(f"figure written to {args.figure}")


def run_plan(args: argparse.Namespace) -> None:
    spectrum = PowerLaw.load(args.spectrum) if args.spectrum else PRESETS[args.preset]
    sizes = args.size if len(args.size) > 1 else args.size * 2
    shift = math.exp(args.mu) if args.mu is not None else args.shift
    plan = make_plan(
        shift_times(args.steps, shift=shift),
        spectrum,
        sizes,
        scales=args.scales,
        delta=args.delta,
        multiple_of=args.multiple_of,
        clock=args.clock,
        unreached="force" if args.force else "error",
    )
    print(plan)


def run_demo(args: argparse.Namespace) -> None:
    from spectral_pd.demo import run_demo

    print(run_demo(args.figure, size=args.size, steps=args.steps, seed=args.seed))


def build_parser() -> argparse.ArgumentParser:
    """The argument parser; its help is the command line's manual."""
    formatter = argparse.ArgumentDefaultsHelpFormatter
    parser = argparse.ArgumentParser(
        prog="spectral-pd",
        description="Spectral Progressive Diffusion: run the early denoising steps on small grids, exactly.",
    )
    parser.add_argument("--version", action="version", version=f"spectral_pd {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    fit = commands.add_parser(
        "fit",
        help="measure images or latents and fit a power law",
        description="Measure the radial power spectrum of images or stored latents and fit P = A omega^-beta. Every file "
        "must give the same grid; images are centre-cropped to a square and, with --size, resized.",
        epilog="example: spectral-pd fit photos/ --size 256 --json photos.json --figure photos.png",
        formatter_class=formatter,
    )
    fit.add_argument("sources", nargs="+", metavar="IMAGES_OR_ARRAYS", help="files or folders: images, .npy, .npz, .pt")
    fit.add_argument("--size", type=int, help="resize images to SIZE x SIZE (never enlarges)")
    fit.add_argument("--basis", choices=sorted(BASES), default="dct", help="orthonormal basis to measure in")
    fit.add_argument("--band", type=number, nargs=2, metavar=("LOW", "HIGH"), help="fit only these cycles per side")
    fit.add_argument("--json", metavar="OUT", help="write the power law, for 'plan --spectrum'")
    fit.add_argument("--table", metavar="OUT", help="write the measured table (Spectrum.load reads it)")
    fit.add_argument("--figure", metavar="OUT.png", help="draw measurement and fit")
    fit.set_defaults(run=run_fit)

    plan = commands.add_parser(
        "plan",
        help="print the stages a spectrum asks for",
        description="Print the stages, sizes, transition times, steps and predicted speedup of a progressive run. "
        "SMALLER delta: earlier transitions, slower, closer to full resolution.",
        epilog="example: spectral-pd plan --preset flux --size 128 --scales 1/2 1 --steps 50 --mu 1.15",
        formatter_class=formatter,
    )
    source = plan.add_mutually_exclusive_group(required=True)
    source.add_argument("--preset", choices=sorted(PRESETS), help="a published power law")
    source.add_argument("--spectrum", metavar="JSON", help="a power law written by 'fit --json'")
    plan.add_argument("--size", type=int, nargs="+", required=True, help="full grid (latent size): one side, or H W")
    plan.add_argument("--scales", type=number, nargs="+", default=[0.5, 1.0], help="increasing, ending at 1")
    plan.add_argument("--steps", type=int, default=50, help="solver steps")
    shift = plan.add_mutually_exclusive_group()
    shift.add_argument("--shift", type=number, default=1.0, help="resolution shift s of the time grid")
    shift.add_argument("--mu", type=number, help="dynamic shift: s = exp(mu); FLUX.1 at 1024x1024 has 1.15")
    plan.add_argument("--delta", type=number, default=0.01, help="tolerated velocity error, inside (0, 1)")
    plan.add_argument("--multiple-of", type=int, default=1, help="stage sizes are multiples of this (patch size)")
    plan.add_argument("--clock", choices=("full", "stage"), default="full", help="'stage' is the paper's")
    plan.add_argument("--force", action="store_true", help="move a transition never reached to the last step")
    plan.set_defaults(run=run_plan)

    demo = commands.add_parser(
        "demo",
        help="measure, plan and sample on real photographs",
        description="Measure photographs that ship with scikit-learn and scikit-image, then sample two models whose exact "
        "denoisers are known, progressively and at full resolution, from the same noise.",
        formatter_class=formatter,
    )
    demo.add_argument("--figure", metavar="OUT.png", help="draw spectrum, activation curve and samples")
    demo.add_argument("--size", type=int, default=512, help="side of the Gaussian field")
    demo.add_argument("--steps", type=int, default=50, help="solver steps")
    demo.add_argument("--seed", type=int, default=0, help="of crops and noise")
    demo.set_defaults(run=run_demo)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    args = build_parser().parse_args(arguments)
    try:
        args.run(args)
    except (ValueError, TypeError, OSError, ModuleNotFoundError) as error:
        print(f"spectral-pd {args.command}: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
