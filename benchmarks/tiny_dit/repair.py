"""Repair the small transformer's sizes: its coarse calls learn to say what its own full-size calls say. No photographs.

    python benchmarks/tiny_dit/repair.py --folder RUN --minutes M --out benchmarks/tiny_dit/adapters/coarse.safetensors
    [--blind]

Half and quarter size are trained together, every weight of a copy that is called in coarse stages only, and beside them the
maps that read the seed's own high band (``--blind``: without). The target is
:func:`spectral_pd.training.agreement_sample`'s, on

- the model's own pictures, of progressive runs of the copy as it is, noised anew;
- the states of such runs themselves, for the copy must be right where it leads.

A second process makes both kinds as training goes on, with the weights of that moment, in a buffer that batches are drawn
from again and again. Errors are weighted by what they cost the picture (:func:`spectral_pd.training.step_weights`). Muon
and AdamW, one cosine over the time that is given, a moving average. For other models there is ``finetune.py --objective
agree``, a LoRA.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, multiprocessing

if __package__:
    from tiny_dit.model import SPECTRUM, load
else:
    from model import SPECTRUM, load

from spectral_pd import DCT, Plan, PowerLaw, make_plan, sample, shift_times
from spectral_pd.adapters.layouts import FLUX
from spectral_pd.restriction import folded_noise, high_band, restrict_aligned, restrict_signal
from spectral_pd.stage_lora import InformedInput, features
from spectral_pd.training import step_weights

STEPS, SHIFT, FULL = 20, 2.0, (64, 64)
SCALES, DELTAS = ((1 / 2, 1.0), (1 / 4, 1 / 2, 1.0)), (0.01, 0.05, 0.2)
BATCH = {32: 48, 16: 96}
MAPS_RATE = 5.0
"""Learning rate of the maps that read the high band, over that of the network: they begin at 0."""
PATCHES = replace(FLUX, patch=4)
ENOUGH = 4096
"""Targets before the copy's own runs are learned from."""
Velocity = Callable[[Tensor, float], Tensor]


def plans() -> list[Plan]:
    """Two and three stages at every delta."""
    times, law = shift_times(STEPS, shift=SHIFT), PowerLaw.load(SPECTRUM)
    return [make_plan(times, law, FULL, scales=scales, delta=delta) for scales in SCALES for delta in DELTAS]


