"""Editing by frequency against SDEdit: how much geometry is kept, how much style is gained?

Photographs into textures: the model is a patch denoiser of a texture (grass, bricks; scikit-image): every 8x8 patch of the
state, on every stage's grid, is denoised by the exact posterior mean over the patches of one half of the texture
(``FiniteDataset``), and overlapping patches are averaged. The pictures are crops of photographs, 64x64. For start times T and
kept bands, from the same noise and with the same steps of the same grid: `edit` in both modes and `sdedit`. Geometry: PSNR of
the low band, 16x16, to the input's, and the correlation of the two. Style: sliced Wasserstein-2 distance of mean-free 8x8
patches to those of the other half of the texture. Rows go to results/editing.csv, the figure to docs/figures/editing.png.

Mosaics into photographs: the model is the small trained transformer of benchmarks/tiny_dit, the pictures are crops of
photographs it has not seen, reduced to 8x8 squares of one colour. Geometry: PSNR of the 8x8 low band, which is all that a
mosaic says. Style: sliced Wasserstein distance to crops of the training photographs (metrics.py). Solver DPM-Solver++(2M).
Rows go to results/editing_transformer.csv, the figure to docs/figures/editing_transformer.png.

With --model latent the transformer is that of benchmarks/latent_dit, the pictures are crops at 256 pixels of those of the
photographs in scikit-image and scikit-learn that it has not seen, encoded by TAEF1; both measures are taken of the decoded
pictures, and style is the sliced Wasserstein distance of pretrained features too. Rows go to results/editing_latent.csv, the
figure to docs/figures/editing_latent.jpg.

    python benchmarks/editing.py [--redraw] [textures transformer [--model latent --vae TAEF1]]
"""

from __future__ import annotations

import argparse
import csv
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from environment import environment
from metrics import SlicedWasserstein, columns, feature_distance, feature_rows, interval
from networks import (
    LATENT_TRANSFORMER,
    TRANSFORMER,
    Network,
    autoencoder,
    decoder,
    encoder,
    in_bfloat16,
    latent_arguments,
)
from tiny_dit.data import HELD_OUT, load_photographs
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from spectral_pd import (
    FiniteDataset,
    NoiseField,
    Plan,
    edit,
    fit_spectrum,
    make_plan,
    plan_at,
    restrict_signal,
    sample,
    sdedit,
    shift_times,
)
from spectral_pd.editing import EditMode
from spectral_pd.measuring.demo import photographs, psnr, random_crops

SIZE, PATCH, STRIDE, PATCHES = 64, 8, 4, 1500
LOW = (16, 16)
"""The band whose geometry is measured."""
TIMES = shift_times(20, shift=3.0)
STARTS = (0.92, 0.85, 0.77, 0.67, 0.55, 0.43, 0.27)
CUTS = (1 / 8, 1 / 4, 1 / 2)
TEXTURES = ("grass", "brick")
SEED = 1
RESULTS = Path(__file__).parent / "results"
FIGURES = Path(__file__).parent.parent / "docs" / "figures"
SQUARE = 8
"""Side of a mosaic's squares, and of the grid whose band they say."""
MOSAIC_STARTS = (0.8, 0.65, 0.5, 0.35, 0.2)
LATENT_STARTS = (0.8, 0.5)


def textures() -> dict[str, tuple[Tensor, Tensor]]:
    """Name -> (half to learn, half to compare with), each (1, 256, 128) with standard deviation 0.4."""
    import skimage.data

    halves = {}
    for name in TEXTURES:
        picture = torch.from_numpy(getattr(skimage.data, name)()).float()[None]
        picture = functional.avg_pool2d(picture, 2)
        picture = 0.4 * (picture - picture.mean()) / picture.std()
        halves[name] = (picture[..., :128], picture[..., 128:])
    return halves


