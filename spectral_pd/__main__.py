"""Command line: ``spectral-pd fit``, ``spectral-pd plan``, ``spectral-pd demo`` (also ``python -m spectral_pd``).

Exit status: 0 success, 1 a problem with the data or numbers given (one line on standard error), 2 wrong usage, 130 interrupted,
141 the reader of standard output went away.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Sequence

import torch

from spectral_pd import __version__
from spectral_pd.measuring import command
from spectral_pd.measuring.command import number
from spectral_pd.optimise import optimise_plan
from spectral_pd.power import PRESETS, PowerLaw, Spectrum, load_spectrum
from spectral_pd.schedule import Cost, Plan, make_plan, shift_times, token_cost
from spectral_pd.solvers import SOLVERS


def transformer_cost(args: argparse.Namespace, sizes: Sequence[int]) -> Cost:
    """Cost of a step by ``--multiple-of`` (the patch), ``--text-tokens`` and ``--attention``, in full-size steps."""
    return token_cost(sizes, patch=args.multiple_of, text_tokens=args.text_tokens, attention=args.attention)


def best_plan(args: argparse.Namespace, spectrum: PowerLaw | Spectrum, sizes: Sequence[int]) -> Plan:
    """The plan of least predicted error for ``--budget`` full-size steps."""
    shifts = {"free": None, "shifted": [1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0, 12.0]}[args.grid]
    return optimise_plan(
        spectrum,
        sizes,
        transformer_cost(args, sizes),
        budget=args.budget,
        solver=args.solver,
        scales=args.scales,
        shifts=shifts,
        delta=args.delta,
        multiple_of=args.multiple_of,
    )


def run_plan(args: argparse.Namespace) -> None:
    spectrum = load_spectrum(args.spectrum) if args.spectrum else PRESETS[args.preset]
    if isinstance(spectrum, Spectrum):
        spectrum = spectrum.envelope()  # early enough for every frequency, also where the table rises
    sizes = args.size if len(args.size) > 1 else args.size * 2
    if args.budget is not None:
        print(best_plan(args, spectrum, sizes))
        return
    if args.mu is not None and args.mu > 700:
        raise ValueError(f"--mu {args.mu:g}: exp(mu) is too large for a shift; FLUX.1 at 1024x1024 has 1.15")
    shift = math.exp(args.mu) if args.mu is not None else args.shift
    counted = args.attention or args.text_tokens
    plan = make_plan(
        shift_times(args.steps, shift=shift),
        spectrum,
        sizes,
        scales=args.scales,
        delta=args.delta,
        multiple_of=args.multiple_of,
        clock=args.clock,
        cost=transformer_cost(args, sizes) if counted else None,
        unreached="force" if args.force else "error",
    )
    print(plan)


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


def build_parser() -> argparse.ArgumentParser:
    """The argument parser; its help is the command line's manual."""
    formatter = HelpFormatter
    parser = argparse.ArgumentParser(
        prog="spectral-pd",
        description="Spectral Progressive Diffusion: run the early denoising steps on small grids, exactly.",
        epilog="'spectral-pd COMMAND --help' explains a command. Begin with 'spectral-pd demo'. Exit status: 0 success, 1 a "
        "problem with the data or numbers given (one line on standard error), 2 wrong usage.",
    )
    parser.add_argument("--version", action="version", version=f"spectral_pd {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    fit = commands.add_parser(
        "fit",
        help="measure pictures, latents or videos and fit a power law",
        description="Measure the radial power spectrum of pictures, stored latents or videos, fit P = A omega^-beta with "
        "intervals, and say where the law fails. Runs on one process, or under torchrun on many.",
        epilog="example: spectral-pd fit photos/ --size 256 --json photos.json --figure photos.png",
        formatter_class=formatter,
    )
    command.add_arguments(fit)
    fit.set_defaults(run=command.run)

    plan = commands.add_parser(
        "plan",
        help="print the stages a spectrum asks for",
        description="Print the stages, sizes, transition times, steps and predicted speedup of a progressive run. "
        "SMALLER delta: earlier transitions, slower, closer to full resolution.",
        epilog="example: spectral-pd plan --preset flux --size 128 --scales 1/2 1 --steps 50 --mu 1.15",
        formatter_class=formatter,
    )
    source = plan.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--preset", choices=sorted(PRESETS), help="power law of a model; the plan says if it is borrowed"
    )
    source.add_argument("--spectrum", metavar="JSON", help="what 'fit --json' or 'fit --table' wrote")
    plan.add_argument(
        "--size",
        type=int,
        nargs="+",
        metavar="N",
        required=True,
        help="full grid (latent size): one side, or every axis, e.g. H W",
    )
    plan.add_argument(
        "--scales", type=number, nargs="+", metavar="S", default=[0.5, 1.0], help="increasing, ending at 1, e.g. 1/2 1"
    )
    plan.add_argument("--steps", type=int, metavar="N", default=50, help="solver steps")
    shift = plan.add_mutually_exclusive_group()
    shift.add_argument(
        "--shift", type=number, metavar="S", default=1.0, help="resolution shift s of the time grid; 1 is none"
    )
    shift.add_argument(
        "--mu", type=number, metavar="M", help="dynamic shift: s = exp(mu); FLUX.1 at 1024x1024 has 1.15"
    )
    plan.add_argument("--delta", type=number, metavar="D", default=0.01, help="tolerated velocity error, inside (0, 1)")
    plan.add_argument(
        "--multiple-of", type=int, metavar="N", default=1, help="stage sizes are multiples of this, the patch size"
    )
    plan.add_argument("--clock", choices=("full", "stage"), default="full", help="'stage' is the paper's")
    plan.add_argument(
        "--attention", type=number, metavar="A", default=0.0, help="share of attention in the cost of a full-size step"
    )
    plan.add_argument(
        "--text-tokens", type=int, metavar="N", default=0, help="text tokens that every step also processes"
    )
    plan.add_argument("--force", action="store_true", help="move a transition never reached to the last step")
    best = plan.add_argument_group(
        "the best plan for a budget",
        "With --budget the steps, the time grid and the transitions are chosen for the least predicted error, sizes among "
        "--scales; --steps, --shift, --mu and --clock are not used, and --delta bounds how late a stage may be left.",
    )
    best.add_argument("--budget", type=number, metavar="B", help="what the run may cost, in steps at full size")
    best.add_argument("--solver", choices=sorted(SOLVERS), default="euler", help="solver the plan is for")
    best.add_argument(
        "--grid", choices=("free", "shifted"), default="free", help="times: any, or shifted uniform grids"
    )
    plan.set_defaults(run=run_plan)

    demo = commands.add_parser(
        "demo",
        help="measure, plan and sample on real photographs",
        description="Measure photographs that ship with scikit-learn and scikit-image, then sample two models whose exact "
        "denoisers are known (in a checkout also a trained transformer), progressively and at full resolution, from the same "
        "noise.",
        formatter_class=formatter,
    )
    demo.add_argument("--figure", metavar="OUT.png", default="demo.png", help="spectrum, activation curve and samples")
    demo.add_argument("--size", type=int, metavar="N", default=512, help="side of the Gaussian field")
    demo.add_argument("--steps", type=int, metavar="N", default=50, help="solver steps")
    demo.add_argument("--seed", type=int, metavar="N", default=0, help="of crops and noise")
    demo.set_defaults(run=run_demo)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    args = build_parser().parse_args(arguments)
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
