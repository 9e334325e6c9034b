"""The rules of CONTRIBUTING.md that can be counted (build_tools/house.py), and that the count sees what it counts."""

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

import spectral_pd

ROOT = Path(__file__).parent.parent
spec = importlib.util.spec_from_file_location("house", ROOT / "build_tools" / "house.py")
house = importlib.util.module_from_spec(spec)
sys.modules["house"] = house
spec.loader.exec_module(house)

PLANTED = '''
"""A room with everything wrong."""

def snr(t, power):
    """Signal to noise,
    a second time."""
    if t < 0:
        raise ValueError("t is negative")
    runs.shape(power, "power")
    return power


@door(t=inputs.time)
def crowded(a, b, c, d, e, f, g, h, i, j, k):
    if isinstance(noise, NoiseField):
        return a  # a comment is no code
'''


def test_validation_stays_at_the_door():
    inside = [module for module in house.modules() if not module.is_door]
    refusing = sum(len(module.validation()) for module in inside)
    assert refusing <= 0.06 * sum(len(module.code()) for module in inside)


def test_one_place_asks_what_kind_of_noise_it_has():
    (place,) = house.noise_questions()
    assert place.startswith("expansion.py")


def test_no_formula_stands_twice():
    assert house.copies() == []


def test_signatures_can_be_read():
    assert house.crowded() == []


def test_reading_follows_the_rooms_of_the_door():
    """Whoever reads `sample` opens the door and the room of runs, and no other room."""
    rooms = {module.name for module in house.needed_by("sampling") if module.is_door}
    assert rooms == {"inputs/__init__.py", "inputs/runs.py"}


def test_the_top_level_is_what_a_user_needs():
    names = [name for name, value in vars(spectral_pd).items() if not name.startswith("_")]
    assert len([n for n in names if not isinstance(getattr(spectral_pd, n), ModuleType)]) <= 48


def test_where_to_look_for_names_files_that_hold_it():
    """The seven places of CONTRIBUTING.md exist, and what is looked for is there."""
    text = (ROOT / "CONTRIBUTING.md").read_text().partition("**Where to look for**")[2].partition("\n- ")[0]
    files = re.findall(r"`([^`]+)`", text)
    found = ("kappa", "def walk", "counter", "weights", "def __str__", "img_ids", "size")
    assert len(files) == len(found) == 7
    for name, what in zip(files, found, strict=True):
        assert what in (ROOT / name).read_text(), f"{name} does not hold {what}"


@pytest.mark.parametrize("name", ["planted.py", "inputs/planted.py"])
def test_the_count_sees_what_it_counts(name, monkeypatch):
    """Negative control: a planted module trips every rule; at the door it may refuse and ask."""
    planted = house.Module(name, PLANTED)
    assert len(planted.code()) == 9
    assert len(planted.validation()) == 4
    original = house.modules()
    monkeypatch.setattr(house, "modules", lambda: [*original, planted])
    assert f"{name}: crowded" in house.crowded()
    assert any(place.startswith("planted.py") for place in house.noise_questions()) != planted.is_door
    assert bool(house.copies()) != planted.is_door
