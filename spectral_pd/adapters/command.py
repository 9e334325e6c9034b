"""What commands that call a pipeline share, and ``spectral-pd calibrate MODEL``."""

from __future__ import annotations

import argparse
import json
from fractions import Fraction
from typing import Any

import torch

from spectral_pd.calibrate import speeds


def add_call(parser: argparse.ArgumentParser) -> None:
    """A pipeline and the arguments of its call but the prompt."""
    parser.add_argument("model", help="folder or name of a diffusers pipeline")
    parser.add_argument("--size", type=int, nargs=2, metavar=("H", "W"), help="pixels; the pipeline's own if left out")
    parser.add_argument("--steps", type=int, default=28, help="solver steps")
    parser.add_argument(
        "--call", type=json.loads, default={}, metavar="JSON", help="other arguments of the pipeline's call"
    )
    parser.add_argument("--device", default="cpu", help="where the pipeline runs")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32", help="of its weights")


def called(args: argparse.Namespace, **components: Any) -> tuple[Any, dict[str, Any]]:
    """The pipeline with some components exchanged, and the arguments of its call but the prompt."""
    from diffusers import DiffusionPipeline

    pipe = DiffusionPipeline.from_pretrained(args.model, torch_dtype=getattr(torch, args.dtype), **components).to(
        args.device
    )
    pipe.set_progress_bar_config(disable=True)
    size = dict(zip(("height", "width"), args.size or (), strict=False))
    return pipe, {"num_inference_steps": args.steps, **size, **args.call}


def add_calibrate(commands: Any, formatter: type[argparse.HelpFormatter]) -> None:
    """The command's arguments."""
    parser = commands.add_parser(
        "calibrate",
        help="measure which calls of a pipeline can be left out",
        description="Make a few runs of a diffusers pipeline, and say which of its calls can be made on smaller grids, or not "
        "at all, for the same picture: at which speedup and PSNR. 'spectral-pd plan --calibration' shows one in full.",
        epilog="example: spectral-pd calibrate FOLDER --prompt 'a lighthouse at dusk' 'two cats' --steps 28 --json flux.json",
        formatter_class=formatter,
    )
    add_call(parser)
    parser.add_argument("--prompt", nargs="+", required=True, help="one or more prompts")
    parser.add_argument(
        "--scales",
        type=lambda text: float(Fraction(text)),
        nargs="+",
        default=[0.5, 1.0],
        metavar="S",
        help="sizes to call, up to 1",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the first prompt's noise; the next one's is one more")
    parser.add_argument("--json", metavar="OUT", help="keep what was measured")
    parser.set_defaults(run=run_calibrate)


def run_calibrate(args: argparse.Namespace) -> None:
    from spectral_pd.adapters import calibrate

    pipe, arguments = called(args)
    calls = [
        {**arguments, "prompt": prompt, "generator": torch.Generator().manual_seed(args.seed + i)}
        for i, prompt in enumerate(args.prompt)
    ]
    found = calibrate(pipe, calls, scales=args.scales, model=args.model)
    if args.json:
        found.save(args.json)
    print(f"{found.seeds} runs of {len(found.times) - 1} steps; median PSNR to the same seed's full run, in dB")
    print(speeds(found))
