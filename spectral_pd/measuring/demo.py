"""The library's main job on real photographs: measure, fit, plan, sample, compare (``spectral-pd demo``).

Two models whose exact denoisers are known, the Gaussian field with the photographs' spectrum and the finite data set of
their crops, and in a checkout of the repository a trained one, the small transformer of benchmarks/tiny_dit. Each is sampled
at full resolution and progressively, from the same noise, beside the paper's stage clock with fresh noise and beside fewer
full-resolution steps of the same cost.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from spectral_pd.calibrate import calibrate, choose_pattern
from spectral_pd.fit import fit_power_law
from spectral_pd.ideal import FiniteDataset, GaussianField
from spectral_pd.inputs import storage, wrapped
from spectral_pd.measuring.stream import ticking
from spectral_pd.meter import power_spectrum
from spectral_pd.plotting import plot_activation, plot_spectrum, plot_strips
from spectral_pd.power import PowerLaw, Spectrum
from spectral_pd.sampling import Coupling, StepInfo, sample
from spectral_pd.schedule import Plan, make_plan, shift_times
from spectral_pd.solvers import Velocity

__all__ = ["run_demo"]

EXTRA = "the demo needs matplotlib, safetensors, scikit-image and scikit-learn: pip install 'spectral_pd[demo]'"
TRANSFORMER = Path(__file__).parents[2] / "benchmarks" / "tiny_dit"
"""Code, weights and spectrum of the small transformer; not part of an installed package."""


def photographs() -> dict[str, Tensor]:
    """The colour photographs that ship inside scikit-learn and scikit-image: name -> (3, H, W) in [-1, 1].

    Raises
    ------
    ModuleNotFoundError
        One of the two is not installed.

    Examples
    --------
    >>> sorted(photographs())[:3]
    ['astronaut', 'chelsea', 'china']
    """
    try:
        import skimage.data
        from sklearn.datasets import load_sample_images
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(EXTRA) from error
    bunch = load_sample_images()
    pictures = {Path(name).stem: picture for name, picture in zip(bunch.filenames, bunch.images, strict=True)}
    pictures |= {name: getattr(skimage.data, name)() for name in ("astronaut", "coffee", "chelsea", "rocket")}
    pictures["motorcycle"] = skimage.data.stereo_motorcycle()[0]
    return {
        name: torch.from_numpy(np.array(picture, dtype=np.float32)).permute(2, 0, 1) / 127.5 - 1
        for name, picture in pictures.items()
    }


def random_crops(pictures: Sequence[Tensor], count: int, size: int, *, generator: torch.Generator) -> Tensor:
    """`count` square crops, taken from the `pictures` (C, H, W) in turn at random places: (count, C, size, size).

    `generator` is a CPU one.

    Raises
    ------
    ValueError
        A picture smaller than a crop.

    Examples
    --------
    >>> pictures = [torch.zeros(3, 40, 60), torch.ones(3, 50, 50)]
    >>> random_crops(pictures, 4, 32, generator=torch.Generator().manual_seed(0)).mean((1, 2, 3)).tolist()
    [0.0, 1.0, 0.0, 1.0]
    """
    crops = []
    for k in range(count):
        picture = pictures[k % len(pictures)]
        height, width = picture.shape[-2:]
        if min(height, width) < size:
            raise ValueError(f"picture of {height}x{width} is smaller than a crop of {size}x{size}")
        y, x = (int(torch.randint(n - size + 1, (1,), generator=generator)) for n in (height, width))
        crops.append(picture[:, y : y + size, x : x + size])
    return torch.stack(crops)


def halved(pictures: Tensor) -> Tensor:
    """Pictures at half the size: the mean of every 2x2 block."""
    return torch.nn.functional.avg_pool2d(pictures, 2)


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB between `a` and `b` of each batch item, for pictures in [-1, 1] (peak 2).

    Examples
    --------
    >>> round(psnr(torch.zeros(1, 3, 8, 8), torch.full((1, 3, 8, 8), 0.2)).item(), 3)
    20.0
    """
    error = (a.double() - b.double()).square().flatten(1).mean(1)
    return 10 * torch.log10(4 / error)


