r"""Quality against compute on the small transformers: every way of sampling the same model for less, from the same noise.

    python benchmarks/pareto.py --folder RUNS [--only TEXT] [--fast] [--threads 2]
    python benchmarks/pareto.py --folder RUNS --model latent --vae TAEF1 --samples 64 [--only TEXT] [--fast]

The reference is 20 full-resolution steps of DPM-Solver++(2M): Euler's own error with so few steps, half of the power of high
frequencies, would hide everything else (rows of its own show it). Against it: progressive sampling with 2 and 3 stages over
delta, on both clocks with both couplings, and in three bases; fewer full-resolution steps; a baseline that upsamples the
coarse stage's denoised picture (nearest or bilinear) and noises it again with the same field, as Bottleneck-style methods
do; and, of the pixel network, fine-tuned adapters (benchmarks/finetune.py) with their controls, and coarse stages by a
repaired copy (benchmarks/tiny_dit/repair.py).

It is :func:`spectral_pd.comparing.compare` with a sampler of its own: RUNS holds its pictures and report, and beside them
the final states as float16, so that a stopped sweep goes on; all rows get their first 64 seeds (the latent network's their
first 16), then all the next. Rows go to results/pareto.csv or pareto_latent.csv and the figure to docs/figures. With --only
those whose name or curve has this in it are made, and all other rows of the file stay. A row has

    gflops     counted FLOPs of all network calls for one picture, attention included
    seconds    CPU seconds of the same calls and of the transitions: medians over interleaved rounds, one thread, in batches
    speedup    the reference's seconds over the row's
    psnr, ssim to the reference picture of the same seed (median and mean over seeds)
    *_full     distances to the set of reference pictures;   *_photos: to crops of the held-out photographs

each with a 95 % interval over seeds (metrics.py says what each is). Of the latent network, whose pictures are decoded, in eight
bits, the columns are those of ``metrics.Decoded``, and ``spectrum_latents`` of the latents. --fast compiles the network and
calls it in bfloat16.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from environment import environment
from finetune import load_lora
from metrics import (
    Decoded,
    Rows,
    SlicedWasserstein,
    columns,
    interval,
    natural_distance,
    natural_rows,
    radial_rows,
    spectrum_distance,
    ssim,
    worst_bin,
)
from networks import LATENT, LATENT_TRANSFORMER, STEPS, TRANSFORMER, Network, Velocity, decoder, latent_arguments
from peft.tuners.lora import LoraLayer
from tiny_dit.data import load_photographs
from tiny_dit.model import WEIGHTS, Config, TinyDiT, load
from tiny_dit.repair import Repaired
from torch import Tensor
from torch.nn.functional import interpolate
from tqdm import tqdm

from spectral_pd import DCT, Plan, expand_aligned
from spectral_pd.comparing import Comparison, NetworkSampler, Setting, compare, make_setting
from spectral_pd.comparing.flops import Flops, count
from spectral_pd.comparing.storage import Folder, read_features, read_picture, save_features
from spectral_pd.inputs import comparisons
from spectral_pd.measuring.demo import psnr
from spectral_pd.solvers import dpmpp_2m
from spectral_pd.stage_lora import InformedInput, features

BATCH, LATENT_BATCH = 64, 16
"""Seeds that share a noise generator and are sampled at once."""
FEWER = (15, 12, 10, 8, 6)
DELTAS = (0.01, 0.05, 0.2)
ADAPTERS = WEIGHTS.parent / "adapters"
REPAIRED = {"repaired": ADAPTERS / "coarse-blind.safetensors", "repaired, informed": ADAPTERS / "coarse.safetensors"}
YARDSTICK = "training crops (yardstick)"
ROOT = Path(__file__).parent.parent


def fingerprint(path: Path) -> str:
    """Short hash of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def ways(network: Network) -> Iterator[Setting]:
    """Every row, the reference first and the most wanted ones early."""

    def way(curve: str, stages: int = 1, delta: float = 0.01, *, steps: int = STEPS, **more: Any) -> Setting:
        name = f"{curve}, {steps} steps" if stages == 1 else f"{curve}, delta {delta:g}"
        scales = [2.0 ** (i - stages + 1) for i in range(stages)]
        facts = {"name": name, "family": curve, "scales": scales, "delta": delta, "steps": steps}
        return make_setting({**facts, **more})

    for steps in (STEPS, *FEWER):
        yield way("full resolution, fewer steps", steps=steps)
    for stages in (2, 3):
        for delta in DELTAS:
            for clock in ("full", "stage"):
                for coupling in ("coupled", "fresh"):
                    curve = f"S={stages}, {clock} clock, {coupling}"
                    yield way(curve, stages, delta, clock=clock, coupling=coupling)
    for upsampling in ("nearest", "bilinear"):
        for delta in DELTAS:
            yield way(f"{upsampling}, noised again", 2, delta, upsampling=upsampling)
    if network == TRANSFORMER:
        for path in sorted(ADAPTERS.glob("*-S*-*.safetensors")):
            objective, stages, delta = path.stem.split("-")
            kind = "control" if objective == "plain" else "fine-tuned"
            count = int(stages.removeprefix("S"))
            yield way(f"S={count}, {kind}", count, float(delta), lora=path, weights=fingerprint(path))
        for kind, path in REPAIRED.items():
            for stages in (2, 3):
                for delta in DELTAS:
                    yield way(f"S={stages}, {kind}", stages, delta, network=kind, weights=fingerprint(path))
    for stages, delta in ((2, 0.05), (2, 0.2), (3, 0.05)):
        for basis in ("haar", "fourier"):
            yield way(f"S={stages}, {basis}", stages, delta, basis=basis)
    yield way("full resolution, Euler", solver="euler")
    for delta in (0.05, 0.2):
        yield way("S=2, Euler", 2, delta, solver="euler")


