"""What the training gave: loss curve, decoded sheet, distances to photographs, nearest neighbours, and how its sizes agree.

    python benchmarks/latent_dit/report.py --photographs PACKED --vae taef1 [--run RUN] [--samples 512 --references 512]

reads log.csv and weights.safetensors; writes loss.png, samples.jpg and, with the power law of the training crops'
latents, spectrum.json beside them, and rows to benchmarks/results:

latent_dit.csv            for each size, samples against training crops and held-out crops: radial spectrum and sliced
                          Wasserstein of the latents; and the same of as many other training crops, the yardstick.
                          Samples of 64 steps of DPM-Solver++(2M), which are the network's own, and of the 20 that the other
                          benchmarks make; or with --run those that the training drew at its end, 32 steps of Euler.
                          Intervals: 95 %, bootstrap over the samples.
latent_dit_bins.csv       power of every radial bin of the samples, and of the other training crops, over that of references.
latent_dit_decoded.csv    sliced Wasserstein of what they decode to.
latent_dit_neighbours.csv the largest correlation of each sample with any crop of any training photograph, mirrored or not, at
                          16 pixels; beside it those of held-out crops, which the network cannot know, and of training crops.
latent_dit_agreement.csv  how far a call on the small grid is from what the call on the large one says of the low band,
                          relative to the latter's power, on held-out latents: for the network and for its ablation,
                          RUN/ablation.safetensors, which was cooled down on restricted latents instead of those of shrunk
                          pictures; without --run that file stays as it is.

With the default numbers about an hour of one core.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from data import SIZES, Photographs, latents, load_photographs
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from spectral_pd import align_scale, align_time, fit_spectrum, plan_at, restrict_noise, sample, shift_times
from spectral_pd.autoencoders import Autoencoder
from spectral_pd.autoencoders import load as load_autoencoder

HERE = Path(__file__).parent
sys.path += [str(HERE.parent), str(HERE.parent / "tiny_dit")]
from environment import environment  # noqa: E402
from metrics import Rows, SlicedWasserstein, radial_rows, spectrum_distance, worst_bin  # noqa: E402
from model import TinyDiT, load  # noqa: E402

WEIGHTS, SPECTRUM = HERE / "weights.safetensors", HERE / "spectrum.json"
RESULTS = HERE.parent / "results"
SAMPLERS = {64: 3.0, 20: 2.0}
"""Steps -> shift of their times: enough steps that the grid does not matter, and the grid of benchmarks/networks.py."""
SIDE, DECODED = 16, 24
LAW_CROPS = 160
"""However many references there are: plans do not move with them."""
TIMES = (0.95, 0.9, 0.8, 0.7, 0.5)

Decode = Callable[[Tensor], Tensor]


def in_parts(work: Callable[[Tensor], Tensor], x: Tensor, size: int, what: str) -> Tensor:
    """`work` on parts of a batch."""
    return torch.cat([work(part) for part in tqdm(x.split(size), desc=what)])


def draw_samples(model: TinyDiT, size: int, count: int, steps: int) -> Tensor:
    """`count` full-resolution samples (count, 16, size, size) from the seed 0."""
    plan = plan_at(shift_times(steps, shift=SAMPLERS[steps]), (), (size, size), scales=(1,))
    noise = torch.randn(count, 16, size, size, generator=torch.Generator().manual_seed(0))
    return in_parts(
        lambda part: sample(model.velocity, part, plan, solver="dpmpp_2m"), noise, 16, f"{steps} steps, {size}x{size}"
    )


def encoded(vae: Autoencoder, pictures: Photographs, count: int, *, seed: int) -> dict[int, Tensor]:
    """Latents at all sizes of `count` random crops."""
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for _ in tqdm(range(count // 16), desc=f"encoding, seed {seed}"):
        crops = pictures.crops(16, generator=generator).to(memory_format=torch.channels_last)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            parts.append(latents(vae.encode, crops))
    return {size: torch.cat([part[size] for part in parts]) for size in SIZES}


def interval(rows: Rows, distance: Callable[[Rows], float], draws: int = 60) -> tuple[float, float]:
    """95 % interval of a distance over the choice of samples: basic bootstrap. Sets drawn again are farther away,
    as few samples are than many, so that it is that of the distance of many samples.
    """
    generator = np.random.default_rng(0)
    found = [distance(rows[generator.integers(len(rows), size=len(rows))]) for _ in range(draws)]
    low, high = 2 * distance(rows) - np.quantile(found, (0.975, 0.025))
    return float(low), float(high)


def compare(x: Tensor, reference: Tensor) -> dict[str, float]:
    """Distances of latents to reference latents, with the intervals of two."""
    levels = {32: 3, 16: 2, 8: 1}[reference.shape[-1]]  # a level must hold a patch of 7
    wasserstein = SlicedWasserstein(reference, levels=levels)
    patches, radial = wasserstein.rows(reference), radial_rows(reference)
    mine, power = wasserstein.rows(x), radial_rows(x)
    out = {
        "wasserstein": wasserstein.distance(mine, patches),
        "spectrum": spectrum_distance(power, radial),
        "worst_bin": worst_bin(power, radial),
    }
    for name, low_high in (
        ("wasserstein", interval(mine, lambda rows: wasserstein.distance(rows, patches))),
        ("worst_bin", interval(power, lambda rows: worst_bin(rows, radial))),
    ):
        out[f"{name}_low"], out[f"{name}_high"] = low_high
    return out


def shrunk_photographs(pictures: Photographs) -> list[Tensor]:
    """Every photograph at every scale, averaged over cells of 256 / SIDE pixels: (3, h, w) in [0, 1]."""
    out = []
    for start, height, width in zip(pictures.start, pictures.height, pictures.width, strict=True):
        flat = pictures.flat[int(start) : int(start + height * width)]
        picture = flat.reshape(int(height), int(width), 3).permute(2, 0, 1)[None].float() / 255
        # Four phases of the cells: a crop lies anywhere, and correlation must not depend on where the cells begin.
        cell = 256 // SIDE
        out += [functional.avg_pool2d(picture[..., i:, j:], cell)[0] for i in (0, cell // 2) for j in (0, cell // 2)]
    return out


def nearest(pictures: Tensor, photographs: list[Tensor]) -> Tensor:
    """Largest correlation (n,) of pictures (n, 3, 256, 256) with any crop of the photographs, mirrored or not.

    Of pictures at SIDE pixels whose mean colour is taken away: brightness, contrast and cast do not count.
    """
    small = functional.avg_pool2d(pictures, pictures.shape[-1] // SIDE)
    small = small - small.mean((-2, -1), keepdim=True)
    kernels = torch.cat([small, small.flip(-1)])
    kernels = kernels / kernels.flatten(1).norm(dim=1)[:, None, None, None].clamp_min(1e-9)
    best = torch.full((len(kernels),), -1.0)
    for photograph in tqdm(photographs, desc="neighbours"):
        x = photograph[None]
        squares = functional.avg_pool2d(x.square(), SIDE, stride=1) - functional.avg_pool2d(x, SIDE, stride=1).square()
        # One grey level of noise a pixel: crops of flat sky correlate with nothing.
        norm = (SIDE**2 * (squares.sum(1, keepdim=True).clamp_min(0) + 3 / 255**2)).sqrt()
        correlation = functional.conv2d(x, kernels) / norm
        best = torch.maximum(best, correlation.flatten(2).amax(2)[0])
    return torch.maximum(*best.chunk(2))


def disagreements(model: TinyDiT, x0: Tensor, time: float) -> dict[int, float]:
    """``E |D(y, tau) - R|^2 / E |R|^2`` by coarse size: the call there against the fine call's low band ``R = U^T D / r``."""
    noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(5))
    x = (1 - time) * x0 + time * noise
    large = x - time * model.velocity(x, time)
    out = {}
    for coarse in SIZES[1:]:
        ratio = SIZES[0] / coarse
        tau = float(align_time(time, 1 / ratio))
        y = restrict_noise(x, (coarse, coarse)) / float(align_scale(tau, ratio))
        small, wanted = y - tau * model.velocity(y, tau), restrict_noise(large, (coarse, coarse)) / ratio
        out[coarse] = float((small - wanted).square().mean() / wanted.square().mean())
    return out


