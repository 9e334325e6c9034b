"""``spectral-pd fit``: its flags, which are the fields of :class:`~spectral_pd.measuring.options.Options`, and its outputs."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import Field, fields
from fractions import Fraction
from typing import Any

import torch
import torch.distributed as dist

from spectral_pd import autoencoders, inputs
from spectral_pd.bases import BASES
from spectral_pd.inputs import storage
from spectral_pd.measuring.options import Options
from spectral_pd.measuring.report import draw, measure
from spectral_pd.measuring.stream import rank_and_world

GROUPS = {"size": "data", "basis": "fit", "batch_size": "run"}
"""The option each group of flags begins with."""
OUTPUTS = {
    "json": (storage.output_file, "OUT", "write law and measurement, for 'plan --spectrum'"),
    "table": (storage.output_file, "OUT", "write the measured table (Spectrum.load reads it)"),
    "figure": (storage.figure_file, "OUT.png", "draw spectrum, law and residuals"),
}


def number(text: str) -> float:
    """A command-line number: ``0.5``, ``1/2`` or ``1e-3``; argparse reports anything else."""
    try:
        return float(Fraction(text))
    except (ValueError, ZeroDivisionError):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number; write 0.5 or 1/2") from None


def _argument(option: Field[Any]) -> dict[str, Any]:
    """What argparse takes for an option: its type that of the default, unless it says otherwise."""
    given = {"default": option.default, "help": option.metadata["help"], **option.metadata["argument"]}
    if option.default is False:
        return {"action": "store_true", **given}
    kind = int if option.name == "size" or isinstance(option.default, int) else number
    return given if "choices" in given else {"type": kind, **given}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``spectral-pd fit``; :func:`run` takes what they parse to."""
    parser.add_argument(
        "sources", nargs="+", metavar="SOURCE", help="files or folders: pictures, .npy .npz .pt .safetensors, videos"
    )
    parser.add_argument("--vae", metavar="PATH", help="encode pictures first, by the autoencoder in this folder")
    group: Any = parser
    for option in fields(Options):
        if option.name in GROUPS:
            group = parser.add_argument_group(GROUPS[option.name])
        if option.metadata["help"]:
            flag = option.metadata["flag"] or "--" + option.name.replace("_", "-")
            group.add_argument(flag, dest=option.name, **_argument(option))
    out = parser.add_argument_group("output")
    for name, (_, metavar, text) in OUTPUTS.items():
        out.add_argument(f"--{name}", metavar=metavar, help=text)


@contextmanager
def _process_group(device: torch.device | None) -> Iterator[None]:
    """Join the processes torchrun started; nothing to do without it."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield
        return
    cuda = device is not None and device.type == "cuda"
    if cuda:
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if cuda else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def run(args: argparse.Namespace) -> None:
    """``spectral-pd fit``: measure, print the report, write the files asked for (the first process does).

    Everything that can be known to fail does so before the first sample is read.
    """
    given = {option.name: getattr(args, option.name) for option in fields(Options) if option.metadata["help"]}
    if given["device"] == "cuda" and "LOCAL_RANK" in os.environ:
        given["device"] = f"cuda:{os.environ['LOCAL_RANK']}"
    options = Options(**{**given, "basis": BASES[args.basis]})
    outputs = {name: inputs.optional(parse)(getattr(args, name), f"--{name}") for name, (parse, *_) in OUTPUTS.items()}
    storage.different(**{f"--{name}": path for name, path in outputs.items()}, **{"--resume": options.resume})
    with _process_group(options.device):
        encoder = None if args.vae is None else autoencoders.load(args.vae, device=options.device or "cpu").encode
        measurement = measure(
            args.sources,
            options=options,
            encoder=encoder,
            progress=sys.stderr.isatty(),
            source=" ".join(args.sources) + (f" through {args.vae}" if args.vae else ""),
        )
        if rank_and_world()[0] > 0:
            return
    print(measurement)
    if outputs["json"]:
        measurement.save(outputs["json"])
        print(f"power law and measurement written to {outputs['json']}")
    if outputs["table"]:
        measurement.spectrum.save(outputs["table"])
        print(f"spectrum table written to {outputs['table']}")
    if outputs["figure"]:
        draw(outputs["figure"], measurement)
        print(f"figure written to {outputs['figure']}")
