"""What the training gave: loss curve, decoded sheet, distances to photographs, nearest neighbours, and how its sizes agree.

    python benchmarks/latent_dit/report.py --photographs PACKED --vae taef1 [--folder RUN]

reads RUN/log.csv and weights.safetensors; writes loss.csv (means over 100 steps), loss.png and samples.jpg beside the weights,
and rows to benchmarks/results:

latent_dit.csv            for each size and number of steps, 256 samples against 1024 training and 1024 held-out crops: radial
                          spectrum and sliced Wasserstein of the latents, sliced Wasserstein of the decoded pictures; and the
                          same of 256 other training crops, the yardstick.
latent_dit_neighbours.csv the largest correlation of each sample with any crop of any training photograph, mirrored or not, at
                          16 pixels; beside it those of held-out crops, which the network cannot know, and of training crops.
latent_dit_agreement.csv  how far a call on the small grid is from what the call on the large one says of the low band,
                          relative to the latter's power, on held-out latents: for the network and for its ablation,
                          which was cooled down on restricted latents instead of those of shrunk pictures.

About an hour on one core.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from data import SIZES, Photographs, latents, load_photographs
from PIL import Image
from safetensors import safe_open
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from spectral_pd import align_scale, align_time, plan_at, restrict_noise, sample, shift_times
from spectral_pd.autoencoders import Autoencoder
from spectral_pd.autoencoders import load as load_autoencoder

HERE = Path(__file__).parent
sys.path += [str(HERE.parent), str(HERE.parent / "tiny_dit")]
from environment import environment  # noqa: E402
from metrics import SlicedWasserstein, radial_rows, spectrum_distance, worst_bin  # noqa: E402
from model import TinyDiT, load  # noqa: E402

WEIGHTS, ABLATION = HERE / "weights.safetensors", HERE / "ablation.safetensors"
RESULTS = HERE.parent / "results"
STEPS, SHIFT, SAMPLES, REFERENCES = (20, 64), 2.0, 256, 1024
NEIGHBOURS, SIDE = 128, 16
TIMES = (0.95, 0.9, 0.8, 0.7, 0.5)

Decode = Callable[[Tensor], Tensor]


def in_parts(work: Callable[[Tensor], Tensor], x: Tensor, size: int, what: str) -> Tensor:
    """`work` on parts of a batch."""
    return torch.cat([work(part) for part in tqdm(x.split(size), desc=what)])


def draw_samples(model: TinyDiT, size: int, steps: int, count: int) -> Tensor:
    """`count` full-resolution samples (count, 16, size, size) from the seed 0."""
    plan = plan_at(shift_times(steps, shift=SHIFT), (), (size, size), scales=(1,))
    noise = torch.randn(count, 16, size, size, generator=torch.Generator().manual_seed(0))
    return in_parts(
        lambda part: sample(model.velocity, part, plan, solver="dpmpp_2m"), noise, 16, f"{size}, {steps} steps"
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


def compare(sets: dict[str, Tensor], reference: Tensor, decode: Decode) -> dict[str, dict[str, float]]:
    """Distances of every set of latents to a reference set, and of what they decode to."""
    levels = {32: 3, 16: 2, 8: 1}[reference.shape[-1]]  # a level must hold a patch of 7
    wasserstein = SlicedWasserstein(reference, levels=levels)
    patches, radial = wasserstein.rows(reference), radial_rows(reference)
    shown = decode(reference[:SAMPLES])
    pictures = SlicedWasserstein(shown)
    of_pictures = pictures.rows(shown)
    out = {}
    for name, x in sets.items():
        mine = radial_rows(x)
        out[name] = {
            "wasserstein": wasserstein.distance(wasserstein.rows(x), patches),
            "spectrum": spectrum_distance(mine, radial),
            "worst_bin": worst_bin(mine, radial),
            "wasserstein_decoded": pictures.distance(pictures.rows(decode(x)), of_pictures),
        }
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


def disagreement(model: TinyDiT, x0: Tensor, coarse: int, time: float) -> float:
    """``E |D(y, tau) - R|^2 / E |R|^2``: the call on the coarse grid against the fine call's low band ``R = U^T D / r``."""
    fine = x0.shape[-1]
    ratio = fine / coarse
    noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(5))
    x = (1 - time) * x0 + time * noise
    tau = float(align_time(time, 1 / ratio))
    y = restrict_noise(x, (coarse, coarse)) / float(align_scale(tau, ratio))
    small, large = y - tau * model.velocity(y, tau), x - time * model.velocity(x, time)
    wanted = restrict_noise(large, (coarse, coarse)) / ratio
    return float((small - wanted).square().mean() / wanted.square().mean())


