"""The drawing of the package is that of its imports."""

import importlib
import pkgutil
import sys
from itertools import combinations
from pathlib import Path

import pytest
from test_floors import FLOORS

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "build_tools"))
architecture = importlib.import_module("architecture")


def test_the_drawing_is_up_to_date():
    assert architecture.DRAWING.read_text() == architecture.drawing(), "run python build_tools/architecture.py"


@pytest.mark.parametrize(("name", "other"), [("schedule", "ideal"), ("plan", "theory")])
def test_another_import_is_noticed(monkeypatch, name, other):
    """Negative control: one import more or less changes it, also where it adds or takes away no line."""
    graph = architecture.imports()
    graph[name] = graph[name] ^ {other}
    monkeypatch.setattr(architecture, "imports", lambda: graph)
    assert architecture.DRAWING.read_text() != architecture.drawing()


def test_no_module_and_no_import_is_lost():
    graph = architecture.imports()
    assert {name for name in FLOORS if (ROOT / "spectral_pd" / f"{name}.py").exists()} - {"__init__"} <= set(graph)
    lines = architecture.drawn(graph)
    for name in graph:
        reached, new = set(), {name}
        while new:
            new = {b for a, b in lines if a in new} - reached
            reached |= new
        assert reached == architecture.below(graph, name)
    assert all(FLOORS[b] < FLOORS[a] for a, b in lines)


def test_boxes_do_not_touch():
    at = architecture.places(architecture.imports())
    for (x, y), (other_x, other_y) in combinations(at.values(), 2):
        assert y != other_y or abs(x - other_x) > architecture.BOX + 4
    assert all(x - architecture.BOX / 2 >= architecture.LEFT for x, _ in at.values())
    assert all(x + architecture.BOX / 2 <= architecture.WIDTH - architecture.RIGHT + 0.1 for x, _ in at.values())


@pytest.mark.parametrize("step", [step for way in architecture.WAYS for step in way[3]], ids="-".join)
def test_a_step_of_the_ways_hands_over_what_both_ends_know(step):
    graph, (name, other, value) = architecture.imports(), step
    assert isinstance(pkgutil.resolve_name(f"spectral_pd.{value}"), type)
    home = value.partition(".")[0]
    assert all(home == end or home in graph[end] for end in (name, other))


def test_the_ways_meet_in_the_sampler():
    for _, _, first, steps in architecture.WAYS:
        assert [a for a, _, _ in steps] == [first, *(b for _, b, _ in steps[:-1])]
        assert steps[-1][1] == "sampling"
