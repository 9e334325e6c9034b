"""The drawing of the package: floors as rows, imports as lines, the two ways through it: docs/figures/architecture.svg.

    python build_tools/architecture.py          # write it
    python build_tools/architecture.py --check  # exit 1 when the drawing is not that of the present imports

Floors are those of tests/test_floors.py, imports those of the sources. Lines that follow from others (a imports b and b imports
c, so c lies below a) are left out; a box's tooltip names all. The same sources give the same bytes.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from math import fsum
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))
from test_floors import FLOORS, imported, modules  # noqa: E402  (after the path)

DRAWING = ROOT / "docs" / "figures" / "architecture.svg"

Way = tuple[str, str, str, tuple[tuple[str, str, str], ...]]
WAYS: tuple[Way, ...] = (
    (
        "#1f6feb",
        "latents",
        "meter",
        (
            ("meter", "fit", "power.Spectrum"),
            ("fit", "schedule", "power.PowerLaw"),
            ("schedule", "plan", "plan.Plan"),
            ("plan", "sampling", "plan.Step"),
        ),
    ),
    (
        "#bc4c00",
        "seed",
        "noise",
        (("noise", "expansion", "noise.NoiseField"), ("expansion", "sampling", "expansion.Noise")),
    ),
)
"""Colour, what comes in and where, and the steps: from a module to a module, and the class of the value handed over."""

ANCHORS = {"meter": 0.12, "fit": 0.14, "schedule": 0.3, "plan": 0.5, "sampling": 0.64, "expansion": 0.76, "noise": 0.9}
"""Where along its row a module of the ways stands; the others stand near what they import and what imports them."""

WIDTH, LEFT, RIGHT, TOP = 960, 60, 20, 20
BOX, HEIGHT, ROW, GAP = 120, 28, 66, 22


def imports() -> dict[str, set[str]]:
    """The modules of the package that each of them imports; the public names of ``__init__`` are none."""
    found: dict[str, set[str]] = defaultdict(set)
    for name, path in modules():
        found[name] |= imported(path.read_text()) - {name, "__init__"}
    return found | {name: set() for below in list(found.values()) for name in below if name not in found}


def below(graph: dict[str, set[str]], name: str) -> set[str]:
    """Everything a module rests on."""
    return graph[name].union(*(below(graph, other) for other in graph[name]))


def drawn(graph: dict[str, set[str]]) -> list[tuple[str, str]]:
    """(importer, imported) of every import that does not follow from others."""
    return [
        (name, other)
        for name in sorted(graph)
        for other in sorted(graph[name])
        if not any(other in below(graph, third) for third in graph[name] - {other})
    ]


def places(graph: dict[str, set[str]]) -> dict[str, tuple[float, float]]:
    """Centre of every module's box."""
    lines = drawn(graph)
    near = {name: [b if a == name else a for a, b in lines if name in (a, b)] for name in graph}
    at = {name: ANCHORS.get(name, 0.5) for name in graph}
    rows = [[name for name in sorted(graph) if FLOORS[name] == floor] for floor in sorted({FLOORS[n] for n in graph})]
    for _ in range(40):
        for row in rows:
            wanted = {n: ANCHORS.get(n, fsum(at[m] for m in near[n]) / len(near[n]) if near[n] else at[n]) for n in row}
            at |= spread(wanted)
    inner = WIDTH - LEFT - RIGHT
    return {
        name: (LEFT + inner * at[name], TOP + ROW * (len(rows) - 1 - i) + HEIGHT / 2)
        for i, row in enumerate(rows)
        for name in row
    }


def spread(wanted: dict[str, float]) -> dict[str, float]:
    """Places in [0, 1] as near as may be to the wanted ones, in their order and without overlap."""
    order = sorted(wanted, key=lambda name: (round(wanted[name], 6), name))
    gap, edge = (BOX + GAP) / (WIDTH - LEFT - RIGHT), BOX / 2 / (WIDTH - LEFT - RIGHT)
    x = [min(max(wanted[name], edge), 1 - edge) for name in order]
    for _ in range(200):
        for i in range(len(x) - 1):
            overlap = max(0.0, gap - (x[i + 1] - x[i]))
            x[i], x[i + 1] = x[i] - overlap / 2, x[i + 1] + overlap / 2
        x = [min(max(v, edge), 1 - edge) for v in x]
    return dict(zip(order, x, strict=True))


