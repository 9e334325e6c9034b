"""Command line: ``spectral-pd fit``, ``plan``, ``calibrate``, ``agree``, ``compare``, ``comfyui``, ``demo``; or ``python -m``.

Exit status: 0 success, 1 a problem with the data or numbers given (one line on standard error), 2 wrong usage, 130 interrupted,
141 the reader of standard output went away.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from spectral_pd import __version__, pipeline_commands
from spectral_pd.calibrate import Calibration, choose_pattern
from spectral_pd.comfyui import command as comfyui
from spectral_pd.comparing import command as comparing
from spectral_pd.inputs import refuse
from spectral_pd.measuring import command
from spectral_pd.measuring.command import number
from spectral_pd.optimise import optimise_plan
from spectral_pd.plan import Plan
from spectral_pd.power import PRESETS, Spectrum, load_spectrum
from spectral_pd.pretrained import PRETRAINED, Pretrained, step_cost, usual
from spectral_pd.schedule import make_plan, shift_times, token_cost
from spectral_pd.solvers import SOLVERS

SHIFTS = {"free": None, "shifted": (1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0, 12.0)}
"""Time grids that ``--grid`` lets a plan for a budget choose from."""


def run_plan(args: argparse.Namespace) -> None:
    if args.calibration:
        wanted = 2.0 if args.speedup is None else args.speedup
        print(choose_pattern(Calibration.load(args.calibration), wanted)[0].plan)
        return
    refuse(args.speedup is not None, "--speedup is for --calibration; how much a plan may cost is --budget, in steps")
    if args.size is None:
        raise ValueError("--size is missing; pass the full grid, e.g. --size 128 (only --calibration has its own)")
    spectrum = load_spectrum(args.spectrum) if args.spectrum else PRESETS[args.preset]
    if isinstance(spectrum, Spectrum):
        spectrum = spectrum.envelope()  # early enough for every frequency, also where the table rises
    sizes = args.size if len(args.size) > 1 else args.size * 2
    chosen: dict[str, Any] = {"scales": args.scales, "delta": args.delta, "multiple_of": args.multiple_of}
    model = usual(args.preset)
    tokens = partial(token_cost, sizes, patch=args.multiple_of, text_tokens=args.text_tokens, attention=args.attention)
    if args.attention or args.text_tokens:
        chosen["cost"] = tokens()
    elif model is not None:
        chosen["cost"] = step_cost(model, sizes)
    if args.budget is not None:
        cost = chosen.pop("cost", None) or tokens()
        shifts = SHIFTS[args.grid]
        print(optimise_plan(spectrum, sizes, cost, budget=args.budget, solver=args.solver, shifts=shifts, **chosen))
        return
    if args.mu is not None and args.mu > 700:
        raise ValueError(f"--mu {args.mu:g}: exp(mu) is too large for a shift; FLUX.1 at 1024x1024 has 1.15")
    made = partial(make_plan, spectrum=spectrum, shape=sizes, clock=args.clock, **chosen)
    given = args.shift if args.mu is None else math.exp(args.mu)
    times = shift_times(args.steps, shift=1.0 if given is None else given)
    plan = made(times=times, unreached="force" if args.force else "error")
    if given is None and model is not None:
        plan = replace(plan, notes=(*plan.notes, usual_shift(PRETRAINED[model], plan, made)))
    print(plan)


def usual_shift(model: Pretrained, plan: Plan, made: Callable[..., Plan]) -> str:
    """What a plan on the unshifted grid would be on the one its model is usually run on."""
    other = made(times=shift_times(plan.nfe, shift=model.shift), unreached="force")
    return (
        f"no shift was given; --shift={model.shift:.4g}, usual of {model.label} at {model.size}, would make it "
        f"{'+'.join(map(str, other.split))} steps, {other.speedup():.2f}x"
    )


def run_demo(args: argparse.Namespace) -> None:
    from spectral_pd.measuring.demo import run_demo

    # Many small steps: one thread takes half a minute anywhere; several, on a machine that does something else as well, wait
    # for each other, and the time ratios of the table would be those of the waiting.
    torch.set_num_threads(1)
    print(run_demo(args.figure, size=args.size, steps=args.steps, seed=args.seed))


class HelpFormatter(argparse.HelpFormatter):
    """Names the default of every option that has one."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text, default = action.help or "", action.default
        if default is None or default is False or default is argparse.SUPPRESS:
            return text
        shown = " ".join(f"{v:g}" for v in default) if isinstance(default, (list, tuple)) else default
        return f"{text} (default: {shown})"


def add_number(group: Any, flag: str, metavar: str, default: Any, text: str, **more: Any) -> None:
    """An option for numbers, whole ones where its default is whole."""
    kind = int if isinstance(default, int) else number
    group.add_argument(flag, type=kind, metavar=metavar, default=default, help=text, **more)