def summarise(log: Path, every: int = 100) -> list[dict[str, str]]:
    """Mean loss of each size over blocks of steps."""
    blocks: dict[tuple[int, int], list[float]] = defaultdict(list)
    with log.open(newline="") as file:
        for row in csv.DictReader(file):
            blocks[int(row["step"]) // every * every, int(row["size"])].append(float(row["loss"]))
    return [
        {"first_step": str(step), "size": str(size), "loss": f"{np.mean(losses):.5f}", "steps": str(len(losses))}
        for (step, size), losses in sorted(blocks.items())
    ]


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def draw_loss() -> None:
    """loss.csv as a figure."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    with (HERE / "loss.csv").open(newline="") as file:
        losses = list(csv.DictReader(file))
    figure, ax = plt.subplots(figsize=(6, 4), layout="constrained")
    for size in SIZES:
        mine = [row for row in losses if row["size"] == str(size)]
        ax.semilogy(
            [int(r["first_step"]) for r in mine], [float(r["loss"]) for r in mine], label=f"{size}x{size} latents"
        )
    ax.set_xlabel("step")
    ax.set_ylabel("flow-matching loss, mean over 100 steps")
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
    parser.add_argument("--folder", type=Path, help="the training's folder; without it the committed loss.csv is drawn")
    args = parser.parse_args()
    if args.folder:
        write(HERE / "loss.csv", summarise(args.folder / "log.csv"))
    draw_loss()

    model, vae = load(WEIGHTS), load_autoencoder(args.vae)
    vae.model.to(memory_format=torch.channels_last)
    with safe_open(WEIGHTS, "pt") as file:
        trained = json.loads(file.metadata()["training"])["steps"]
    train, held_out = (load_photographs(args.photographs, held_out=h) for h in (False, True))

    def decode(z: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return in_parts(vae.decode, z, 16, f"decoding {z.shape[-1]}x{z.shape[-1]}").clamp(-1, 1)

    references = {
        "training": encoded(vae, train, REFERENCES, seed=1),
        "held_out": encoded(vae, held_out, REFERENCES, seed=2),
    }
    others = encoded(vae, train, SAMPLES, seed=3)
    rows, sheets = [], []
    for size in SIZES:
        drawn = {steps: draw_samples(model, size, steps, SAMPLES) for steps in STEPS}
        measured = {
            n: {"size": str(size), "training_steps": str(trained), "samples": str(SAMPLES), "steps": str(n)}
            for n in STEPS
        }
        for name, sets in references.items():
            found = compare({"crops": others[size], **{str(k): x for k, x in drawn.items()}}, sets[size], decode)
            for steps, row in measured.items():
                for who, values in (("samples", found[str(steps)]), ("crops", found["crops"])):
                    row |= {f"{what}_{who}_{name}": f"{value:.4f}" for what, value in values.items()}
        rows += [row | environment() for row in measured.values()]
        sheets.append(decode(drawn[STEPS[0]][: 24 if size == 32 else 8]))
        if size == SIZES[0]:
            finest = decode(drawn[STEPS[0]][:NEIGHBOURS])
    write(RESULTS / "latent_dit.csv", rows)
    sheets.append(held_out.crops(8, generator=torch.Generator().manual_seed(0), augmented=False))
    draw_sheet(HERE / "samples.jpg", sheets)

    photographs = shrunk_photographs(train)
    sets = {
        "samples": finest,
        "held-out crops": held_out.crops(NEIGHBOURS, generator=torch.Generator().manual_seed(7)),
        "training crops": train.crops(NEIGHBOURS, generator=torch.Generator().manual_seed(8)),
    }
    rows = []
    for name, pictures in sets.items():
        best = nearest(pictures, photographs)
        quantiles = {f"p{q}": f"{float(best.quantile(q / 100)):.3f}" for q in (10, 50, 90, 100)}
        rows.append({"of": name, "pictures": str(NEIGHBOURS), **quantiles, **environment()})
    write(RESULTS / "latent_dit_neighbours.csv", rows)

    rows = []
    networks = {"shrunk pictures": model, "restricted latents": load(ABLATION)}
    x0 = references["held_out"][32][:64]
    for trained_on, network in networks.items():
        for fine, coarse in ((32, 16), (32, 8)):
            for time in TIMES:
                value = disagreement(network, x0, coarse, time)
                rows.append(
                    {"small_latents": trained_on, "fine": str(fine), "coarse": str(coarse), "time": str(time)}
                    | {"disagreement": f"{value:.5f}", "samples": str(len(x0)), **environment()}
                )
    write(RESULTS / "latent_dit_agreement.csv", rows)


if __name__ == "__main__":
    main()
