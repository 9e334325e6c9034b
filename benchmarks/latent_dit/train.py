"""Train the small latent transformer by flow matching, at latents of 8x8, 16x16 and 32x32 together.

    python benchmarks/latent_dit/train.py --photographs PACKED --vae taef1 --folder RUN --minutes 4.2 --ablation
    python benchmarks/latent_dit/train.py --photographs PACKED --vae taef1 --folder RUN --steps 20000 --cooldown 4000

A bank of latents of random crops is filled before the first step and renewed at every step, the oldest first, so that no
crop is seen often. Every step draws one size; its latents are those of the shrunk pictures. Times are logit-normal, with
the mean of the log-odds shifted by ``log(size / 32) / 2``. Muon trains the matrices of the blocks, AdamW the rest; the
rate is constant, then falls linearly to 0 over the cooldown. An exponential moving average of the weights is what is sampled.

``--minutes`` in place of ``--steps`` measures on the way how many steps fit. ``--ablation`` trains the cooldown twice from the
same state, the second time with the low band of the large latents (``restrict_signal``) as the small ones.

RUN gets weights.safetensors (float16; written every minute, too, as they then are), ablation.safetensors, log.csv,
run.json and samples.safetensors, and RUN/state the checkpoints: a stopped run of ``--steps`` goes on from the last one.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from data import LICENCES, SIZES, Photographs, latents, load_photographs, restricted
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import mse_loss

sys.path.append(str(Path(__file__).parent.parent / "tiny_dit"))
from model import Config, TinyDiT, save

CONFIG = Config(width=256, depth=6, heads=4, patch=2, channels=16)
SHARES = {32: 0.6, 16: 0.25, 8: 0.15}
BATCHES = {32: 1, 16: 2, 8: 4}
"""Latents of each size in a step, in units of --batch."""


class Bank:
    """Latents of random crops at all sizes, float16, renewed in a ring."""

    def __init__(self, pictures: Photographs, encode: Callable[[Tensor], Tensor], places: int, chunk: int) -> None:
        self.pictures, self.encode, self.chunk = pictures, encode, chunk
        device = pictures.flat.device
        self.generator = torch.Generator(device).manual_seed(0)
        self.latents = {n: torch.empty(places, 16, n, n, dtype=torch.float16, device=device) for n in SIZES}
        self.places, self.drawn = places, 0

    @torch.no_grad()
    def renew(self, count: int) -> None:
        """`count` new crops in place of the oldest; a multiple of the chunk's size."""
        for _ in range(count // self.chunk):
            new = latents(self.encode, self.pictures.crops(self.chunk, generator=self.generator))
            place = self.drawn % self.places
            for size, x in new.items():
                self.latents[size][place : place + self.chunk] = x
            self.drawn += self.chunk

    def draw(self, size: int, batch: int, *, restrict: bool) -> Tensor:
        """`batch` latents of a size; with `restrict` the low band of the largest instead of the shrunk picture's."""
        filled = min(self.drawn, self.places)
        index = torch.randint(filled, (batch,), generator=self.generator, device=self.generator.device)
        if restrict:
            return restricted(self.latents[SIZES[0]][index].float(), size)
        return self.latents[size][index].float()


class Optimisers:
    """Muon for the matrices of the blocks, AdamW for everything else, with one rate."""

    def __init__(self, model: TinyDiT, rate: float) -> None:
        blocks = [p for name, p in model.named_parameters() if name.startswith("blocks") and name.endswith("weight")]
        inside = {id(p) for p in blocks}
        others = [p for p in model.parameters() if id(p) not in inside]
        self.rate = rate
        self.parts: tuple[torch.optim.Optimizer, ...] = (
            torch.optim.Muon(blocks, lr=rate, momentum=0.95, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.95), weight_decay=0.0),
        )

    def step(self, share: float) -> None:
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = self.rate * share
            part.step()
            part.zero_grad(set_to_none=True)