def build_parser() -> argparse.ArgumentParser:
    """The argument parser; its help is the command line's manual."""
    parser = argparse.ArgumentParser(
        prog="spectral-pd",
        description="Spectral Progressive Diffusion: run the early denoising steps on small grids, exactly.",
        epilog="'spectral-pd COMMAND --help' explains a command. Begin with 'spectral-pd demo'. Exit status: 0 success, 1 a "
        "problem with the data or numbers given (one line on standard error), 2 wrong usage.",
    )
    parser.add_argument("--version", action="version", version=f"spectral_pd {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")

    fit = commands.add_parser(
        "fit",
        help="measure pictures, latents or videos and fit a power law",
        description="Measure the radial power spectrum of pictures, stored latents or videos, fit P = A omega^-beta with "
        "intervals, and say where the law fails. Runs on one process, or under torchrun on many.",
        epilog="example: spectral-pd fit photos/ --size 256 --json photos.json --figure photos.png",
        formatter_class=HelpFormatter,
    )
    command.add_arguments(fit)
    fit.set_defaults(run=command.run)

    plan = commands.add_parser(
        "plan",
        help="print the stages a spectrum asks for",
        description="Print the stages, sizes, transition times, steps and predicted speedup of a progressive run. "
        "SMALLER delta: earlier transitions, slower, closer to full resolution.",
        epilog="example: spectral-pd plan --preset flux --size 128 --scales 1/2 1 --steps 50 --mu 1.15",
        formatter_class=HelpFormatter,
    )
    source = plan.add_mutually_exclusive_group(required=True)
    preset = f"power law of a model ({', '.join(sorted(PRESETS))}); the plan says if it is borrowed"
    source.add_argument("--preset", choices=sorted(PRESETS), metavar="MODEL", help=preset)
    source.add_argument("--spectrum", metavar="JSON", help="what 'fit --json' or 'fit --table' wrote")
    source.add_argument(
        "--calibration", metavar="JSON", help="what 'calibrate --json' wrote: calls of several sizes, for --speedup"
    )
    add_number(plan, "--speedup", "X", None, "of the calls chosen from a calibration; 2 unless given")
    size = "full grid (latent size): one side, or every axis, e.g. H W"
    plan.add_argument("--size", type=int, nargs="+", metavar="N", help=size)
    add_number(plan, "--scales", "S", [0.5, 1.0], "increasing, ending at 1, e.g. 1/2 1", nargs="+")
    add_number(plan, "--steps", "N", 50, "solver steps")
    shift = plan.add_mutually_exclusive_group()
    add_number(shift, "--shift", "S", None, "resolution shift s of the time grid; 1, which is none, where not given")
    add_number(shift, "--mu", "M", None, "dynamic shift: s = exp(mu); FLUX.1 at 1024x1024 has 1.15")
    add_number(plan, "--delta", "D", 0.01, "tolerated velocity error, inside (0, 1)")
    add_number(plan, "--multiple-of", "N", 1, "stage sizes are multiples of this, the patch size")
    plan.add_argument("--clock", choices=("full", "stage"), default="full", help="'stage' is the paper's")
    add_number(plan, "--attention", "A", 0.0, "share of attention in the cost of a full-size step")
    add_number(plan, "--text-tokens", "N", 0, "text tokens that every step also processes")
    plan.add_argument("--force", action="store_true", help="move a transition never reached to the last step")
    best = plan.add_argument_group(
        "the best plan for a budget",
        "With --budget the steps, the time grid and the transitions are chosen for the least predicted error, sizes among "
        "--scales; --steps, --shift, --mu and --clock are not used, and --delta bounds how late a stage may be left.",
    )
    add_number(best, "--budget", "B", None, "what the run may cost, in steps at full size")
    best.add_argument("--solver", choices=sorted(SOLVERS), default="euler", help="solver the plan is for")
    best.add_argument("--grid", choices=SHIFTS, default="free", help="times: any, or shifted uniform grids")
    plan.set_defaults(run=run_plan)

    comparing.add(commands, HelpFormatter)

    demo = commands.add_parser(
        "demo",
        help="measure, plan and sample on real photographs",
        description="Measure photographs that ship with scikit-learn and scikit-image, then sample two models whose exact "
        "denoisers are known (in a checkout also a trained transformer), progressively and at full resolution, from the same "
        "noise.",
        formatter_class=HelpFormatter,
    )
    demo.add_argument("--figure", metavar="OUT.png", default="demo.png", help="spectrum, activation curve and samples")
    add_number(demo, "--size", "N", 512, "side of the Gaussian field")
    add_number(demo, "--steps", "N", 50, "solver steps")
    add_number(demo, "--seed", "N", 0, "of crops and noise")
    demo.set_defaults(run=run_demo)
    pipeline_commands.add(commands, HelpFormatter)
    comfyui.add_parser(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = build_parser()
    args = parser.parse_args(arguments)
    if args.command is None:
        parser.print_help()
        return 0
    for stream in (sys.stdout, sys.stderr):  # a name that a terminal cannot show is no reason to stop
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        args.run(args)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever reads has enough, as with "| head"; nothing is left to flush at exit either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (ValueError, TypeError, OSError, ModuleNotFoundError) as error:
        text = str(error).replace("unreached='force'", "--force")  # the remedy as this command line spells it
        print(f"spectral-pd {args.command}: error: {text}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