class PatchDenoiser:
    """The denoiser of pictures whose patches are those of a texture, on every stage's grid.

    Overlapping patches of the state are denoised one by one with the exact posterior mean over the texture's patches at
    that resolution; where they overlap, velocities are averaged.
    """

    def __init__(self, texture: Tensor) -> None:
        self.texture = texture
        self.models: dict[int, FiniteDataset] = {}

    def model(self, size: int) -> FiniteDataset:
        """The patches of the texture as a stage of that size sees it."""
        if size not in self.models:
            ratio = SIZE // size
            low = restrict_signal(self.texture, [n // ratio for n in self.texture.shape[-2:]])
            patches = low.unfold(1, PATCH, 1).unfold(2, PATCH, 1).reshape(-1, 1, PATCH, PATCH)
            order = torch.randperm(len(patches), generator=torch.Generator().manual_seed(0))
            self.models[size] = FiniteDataset(patches[order[:PATCHES]], 0.05 / ratio)
        return self.models[size]

    def velocity(self, x: Tensor, t: float) -> Tensor:
        """Mean over the patches that cover a pixel; the picture is continued by reflection, so all count alike."""
        size, margin = x.shape[-1], PATCH - STRIDE
        padded = functional.pad(x, (margin,) * 4, mode="reflect")
        columns = functional.unfold(padded, PATCH, stride=STRIDE)
        batch, _, count = columns.shape
        patches = columns.transpose(1, 2).reshape(batch * count, 1, PATCH, PATCH)
        answers = self.model(size).velocity(patches, t).reshape(batch, count, -1).transpose(1, 2)
        total, weight = (
            functional.fold(v, padded.shape[-2:], PATCH, stride=STRIDE) for v in (answers, torch.ones_like(answers))
        )
        return (total / weight)[..., margin : margin + size, margin : margin + size]


def mean_free_patches(pictures: Tensor) -> Tensor:
    """All 8x8 patches of pictures (B, 1, H, W), every second position, without their means: (count, 64)."""
    patches = functional.unfold(pictures, PATCH, stride=2).transpose(1, 2).reshape(-1, PATCH * PATCH)
    return patches - patches.mean(1, keepdim=True)


def style_distance(pictures: Tensor, reference: Tensor) -> float:
    """Sliced Wasserstein-2 distance between the patches of two sets of pictures, 256 directions."""
    generator = torch.Generator().manual_seed(0)
    directions = functional.normalize(torch.randn(PATCH * PATCH, 256, generator=generator), dim=0)
    levels = torch.linspace(0, 1, 513)
    a, b = (torch.quantile(mean_free_patches(x) @ directions, levels, dim=0) for x in (pictures, reference))
    return float((a - b).square().mean().sqrt())


def low_bands(pictures: Tensor, inputs: Tensor, low: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """PSNR and correlation of the low bands, (batch,) each."""
    a, b = (restrict_signal(x, low) for x in (pictures, inputs))
    flat = [(x - x.mean((-2, -1), keepdim=True)).flatten(1) for x in (a, b)]
    return psnr(a, b), functional.cosine_similarity(*flat)


def geometry(pictures: Tensor, inputs: Tensor, low: tuple[int, int] = LOW) -> tuple[float, float]:
    """Median PSNR and median correlation of the low bands."""
    kept, correlation = low_bands(pictures, inputs, low)
    return float(kept.median()), float(correlation.median())


def two_stages(cut: float, start: float) -> Plan:
    """A plan that keeps the band below `cut` and starts the full size at the first grid time at or below `start`."""
    return plan_at(TIMES, (start,), (SIZE, SIZE), scales=(cut, 1))


def three_stages(texture: Tensor) -> Plan:
    """The plan that the delta rule makes from the texture's own spectrum."""
    law = fit_spectrum(random_crops([texture], 300, SIZE, generator=torch.Generator().manual_seed(2)))
    return make_plan(TIMES, law, (SIZE, SIZE), scales=(1 / 4, 1 / 2, 1))


def square(picture: Tensor) -> Tensor:
    """The centre square of a picture (C, H, W) in grey, 64x64."""
    side = min(picture.shape[-2:])
    top, left = ((n - side) // 2 for n in picture.shape[-2:])
    grey = picture[:, top : top + side, left : left + side].mean(0, keepdim=True)
    return functional.interpolate(grey[None], size=(SIZE, SIZE), mode="area")[0]


def measure(
    texture: str, method: str, plan: Plan, pictures: Tensor, inputs: Tensor, style: Tensor, cut: str, grids: str
) -> dict[str, object]:
    """One row: what the pictures kept of their inputs and how close they are to the texture."""
    kept, correlation = geometry(pictures, inputs)
    start = plan.stages[-1].start if method == "texture sample" else plan.stages[min(1, len(plan.stages) - 1)].start
    return {
        "texture": texture,
        "method": method,
        "kept": cut,
        "grids": grids,
        "start": f"{plan.times[start]:.3f}",
        "steps": plan.nfe - start,
        "low_band_psnr": f"{kept:.2f}",
        "low_band_correlation": f"{correlation:.3f}",
        "style_distance": f"{style_distance(pictures, style):.4f}",
        "samples": len(inputs),
    }


def sweep(inputs: Tensor) -> list[dict[str, object]]:
    """All rows: the texture's own samples, a plan of three stages, and two stages for each start and kept band."""
    rows: list[dict[str, object]] = []
    noise = NoiseField(SEED)
    with tqdm(total=len(TEXTURES) * (len(STARTS) * (2 + len(CUTS)) + 1), desc="editing", unit="run") as bar:
        for name, (learnt, compared) in textures().items():
            model = PatchDenoiser(learnt)
            style = compared[None]
            plan = three_stages(learnt)
            free = sample(model.velocity, noise, plan, leading=inputs.shape[:2])
            whole = plan_at(TIMES, (), (SIZE, SIZE), scales=(1,))
            rows.append(measure(name, "texture sample", whole, free, inputs, style, "-", "16 32 64"))
            for method, pictures in progressive(model, plan, inputs, noise).items():
                kept, grids = ("-", "64") if method == "sdedit" else ("1/4", "32 64")
                rows.append(measure(name, method, plan, pictures, inputs, style, kept, grids))
            bar.update()

            for start in STARTS:
                for cut in CUTS:
                    plan = two_stages(cut, start)
                    rest = plan.times[plan.stages[1].start :]
                    results = {"clean": edit(model.velocity, inputs, plan, stage=1, mode="clean", noise=noise)}
                    if cut == 1 / 4:
                        results["noised"] = edit(model.velocity, inputs, plan, stage=1, noise=noise)
                        results["sdedit"] = sdedit(model.velocity, inputs, rest, noise=noise)
                    for method, pictures in results.items():
                        kept = "-" if method == "sdedit" else f"1/{round(1 / cut)}"
                        rows.append(measure(name, method, plan, pictures, inputs, style, kept, "64"))
                        bar.update()
    return rows


def show(pictures: Tensor) -> list[tuple[str, Tensor]]:
    """The strips of the figure: photographs, and what each method makes of them."""
    strips, noise = [("photograph", pictures)], NoiseField(SEED + 1000)
    for name, (learnt, _) in textures().items():
        model, plan = PatchDenoiser(learnt), three_stages(learnt)
        edited = progressive(model, plan, pictures, noise)
        start = plan.times[plan.stages[1].start]
        late = sdedit(model.velocity, pictures, [t for t in TIMES if t <= 0.5], noise=noise)
        strips += [
            (f"{name}, SDEdit, T = {start:.2f}", edited["sdedit"]),
            (f"{name}, SDEdit, T = 0.50", late),
            (f"{name}, edit noised, T = {start:.2f}", edited["noised"]),
            (f"{name}, edit clean, T = {start:.2f}", edited["clean"]),
        ]
    return strips


def progressive(model: PatchDenoiser, plan: Plan, pictures: Tensor, noise: NoiseField) -> dict[str, Tensor]:
    """Both modes of `edit` on a plan of three stages, keeping its first band, and SDEdit over the same times."""
    rest = plan.times[plan.stages[1].start :]
    results = {
        mode: edit(model.velocity, pictures, plan, stage=1, mode=mode, noise=noise) for mode in ("noised", "clean")
    }
    return results | {"sdedit": sdedit(model.velocity, pictures, rest, noise=noise)}


def draw(path: Path, rows: list[dict[str, object]], strips: list[tuple[str, Tensor]]) -> None:
    """Left: the pictures. Right, for each texture: geometry against style, a line for each method, a point for each T."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    from spectral_pd.plotting import plot_strips

    figure = plt.figure(figsize=(12.5, 8.6), layout="constrained")
    grid = figure.add_gridspec(2, 2, width_ratios=(1, 1))
    left = figure.add_subplot(grid[:, 0])
    plot_strips([(name.replace(", ", "\n"), pictures) for name, pictures in strips], ax=left)
    left.set_title("Same noise; edits keep 16x16, run 32x32, then 64x64")
    lines = [("sdedit", "-", "SDEdit"), ("noised", "1/4", "edit, noised, band 1/4")]
    lines += [("clean", f"1/{round(1 / cut)}", f"edit, clean, band 1/{round(1 / cut)}") for cut in CUTS]
    for i, texture in enumerate(TEXTURES):
        ax = figure.add_subplot(grid[i, 1])
        for k, (method, kept, label) in enumerate(lines):
            chosen = [
                row
                for row in rows
                if (row["texture"], row["method"], row["kept"], row["grids"]) == (texture, method, kept, "64")
            ]
            if method == "sdedit":  # those of the two-stage sweep
                chosen = chosen[1:]
            chosen.sort(key=lambda row: -float(str(row["start"])))
            points = [(float(str(row["style_distance"])), float(str(row["low_band_psnr"]))) for row in chosen]
            style = {"color": f"C{k}", "marker": "os^Dv"[k], "ms": 5, "lw": 1.3, "ls": "--" if k < 2 else "-"}
            ax.plot(*zip(*points, strict=True), label=label, **style)
            for row, point in zip(chosen, points, strict=True):
                if method == "sdedit":
                    text = f"T={float(str(row['start'])):.2f}"
                    ax.annotate(text, point, xytext=(6, -8), textcoords="offset points", fontsize=7, color="0.3")
        own = next(row for row in rows if (row["texture"], row["method"]) == (texture, "texture sample"))
        ax.axvline(float(str(own["style_distance"])), color="0.6", lw=1, ls=":", label="the model's own samples")
        ax.set_title(f"Photographs to {texture}")
        ax.set_xlabel("style: distance of patches to the texture's (left is closer)")
        ax.set_ylabel("geometry: low-band PSNR, dB")
        ax.grid(alpha=0.25)
        if i == 0:
            ax.legend(frameon=False, fontsize=8, loc="lower right")
    figure.savefig(path, dpi=110)
    plt.close(figure)


MOSAIC_METHODS = (
    ("sdedit", 1 / 4, "SDEdit"),
    ("noised", 1 / 8, "edit, noised, band 1/8"),
    ("noised", 1 / 4, "edit, noised, band 1/4"),
    ("clean", 1 / 4, "edit, clean, band 1/4"),
)


class Mosaics:
    """Mosaics of photographs that a small transformer has not seen, what it makes of them, and how these are judged."""

    starts, methods = MOSAIC_STARTS, MOSAIC_METHODS
    shown = (0.65, 0.35)
    """Starts in the figure."""

    def __init__(self, samples: int) -> None:
        self.network: Network = TRANSFORMER
        self.velocity = self.network.velocity("cpu")
        generator = torch.Generator().manual_seed(0)
        self.photographs = load_photographs(None, held_out=True).crops(samples, generator=generator)
        training = load_photographs(None).crops(512, generator=generator)
        self._prepare(training)

    def _prepare(self, training: Tensor) -> None:
        side = self.photographs.shape[-1] // SQUARE
        small = functional.avg_pool2d(self.photographs, side)
        self.inputs = functional.interpolate(small, scale_factor=side, mode="nearest")
        self._distance = SlicedWasserstein(training)
        self._training = self._distance.rows(training)
        self.times, self.noise = self.network.times, NoiseField(SEED)
        self.edited = cache(self._edited)

    def encode(self, pictures: Tensor) -> Tensor:
        """The state that stands for pictures."""
        return pictures

    def decode(self, state: Tensor) -> Tensor:
        return state

    def style(self, pictures: Tensor) -> dict[str, str]:
        return {"style_distance": f"{self._distance.distance(self._distance.rows(pictures), self._training):.4f}"}

    def geometry(self, pictures: Tensor) -> dict[str, str]:
        kept, correlation = geometry(pictures, self.inputs, (SQUARE, SQUARE))
        return {"low_band_psnr": f"{kept:.2f}", "low_band_correlation": f"{correlation:.3f}"}

    def others(self) -> dict[str, Tensor]:
        """What edits are compared with."""
        return {"photographs": self.photographs, "mosaics": self.inputs}

    def _edited(self, method: str, cut: float, start: float) -> tuple[Tensor, Plan]:
        """What a method makes of the mosaics, and the plan of two stages it entered (its first stage does not run)."""
        plan = plan_at(self.times, (start,), (self.network.side,) * 2, scales=(cut, 1))
        state = self.encode(self.inputs)
        if method == "sdedit":
            rest = plan.times[plan.stages[1].start :]
            return self.decode(sdedit(self.velocity, state, rest, noise=self.noise, solver="dpmpp_2m")), plan
        mode: EditMode = "clean" if method == "clean" else "noised"
        options = {"stage": 1, "mode": mode, "noise": self.noise, "solver": "dpmpp_2m"}
        return self.decode(edit(self.velocity, state, plan, **options)), plan

    def free(self) -> Tensor:
        """The model's own samples, from the same noise."""
        plan = plan_at(self.times, (), (self.network.side,) * 2, scales=(1,))
        leading = (len(self.inputs), self.network.channels)
        return self.decode(sample(self.velocity, self.noise, plan, leading=leading, solver="dpmpp_2m"))


class DecodedMosaics(Mosaics):
    """The same of the latent transformer: states are latents, and what is judged are the pictures they decode to."""

    starts = shown = LATENT_STARTS
    methods = tuple(one for one in MOSAIC_METHODS if one[:2] != ("noised", 1 / 8))

    def __init__(self, samples: int, vae: Path | None) -> None:
        autoencoder(vae)  # says at once what is missing
        self.network = LATENT_TRANSFORMER
        self.velocity = in_bfloat16(self.network.velocity("cpu"))
        self.encode, self.decode = cache(in_bfloat16(encoder(vae))), in_bfloat16(decoder(vae))
        generator = torch.Generator().manual_seed(0)
        seen, unseen = ([x for n, x in photographs().items() if (n in HELD_OUT) == held] for held in (False, True))
        self.photographs = random_crops(unseen, samples, 256, generator=generator)
        training = random_crops(seen, 128, 256, generator=generator)
        self._prepare(training)
        self._features = feature_rows(training)

    def style(self, pictures: Tensor) -> dict[str, str]:
        measure = partial(feature_distance, reference=self._features)
        return super().style(pictures) | columns("features", interval(measure, feature_rows(pictures)))

    def geometry(self, pictures: Tensor) -> dict[str, str]:
        kept, correlation = (x.numpy() for x in low_bands(pictures, self.inputs, (SQUARE, SQUARE)))
        middle = partial(np.median, axis=0)
        return columns("low_band_psnr", interval(middle, kept), digits=2) | columns(
            "low_band_correlation", interval(middle, correlation), digits=3
        )

    def others(self) -> dict[str, Tensor]:
        decoded = {f"{name}, decoded": self.decode(self.encode(x)) for name, x in super().others().items()}
        return super().others() | decoded


def sweep_mosaics(mosaics: Mosaics) -> list[dict[str, object]]:
    """Rows of the mosaics: what is compared with, then every method from every start."""
    rows: list[dict[str, object]] = []

    def add(method: str, kept: str, start: str, steps: object, pictures: Tensor) -> None:
        facts = {"method": method, "kept": kept, "start": start, "steps": steps}
        measured = mosaics.geometry(pictures) | mosaics.style(pictures)
        rows.append(facts | measured | {"samples": len(pictures)})

    for name, pictures in mosaics.others().items():
        add(name, "-", "-", "-", pictures)
    add("own samples", "-", "1.000", len(mosaics.times) - 1, mosaics.free())
    for start in tqdm(mosaics.starts, desc="mosaics", unit="start"):
        for method, cut, _ in mosaics.methods:
            pictures, plan = mosaics.edited(method, cut, start)
            entered = plan.stages[1].start
            kept = "-" if method == "sdedit" else f"1/{round(1 / cut)}"
            add(method, kept, f"{plan.times[entered]:.3f}", plan.stages[1].steps, pictures)
    return rows


def draw_mosaics(path: Path, rows: list[dict[str, object]], mosaics: Mosaics) -> None:
    """Left: the pictures. Right: geometry against style, a line for each method, a point for each T."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    from spectral_pd.plotting import plot_strips

    figure, (left, right) = plt.subplots(1, 2, figsize=(12.5, 5.6), layout="constrained")
    strips = [("photograph\n(not seen)", mosaics.photographs), ("mosaic", mosaics.inputs)]
    for method, cut, label in mosaics.methods:
        if (method, cut) != ("noised", 1 / 8):
            for start in mosaics.shown if method != "clean" else mosaics.shown[1:]:
                pictures, plan = mosaics.edited(method, cut, start)
                name = label.replace(", band", "\nband")
                strips.append((f"{name}\nT = {plan.times[plan.stages[1].start]:.2f}", pictures))
    spread = mosaics.inputs.flatten(1).std(1)
    shown = spread.argsort(descending=True)[:8].sort().values
    plot_strips([(name, pictures[shown]) for name, pictures in strips], ax=left)
    left.set_title("Mosaics into photographs, same noise")
    for k, (method, cut, label) in enumerate(mosaics.methods):
        kept = "-" if method == "sdedit" else f"1/{round(1 / cut)}"
        chosen = [row for row in rows if (row["method"], row["kept"]) == (method, kept)]
        points = [(float(str(row["style_distance"])), float(str(row["low_band_psnr"]))) for row in chosen]
        line = {"color": f"C{k}", "marker": "os^D"[k], "ms": 5, "lw": 1.3, "ls": "--" if k == 0 else "-"}
        right.plot(*zip(*points, strict=True), label=label, **line)
        if method in ("sdedit", "clean"):
            for row, point in zip(chosen, points, strict=True):
                text = f"T={float(str(row['start'])):.2f}"
                right.annotate(text, point, xytext=(7, -4), textcoords="offset points", fontsize=7, color="0.3")
    for name, style in (("own samples", ":"), ("mosaics", "-.")):
        own = next(row for row in rows if row["method"] == name)
        right.axvline(float(str(own["style_distance"])), color="0.6", lw=1, ls=style, label=f"{name}, unedited")
    right.set(xlabel="style: distance to photographs (left is closer)", ylabel="geometry: PSNR of the 8x8 low band, dB")
    right.set_title(f"The {mosaics.network.name}, trained here")
    right.grid(alpha=0.25)
    right.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def written(path: Path, rows: list[dict[str, object]]) -> list[dict[str, object]]:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, {**rows[0], **environment()})
        writer.writeheader()
        writer.writerows({**row, **environment()} for row in rows)
    for row in rows:
        print("  ".join(map(str, row.values())))
    return rows


def stored(path: Path) -> list[dict[str, object]]:
    with path.open(newline="") as file:
        return [dict(row) for row in csv.DictReader(file)]


def run_textures(*, redraw: bool, samples: int = 12) -> None:
    pictures, path = photographs(), RESULTS / "editing.csv"
    grey = [picture.mean(0, keepdim=True) for picture in pictures.values()]
    crops = random_crops(grey, samples, 256, generator=torch.Generator().manual_seed(0))
    inputs = functional.avg_pool2d(crops, 256 // SIZE)
    shown = torch.stack([square(pictures[name]) for name in ("chelsea", "astronaut", "coffee", "flower", "china")])
    rows = stored(path) if redraw else written(path, sweep(inputs))
    draw(FIGURES / "editing.png", rows, show(shown))


def run_transformer(*, redraw: bool, samples: int = 24) -> None:
    mosaics, path = Mosaics(samples), RESULTS / "editing_transformer.csv"
    rows = stored(path) if redraw else written(path, sweep_mosaics(mosaics))
    draw_mosaics(FIGURES / "editing_transformer.png", rows, mosaics)


def run_latent(vae: Path | None, *, redraw: bool, samples: int = 32) -> None:
    mosaics, path = DecodedMosaics(samples, vae), RESULTS / "editing_latent.csv"
    rows = stored(path) if redraw else written(path, sweep_mosaics(mosaics))
    draw_mosaics(FIGURES / "editing_latent.jpg", rows, mosaics)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = {"textures": run_textures, "transformer": run_transformer}
    parser.add_argument("parts", nargs="*", default=list(parts), help=f"which of {list(parts)}; default both")
    parser.add_argument("--redraw", action="store_true", help="the figures alone, from the rows there are")
    latent_arguments(parser)
    args = parser.parse_args()
    if args.model == "latent":
        parts["transformer"] = partial(run_latent, args.vae)
    for part in args.parts:
        parts[part](redraw=args.redraw)


if __name__ == "__main__":
    main()
