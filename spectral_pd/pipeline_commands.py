"""Commands that call a diffusers pipeline: ``spectral-pd calibrate MODEL`` and ``spectral-pd agree MODEL``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from spectral_pd.adapters import Ride, adapt, calibrate
from spectral_pd.adapters.schedulers import one_call_solver
from spectral_pd.agreement import SizeAgreement, size_agreement
from spectral_pd.calibrate import speeds
from spectral_pd.inputs import comparisons, optional, refuse, storage
from spectral_pd.measuring.command import number
from spectral_pd.plotting import plot_agreement

__all__ = ["pipeline_agreement"]


def add(commands: Any, formatter: type[argparse.HelpFormatter]) -> None:
    """The commands and their arguments."""
    parser = commands.add_parser(
        "agree",
        help="measure whether a pipeline's sizes agree",
        description="Measure, along a diffusers pipeline's own full runs, what its calls at smaller sizes miss of its "
        "full-size calls, which part a repair could mend, and the PSNR that progressive runs will have. Needs no data.",
        epilog="example: spectral-pd agree FOLDER --prompt 'a lighthouse at dusk' --steps 28 --device cuda --dtype bfloat16",
        formatter_class=formatter,
    )
    _add_call(parser)
    words = parser.add_mutually_exclusive_group(required=True)
    words.add_argument("--prompt", nargs="+", help="one or more prompts")
    words.add_argument(
        "--embeddings", nargs="+", help="safetensors files of encoded prompts, as benchmarks/finetune.py takes"
    )
    parser.add_argument("--seeds", type=int, default=8, help="runs a prompt")
    parser.add_argument("--psnr", type=float, default=30.0, help="what the verdict asks for, in dB to the full run")
    parser.add_argument("--delta", type=float, default=0.01, help="of the plan that is shown")
    parser.add_argument("--figure", metavar="OUT.png", help="draw I and V over time")
    parser.add_argument("--out", metavar="FILE", help="keep what was measured: SizeAgreement.load reads it")
    parser.set_defaults(run=run_agree)

    parser = commands.add_parser(
        "calibrate",
        help="measure which calls of a pipeline can be left out",
        description="Make a few runs of a diffusers pipeline, and say which of its calls can be made on smaller grids, or not "
        "at all, for the same picture: at which speedup and PSNR. 'spectral-pd plan --calibration' shows one in full.",
        epilog="example: spectral-pd calibrate FOLDER --prompt 'a lighthouse at dusk' 'two cats' --steps 28 --json flux.json",
        formatter_class=formatter,
    )
    _add_call(parser)
    parser.add_argument("--prompt", nargs="+", required=True, help="one or more prompts")
    parser.add_argument("--seed", type=int, default=0, help="of the first prompt's noise; the next one's is one more")
    parser.add_argument("--json", metavar="OUT", help="keep what was measured")
    parser.set_defaults(run=run_calibrate)


def _add_call(parser: argparse.ArgumentParser) -> None:
    """A pipeline, the arguments of its call but the prompt, and the sizes to call."""
    parser.add_argument("model", help="folder or name of a diffusers pipeline")
    parser.add_argument("--size", type=int, nargs=2, metavar=("H", "W"), help="pixels; the pipeline's own if left out")
    parser.add_argument("--steps", type=int, default=28, help="solver steps")
    parser.add_argument(
        "--call",
        default="",
        metavar="WORDS",
        help="other arguments of the pipeline: 'guidance_scale=3.5 true_cfg_scale=2'",
    )
    parser.add_argument("--device", default="cpu", help="where the pipeline runs")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32", help="of its weights")
    parser.add_argument(
        "--scales", type=number, nargs="+", default=[0.5, 1.0], metavar="S", help="sizes to call, up to 1"
    )


def _called(args: argparse.Namespace, **components: Any) -> tuple[Any, dict[str, Any]]:
    """The pipeline with some components exchanged, and the arguments of its call but the prompt."""
    from diffusers import DiffusionPipeline

    device, more = storage.device(args.device, "--device"), comparisons.words(args.call, "--call")
    pipe = DiffusionPipeline.from_pretrained(args.model, torch_dtype=getattr(torch, args.dtype), **components).to(
        device
    )
    pipe.set_progress_bar_config(disable=True)
    size = dict(zip(("height", "width"), args.size or (), strict=False))
    return pipe, {"num_inference_steps": args.steps, **size, **more}


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
    device = getattr(ride.pipe, "_execution_device", ride.pipe.device)
    return size_agreement(
        ride.velocity,
        noise.to(device),
        ride.times,
        scales=scales,
        multiple_of=ride.layout.tile,
        solver=one_call_solver(ride.pipe.scheduler),
        batch=batch,
        model=type(ride.pipe).__name__,
    )


def run_agree(args: argparse.Namespace) -> None:
    from diffusers import DiffusionPipeline
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    left_out = {}
    outputs = {"--out": optional(storage.output_file)(args.out, "--out")}
    outputs["--figure"] = optional(storage.figure_file)(args.figure, "--figure")
    storage.different(**outputs)
    if args.embeddings:  # captions are encoded: text encoders are not wanted
        parts = DiffusionPipeline.load_config(args.model)
        left_out = {name: None for name in parts if name.startswith(("text_encoder", "tokenizer"))}
    pipe, arguments = _called(args, **left_out)
    if args.embeddings:
        try:
            files = [load_file(Path(path)) for path in args.embeddings]
        except SafetensorError as error:
            raise ValueError(f"--embeddings {' '.join(args.embeddings)} are no safetensors files: {error}") from None
        names = [name for name in files[0] if name != "latents"]
        alike = all([name in f and f[name].shape == files[0][name].shape for f in files for name in names])
        refuse(
            not alike, f"--embeddings {' '.join(args.embeddings)} hold other tensors each; encode prompts to one length"
        )
        arguments |= {n: torch.stack([f[n] for f in files]).to(args.device, getattr(torch, args.dtype)) for n in names}
    else:
        arguments["prompt"] = args.prompt
    ride = adapt(pipe, **arguments)
    plan = ride.plan(scales=args.scales, delta=args.delta)  # now, not after an hour of measuring
    found = pipeline_agreement(ride, seeds=args.seeds, scales=args.scales)
    if args.out:
        found.save(args.out)
    print(found.table(args.psnr))
    print(found.noted(plan))
    if args.figure:
        figure: Any = plot_agreement(found.rows()).figure
        figure.savefig(args.figure, dpi=150)


def run_calibrate(args: argparse.Namespace) -> None:
    optional(storage.output_file)(args.json, "--json")
    pipe, arguments = _called(args)
    calls = [
        {**arguments, "prompt": prompt, "generator": torch.Generator().manual_seed(args.seed + i)}
        for i, prompt in enumerate(args.prompt)
    ]
    found = calibrate(pipe, calls, scales=args.scales, model=args.model)
    if args.json:
        found.save(args.json)
    print(f"{found.seeds} runs of {len(found.times) - 1} steps; median PSNR to the same seed's full run, in dB")
    print(speeds(found))