def spectrum_error(a: Tensor, b: Tensor) -> float:
    """Root mean square over the radial bins of the log ratio of two batches' power."""
    return float(np.sqrt(np.mean(np.log(power_spectrum(a).power / power_spectrum(b).power) ** 2)))


@dataclass(frozen=True)
class Run:
    """One line of a comparison: what is run and, once it has been, for how long and with what result."""

    name: str
    plan: Plan
    coupling: Coupling = "coupled"
    repaired: bool = False
    seconds: float = 0.0
    states: Tensor = field(default_factory=lambda: torch.empty(0))


def candidates(
    spectrum: PowerLaw | Spectrum,
    shape: tuple[int, int],
    *,
    steps: int,
    shift: float,
    scales: Sequence[float],
    delta: float,
) -> list[Run]:
    """Full resolution, progressive, the paper's variant, and fewer full-resolution steps of the same cost in pixels."""
    times = shift_times(steps, shift=shift)
    full = make_plan(times, spectrum, shape, scales=(1,))
    ours = make_plan(times, spectrum, shape, scales=scales, delta=delta)
    paper = make_plan(times, spectrum, shape, scales=scales, delta=delta, clock="stage")
    equal_cost = max(1, round(steps * ours.cost() / full.cost()))
    fewer = make_plan(shift_times(equal_cost, shift=shift), spectrum, shape, scales=(1,))
    return [
        Run("full resolution", full),
        Run("progressive: full clock, coupled noise", ours),
        Run("progressive as in the paper: stage clock, fresh noise", paper, "fresh"),
        Run("fewer steps: full resolution, the same cost", fewer),
    ]


def calibrated(velocity: Velocity, plan: Plan, like: Tensor, *, seed: int = 1) -> Run:
    """Calls of both sizes, or none, all along the run, as eight other seeds say, for the cost of `plan`."""
    noise = torch.randn(8, *like.shape[1:], generator=torch.Generator().manual_seed(seed))
    found = calibrate(velocity, noise, plan.times, scales=(1 / 2, 1), solver="euler", batch=8)
    pixels = [float(stage.pixels) for stage in plan.stages]
    cost = dict(zip(plan.shapes, pixels, strict=True)).__getitem__
    return Run("two grids: calls chosen on other seeds", choose_pattern(found, plan.speedup(cost), cost=cost)[0].plan)


def execute(run: Run, velocity: Velocity, noise: Tensor, *, callback: Callable[[StepInfo], object]) -> Run:
    """Sample one line and note the time it took; fresh noise comes from a generator with a fixed seed."""
    generator = torch.Generator().manual_seed(1) if run.coupling == "fresh" else None
    start = time.perf_counter()
    states = sample(velocity, noise, run.plan, coupling=run.coupling, seed=generator, callback=callback)
    return replace(run, seconds=time.perf_counter() - start, states=states)


def small_transformer(folder: Path = TRANSFORMER) -> tuple[Velocity, PowerLaw] | None:
    """Velocity and training spectrum (64x64) of the trained transformer in `folder`; None where the folder has none.

    Examples
    --------
    >>> small_transformer(Path("an empty folder"))
    """
    if not (folder / "weights.safetensors").exists():
        return None
    model = _script(folder, "model").load(folder / "weights.safetensors")
    return model.velocity, PowerLaw.load(folder / "spectrum.json")


def repaired_transformer(noise: Tensor, folder: Path = TRANSFORMER) -> Velocity:
    """The same network with the copy of it that was trained to make its coarse calls, told of the noise a run starts from."""
    repaired: Velocity = (
        _script(folder, "repair").Repaired.load(folder / "adapters" / "coarse.safetensors").velocity(noise)
    )
    return repaired


def _script(folder: Path, name: str) -> Any:
    """A module of a folder of scripts that import each other."""
    if folder.name not in sys.modules:
        spec = ModuleSpec(folder.name, None, is_package=True)
        spec.submodule_search_locations = [str(folder)]
        sys.modules[folder.name] = importlib.util.module_from_spec(spec)
    return importlib.import_module(f"{folder.name}.{name}")


