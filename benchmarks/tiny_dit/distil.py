r"""Distil the small transformer to 8 Euler steps, and see what progressive sampling does to the few-step network.

    python benchmarks/tiny_dit/distil.py train --folder RUN
    python benchmarks/tiny_dit/distil.py evaluate

Trajectory distillation (progressive distillation, Salimans and Ho 2022, on the teacher's own states): from noise the teacher
walks 16 steps of DPM-Solver++(2M), and a LoRA learns the velocity of the straight line over every two of them, so that 8 Euler
steps end where the teacher does. Grids are those of 8 steps, moved by up to half a step, at 64 and at 32 pixels. No photograph
is needed. Round k is a function of the seed and k; a stopped training goes on.

``evaluate`` writes results/few_steps.csv: 8 and fewer steps of teacher and student, and every progressive split of the
student's 8 steps, against 32 steps of the teacher from the same noise.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from model import TinyDiT, load
from peft import get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor
from torch.nn.functional import mse_loss
from tqdm import tqdm

from spectral_pd import Plan, plan_at, sample, shift_times
from spectral_pd.solvers import dpmpp_2m
from spectral_pd.training import schedule_metadata

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
from cost import count  # noqa: E402
from environment import environment  # noqa: E402
from finetune import TinyModel, add_lora, load_lora, save_lora  # noqa: E402
from metrics import SlicedWasserstein, columns, interval, radial_rows, spectrum_distance  # noqa: E402

STEPS, SHIFT, SIZE = 8, 2.0, (64, 64)
BATCHES = {64: 8, 32: 24}
"""Trajectories of a round at each size; rounds take turns."""
ADAPTER = HERE / "distilled-8.safetensors"


def velocity_of(network: TinyDiT) -> torch.nn.Module:
    """Compiled, in bfloat16."""
    return torch.compile(network, dynamic=False)


def grid(generator: torch.Generator) -> list[float]:
    """Times of 8 steps, the inner ones moved together by up to half a step."""
    moved = float(torch.rand((), generator=generator)) - 0.5
    inner = [(STEPS - k + moved) / STEPS for k in range(1, STEPS)]
    return [SHIFT * u / (1 + (SHIFT - 1) * u) for u in (1.0, *inner, 0.0)]


def pairs(teacher: torch.nn.Module, step: int, seed: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """The round's states, times and velocities of the line to the teacher's next state, shuffled, in four batches."""
    generator = torch.Generator().manual_seed(seed * 2**32 + step)
    size = list(BATCHES)[step % len(BATCHES)]
    x, history = torch.randn(BATCHES[size], 3, size, size, generator=generator), None

    def velocity(x: Tensor, t: float) -> Tensor:
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            return teacher(x, torch.full((len(x),), t)).float()

    found = []
    for t, t_next in pairwise(grid(generator)):
        begin, middle = x, (t + t_next) / 2
        for a, b in pairwise((t, middle, t_next)):
            x, history = dpmpp_2m(velocity, x, a, b, history)
        found.append((begin, torch.full((len(x),), t), (x - begin) / (t_next - t)))
    states, times, targets = (torch.cat(parts) for parts in zip(*found, strict=True))
    for chosen in torch.randperm(len(states), generator=generator).chunk(4):
        yield states[chosen], times[chosen], targets[chosen]


def train(args: argparse.Namespace) -> None:
    args.folder.mkdir(parents=True, exist_ok=True)
    teacher, network = load(), load()
    config = add_lora(network, TinyModel.targets, rank=args.rank, seed=args.seed)
    learned = [p for p in network.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(learned, lr=args.rate, betas=(0.9, 0.95), weight_decay=0.0)
    checkpoint, first, log = args.folder / "checkpoint.pt", 0, []
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        set_peft_model_state_dict(network, state["lora"])
        optimiser.load_state_dict(state["optimiser"])
        first, log = state["round"], state["log"]
    student, walks = velocity_of(network), velocity_of(teacher)
    progress = tqdm(range(first, args.rounds), initial=first, total=args.rounds, mininterval=10)
    for k in progress:
        losses = []
        for group in optimiser.param_groups:
            group["lr"] = args.rate * min(1.0, (k + 1) / 5, 2 * (args.rounds - k) / args.rounds)
        for x, t, target in pairs(walks, k, args.seed):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                prediction = student(x, t)
            loss = mse_loss(prediction.float(), target)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(learned, 1.0)
            optimiser.step()
            optimiser.zero_grad()
            losses.append(loss.item())
        log.append([k, list(BATCHES)[k % len(BATCHES)], round(float(np.mean(losses)), 6)])
        progress.set_postfix(loss=log[-1][2], refresh=False)
        if (k + 1) % 10 == 0 or k + 1 == args.rounds:
            lora = get_peft_model_state_dict(network)
            part = checkpoint.with_suffix(".part")
            torch.save(
                {"lora": lora, "optimiser": optimiser.state_dict(), "round": k + 1, "log": log},
                part,
            )
            os.replace(part, checkpoint)
    with (args.folder / "log.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["round", "size", "loss"], *log])
    save_lora(network, args.out, config, {**schedule_metadata(plan_of(STEPS)), "rounds": str(args.rounds)})


def plan_of(steps: int, coarse: int = 0) -> Plan:
    """`steps` steps, the first `coarse` of them on half the grid."""
    times = shift_times(steps, shift=SHIFT)
    if not coarse:
        return plan_at(times, (), SIZE, scales=(1,))
    return plan_at(times, (times[coarse],), SIZE, scales=(1 / 2, 1), multiple_of=4)


def evaluate(args: argparse.Namespace) -> None:
    teacher, student = load(), load()
    load_lora(student, ADAPTER, plan_of(STEPS))
    with torch.device("meta"):
        empty = TinyDiT()
    flops = {n: count(empty, {"x": torch.empty(1, 3, n, n, device="meta"), "t": 0.5}).total / 1e9 for n in (64, 32)}
    networks = {"teacher": velocity_of(teacher), "student": velocity_of(student)}

    def pictures(name: str, plan: Plan, seed: int, solver: str = "euler") -> Tensor:
        def velocity(x: Tensor, t: float) -> Tensor:
            with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
                return networks[name](x, torch.full((len(x),), t)).float()

        noise = torch.randn(args.samples, 3, *SIZE, generator=torch.Generator().manual_seed(seed))
        parts = [sample(velocity, part, plan, solver=solver) for part in noise.split(32)]
        return torch.cat(parts)

    reference, others = (pictures("teacher", plan_of(32), seed, "dpmpp_2m") for seed in (0, 1))
    wasserstein = SlicedWasserstein(reference)
    radial, sliced = radial_rows(reference), wasserstein.rows(reference)
    runs = [("teacher", "euler", plan_of(STEPS)), ("teacher", "dpmpp_2m", plan_of(STEPS))]
    runs += [("student", "euler", plan_of(steps)) for steps in (8, 7, 6, 5, 4)]
    runs += [(name, "euler", plan_of(STEPS, k)) for k in range(1, STEPS) for name in ("student",)]
    runs += [("teacher", "dpmpp_2m", plan_of(STEPS, k)) for k in (2, 4)]
    rows = []
    for name, solver, plan in [*tqdm(runs), ("others", "dpmpp_2m", plan_of(32))]:
        x = others if name == "others" else pictures(name, plan, 0, solver)
        error = (x - reference).square().flatten(1).mean(1).numpy()
        away = interval(lambda r: float(np.sqrt(r.mean())), error)
        apart = interval(lambda r: spectrum_distance(r, radial), radial_rows(x))
        distance = interval(lambda r: wasserstein.distance(r, sliced), wasserstein.rows(x), draws=8)
        row = {
            "network": name,
            "solver": solver,
            "split": "+".join(map(str, plan.split)),
            "gflops": f"{sum(s.steps * flops[s.shape[0]] for s in plan.stages):.3f}",
        }
        for key, values in (("rmse", away), ("spectrum", apart), ("wasserstein", distance)):
            row |= columns(key, values)
        rows.append(row | {"samples": args.samples, **environment()})
    with (HERE.parent / "results" / "few_steps.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    training = commands.add_parser("train")
    training.add_argument("--folder", type=Path, required=True, help="folder of the checkpoint and the log")
    training.add_argument("--rounds", type=int, default=120)
    training.add_argument("--rank", type=int, default=16)
    training.add_argument("--rate", type=float, default=1e-3)
    training.add_argument("--seed", type=int, default=0)
    training.add_argument("--out", type=Path, default=ADAPTER)
    training.set_defaults(run=train)
    evaluation = commands.add_parser("evaluate")
    evaluation.add_argument("--samples", type=int, default=96)
    evaluation.set_defaults(run=evaluate)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