class Training:
    """Everything that changes from step to step."""

    def __init__(self, bank: Bank, args: argparse.Namespace) -> None:
        self.bank, self.args, self.device = bank, args, bank.pictures.flat.device
        torch.manual_seed(args.seed)
        self.model = TinyDiT(CONFIG).to(self.device)
        if not args.eager:
            for block in self.model.blocks:
                block.compile(dynamic=False)
        self.average = [p.detach().clone() for p in self.model.parameters()]
        self.optimisers = Optimisers(self.model, args.rate)
        self.choice = torch.Generator().manual_seed(args.seed)
        self.done = 0
        self.rows: list[list[Any]] = []
        self.pending: list[tuple[int, int, Tensor, Tensor]] = []

    def state(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "average": self.average,
            "optimisers": [part.state_dict() for part in self.optimisers.parts],
            "choice": self.choice.get_state(),
            "generator": self.bank.generator.get_state(),
            "done": self.done,
            "rows": self.rows,
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        with torch.no_grad():
            for mine, saved in zip(self.average, state["average"], strict=True):
                mine.copy_(saved)
        for part, saved in zip(self.optimisers.parts, state["optimisers"], strict=True):
            part.load_state_dict(saved)
        self.choice.set_state(state["choice"].cpu())
        self.bank.generator.set_state(state["generator"].cpu())
        self.done, self.rows = state["done"], list(state["rows"])

    def step(self, share: float, *, restrict: bool) -> None:
        """One step at `share` of the rate."""
        self.bank.renew(self.args.renew)
        chosen = int(torch.multinomial(torch.tensor(list(SHARES.values())), 1, generator=self.choice))
        size = list(SHARES)[chosen]
        x0 = self.bank.draw(size, BATCHES[size] * self.args.batch, restrict=restrict)
        normal = torch.randn(len(x0), generator=self.bank.generator, device=self.device)
        t = torch.sigmoid(0.5 * math.log(size / SIZES[0]) + 1.6 * normal)
        noise = torch.randn(x0.shape, generator=self.bank.generator, device=self.device)
        x = torch.lerp(x0, noise, t[:, None, None, None])
        with torch.autocast(self.device.type, dtype=torch.bfloat16):
            prediction = self.model(x, t)
        loss = mse_loss(prediction.float(), noise - x0)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimisers.step(share)
        decay = min(self.args.ema, (self.done + 1) / (self.done + 10))
        with torch.no_grad():
            torch._foreach_lerp_(self.average, list(self.model.parameters()), 1 - decay)
        self.pending.append((self.done, size, loss.detach(), norm.detach()))
        self.done += 1
        if len(self.pending) == 50:
            self.flush()

    def flush(self) -> None:
        """Losses are read in fifties: each read waits for the device."""
        self.rows += [
            [step, size, f"{float(loss):.5f}", f"{float(norm):.4f}"] for step, size, loss, norm in self.pending
        ]
        self.pending = []
        if self.rows:
            print(f"step {self.rows[-1][0]} size {self.rows[-1][1]} loss {self.rows[-1][2]}", flush=True)
            if not math.isfinite(float(self.rows[-1][2])):
                raise FloatingPointError(f"the loss is not finite at step {self.rows[-1][0]}")

    def write(self, path: Path, facts: dict[str, Any]) -> None:
        """The moving average as it is now, float16, with what made it."""
        model = TinyDiT(CONFIG)
        names = [name for name, _ in self.model.named_parameters()]
        model.load_state_dict({n: p.cpu() for n, p in zip(names, self.average, strict=True)})
        part = path.with_suffix(".part")
        save(model, part, {"training": json.dumps({**facts, "steps": self.done})})
        os.replace(part, path)


def write_log(path: Path, rows: list[list[Any]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["step", "size", "loss", "norm"])
        writer.writerows(rows)


def encoder(path: Path, device: torch.device) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """(encode, decode) of the autoencoder at `path`, in half precision."""
    from spectral_pd.autoencoders import load

    vae = load(path, device=device)
    vae.model.to(memory_format=torch.channels_last)
    half = torch.float16 if device.type == "cuda" else torch.bfloat16

    def run(work: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        with torch.no_grad(), torch.autocast(device.type, dtype=half):
            return work(x).float()

    return lambda x: run(vae.encode, x), lambda z: run(vae.decode, z)


def samples(training: Training, weights: Path, count: int, steps: int) -> dict[int, Tensor]:
    """Full-resolution samples of the average at each size, from one seed: Euler over shifted times."""
    from model import load

    model = load(weights).to(training.device)
    times = [u / (u + (1 - u) / 2) for u in (1 - k / steps for k in range(steps + 1))]
    out = {}
    for size in SIZES:
        x = torch.randn(count, 16, size, size, generator=torch.Generator().manual_seed(0)).to(training.device)
        for t, after in pairwise(times):
            with torch.autocast(training.device.type, dtype=torch.bfloat16):
                v = model.velocity(x, t).float()
            x = x + (after - t) * v
        out[size] = x
    return out


def sheet(path: Path, pictures: dict[int, Tensor]) -> None:
    """One PNG: eight pictures of 256 pixels a row, the small ones enlarged by repetition."""
    from PIL import Image

    rows = []
    for size, x in pictures.items():
        x = x.repeat_interleave(32 // size, -1).repeat_interleave(32 // size, -2)
        rows += [torch.cat(list(part), -1) for part in x.split(8) if len(part) == 8]
    image = torch.cat(rows, -2).clamp(-1, 1)
    values = ((image + 1) * 127.5).round().byte().permute(1, 2, 0).cpu().numpy()
    Image.fromarray(values).save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photographs", type=Path, required=True, help="packed folder, see data.py")
    parser.add_argument("--vae", type=Path, required=True, help="the autoencoder, FLUX.1's latent space: taef1")
    parser.add_argument("--folder", type=Path, required=True)
    length = parser.add_mutually_exclusive_group(required=True)
    length.add_argument("--minutes", type=float, help="train for so long, cooldowns included")
    length.add_argument("--steps", type=int)
    parser.add_argument("--cooldown", type=int, default=4000, help="with --steps: the last so many of them")
    parser.add_argument("--share", type=float, default=0.2, help="with --minutes: share of the time for one cooldown")
    parser.add_argument("--ablation", action="store_true", help="a second cooldown on restricted latents")
    parser.add_argument("--batch", type=int, default=512, help="large latents in a step")
    parser.add_argument("--bank", type=int, default=131072, help="crops kept")
    parser.add_argument("--fill", type=int, default=16384, help="crops encoded before the first step")
    parser.add_argument("--renew", type=int, default=32, help="crops encoded at every step")
    parser.add_argument("--chunk", type=int, default=32, help="crops encoded at once")
    parser.add_argument("--rate", type=float, default=1.5e-3)
    parser.add_argument("--warmup", type=int, default=200)
    parser.add_argument("--ema", type=float, default=0.999)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--samples", type=int, default=64, help="drawn at each size at the end")
    parser.add_argument("--eager", action="store_true", help="do not compile")
    parser.add_argument("--every", type=float, default=60, metavar="SECONDS", help="between checkpoints")
    parser.add_argument("--state", type=Path, help="folder of the checkpoints, by default RUN/state")
    args = parser.parse_args()

    device = torch.device(args.device)
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    state_folder = args.state or args.folder / "state"
    for folder in (args.folder, state_folder):
        folder.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - began:7.1f} s] {text}", flush=True)

    pictures = load_photographs(args.photographs, device=args.device)
    say(f"{len(pictures.names)} photographs, {pictures.flat.numel() / 1e6:.0f} MB")
    encode, decode = encoder(args.vae, device)
    bank = Bank(pictures, encode, args.bank, args.chunk)
    training = Training(bank, args)
    facts: dict[str, Any] = {
        name: getattr(args, name) for name in ("batch", "bank", "fill", "renew", "rate", "warmup", "ema", "seed")
    }
    facts |= {"device": torch.cuda.get_device_name() if device.type == "cuda" else "CPU", "torch": torch.__version__}
    every = {name: text for group in LICENCES.values() for name, text in group.items()}
    facts["photographs"] = {name: every[name] for name in pictures.names}

    bank.renew(args.fill)
    if device.type == "cuda":
        torch.cuda.synchronize()
    say(f"bank holds {bank.drawn} crops")

    weights, checkpoint = args.folder / "weights.safetensors", state_folder / "checkpoint.pt"
    if args.steps and checkpoint.exists():
        training.restore(torch.load(checkpoint, map_location=device, weights_only=True))
        say(f"goes on at step {training.done}")

    # Compile every size before the clock starts: on copies of the weights that are then thrown away.
    if not args.eager and training.done == 0:
        before = {name: value.clone() for name, value in training.model.state_dict().items()}
        try:
            for size in SIZES:
                x = bank.draw(size, BATCHES[size] * args.batch, restrict=False)
                with torch.autocast(device.type, dtype=torch.bfloat16):
                    training.model(x, torch.rand(len(x), device=device)).float().square().mean().backward()
                say(f"compiled {size}")
        except Exception as error:  # a compiler that fails must not cost the run
            say(f"compiling failed, training goes on without: {type(error).__name__}: {error}")
            args.eager = True
            training = Training(bank, args)
        else:
            training.model.load_state_dict(before)
            training.model.zero_grad(set_to_none=True)

    start = last = time.monotonic()
    clock = {"trunk": math.inf, "cooldown": args.cooldown}

    def kept(*, final: bool = False) -> None:
        nonlocal last
        if not final and time.monotonic() - last < args.every:
            return
        last = time.monotonic()
        training.flush()
        training.write(weights, facts)
        write_log(args.folder / "log.csv", training.rows)
        if args.steps:
            torch.save(training.state(), checkpoint.with_suffix(".part"))
            os.replace(checkpoint.with_suffix(".part"), checkpoint)

    def cool(first: int, steps: int, *, restrict: bool) -> None:
        """From step `first` on, `steps` steps at a rate that falls to 0."""
        while training.done < first + steps:
            training.step((first + steps - training.done) / steps, restrict=restrict)
            if not restrict:
                kept()

    cooldowns = 2 if args.ablation else 1
    trunk_seconds = 60 * args.minutes * (1 - cooldowns * args.share) if args.minutes else math.inf
    trunk_steps = args.steps - args.cooldown if args.steps else math.inf
    while training.done < trunk_steps and time.monotonic() - start < trunk_seconds:
        training.step(min(1.0, (training.done + 1) / args.warmup), restrict=False)
        kept()
    if device.type == "cuda":
        torch.cuda.synchronize()
    if args.minutes:
        rate = training.done / (time.monotonic() - start)
        clock["cooldown"] = round(rate * 60 * args.minutes * args.share)
        trunk_steps = training.done
        say(f"trunk: {training.done} steps, {rate:.2f} a second; cooldown of {clock['cooldown']}")
    trunk = None
    if args.ablation:
        training.flush()
        trunk = {k: v for k, v in training.state().items()}
        torch.save(trunk, state_folder / "trunk.pt")
    facts |= {"cooldown": clock["cooldown"], "small": "shrunk pictures"}
    cool(int(trunk_steps), int(clock["cooldown"]), restrict=False)
    kept(final=True)
    say(f"trained: {training.done} steps, {bank.drawn} crops")
    (args.folder / "run.json").write_text(
        json.dumps(
            {**facts, "steps": training.done, "crops": bank.drawn, "seconds": time.monotonic() - start}, indent=1
        )
    )
    try:
        drawn = samples(training, weights, args.samples, 32)
        save_file({str(size): x.half().cpu() for size, x in drawn.items()}, args.folder / "samples.safetensors")
        sheet(args.folder / "sheet.png", {size: decode(x[: 24 if size == 32 else 8]) for size, x in drawn.items()})
        say("samples written")
    except Exception as error:  # what was trained is safe: the second cooldown must not be lost with the pictures
        say(f"no samples: {type(error).__name__}: {error}")
    if args.ablation:
        training.restore(torch.load(state_folder / "trunk.pt", map_location=device, weights_only=True))
        facts["small"] = "restricted latents"
        cool(int(trunk_steps), int(clock["cooldown"]), restrict=True)
        training.flush()
        training.write(args.folder / "ablation.safetensors", facts)
        write_log(args.folder / "ablation_log.csv", training.rows[int(trunk_steps) :])
        say("ablation written")


if __name__ == "__main__":
    main()