def table(runs: Sequence[Run]) -> str:
    """The comparison as text, against the first run: median PSNR, share of items within 30 dB, spectrum error."""
    reference = runs[0]
    rows = [("", "steps", "Mpixels", "time", "PSNR dB", "same", "spectrum")]
    for run in runs:
        pixels = run.plan.cost(lambda shape: float(np.prod(shape))) * run.states.shape[0] / 1e6
        distance = psnr(run.states, reference.states)
        same = f"{(distance > 30).double().mean():.0%}"
        compared = (f"{distance.median():.1f}", same, f"{spectrum_error(run.states, reference.states):.4f}")
        ratio = f"{reference.seconds / run.seconds:.2f}x"
        quality = ("-", "-", "-") if run is reference else compared
        name = run.name.partition(":")[0]
        counts = run.plan.split if run.plan.calls is None else run.plan.counts
        rows.append((name, "+".join(map(str, counts)), f"{pixels:.2f}", ratio, *quality))
    first, *others = (max(map(len, column)) for column in zip(*rows, strict=True))
    return "\n".join(
        "  ".join((name.ljust(first), *(cell.rjust(width) for cell, width in zip(cells, others, strict=True))))
        for name, *cells in rows
    )


def what_a_trained_network_gives(results: Sequence[Sequence[Run]]) -> str:
    """What the last group's table shows beside the exact denoisers' ones: from the runs, in four sentences."""
    distances = [f"{psnr(runs[1].states, runs[0].states).median():.1f}" for runs in results]
    full, ours, _, other, two, repaired = results[-1]
    progressive, fewer = (spectrum_error(run.states, full.states) for run in (ours, other))
    kept, mended = (float(psnr(run.states, full.states).median()) for run in (two, repaired))
    return (
        f"The last model is a trained network, and its table is what to expect of one: its sizes disagree about the picture, "
        f"so the coarse stage commits to another one ({distances[-1]} dB), where the exact denoisers above keep theirs "
        f"({' and '.join(distances[:-1])} dB). What can be kept is the distribution: the spectrum error is {progressive:.4f} "
        f"progressively and {fewer:.4f} with fewer steps of the same cost; docs/training.md measures both. Calls "
        f"left out where they can be predicted, docs/two_grids.md, keep the picture ({kept:.1f} dB) at that cost. Coarse calls "
        f"that were trained to agree, docs/agreement.md, keep more of it on the progressive plan ({mended:.1f} dB)."
    )


def run_demo(
    figure: str | Path | None = None, *, size: int = 512, steps: int = 50, samples: int = 8, seed: int = 0
) -> str:
    """Measure the photographs, plan, sample, and return the report; with a path as `figure`, draw that too.

    `size` is the side of the Gaussian field in pixels, `steps` those of its time grid, `samples` how many the trained
    transformer makes (3x64x64, in 16 steps), `seed` that of crops and noise.
    """
    if figure is not None:
        storage.figure_file(figure, "figure")  # now, not after a minute of sampling
        import matplotlib

        matplotlib.use("Agg")
    with tqdm(desc="measuring", unit="step") as bar, ticking(bar):
        return _demo(bar, figure, size, steps, samples, torch.Generator().manual_seed(seed))


