"""Train the small transformer by flow matching on random crops of photographs, at 16, 32 and 64 pixels together.

    python benchmarks/tiny_dit/train.py --photographs FOLDER --folder RUN [--steps 20000] [--cooldown 4000] [--minutes M]

Every step draws one size: 64 pixels (16 crops), 32 (48) or 16 (96), the smaller ones the low DCT band of the same crops.
Times are logit-normal, with the mean of the log-odds shifted by ``log(size / 64) / 2``: a small grid knows as much at less
noise. Muon trains the matrices of the blocks, AdamW the rest; the rate is constant, then falls linearly to 0 over the last
`cooldown` steps. An exponential moving average of the weights is what is sampled. A stopped run goes on from its
checkpoint exactly (data, times and noise of step k are functions of the seed and k alone); a finished one can be trained
longer: ``--steps`` larger starts again from the checkpoint kept before the cooldown.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import time
from pathlib import Path
from typing import Any

import torch
from data import LICENCES, at_size, load_photographs, measure_spectrum
from model import SPECTRUM, Config, TinyDiT, save
from torch import Tensor
from torch.nn.functional import mse_loss
from tqdm import tqdm

SIZES = {64: (0.55, 16), 32: (0.3, 48), 16: (0.15, 96)}
"""Share of the steps and batch of each size."""


def draw(step: int, seed: int) -> tuple[int, int, torch.Generator]:
    """(size, batch, generator) of a step: a function of the seed and the step's number alone."""
    generator = torch.Generator().manual_seed(seed * 2**32 + step)
    chosen = int(torch.multinomial(torch.tensor([share for share, _ in SIZES.values()]), 1, generator=generator))
    size = list(SIZES)[chosen]
    return size, SIZES[size][1], generator


def draw_times(batch: int, size: int, generator: torch.Generator) -> Tensor:
    """Logit-normal times (batch,): log-odds of mean ``log(size / 64) / 2`` and standard deviation 1.6."""
    return torch.sigmoid(0.5 * math.log(size / 64) + 1.6 * torch.randn(batch, generator=generator))


def optimisers(model: TinyDiT, rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks, AdamW for everything else."""
    matrices = [p for name, p in model.named_parameters() if name.startswith("blocks") and name.endswith("weight")]
    inside = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in inside]
    muon = torch.optim.Muon(matrices, lr=rate, momentum=0.95, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
    adam = torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.95), weight_decay=0.0)
    return [muon, adam]


def rate_at(step: int, steps: int, cooldown: int, warmup: int = 200) -> float:
    """Share of the full learning rate at a step: up over `warmup`, constant, down to 0 over the last `cooldown`."""
    return min(1.0, (step + 1) / warmup, max(0.0, (steps - step) / max(cooldown, 1)))


def write_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write beside, then rename: a killed process never leaves half a file."""
    part = path.with_suffix(".part")
    torch.save(state, part)
    os.replace(part, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--photographs", type=Path, help="folder with the unpacked Debian packages (None: packaged ones)"
    )
    parser.add_argument("--folder", type=Path, required=True, help="folder of checkpoints and log")
    parser.add_argument("--steps", type=int, default=20000)
    parser.add_argument("--cooldown", type=int, default=4000)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ema", type=float, default=0.999)
    parser.add_argument("--checkpoint-every", type=float, default=180, metavar="SECONDS")
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop, with a checkpoint, after so long")
    parser.add_argument("--out", type=Path, help="where the finished weights go, with spectrum.json beside them")
    args = parser.parse_args()

    args.folder.mkdir(parents=True, exist_ok=True)
    pictures = load_photographs(args.photographs)
    torch.manual_seed(args.seed)
    model = TinyDiT(Config())
    average = {name: p.detach().clone() for name, p in model.named_parameters()}
    solvers = optimisers(model, args.rate)
    first, seconds = 0, 0.0

    checkpoint, trunk = args.folder / "checkpoint.pt", args.folder / "trunk.pt"
    restart = checkpoint
    if checkpoint.exists() and torch.load(checkpoint, weights_only=True, mmap=True)["steps"] != args.steps:
        restart = trunk if trunk.exists() else checkpoint  # trained longer: not from weights that have cooled down
    if restart.exists():
        state = torch.load(restart, weights_only=True)
        model.load_state_dict(state["model"])
        average = state["average"]
        for solver, saved in zip(solvers, state["solvers"], strict=True):
            solver.load_state_dict(saved)
        first, seconds = state["step"], state["seconds"]

    def state_at(step: int) -> dict[str, Any]:
        return {
            "model": model.state_dict(),
            "average": average,
            "solvers": [solver.state_dict() for solver in solvers],
            "step": step,
            "steps": args.steps,
            "seconds": seconds + time.monotonic() - began,
        }

    began = last = time.monotonic()
    fast = torch.compile(model, dynamic=False)
    log_path = args.folder / "log.csv"
    rows = [row for row in csv.reader(log_path.open()) if int(row[0]) < first] if first and log_path.exists() else []
    with log_path.open("w", newline="") as file:
        log = csv.writer(file)
        log.writerows(rows)
        progress = tqdm(range(first, args.steps), initial=first, total=args.steps, mininterval=10)
        for step in progress:
            if step == args.steps - args.cooldown:
                write_checkpoint(trunk, state_at(step))
            size, batch, generator = draw(step, args.seed)
            x0 = at_size(pictures.crops(batch, generator=generator), size)
            t = draw_times(batch, size, generator)
            noise = torch.randn(x0.shape, generator=generator)
            share = t[:, None, None, None]
            x = (1 - share) * x0 + share * noise
            with torch.autocast("cpu", dtype=torch.bfloat16):
                prediction = fast(x, t)
            loss = mse_loss(prediction.float(), noise - x0)
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for solver in solvers:
                for group in solver.param_groups:
                    group["lr"] = args.rate * rate_at(step, args.steps, args.cooldown)
                solver.step()
                solver.zero_grad(set_to_none=True)
            decay = min(args.ema, (step + 1) / (step + 10))
            with torch.no_grad():
                for name, p in model.named_parameters():
                    average[name].lerp_(p, 1 - decay)
            log.writerow([step, size, f"{loss.item():.5f}", f"{float(norm):.4f}"])
            progress.set_postfix(size=size, loss=f"{loss.item():.4f}", refresh=False)
            now = time.monotonic()
            stop = now - began > 60 * args.minutes
            if now - last > args.checkpoint_every or step + 1 == args.steps or stop:
                file.flush()
                write_checkpoint(checkpoint, state_at(step + 1))
                last = now
            if stop:
                return

    if args.out:
        model.load_state_dict({**model.state_dict(), **average})
        facts = {name: getattr(args, name) for name in ("steps", "cooldown", "rate", "seed", "ema")}
        licences = {name: LICENCES[name] for name in pictures.names}
        save(model, args.out, {"training": json.dumps({**facts, "photographs": licences})})
        measure_spectrum(pictures).save(args.out.parent / SPECTRUM.name)


if __name__ == "__main__":
    main()
