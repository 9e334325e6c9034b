"""``spectral-pd agree MODEL``: do a pipeline's sizes agree? Measured on its own runs, without data."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch

from spectral_pd.adapters.command import add_call, called
from spectral_pd.adapters.rider import Ride
from spectral_pd.adapters.schedulers import own_solver
from spectral_pd.agreement import SizeAgreement, size_agreement
from spectral_pd.plotting import plot_agreement
from spectral_pd.solvers import SolverName, euler


def pipeline_agreement(
    ride: Ride, *, seeds: int = 8, scales: Sequence[float] = (1 / 2, 1.0), seed: int = 0
) -> SizeAgreement:
    """:func:`~spectral_pd.agreement.size_agreement` of one call of a pipeline: its prompts, guidance, time grid and size.

    Parameters
    ----------
    ride
        Of :func:`~spectral_pd.adapters.adapt`, with embeddings: each call of the network begins a call of the pipeline.
    seeds
        Runs for each of its prompts.
    scales
        Sizes to ask, up to 1.
    seed
        Of the starting noise.
    """
    batch, generator = ride.shape[0], torch.Generator().manual_seed(seed)
    noise = torch.randn(seeds * batch, *ride.shape[1:], generator=generator)
    solver: SolverName = "euler" if own_solver(ride.pipe.scheduler) is euler else "dpmpp_2m"
    multiple = ride.layout.multiple or ride.layout.patch
    device = getattr(ride.pipe, "_execution_device", ride.pipe.device)
    return size_agreement(
        ride.velocity,
        noise.to(device),
        ride.times,
        scales=scales,
        multiple_of=multiple,
        solver=solver,
        batch=batch,
        model=type(ride.pipe).__name__,
    )


def add_parser(commands: Any, formatter: type[argparse.HelpFormatter]) -> None:
    """The command's arguments."""
    parser = commands.add_parser(
        "agree",
        help="measure whether a pipeline's sizes agree",
        description="Measure, along a diffusers pipeline's own full runs, what its calls at smaller sizes miss of its "
        "full-size calls, which part a repair could mend, and the PSNR that progressive runs will have. Needs no data.",
        epilog="example: spectral-pd agree FOLDER --prompt 'a lighthouse at dusk' --steps 28 --device cuda --dtype bfloat16",
        formatter_class=formatter,
    )
    add_call(parser)
    words = parser.add_mutually_exclusive_group(required=True)
    words.add_argument("--prompt", nargs="+", help="one or more prompts")
    words.add_argument(
        "--embeddings", nargs="+", help="safetensors files of encoded prompts, as benchmarks/finetune.py takes"
    )
    parser.add_argument("--seeds", type=int, default=8, help="runs a prompt")
    parser.add_argument(
        "--scales", type=lambda text: float(Fraction(text)), nargs="+", default=[0.5, 1.0], help="sizes"
    )
    parser.add_argument("--psnr", type=float, default=30.0, help="what the verdict asks for, in dB to the full run")
    parser.add_argument("--delta", type=float, default=0.01, help="of the plan that is shown")
    parser.add_argument("--figure", metavar="OUT.png", help="draw I and V over time")
    parser.add_argument("--out", metavar="FILE", help="keep what was measured: SizeAgreement.load reads it")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    from diffusers import DiffusionPipeline
    from safetensors.torch import load_file

    from spectral_pd.adapters import adapt

    left_out = {}
    if args.embeddings:  # captions are encoded: text encoders are not wanted
        parts = DiffusionPipeline.load_config(args.model)
        left_out = {name: None for name in parts if name.startswith(("text_encoder", "tokenizer"))}
    pipe, arguments = called(args, **left_out)
    if args.embeddings:
        files = [load_file(Path(path)) for path in args.embeddings]
        names = [name for name in files[0] if name != "latents"]
        arguments |= {n: torch.stack([f[n] for f in files]).to(args.device, getattr(torch, args.dtype)) for n in names}
    else:
        arguments["prompt"] = args.prompt
    ride = adapt(pipe, **arguments)
    found = pipeline_agreement(ride, seeds=args.seeds, scales=args.scales)
    print(found.table(args.psnr))
    print(found.noted(ride.plan(scales=args.scales, delta=args.delta)))
    if args.out:
        found.save(args.out)
    if args.figure:
        figure: Any = plot_agreement(found.rows()).figure
        figure.savefig(args.figure, dpi=150)
