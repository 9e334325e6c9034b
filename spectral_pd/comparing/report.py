"""The report of a comparison: a table in the paper's layout, a figure, a contact sheet, and a page of it all.

Intervals of metrics are 95 %, from a bootstrap over prompts (over samples where there is one prompt). A distance between
sets is biased upwards by resampling: its interval is the value plus and minus 1.96 standard deviations of the bootstrap.
"""

from __future__ import annotations

import html
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from spectral_pd.comparing.metrics import METRICS, Metric, Rows
from spectral_pd.comparing.storage import Folder, grid, read_features, read_picture, slug, whole
from spectral_pd.plan import scale_text

DRAWS, DRAWS_OF_SETS = 1000, 40
SHOWN, SIDE = 8, 192
"""Prompts and pixels a picture of the contact sheet."""


@dataclass(frozen=True)
class Estimate:
    """A value with its interval; NaN where there is none."""

    value: float
    low: float = float("nan")
    high: float = float("nan")

    def __str__(self) -> str:
        digits = 1 if abs(self.value) >= 100 else 2 if abs(self.value) >= 10 else 3
        shown = f"{self.value:.{digits}f}"
        return (
            shown
            if np.isnan(self.low) or np.isinf(self.value)
            else f"{shown} [{self.low:.{digits}f}, {self.high:.{digits}f}]"
        )