class Repaired:
    """The untouched network at full size, a trained copy below it, informed or not."""

    def __init__(self, *, informed: bool = True) -> None:
        self.full, self.coarse = load(), load()
        width = {r: features(self.coarse.read, 3, r, 4) for r in (2, 4)}
        self.informed = InformedInput(self.coarse.read, width) if informed else None

    @classmethod
    def load(cls, path: Path) -> Repaired:
        """What :meth:`save` wrote."""
        tensors = {name: value.float() for name, value in load_file(path).items()}
        maps = {
            name.removeprefix("informed."): tensors.pop(name) for name in list(tensors) if name.startswith("informed.")
        }
        model = cls(informed=bool(maps))
        model.coarse.load_state_dict(tensors)
        if model.informed is not None:
            model.informed.load_state_dict(maps)
        return model

    def save(self, path: Path, metadata: dict[str, str]) -> None:
        save_file({name: p.detach().half().contiguous() for name, p in self.parameters().items()}, path, metadata)

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        """What is trained, by name."""
        maps = self.informed.named_parameters() if self.informed is not None else ()
        return dict(self.coarse.named_parameters()) | {f"informed.{name}": p for name, p in maps}

    def call(self, y: Tensor, tau: Tensor, planes: Tensor) -> Tensor:
        """Velocity of coarse states, each at its own time; planes (batch, 3 r^2, n, n) of the white field."""
        if self.informed is not None:
            told = tau.reshape(-1, 1, 1, 1) * planes
            self.informed.tell(PATCHES.pack(told), FULL[0] // y.shape[-1])
        return self.coarse(y, tau)

    def compile(self) -> None:
        """The blocks of both, for grids of these sizes."""
        for block in (*self.full.blocks, *self.coarse.blocks):
            block.compile(dynamic=False)

    def velocity(self, noise: Tensor) -> Velocity:
        """For a sampler that starts from `noise`."""
        planes = {n: folded_noise(noise, (n, n)) for n in BATCH}

        @torch.no_grad()
        def velocity(x: Tensor, t: float) -> Tensor:
            times = torch.full((len(x),), t)
            return self.full(x, times) if x.shape[-1] == FULL[0] else self.call(x, times, planes[x.shape[-1]])

        return velocity


class Buffer:
    """States of full size, their step and stage's side, and what the full-size network says of them: the target.

    In memory that two processes share: the one that draws writes a slot while the other may read it, which now and then
    gives a batch one state with another's target, and is cheaper than a lock.
    """

    def __init__(self, model: Repaired, seed: int, size: int) -> None:
        self.model, self.seed = model, seed
        self.plans, self.times = plans(), shift_times(STEPS, shift=SHIFT)
        self.states = torch.zeros(size, 3, *FULL, dtype=torch.float16).share_memory_()
        self.targets = torch.zeros(size, 3, 32, 32, dtype=torch.float16).share_memory_()
        self.steps, self.sides = (torch.zeros(size, dtype=torch.long).share_memory_() for _ in range(2))
        self.written = torch.zeros((), dtype=torch.long).share_memory_()
        self.own = torch.zeros(0, 3, *FULL, dtype=torch.float16)

    @cached_property
    def random(self) -> torch.Generator:
        """Of states and noise; made where it is first used, for it cannot go to another process."""
        return torch.Generator().manual_seed(self.seed)

    @property
    def count(self) -> int:
        """Targets so far."""
        return int(self.written)

    def draw(self) -> None:
        """Go on for as long as the training process lives: runs first, then noise and runs in turn."""
        torch.set_num_threads(1)
        self.model.compile()
        for _ in range(3):
            self.lead(kept=0)
        trainer = multiprocessing.parent_process()
        while trainer is not None and trainer.is_alive():
            self.noise_anew()
            self.noise_anew()
            if self.count > ENOUGH:
                self.lead()

    def add(self, x: Tensor, steps: Tensor, sides: Tensor) -> None:
        t = torch.tensor(self.times)[steps].float()
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            v = self.model.full(x, t).float()
        at = torch.arange(self.count, self.count + len(x)) % len(self.states)
        self.states[at], self.steps[at], self.sides[at] = x.half(), steps, sides
        self.targets[at] = restrict_signal(x - t.reshape(-1, 1, 1, 1) * v, (32, 32)).half()
        self.written += len(x)

    def noise_anew(self, count: int = 64) -> None:
        """Own pictures with fresh noise, at random steps, with the high band of a coupled run."""
        x0 = self.own[torch.randint(len(self.own), (count,), generator=self.random)].float()
        w = torch.randn(x0.shape, generator=self.random)
        side = 16 if float(torch.rand(1, generator=self.random)) < 0.3 else 32
        last = max(
            sum(plan.split[: plan.shapes.index((side, side)) + 1]) for plan in self.plans if (side, side) in plan.shapes
        )
        steps = torch.randint(last, (count,), generator=self.random)
        t = torch.tensor(self.times)[steps].float().reshape(-1, 1, 1, 1)
        low = x0 - high_band(x0, (side, side))
        self.add((1 - t) * low + t * w, steps, torch.full((count,), side))

    def lead(self, count: int = 64, kept: int = 4) -> None:
        """Progressive runs of the copy: their pictures are own pictures, some of their coarse states are learned from."""
        plan = self.plans[int(torch.randint(len(self.plans), (1,), generator=self.random))]
        w = torch.randn(count, 3, *FULL, generator=self.random)
        visited: list[tuple[Tensor, float, int]] = []
        velocity, steps = self.model.velocity(w), iter(range(STEPS))

        def seen(x: Tensor, t: float) -> Tensor:
            step = next(steps)
            if x.shape[-1] != FULL[0]:
                visited.append((x.clone(), t, step))
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return velocity(x, t).float()

        picture = sample(seen, w, plan, solver="dpmpp_2m")
        self.own = torch.cat([self.own, picture.half()])[-4096:]
        for index in torch.randperm(len(visited), generator=self.random)[:kept].tolist():
            y, tau, step = visited[index]
            side = y.shape[-1]
            kappa = self.times[step] / tau  # T = tau kappa
            x = kappa * DCT.embed(y, FULL) + self.times[step] * high_band(w, (side, side))
            self.add(x, torch.full((count,), step), torch.full((count,), side))

    def batch(self, side: int, random: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Coarse states, local times, planes, targets and steps. A quarter-size state is learned from at half size too."""
        filled = min(self.count, len(self.states))
        fitting = (self.sides[:filled] <= side).nonzero()[:, 0]
        chosen = fitting[torch.randint(len(fitting), (BATCH[side],), generator=random)]
        x, steps = self.states[chosen].float(), self.steps[chosen]
        t = torch.tensor(self.times)[steps]
        coarse = [restrict_aligned(one[None], (side, side), float(time)) for one, time in zip(x, t, strict=True)]
        y, tau = torch.cat([y for y, _ in coarse]), torch.tensor([tau for _, tau in coarse])
        planes = folded_noise(x, (side, side)) / t.float().reshape(-1, 1, 1, 1)
        target = self.targets[chosen].float()
        return y, tau, planes, target if side == 32 else restrict_signal(target, (16, 16)), steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="folder of the checkpoint")
    parser.add_argument(
        "--minutes", type=float, default=60.0, help="the cosine's length, in minutes of the training process"
    )
    parser.add_argument("--rate", type=float, default=6e-4)
    parser.add_argument("--seed", type=int, default=10**9, help="of states and noise; evaluations use seeds below 4e6")
    parser.add_argument("--buffer", type=int, default=60000)
    parser.add_argument("--blind", action="store_true", help="coarse calls see their state alone")
    parser.add_argument("--init", type=Path, help="weights to begin with")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    from train import optimisers, write_checkpoint  # of this folder, whose modules are scripts

    torch.set_num_threads(1)
    args.folder.mkdir(parents=True, exist_ok=True)
    model = Repaired(informed=not args.blind)
    parameters = model.parameters()
    if args.init:
        take(parameters, Repaired.load(args.init).parameters(), args.init)
    for p in parameters.values():
        p.data.share_memory_()
    solvers = optimisers(model.coarse, args.rate)
    if model.informed is not None:
        solvers[1].add_param_group({"params": list(model.informed.parameters()), "faster": MAPS_RATE})
    average = {name: p.detach().clone() for name, p in parameters.items()}
    weights = step_weights(
        max(plans()[: len(DELTAS)], key=lambda plan: plan.split[0]), PowerLaw.load(SPECTRUM), solver="dpmpp_2m"
    )
    cost = torch.tensor([min(max(w, 0.3), 3.0) for w in weights])
    checkpoint, step, seconds, random = args.folder / "checkpoint.pt", 0, 0.0, torch.Generator()
    if checkpoint.exists():  # the buffer is made anew
        state = torch.load(checkpoint, weights_only=True)
        step, seconds, average = state["step"], state["seconds"], state["average"]
        take(parameters, state["weights"], checkpoint)
        for solver, saved in zip(solvers, state["solvers"], strict=True):
            solver.load_state_dict(saved)
    random.manual_seed(args.seed + step)
    buffer = Buffer(model, args.seed + step, args.buffer)
    drawing = multiprocessing.get_context("spawn").Process(target=draw, args=(buffer,), daemon=True)
    drawing.start()
    model.compile()
    while buffer.count < 1024 and drawing.is_alive():
        time.sleep(1)

    saved_at, errors = seconds, {side: 0.0 for side in BATCH}
    while seconds < 60 * args.minutes:
        if not drawing.is_alive():
            raise RuntimeError("the process that draws targets has ended; what it said stands above")
        began, share = time.process_time(), seconds / (60 * args.minutes)
        rate = min(1.0, (step + 1) / 60) * (0.5 + 0.5 * math.cos(math.pi * share)) + 0.01
        side = 16 if step % 5 == 4 else 32
        y, tau, planes, target, steps = buffer.batch(side, random)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            v = model.call(y, tau.float(), planes)
        error = (y - tau.float().reshape(-1, 1, 1, 1) * v.float() - target).square().flatten(1).mean(1)
        (cost[steps.clamp(max=len(cost) - 1)] * error).mean().backward()
        torch.nn.utils.clip_grad_norm_(list(parameters.values()), 0.3)
        for solver in solvers:
            for group in solver.param_groups:
                group["lr"] = args.rate * rate * group.get("faster", 1.0)
            solver.step()
            solver.zero_grad(set_to_none=True)
        step += 1
        decay = min(0.999, step / (step + 9))
        with torch.no_grad():
            for name, p in parameters.items():
                average[name].lerp_(p, 1 - decay)
        errors[side] += 0.02 * (float(error.detach().mean()) - errors[side])
        seconds += time.process_time() - began
        if seconds - saved_at > 180:
            saved_at = seconds
            weights_now = {name: p.detach() for name, p in parameters.items()}
            states = [solver.state_dict() for solver in solvers]
            write_checkpoint(
                checkpoint,
                {"weights": weights_now, "average": average, "solvers": states, "step": step, "seconds": seconds},
            )
            said = ", ".join(f"{value:.5f} at {side}" for side, value in errors.items())
            print(f"{seconds:.0f} s, step {step}, {buffer.count} targets: {said}", flush=True)
    for name, p in parameters.items():
        p.data.copy_(average[name])
    model.save(args.out, {"steps": str(step), "targets": str(buffer.count), "minutes": f"{args.minutes:g}"})


def take(parameters: Mapping[str, Tensor], known: Mapping[str, Tensor], origin: Path) -> None:
    """Weights to begin or to go on with; those of a copy that reads the high band serve a blind one, but not the reverse."""
    if not parameters.keys() <= known.keys():
        raise SystemExit(
            f"{origin} holds no maps that read the high band; pass --blind as it was trained, or other weights"
        )
    for name, p in parameters.items():
        p.data.copy_(known[name].data)


def draw(buffer: Buffer) -> None:
    """What the second process does."""
    buffer.draw()


if __name__ == "__main__":
    main()