def summarise(log: Path, every: int = 50) -> dict[tuple[int, int], float]:
    """Mean loss of (first step, size), over blocks of steps."""
    blocks: dict[tuple[int, int], list[float]] = defaultdict(list)
    with log.open(newline="") as file:
        for row in csv.DictReader(file):
            blocks[int(row["step"]) // every * every, int(row["size"])].append(float(row["loss"]))
    return {key: float(np.mean(losses)) for key, losses in sorted(blocks.items())}


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def draw_loss() -> None:
    """log.csv as a figure."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    losses = summarise(HERE / "log.csv")
    figure, ax = plt.subplots(figsize=(6, 4), layout="constrained")
    for size in SIZES:
        mine = {step: loss for (step, of), loss in losses.items() if of == size}
        ax.semilogy(list(mine), list(mine.values()), label=f"{size}x{size} latents")
    ax.set_xlabel("step")
    ax.set_ylabel("flow-matching loss, mean over 50 steps")
    ax.legend(frameon=False)
    figure.savefig(HERE / "loss.png", dpi=100)


def draw_sheet(path: Path, pictures: list[Tensor]) -> None:
    """Rows of eight pictures, all at 256 pixels, the smaller ones enlarged by repetition."""
    rows = []
    for x in pictures:
        x = x.repeat_interleave(256 // x.shape[-1], -1).repeat_interleave(256 // x.shape[-2], -2)
        rows += [torch.cat(list(part), -1) for part in x.split(8)]
    values = ((torch.cat(rows, -2).clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    Image.fromarray(values).save(path, quality=88)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photographs", type=Path, required=True, help="packed folder, see data.py")
    parser.add_argument("--vae", type=Path, required=True, help="taef1")
    parser.add_argument("--run", type=Path, help="the training's folder: its samples and its ablation")
    parser.add_argument("--samples", type=int, default=512, help="samples, and other training crops")
    parser.add_argument("--references", type=int, default=512, help="training crops, and held-out crops")
    args = parser.parse_args()
    draw_loss()

    model, vae = load(WEIGHTS), load_autoencoder(args.vae)
    vae.model.to(memory_format=torch.channels_last)
    with safe_open(WEIGHTS, "pt") as file:
        training = json.loads(file.metadata()["training"])
    train, held_out = (load_photographs(args.photographs, held_out=h) for h in (False, True))

    def decode(z: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return in_parts(vae.decode, z[:DECODED], 8, f"decoding {z.shape[-1]}x{z.shape[-1]}").clamp(-1, 1)

    others = encoded(vae, train, args.samples, seed=3)
    references = {
        "training": encoded(vae, train, args.references, seed=1),
        "held_out": encoded(vae, held_out, args.references, seed=2),
    }
    law = fit_spectrum(references["training"][SIZES[0]][:LAW_CROPS])
    replace(law, source=f"TAEF1 latents of {LAW_CROPS} random crops of the training photographs").save(SPECTRUM)

    if args.run:
        at_the_end = load_file(args.run / "samples.safetensors")
        solver, device = "euler", training["device"]
        drawn = {(32, size): at_the_end[str(size)][: args.samples].float() for size in SIZES}
    else:
        solver, device = "dpmpp_2m", None
        drawn = {(k, size): draw_samples(model, size, args.samples, k) for k in SAMPLERS for size in reversed(SIZES)}
    rows, bins = [], []
    for (steps, size), x in drawn.items():
        facts = {"size": str(size), "training_steps": str(training["steps"]), "samples": str(args.samples)}
        facts |= {"references": str(args.references), "solver": solver, "steps": str(steps)}
        numbers = {
            f"{what}_{who}_{name}": f"{value:.4f}"
            for name, sets in references.items()
            for who, mine in (("samples", x), ("crops", others[size]))
            for what, value in compare(mine, sets[size]).items()
        }
        rows.append(facts | numbers | environment(device))
        power = radial_rows(references["training"][size]).mean(0)
        both = zip(radial_rows(x).mean(0) / power, radial_rows(others[size]).mean(0) / power, strict=True)
        bins += [
            facts | {"bin": str(k), "samples_over": f"{a:.4f}", "crops_over": f"{b:.4f}"} | environment(device)
            for k, (a, b) in enumerate(both, 1)
        ]
    write(RESULTS / "latent_dit.csv", rows)
    write(RESULTS / "latent_dit_bins.csv", bins)

    if args.run:
        rows = []
        x0 = references["held_out"][SIZES[0]][:16]
        networks = {"shrunk pictures": model, "restricted latents": load(args.run / "ablation.safetensors")}
        for small, network in networks.items():
            for time in TIMES:
                for coarse, value in disagreements(network, x0, time).items():
                    rows.append(
                        {"small_latents": small, "fine": str(SIZES[0]), "coarse": str(coarse), "time": str(time)}
                        | {"disagreement": f"{value:.5f}", "latents": str(len(x0)), **environment()}
                    )
        write(RESULTS / "latent_dit_agreement.csv", rows)

    most = max(drawn)[0]
    shown = {size: decode(drawn[most, size]) for size in SIZES}
    crops = held_out.crops(8, generator=torch.Generator().manual_seed(0), augmented=False)
    draw_sheet(HERE / "samples.jpg", [shown[32], shown[16][:8], shown[8][:8], crops])

    photographs = shrunk_photographs(train)
    sets = {
        "samples": shown[SIZES[0]],
        "held-out crops": held_out.crops(DECODED, generator=torch.Generator().manual_seed(7)),
        "training crops": train.crops(DECODED, generator=torch.Generator().manual_seed(8)),
    }
    rows = []
    for name, pictures in sets.items():
        best = nearest(pictures, photographs)
        quantiles = {f"p{q}": f"{float(best.quantile(q / 100)):.3f}" for q in (10, 50, 90, 100)}
        rows.append({"of": name, "pictures": str(len(pictures)), **quantiles, **environment()})
    write(RESULTS / "latent_dit_neighbours.csv", rows)

    rows = []
    for size in reversed(SIZES):
        row = {"size": str(size), "pictures": str(len(shown[size])), "solver": solver, "steps": str(most)}
        of_crops = decode(others[size])
        for name, sets in references.items():
            reference = decode(sets[size])
            wasserstein = SlicedWasserstein(reference)
            patches = wasserstein.rows(reference)
            for who, pictures in (("samples", shown[size]), ("crops", of_crops)):
                row[f"{who}_{name}"] = f"{wasserstein.distance(wasserstein.rows(pictures), patches):.4f}"
        rows.append(row | environment(device))
    write(RESULTS / "latent_dit_decoded.csv", rows)


if __name__ == "__main__":
    main()