@dataclass(frozen=True)
class Comparison:
    """What a folder holds; ``print`` shows the table.

    Attributes
    ----------
    folder
        Where it is.
    """

    folder: Folder

    @cached_property
    def record(self) -> dict[str, Any]:
        """Settings, model, versions."""
        return self.folder.record()

    @cached_property
    def pairs(self) -> list[tuple[int, int]]:
        """(prompt, sample) of every picture of a setting."""
        return list(grid(len(self.folder.prompts()), self.record["seeds"]))

    @cached_property
    def settings(self) -> dict[str, dict[str, Any]]:
        """Settings by name, in their order, of which every picture is there."""
        return {name: s for name, s in self.record["settings"].items() if self._pictured(name)}

    def _pictured(self, setting: str) -> bool:
        return all(self.folder.picture(setting, *pair).suffix for pair in self.pairs)

    def _measured(self, setting: str, metric: str) -> bool:
        """Whether a metric has seen every picture; one that compares with the full run says nothing of the full run."""
        if METRICS[metric].distance:
            return all(self.folder.features(metric, setting, *pair).exists() for pair in self.pairs)
        relative = METRICS[metric].relative and setting == self.record["reference"]
        return relative or all((setting, prompt, sample, metric) in self._values for prompt, sample in self.pairs)

    def has(self, settings: Iterable[str], metrics: Iterable[str]) -> bool:
        """Whether everything that is asked of these settings is there."""
        names = list(metrics)
        return all(self._pictured(s) and all(self._measured(s, m) for m in names) for s in settings)

    @cached_property
    def _values(self) -> dict[tuple[str, int, int, str], float]:
        return self.folder.values()

    @cached_property
    def metrics(self) -> dict[str, Metric]:
        """The metrics that were asked for."""
        return {name: METRICS[name] for name in self.record["metrics"]}

    @cached_property
    def flops(self) -> dict[str, tuple[float, float]]:
        """FLOPs for one picture: linear, encoders and decoder included, and all of the network's calls."""
        found = {}
        for row in self.folder.rows("costs.csv"):
            linear, attention, once = (float(row[f"{part}_flop"]) for part in ("linear", "attention", "once"))
            if not np.isnan(linear):
                found[row["setting"]] = (linear + once, linear + attention)
        return found

    @cached_property
    def seconds(self) -> dict[str, list[float]]:
        """Latencies, by round."""
        found: dict[str, list[float]] = {}
        for row in sorted(self.folder.rows("latency.csv"), key=lambda row: int(row["round"])):
            found.setdefault(row["setting"], []).append(float(row["seconds"]))
        return found

    def speedup(self, setting: str) -> Estimate | None:
        """Measured against the full run: the ratio of the medians, and the rounds' least and greatest ratio."""
        full, own = (self.seconds.get(name, []) for name in (self.record["reference"], setting))
        if not full or not own:
            return None
        ratios = [a / b for a, b in zip(full, own, strict=False)]
        return Estimate(statistics.median(full) / statistics.median(own), min(ratios), max(ratios))

    def predicted(self, setting: str) -> float | None:
        """Speedup by all counted FLOPs of the network's calls."""
        full, own = (self.flops.get(name, (0.0, 0.0))[1] for name in (self.record["reference"], setting))
        return full / own if full and own else None

    def estimate(self, setting: str, metric: str) -> Estimate | None:
        """What a metric says of a setting."""
        known, reference = self.metrics[metric], self.record["reference"]
        if (known.needs_reference and setting == reference) or not self._measured(setting, metric):
            return None
        if known.distance and not self._measured(reference, metric):
            return None
        if known.distance:
            own, full = (
                read_features([self.folder.features(metric, name, *pair) for pair in self.pairs])
                for name in (setting, reference)
            )
            return self._of_set(lambda chosen: known.apart(own[chosen], full))
        values = np.array([self._values[setting, prompt, sample, metric] for prompt, sample in self.pairs])
        return self._of_values(lambda chosen: float(known.average(values[chosen])))

    def _draws(self, count: int) -> list[Rows]:
        """Numbers of pictures, of resampled prompts."""
        prompts = [prompt for prompt, _ in self.pairs]
        units = prompts if len(set(prompts)) > 1 else list(range(len(prompts)))
        members = [np.flatnonzero(np.array(units) == unit) for unit in dict.fromkeys(units)]
        rng = np.random.default_rng(0)
        drawn = rng.integers(len(members), size=(count, len(members)))
        return [np.concatenate([members[i] for i in row]) for row in drawn] if len(members) > 1 else []

    def _of_values(self, statistic: Callable[[Any], float]) -> Estimate:
        value, drawn = statistic(slice(None)), [statistic(chosen) for chosen in self._draws(DRAWS)]
        return Estimate(value, *np.percentile(drawn, [2.5, 97.5]).tolist()) if drawn else Estimate(value)

    def _of_set(self, statistic: Callable[[Any], float]) -> Estimate:
        value, drawn = statistic(slice(None)), [statistic(chosen) for chosen in self._draws(DRAWS_OF_SETS)]
        spread = 1.96 * float(np.std(drawn, ddof=1)) if drawn else float("nan")
        return Estimate(value, value - spread, value + spread)

    @cached_property
    def estimates(self) -> dict[tuple[str, str], Estimate | None]:
        """(setting, metric) -> what the table says."""
        return {(s, m): self.estimate(s, m) for s in self.settings for m in self.metrics}

    # Table

    @cached_property
    def table(self) -> tuple[list[str], list[list[str]]]:
        """Header and cells; columns in which nothing stands are left out."""
        most = max((full for _, full in self.flops.values()), default=0.0)
        unit, size = next(
            (u, n) for u, n in (("TFLOP", 1e12), ("GFLOP", 1e9), ("MFLOP", 1.0e6)) if most >= n or n == 1e6
        )
        splits = {row["setting"]: row["split"] for row in self.folder.rows("costs.csv")}
        columns: dict[str, list[str]] = {}
        for name, s in self.settings.items():
            flops, printed, latency = self.flops.get(name), s["printed"], self.seconds.get(name)
            steps = splits.get(name, str(s["steps"] or ""))
            row = {
                "setting": name,
                "family": s["family"],
                "stages": " ".join(map(scale_text, s["scales"])),
                "steps": steps,
                f"{unit}, linear": f"{flops[0] / size:.2f}" if flops else "",
                f"{unit}, all": f"{flops[1] / size:.2f}" if flops else "",
                "TFLOP, printed": f"{printed['tflop']:.8g}" if "tflop" in printed else "",
                "latency (s)": _latency(latency) if latency else "",
                "speedup": str(self.speedup(name) or ""),
                "speedup by FLOP": f"{self.predicted(name):.2f}" if self.predicted(name) else "",
                "speedup, printed": f"{printed['speedup']:.2f}" if "speedup" in printed else "",
            }
            for metric, known in self.metrics.items():
                arrow = "↑" if known.better == "higher" else "↓"
                row[f"{known.label} {arrow}"] = str(self.estimates[name, metric] or "")
                row[f"{known.label}, printed"] = f"{printed[metric]:g}" if metric in printed else ""
            for column, cell in row.items():
                columns.setdefault(column, []).append(cell or "-")
        kept = {column: cells for column, cells in columns.items() if set(cells) != {"-"}}
        return list(kept), [list(row) for row in zip(*kept.values(), strict=True)]

    def __str__(self) -> str:
        header, body = self.table
        lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
        return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in body])

    @cached_property
    def facts(self) -> list[str]:
        """What the numbers were made with and from, a sentence each."""
        where, about = self.record["environment"], self.record["about"]
        prompts, rounds = len(self.folder.prompts()), max(map(len, self.seconds.values()), default=0)
        said = [f"{key}: {value}" for key, value in {**about, **where}.items()]
        each = f"{prompts} prompt{'s' * (prompts > 1)}, {self.record['seeds']} pictures each"
        said.append(f"{each}; sample s of prompt p has the seed 10000 p + s")
        if rounds:
            said.append(
                f"latency: wall clock of the denoising loop alone, one picture, median of {rounds} rounds in turns after a "
                "warm-up, least and greatest in brackets; speedup: ratio of medians, least and greatest of the rounds'"
            )
        if self.flops:
            said.append(
                "FLOP: 2 a multiply-accumulate, counted on the calls that were made, guidance included; linear: products with "
                "weights, text encoders and picture decoder included, as the paper counts pictures; all: of the network that "
                "denoises alone, attention included, as it counts video"
            )
        relative = [m.label for m in self.metrics.values() if m.needs_reference]
        if relative:
            said.append(
                f"{', '.join(relative)}: against the setting {self.record['reference']!r}, same prompts and seeds"
            )
        if self.metrics:
            said.append(
                "intervals: 95 %, bootstrap over prompts" if prompts > 1 else "intervals: 95 %, bootstrap over samples"
            )
        notes = {row["setting"]: row["warnings"] for row in self.folder.rows("costs.csv") if row["warnings"]}
        return said + [f"{name}: {text}" for name, text in notes.items()]