def _demo(
    bar: tqdm[Any], figure: str | Path | None, size: int, steps: int, samples: int, generator: torch.Generator
) -> str:
    pictures = photographs()
    shift = 3.0

    crops = random_crops(list(pictures.values()), 210, 256, generator=generator)
    measured = power_spectrum(crops)
    law = fit_power_law(measured)
    report = [
        *wrapped(f"{len(pictures)} photographs ({', '.join(pictures)}), {len(crops)} crops of 256x256:"),
        f"P(omega) = {law.amplitude:.1f} omega^-{law.exponent:.3f}, R2 = {law.r2:.4f}",
        "",
        "Below, each model runs four ways from the same noise: at full resolution;",
        "progressively (full clock, coupled noise); as in the paper (stage clock, fresh",
        "noise); at full resolution with fewer steps of the progressive run's cost; the",
        "trained one a fifth, with calls of its sizes chosen by calibration, and a",
        "sixth, progressively with coarse calls that were trained to agree.",
        "Mpixels: grid points times steps. Against the first line: time (above 1x is",
        "faster), median PSNR, share of samples that are the same picture (above 30 dB),",
        "spectrum error (root mean square over frequencies of log(power / power there)).",
    ]

    gaussian = GaussianField(law, (size, size))
    # A finite data set decides between its crops with the evidence of all new coefficients together, which delta
    # bounds one by one: hence small grey crops and a tenth of the usual delta (benchmarks/same_seed.py has the sweep).
    patches = halved(random_crops(list(pictures.values()), 2100, 64, generator=generator)).mean(1, keepdim=True)
    dataset = FiniteDataset(patches, 0.05)
    patch_spectrum = power_spectrum(patches)
    title = f"Gaussian field with the photographs' spectrum, 3x{size}x{size}"
    runs = candidates(law, (size, size), steps=steps, shift=shift, scales=(1 / 4, 1 / 2, 1), delta=0.01)
    groups = [(title, runs, gaussian.velocity, torch.randn(1, 3, size, size, generator=generator))]
    title = f"finite data set of {len(patches)} photograph crops, posterior mean, 64 samples of 32x32"
    runs = candidates(patch_spectrum, (32, 32), steps=steps, shift=shift, scales=(1 / 2, 1), delta=0.001)
    groups.append((title, runs, dataset.velocity, torch.randn(64, 1, 32, 32, generator=generator)))
    trained = small_transformer()
    if trained is None:
        left_out = "the trained transformer is only in a checkout of the repository: its third comparison is left out"
        report += ["", *wrapped(left_out)]
    else:
        velocity, spectrum = trained
        title = f"small transformer trained on photograph crops, {samples} samples of 3x64x64"
        runs = candidates(spectrum, (64, 64), steps=16, shift=2.0, scales=(1 / 2, 1), delta=0.01)
        noise = torch.randn(samples, 3, 64, 64, generator=generator)
        repaired = replace(runs[1], name="repaired: progressive, coarse calls trained to agree", repaired=True)
        groups.append((title, [*runs, calibrated(velocity, runs[1].plan, noise), repaired], velocity, noise))
    bar.reset(sum(run.plan.nfe for _, runs, _, _ in groups for run in runs))
    bar.set_description("sampling")
    results = []
    for title, runs, velocity, noise in groups:
        velocity(noise, 0.5)  # first-call costs (matrices, restricted samples) belong to no run
        done = [
            execute(
                run,
                repaired_transformer(noise) if run.repaired else velocity,
                noise,
                callback=lambda _: bar.update(),
            )
            for run in runs
        ]
        results.append(done)
        report += ["", *wrapped(title), "", str(done[1].plan), "", table(done)]
    if trained is not None:
        report += ["", *wrapped(what_a_trained_network_gives(results), hanging=False)]
    if figure is not None:
        draw(figure, measured, law, results)
        report += ["", f"figure written to {figure}"]
    return "\n".join(report)


def draw(path: str | Path, measured: Spectrum, law: PowerLaw, results: Sequence[Sequence[Run]]) -> None:
    """The demo's figure: spectrum with fit, activation curve with the stages, strips of full against progressive."""
    import matplotlib.pyplot as plt

    gaussian, finite, *trained = results
    figure = plt.figure(figsize=(12, 8 + 4.5 * len(trained)), layout="constrained")
    grid = figure.add_gridspec(2 + len(trained), 2, height_ratios=(3, 2.4, 4)[: 2 + len(trained)])
    left, right = (figure.add_subplot(grid[0, i]) for i in range(2))
    plot_spectrum(measured, law, ax=left).set_title("Photographs: measured spectrum and power law")
    plot_activation(law, gaussian[1].plan, ax=right).set_title("When each frequency becomes necessary")
    titles = ("finite data set of photograph crops, 32x32", "small trained transformer, 64x64")
    for row, (runs, title) in enumerate(zip((finite, *trained), titles, strict=False), start=1):
        strips = [(textwrap.fill(run.name, 24), run.states[:16]) for run in runs]
        plot_strips(strips, ax=figure.add_subplot(grid[row, :])).set_title(f"Same noise, {len(strips)} ways ({title})")
    figure.savefig(path, dpi=110)
    plt.close(figure)
