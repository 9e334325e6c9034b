"""Command line: ``spectral-pd fit``, ``spectral-pd plan``, ``spectral-pd demo`` (also ``python -m spectral_pd``).

Exit status: 0 success, 1 a problem with the data or numbers given (one line on standard error), 2 wrong usage.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence

from spectral_pd import __version__, measure
from spectral_pd.measure import number
from spectral_pd.optimise import optimise_plan
from spectral_pd.schedule import Plan, make_plan, shift_times, token_cost
from spectral_pd.solvers import SOLVERS
from spectral_pd.spectrum import PRESETS, PowerLaw, Spectrum, load_spectrum


def best_plan(args: argparse.Namespace, spectrum: PowerLaw | Spectrum, sizes: Sequence[int]) -> Plan:
    """The plan of least predicted error for ``--budget`` full-size steps."""
    patch = args.multiple_of
    cost = token_cost(sizes, patch=patch, text_tokens=args.text_tokens, attention=args.attention)
    shifts = {"free": None, "shifted": [1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0, 12.0]}[args.grid]
    return optimise_plan(
        spectrum,
        sizes,
        cost,
        budget=args.budget,
        solver=args.solver,
        scales=args.scales,
        shifts=shifts,
        delta=args.delta,
        multiple_of=patch,
    )


def run_plan(args: argparse.Namespace) -> None:
    spectrum = load_spectrum(args.spectrum) if args.spectrum else PRESETS[args.preset]
    if isinstance(spectrum, Spectrum):
        spectrum = spectrum.envelope()  # early enough for every frequency, also where the table rises
    sizes = args.size if len(args.size) > 1 else args.size * 2
    if args.budget is not None:
        print(best_plan(args, spectrum, sizes))
        return
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
        help="measure pictures, latents or videos and fit a power law",
        description="Measure the radial power spectrum of pictures, stored latents or videos, fit P = A omega^-beta with "
        "intervals, and say where the law fails. Runs on one process, or under torchrun on many.",
        epilog="example: spectral-pd fit photos/ --size 256 --json photos.json --figure photos.png",
        formatter_class=formatter,
    )
    measure.add_arguments(fit)
    fit.set_defaults(run=measure.run)

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
    source.add_argument("--spectrum", metavar="JSON", help="what 'fit --json' or 'fit --table' wrote")
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
    best = plan.add_argument_group(
        "the best plan for a budget",
        "With --budget the steps, the time grid and the transitions are chosen for the least predicted error, sizes among "
        "--scales; --steps, --shift, --mu and --clock are not used, and --delta bounds how late a stage may be left.",
    )
    best.add_argument("--budget", type=number, help="what the run may cost, in steps at full size")
    best.add_argument("--solver", choices=sorted(SOLVERS), default="euler", help="solver the plan is for")
    best.add_argument(
        "--grid", choices=("free", "shifted"), default="free", help="times: any, or shifted uniform grids"
    )
    best.add_argument(
        "--attention", type=number, default=0.0, help="share of attention in the cost of a full-size step"
    )
    best.add_argument("--text-tokens", type=int, default=0, help="text tokens that every step also processes")
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