def _latency(seconds: Sequence[float]) -> str:
    digits = 2 if min(seconds) >= 1 else 4
    return f"{statistics.median(seconds):.{digits}f} [{min(seconds):.{digits}f}, {max(seconds):.{digits}f}]"


def write(folder: Folder) -> Comparison:
    """The report's files; the same again from the same folder."""
    found = Comparison(folder)
    picture, sheet = folder.path / "figure.png", folder.path / "sheet.jpg"
    drawn = draw(found, picture)
    contact_sheet(found, sheet)
    title = found.record["title"] or "Comparison"
    facts = "\n".join(f"- {fact}" for fact in found.facts)
    figure = "![Metrics over speedup, a curve a family](figure.png)\n\n" if drawn else ""
    text = f"# {title}\n\n{found}\n\n{facts}\n\n{figure}![The first pictures of every prompt, a column a setting](sheet.jpg)\n"
    for name, content in (("report.md", text), ("report.html", page(found, title, drawn))):
        with whole(folder.path / name) as part:
            part.write_text(content, encoding="utf-8")
    return found


# -- figure -----------------------------------------------------------------------------------------------------------


def draw(found: Comparison, path: Path) -> bool:
    """Every metric over speedup, measured where it was, a curve a family; False where there is nothing to draw."""
    measured = bool(found.seconds)
    speed = {n: (s.value if (s := found.speedup(n)) else found.predicted(n)) for n in found.settings}
    if not found.metrics or not any(speed.values()):
        return False
    from matplotlib.figure import Figure

    columns = min(len(found.metrics), 3)
    rows = -(-len(found.metrics) // columns)
    figure = Figure(figsize=(4.4 * columns, 3.4 * rows + 0.8), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    families = list(dict.fromkeys(s["family"] for s in found.settings.values()))
    for ax, (metric, known) in zip(axes, found.metrics.items(), strict=False):
        for i, family in enumerate(families):
            points = [
                (x, e)
                for n, s in found.settings.items()
                if s["family"] == family
                and (x := speed[n])
                and (e := found.estimates[n, metric])
                and np.isfinite(e.value)
            ]
            if not points:
                continue
            points.sort(key=lambda point: point[0])
            across, y = [p[0] for p in points], np.array([p[1].value for p in points])
            low, high = (
                np.nan_to_num([abs(getattr(p[1], end) - p[1].value) for p in points]) for end in ("low", "high")
            )
            style = {"color": "black" if i == 0 else f"C{i - 1}", "marker": "os^Dv*XPh<>"[i % 11], "ms": 5, "lw": 1.2}
            ax.errorbar(across, y, yerr=(low, high), label=family, capsize=2, **style)
        ax.set_ylabel(known.label)
        ax.set_xlabel("measured speedup" if measured else "speedup by counted FLOP")
        ax.set_title("higher is better" if known.better == "higher" else "lower is better", fontsize=8, color="0.4")
        ax.grid(alpha=0.25)
    for ax in axes[len(found.metrics) :]:
        ax.set_visible(False)
    named = {label: line for ax in axes for line, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(
        named.values(), named.keys(), loc="outside lower center", ncols=min(len(named), 3), frameon=False, fontsize=8
    )
    with whole(path) as part:
        figure.savefig(part, dpi=110, format="png")
    return True


# -- pictures ---------------------------------------------------------------------------------------------------------


def _shown(found: Comparison) -> list[tuple[str, tuple[int, int]]]:
    """Heading and picture of each row: the first sample of the first prompts, or the first samples of the only one."""
    prompts = [entry["prompt"] for entry in found.folder.prompts()]
    pairs = [(prompt, 0) for prompt in range(len(prompts))] if len(prompts) > 1 else found.pairs
    return [(prompts[pair[0]] if pair[1] == 0 else "", pair) for pair in pairs[:SHOWN]]


def _thumbnail(folder: Folder, setting: str, pair: tuple[int, int]) -> Any:
    from PIL import Image

    frames = read_picture(folder.picture(setting, *pair))
    pixels = frames[len(frames) // 2].mul(255).round().byte().movedim(0, -1).numpy()
    image = Image.fromarray(pixels)
    height = round(SIDE * image.height / image.width)
    return image.resize((SIDE, height), Image.Resampling.BOX if image.width >= SIDE else Image.Resampling.NEAREST)


def contact_sheet(found: Comparison, path: Path) -> None:
    """Prompts down, settings across: the same seed along a row."""
    from PIL import Image, ImageDraw

    shown, settings = _shown(found), list(found.settings)
    pictures = [[_thumbnail(found.folder, s, pair) for s in settings] for _, pair in shown]
    height, gap, head = pictures[0][0].height, 6, 34
    size = (len(settings) * (SIDE + gap) + gap, head + len(shown) * (height + gap + 14))
    sheet = Image.new("RGB", size, "white")
    drawing = ImageDraw.Draw(sheet)
    for column, name in enumerate(settings):
        drawing.multiline_text((gap + column * (SIDE + gap), 4), _wrapped(name, 32), fill="black")
    for row, (heading, _) in enumerate(shown):
        y = head + row * (height + gap + 14)
        drawing.text((gap, y), heading[: size[0] // 6], fill="dimgray")
        for column in range(len(settings)):
            sheet.paste(pictures[row][column], (gap + column * (SIDE + gap), y + 14))
    with whole(path) as part:
        sheet.save(part, format="jpeg", quality=92)


def _wrapped(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[:width]}\n{text[width : 2 * width]}"


# -- page -------------------------------------------------------------------------------------------------------------

STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 92rem; padding: 0 1rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; white-space: nowrap; }
th, td { padding: .3rem .7rem; text-align: right; border-bottom: 1px solid #8884; }
th:first-child, td:first-child, th:nth-child(2), td:nth-child(2) { text-align: left; }
th { vertical-align: bottom; white-space: normal; }
td:nth-child(2) { white-space: normal; min-width: 9rem; }
td small { display: block; opacity: .7; }
.figure { background: white; max-width: 100%; }
.sheet td { text-align: left; vertical-align: top; border: 0; white-space: normal; }
.sheet th { text-align: left; font-weight: normal; font-size: .85rem; max-width: 192px; }
.sheet img, .sheet video { width: 192px; display: block; }
li { font-size: .9rem; }
"""


def page(found: Comparison, title: str, drawn: bool) -> str:
    """The report as one page beside its pictures; it needs no server and no network."""
    header, body = found.table
    say = html.escape

    def line(cells: Sequence[str]) -> str:
        return "<tr>" + "".join(f"<th>{say(cell)}</th>" for cell in cells) + "</tr>"

    def cell(text: str) -> str:
        value, bracket, interval = text.partition(" [")
        return f"<td>{say(value)}<small>[{say(interval)}</small></td>" if bracket else f"<td>{say(text)}</td>"

    def shown(setting: str, pair: tuple[int, int]) -> str:
        place = found.folder.picture(setting, *pair)
        source = say(place.relative_to(found.folder.path).as_posix())
        if place.suffix == ".mp4":
            poster = f"posters/{slug(setting)}-{place.stem}.jpg"
            with whole(found.folder.path / poster) as part:
                _thumbnail(found.folder, setting, pair).save(part, format="jpeg", quality=92)
            return f'<td><a href="{source}"><img loading="lazy" src="{say(poster)}" alt="{say(setting)}"></a></td>'
        return f'<td><a href="{source}"><img loading="lazy" src="{source}" alt="{say(setting)}"></a></td>'

    settings = list(found.settings)
    rows = []
    for heading, pair in _shown(found):
        rows += [f'<tr><td colspan="{len(settings)}">{say(heading)}</td></tr>'] if heading else []
        rows.append("<tr>" + "".join(shown(setting, pair) for setting in settings) + "</tr>")
    facts = "".join(f"<li>{say(fact)}</li>" for fact in found.facts)
    figure = (
        '<h2>Quality against speedup</h2><img class="figure" src="figure.png" alt="Metrics over speedup">'
        if drawn
        else ""
    )
    table = "".join(f"<tr>{''.join(map(cell, row))}</tr>" for row in body)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{say(title)}</title><style>{STYLE}</style></head><body>
<h1>{say(title)}</h1>
<div class="wide"><table><thead>{line(header)}</thead><tbody>{table}</tbody></table></div>
<ul>{facts}</ul>
{figure}
<h2>Same prompt, same seed</h2>
<div class="wide"><table class="sheet"><thead>{line(settings)}</thead><tbody>{"".join(rows)}</tbody></table></div>
</body></html>
"""