def upsampled(velocity: Velocity, noise: Tensor, plan: Plan, mode: str) -> Tensor:
    """Coarse stage; its denoised picture enlarged; noised to the fine grid's time with the same field; fine stage."""
    coarse, fine = plan.stages
    x, t = walked(velocity, DCT.restrict(noise, coarse.shape), coarse.local_times), coarse.local_times[-1]
    picture = interpolate(x - t * velocity(x, t), size=fine.shape, mode=mode)
    t = fine.local_times[0]
    return walked(velocity, (1 - t) * picture + t * noise, fine.local_times)


def walked(velocity: Velocity, x: Tensor, times: Sequence[float]) -> Tensor:
    """The state at the last of `times`."""
    history = None
    for t, t_next in pairwise(times):
        x, history = dpmpp_2m(velocity, x, t, t_next, history)
    return x


@cache
def cost(config: Config, side: int, ratio: int) -> Flops:
    """FLOPs of one call for one picture; at a ratio above 1 it reads the high band of a field that many times as large."""
    with torch.device("meta"):
        network = TinyDiT(config)
        if ratio > 1:
            width = features(network.read, config.channels, ratio, config.patch)
            told = torch.empty(1, (side // config.patch) ** 2, width)
            InformedInput(network.read, {ratio: width}).tell(told, ratio)
        return count(network, {"x": torch.empty(1, config.channels, side, side), "t": 0.5})


class Ways(NetworkSampler):
    """A small transformer, sampled in every way of the table, a batch of seeds at once.

    Further arguments of a setting are `upsampling`, `network` (of REPAIRED), and `weights`, the fingerprint of what it adds
    to the network, so that a folder holds pictures of one such file.

    Parameters
    ----------
    network, weights
        Its full run, and its file.
    fast
        Compile, and call in bfloat16.
    batch
        Seeds that share a noise generator and are sampled at once.
    keep
        Folder in which final states are kept.
    decode
        Pictures of latents.
    """

    def __init__(
        self,
        network: Network,
        weights: Path,
        *,
        fast: bool = False,
        batch: int = BATCH,
        keep: Path | None = None,
        decode: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.network, self.weights, self.fast = network, weights, fast
        self.batch, self.keep = batch, None if keep is None else Folder(keep)
        self.model = load(weights)
        self._states: dict[str | None, dict[str, Tensor]] = {}
        self._repaired: dict[str, Repaired] = {}
        self._seconds: dict[str | None, tuple[dict[int, float], dict[int, float]]] = {}
        call: Callable[[Tensor, Tensor], Tensor] = torch.compile(self.model, dynamic=False) if fast else self.model

        @torch.no_grad()
        def velocity(x: Tensor, t: float) -> Tensor:
            # A tensor, for a float would be compiled anew at every time.
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=fast):
                return call(x, torch.full((len(x),), t)).float()

        shape, times = (network.channels, network.side, network.side), partial(network.grid, shift=network.shift)
        run = {"times": times, "spectrum": network.law, "steps": STEPS, "solver": "dpmpp_2m"}
        super().__init__(velocity, shape, decode=decode, **run)

    def plan(self, setting: Setting, prompt: str) -> Plan:
        comparisons.known_keys(setting.arguments, ("upsampling", "network", "weights"), setting.name)
        return super().plan(replace(setting, arguments={}, lora=None), prompt)

    def picture(self, setting: Setting, prompt: str, seed: int) -> Tensor:
        return self.pictures(setting, [prompt], [seed])[0]

    def pictures(self, setting: Setting, prompts: Sequence[str], seeds: Sequence[int]) -> list[Tensor]:
        """Seed i starts from row i % batch of the noise that its batch's generator draws, whose seed is i - i % batch."""
        made: dict[int, Tensor] = {}
        for begin in {seed - seed % self.batch for seed in seeds}:
            noise = torch.randn(self.batch, *self.shape, generator=torch.Generator().manual_seed(begin))
            rows = [seed - begin for seed in seeds if begin <= seed < begin + self.batch]
            # Fresh noise is drawn for the whole batch; and what a killed run goes on with shall be the same to the last bit.
            whole = setting.coupling == "fresh" or self.keep is not None
            fresh = torch.Generator().manual_seed(10**6 + begin)
            states = self.run(setting, noise if whole else noise[rows], fresh)
            made |= {begin + row: states[row if whole else i] for i, row in enumerate(rows)}
        for seed, state in made.items() if self.keep is not None else ():
            place = self.keep.features("state", setting.name, *divmod(seed, comparisons.MOST_SEEDS))
            save_features(place, state.half().numpy())
        return list(self.shown(torch.stack([made[seed] for seed in seeds])))

    def run(
        self, setting: Setting, noise: Tensor, fresh: torch.Generator, *, velocity: Velocity | None = None
    ) -> Tensor:
        velocity = velocity or self.velocity(setting, noise)
        if "upsampling" in setting.arguments:
            return upsampled(velocity, noise, self.plan(setting, ""), setting.arguments["upsampling"])
        return super().run(setting, noise, fresh, velocity=velocity)

    def velocity(self, setting: Setting, noise: Tensor) -> Velocity:
        """What a setting calls, in a run from this noise."""
        if setting.lora not in self._states:
            self._states[setting.lora] = self._adapted(setting)
        self.model.load_state_dict(self._states[setting.lora])
        if (kind := setting.arguments.get("network")) is None:
            return self._velocity
        if kind not in self._repaired:
            self._repaired[kind] = Repaired.load(REPAIRED[kind])
            for block in self._repaired[kind].coarse.blocks if self.fast else ():
                block.compile(dynamic=False)
        coarse = self._repaired[kind].velocity(noise)

        def velocity(x: Tensor, t: float) -> Tensor:
            if x.shape[-1] == self.network.side:
                return self._velocity(x, t)
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.fast):
                return coarse(x, t).float()

        return velocity

    def _adapted(self, setting: Setting) -> dict[str, Tensor]:
        """The network's weights with a setting's adapter merged into them."""
        network = load(self.weights)
        if setting.lora:
            load_lora(network, Path(setting.lora), self.plan(setting, ""))
            for module in list(network.modules()):
                if isinstance(module, LoraLayer):
                    module.merge()
        state = network.state_dict()
        return {name.replace(".base_layer", ""): value for name, value in state.items() if ".lora_" not in name}

    def calls(self, setting: Setting) -> Counter[int]:
        """How often a run calls the network, by side."""
        made: Counter[int] = Counter()

        def velocity(x: Tensor, t: float) -> Tensor:
            made[x.shape[-1]] += 1
            return x

        self.run(setting, torch.zeros(1, *self.shape), torch.Generator(), velocity=velocity)
        return made

    def flops(self, setting: Setting, prompt: str) -> Flops:
        full, informed = self.network.side, setting.arguments.get("network") == "repaired, informed"
        costs = {n: cost(self.model.config, n, full // n if informed else 1) for n in self.calls(setting)}
        return sum((times * costs[n] for n, times in self.calls(setting).items()), Flops())

    def cpu_seconds(self, setting: Setting) -> float:
        """Of one picture's calls and transitions."""
        kind = setting.arguments.get("network")
        if kind not in self._seconds:
            self._seconds[kind] = self._step_seconds(setting)
        step, growth = self._seconds[kind]
        grown = sum(growth[stage.shape[0]] for stage in self.plan(setting, "").stages[1:])
        return sum(n * step[side] for side, n in self.calls(setting).items()) + grown

    def _step_seconds(self, setting: Setting, rounds: int = 5) -> tuple[dict[int, float], dict[int, float]]:
        """By side: CPU seconds of one call for one picture, and of growing to that side from half."""
        sides = [self.network.side // r for r in (1, 2, 4)]
        states = {n: torch.randn(self.batch, self.network.channels, n, n) for n in sides}
        velocity = self.velocity(setting, states[sides[0]])
        seconds: dict[int, list[float]] = {n: [] for n in sides}
        growth: dict[int, list[float]] = {n: [] for n in sides[:-1]}
        for _ in range(rounds + 1):
            for n in sides:
                began = time.process_time()
                velocity(states[n], 0.5)
                seconds[n].append(time.process_time() - began)
                if n in growth:
                    began = time.process_time()
                    expand_aligned(states[n // 2], (n, n), 0.5, noise=states[n])
                    growth[n].append(time.process_time() - began)
        # The first round warms up.
        step, grow = (
            {n: statistics.median(times[1:]) / self.batch for n, times in of.items()} for of in (seconds, growth)
        )
        return step, grow


def pixel() -> Ways:
    """The small transformer, for ``spectral-pd compare benchmarks/pareto.py:pixel``."""
    return Ways(TRANSFORMER, WEIGHTS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="of the comparison; a stopped one goes on")
    latent_arguments(parser)
    parser.add_argument("--only", action="append", default=[], metavar="TEXT", help="part of a curve's or row's name")
    parser.add_argument("--samples", type=int, default=512, help="seeds")
    parser.add_argument("--weights", type=Path, help="of another network of this form")
    parser.add_argument("--fast", action="store_true", help="compile the network and call it in bfloat16")
    parser.add_argument("--threads", type=int, default=1, help="for sampling; seconds are measured on one")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--figure", type=Path)
    args = parser.parse_args()
    latent = args.model == "latent"
    network, name = (LATENT_TRANSFORMER, "pareto_latent") if latent else (TRANSFORMER, "pareto")
    weights = args.weights or (LATENT / "weights.safetensors" if latent else WEIGHTS)
    decode = decoder(args.vae) if latent else None
    out = args.out or Path(__file__).parent / "results" / f"{name}.csv"
    figure = args.figure or ROOT / "docs" / "figures" / (f"{name}.jpg" if latent else f"{name}.png")

    every = list(ways(network))
    wanted = [s for s in every if not args.only or any(text in s.name or text in s.family for text in args.only)]
    comparisons.matched(wanted, args.only, [s.name for s in every])
    settings = wanted if every[0] in wanted else [every[0], *wanted]
    precision = "bfloat16" if args.fast else "float32"
    about = {"model": network.name, "weights": fingerprint(weights), "precision": precision}
    torch.set_num_threads(args.threads)
    batch = LATENT_BATCH if latent else BATCH
    sampler = Ways(network, weights, fast=args.fast, batch=batch, keep=args.folder, decode=decode)
    options = {"metrics": ("psnr",), "seeds": args.samples, "rounds": 0, "progress": True}
    found = compare(sampler, [""], settings, out=args.folder, about=about, **options)
    if found is None:  # other processes have some left
        return
    torch.set_num_threads(1)
    made = evaluate(found, sampler, settings, yardstick=not latent and not args.only)
    known = []
    if args.only and out.exists():
        with out.open(newline="") as file:
            known = list(csv.DictReader(file))
    rows = merged(known, made if every[0] in wanted else made[1:], [s.family for s in every])
    with out.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    draw(rows, figure)


def merged(known: list[dict[str, str]], made: list[dict[str, str]], curves: list[str]) -> list[dict[str, str]]:
    """Rows of a file with those that were made in their place, in the order of the curves."""

    def place(row: dict[str, str]) -> tuple[float, str, int]:
        at = curves.index(row["curve"]) if row["curve"] in curves else float("inf")
        return at, row["delta"], -sum(map(int, row["split"].split("+"))) if row["split"] else 0

    rows = {(row["curve"], row["delta"], row["split"]): row for row in [*known, *made]}
    return sorted(rows.values(), key=place)


def evaluate(found: Comparison, sampler: Ways, settings: Sequence[Setting], *, yardstick: bool) -> list[dict[str, str]]:
    """One row a setting, the reference first, and last the yardstick: training crops against held-out crops."""
    distances = decoded_distances(found) if sampler.network == LATENT_TRANSFORMER else pixel_distances(found)
    surroundings = {
        "samples": str(len(found.pairs)),
        "precision": found.record["about"]["precision"],
        **environment(),
    }
    whole = sampler.cpu_seconds(settings[0])
    rows = []
    for setting in tqdm(settings, desc="metrics", mininterval=5):
        plan, cpu = sampler.plan(setting, ""), sampler.cpu_seconds(setting)
        row = {
            "curve": setting.family,
            "delta": "" if len(plan.stages) == 1 else f"{setting.delta:g}",
            "split": "+".join(map(str, plan.split)),
            "gflops": f"{found.flops[setting.name][1] / 1e9:.3f}",
            "seconds": f"{cpu:.4f}",
            "speedup": f"{whole / cpu:.3f}",
        }
        rows.append(row | distances(setting.name) | surroundings)
    if yardstick:
        rows.append(dict.fromkeys(rows[0], "") | {"curve": YARDSTICK, **distances(YARDSTICK), **surroundings})
    return rows


def states(found: Comparison, name: str) -> Tensor:
    """Final states of a setting."""
    places = [found.folder.features("state", name, *pair) for pair in found.pairs]
    return torch.from_numpy(read_features(places)).float()


def decoded_distances(found: Comparison) -> Callable[[str], dict[str, str]]:
    """Columns of a setting's decoded pictures, and of its latents' spectrum, to those of the full run."""

    def pictures(name: str) -> Tensor:
        return torch.cat([2 * read_picture(found.folder.picture(name, *pair)) - 1 for pair in found.pairs])

    full = found.record["reference"]
    decoded = Decoded(pictures(full))
    apart = partial(spectrum_distance, reference=radial_rows(states(found, full)))

    def distances(name: str) -> dict[str, str]:
        return decoded.columns(pictures(name)) | columns(
            "spectrum_latents", interval(apart, radial_rows(states(found, name)))
        )

    return distances


def pixel_distances(found: Comparison) -> Callable[[str], dict[str, str]]:
    """Columns of a setting's states to the full run's and to held-out crops; of the yardstick, training crops."""
    reference = states(found, found.record["reference"])
    held_out = load_photographs(None, held_out=True).crops(len(reference), generator=torch.Generator().manual_seed(1))
    wasserstein = SlicedWasserstein(held_out)

    def reduced(x: Tensor) -> tuple[Rows, Rows, Rows]:
        return radial_rows(x), wasserstein.rows(x), natural_rows(x)

    known = {of: reduced(x) for of, x in {"full": reference, "photos": held_out}.items()}

    def distances(name: str) -> dict[str, str]:
        out: dict[str, str] = {}
        if name == YARDSTICK:
            x = load_photographs(None).crops(len(reference), generator=torch.Generator().manual_seed(2))
        else:
            x = states(found, name)
            out |= columns("psnr", interval(lambda r: float(np.median(r)), psnr(x, reference).numpy()), digits=2)
            out |= columns("ssim", interval(lambda r: float(r.mean()), ssim(x, reference)))
        radial, sliced, natural = reduced(x)
        for of, (radial0, sliced0, natural0) in known.items():
            out |= columns(f"spectrum_{of}", interval(partial(spectrum_distance, reference=radial0), radial))
            out |= columns(f"worst_bin_{of}", interval(partial(worst_bin, reference=radial0), radial))
            measure = partial(wasserstein.distance, reference=sliced0)
            out |= columns(f"wasserstein_{of}", interval(measure, sliced, draws=8))
            out |= columns(f"natural_{of}", interval(partial(natural_distance, reference=natural0), natural))
        return out

    return distances


PANELS = {
    "psnr": "PSNR to the same seed's full run (dB)",
    "flip": "FLIP to the same seed's full run",
    "spectrum_full": "spectrum: log RMS to the full runs",
    "spectrum": "spectrum: log RMS to the full runs",
    "wasserstein_full": "sliced Wasserstein to the full runs",
    "features": "features: sliced Wasserstein to the full runs",
    "natural_photos": "naturalness: distance to held-out crops",
    "natural": "naturalness: distance to the full runs",
}
COMBINATIONS = [f"{clock} clock, {coupling}" for clock in ("full", "stage") for coupling in ("coupled", "fresh")]
TWO, THREE = (f"S={count}, {COMBINATIONS[0]}" for count in (2, 3))
QUESTIONS = {
    "clock and coupling, two stages": [f"S=2, {name}" for name in COMBINATIONS],
    "clock and coupling, three stages": [f"S=3, {name}" for name in COMBINATIONS],
    "basis": [TWO, "S=2, haar", "S=2, fourier", THREE, "S=3, haar", "S=3, fourier"],
    "upsampling instead": [TWO, "nearest, noised again", "bilinear, noised again"],
    "fine-tuning": [TWO, "S=2, control", "S=2, fine-tuned", THREE, "S=3, control", "S=3, fine-tuned"],
    "sizes repaired": [f"S={count}, {name}" for count in (2, 3) for name in (COMBINATIONS[0], *REPAIRED)],
}
"""Columns of the figure: the curves that answer a question, beside fewer full-resolution steps."""


def draw(rows: list[dict[str, str]], path: Path) -> None:
    """Metrics over measured speedup, a row a metric and a column a question."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    present = {row["curve"] for row in rows}
    asked = {q: [c for c in curves if c in present] for q, curves in QUESTIONS.items()}
    questions = {q: curves for q, curves in asked.items() if {*curves} - {TWO, THREE}}
    questions = questions or {"stages": [c for c in (TWO, THREE) if c in present]}
    panels = [name for name in PANELS if name in rows[0]]
    size = (4.2 * len(questions), 3.1 * len(panels))
    figure, axes = plt.subplots(
        len(panels), len(questions), figsize=size, layout="constrained", sharex=True, sharey="row", squeeze=False
    )
    for column, (question, curves) in zip(axes.T, questions.items(), strict=True):
        for ax, name in zip(column, panels, strict=True):
            for i, curve in enumerate(("full resolution, fewer steps", *curves)):
                points = [r for r in rows if r["curve"] == curve and np.isfinite(float(r[name]))]
                x, y, low, high = (
                    np.array([float(r[column]) for r in points])
                    for column in ("speedup", name, name + "_low", name + "_high")
                )
                style = {"color": f"C{i - 1}" if i else "black", "marker": "os^Dv*X"[i], "ms": 5, "lw": 1.2}
                ax.errorbar(x, y, yerr=(y - low, high - y), label=curve, capsize=2, **style)
        column[0].set_title(question)
        column[0].legend(frameon=False, fontsize=7)
        column[-1].set_xlabel("measured speedup")
    for ax, name in zip(axes[:, 0], panels, strict=True):
        ax.set_ylabel(PANELS[name], fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80)
    plt.close(figure)


if __name__ == "__main__":
    main()