def curve(a: tuple[float, float], b: tuple[float, float]) -> str:
    """A path from the box at `a` to the box at `b`, leaving and arriving vertically."""
    up = HEIGHT / 2 if b[1] < a[1] else -HEIGHT / 2
    (x0, y0), (x1, y1) = (a[0], a[1] - up), (b[0], b[1] + up)
    bend = (y1 - y0) / 2
    return f"M{x0:.1f},{y0:.1f} C{x0:.1f},{y0 + bend:.1f} {x1:.1f},{y1 - bend:.1f} {x1:.1f},{y1:.1f}"


def drawing() -> str:
    """The SVG."""
    graph = imports()
    at = places(graph)
    floors = sorted({FLOORS[name] for name in graph})
    height = 2 * TOP + ROW * (len(floors) - 1) + HEIGHT
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        'font-family="sans-serif" font-size="14">',
        "<title>Modules of spectral_pd by floor, their imports, and the two ways through them</title>",
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
    ]
    for i, floor in enumerate(floors):
        y = TOP + ROW * (len(floors) - 1 - i) + HEIGHT / 2
        label = "csrc" if floor < 0 else str(floor)
        out.append(f'<text x="14" y="{y + 5:.1f}" fill="#6e7781">{label}</text>')
    for name, other in drawn(graph):
        out.append(f'<path d="{curve(at[name], at[other])}" fill="none" stroke="#c6ccd2" stroke-width="1.2"/>')
    labels, on_way = [], {}
    for colour, source, first, steps in WAYS:
        x, y = at[first]
        marker = f"to-{first}"
        out.append(
            f'<marker id="{marker}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="5" markerHeight="5" orient="auto">'
            f'<path d="M0,0 L8,4 L0,8 z" fill="{colour}"/></marker>'
        )
        arrow = f'fill="none" stroke="{colour}" stroke-width="2.6" marker-end="url(#{marker})"'
        out.append(f'<path d="M{x:.1f},{y + HEIGHT / 2 + 24:.1f} L{x:.1f},{y + HEIGHT / 2:.1f}" {arrow}/>')
        labels.append((x, y + HEIGHT / 2 + 38, source, colour))
        for a, b, value in steps:
            out.append(f'<path d="{curve(at[a], at[b])}" {arrow}/>')
            middle = ((at[a][0] + at[b][0]) / 2, (at[a][1] + at[b][1]) / 2 + 5)
            labels.append((*middle, value.partition(".")[2], colour))
        # Where the ways meet a box belongs to both.
        on_way |= {n: "#1f2328" if n in on_way else colour for n in (first, *(b for _, b, _ in steps))}
    x, y = at["sampling"]
    x += BOX / 2
    out.append(f'<path d="M{x:.1f},{y:.1f} h22" fill="none" stroke="#1f2328" stroke-width="2.6"/>')
    out.append(f'<path d="M{x + 20:.1f},{y - 6.5:.1f} l13,6.5 l-13,6.5 z" fill="#1f2328"/>')
    labels.append((x + 62, y + 5, "picture", "#1f2328"))
    for name in sorted(graph):
        x, y = at[name]
        colour = on_way.get(name, "#8c959f")
        known = ", ".join(sorted(graph[name])) or "no other module"
        out += [
            f"<g><title>{name} imports {known}</title>",
            f'<rect x="{x - BOX / 2:.1f}" y="{y - HEIGHT / 2:.1f}" width="{BOX}" height="{HEIGHT}" rx="5" fill="#f6f8fa" '
            f'stroke="{colour}" stroke-width="{2 if name in on_way else 1}"/>',
            f'<text x="{x:.1f}" y="{y + 5:.1f}" text-anchor="middle" fill="#1f2328">{name}</text></g>',
        ]
    for x, y, text, colour in labels:
        style = f'x="{x:.1f}" y="{y:.1f}" text-anchor="middle" font-size="12" font-style="italic"'
        out.append(f'<text {style} stroke="white" stroke-width="4">{text}</text>')
        out.append(f'<text {style} fill="{colour}">{text}</text>')
    return "\n".join([*out, "</svg>"]) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when the drawing is out of date")
    text = drawing()
    if parser.parse_args().check:
        return int(not DRAWING.exists() or DRAWING.read_text() != text)
    DRAWING.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
