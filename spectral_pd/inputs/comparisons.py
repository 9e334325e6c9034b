"""What a comparison is asked for: settings in words or from a file, prompts, seeds, metrics, the folder it goes on in."""

from __future__ import annotations

import csv
import importlib
import json
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

from spectral_pd.inputs import is_int, is_iterable, is_real, kind, refuse, rule

WORDS = "write key=value pairs such as 'scales=1/2,1 delta=0.01 steps=50'"
MOST_SEEDS = 10_000
"""Pictures of a prompt: the seed of prompt p begins at p times this."""

seeds = rule(
    lambda seeds, most: is_int(seeds) and 1 <= seeds <= most, "seeds = {seeds!r} must be an int from 1 to {most}"
)
one_of_each = rule(
    lambda name, names: len(set(names)) == len(names),
    "two settings are called {name!r}; give one of them a name of its own, name=...",
)
reference = rule(
    lambda metrics, reference: not metrics or reference is not None,
    "{metrics} compare with the same seed's full run, and no setting is one; add a setting 'scales=1 steps=N'",
)
some = rule(lambda values, what: len(values) > 0, "no {what}; give at least one")
matched = rule(
    lambda found, wanted, known: bool(found),
    "--only {wanted!r} fits none of the settings: {known}; a part of a name does",
)


def scalar(text: str) -> Any:
    """A word of the command line as JSON has it: a number (also 1/2), true, false, null or a text."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        try:
            return float(Fraction(text))
        except (ValueError, ZeroDivisionError):
            return text


def words(text: Any, name: str) -> dict[str, Any]:
    """``key=value`` pairs as a mapping; commas separate the entries of a list."""
    pairs = shlex.split(kind(lambda t: isinstance(t, str), "a text")(text, name))
    for pair in pairs:
        refuse("=" not in pair, f"{name} holds {pair!r}; {WORDS}")
    split = dict(pair.split("=", 1) for pair in pairs)
    return {
        key: [scalar(v) for v in value.split(",")] if "," in value else scalar(value) for key, value in split.items()
    }


def fraction(value: Any, name: str) -> float:
    """A number, also as the text of a fraction."""
    try:
        return float(Fraction(value) if isinstance(value, str) else value)
    except (ValueError, TypeError, ZeroDivisionError):
        raise ValueError(f"{name} = {value!r} is no number; write 0.5 or 1/2") from None


def fractions(value: Any, name: str) -> tuple[float, ...]:
    """One number or several."""
    return tuple(fraction(v, name) for v in (value if is_iterable(value) else [value]))


def whole_numbers(value: Any, name: str) -> tuple[int, ...]:
    """One step or several, counted from 0."""
    values = tuple(value) if is_iterable(value) else (value,)
    good = all(is_int(v) and v >= 0 for v in values)
    refuse(not good, f"{name} = {value!r} must be one or more whole numbers from 0 on")
    return tuple(int(v) for v in values)


def mapping(value: Any, name: str) -> dict[str, Any]:
    """A JSON object or a TOML table."""
    refuse(not isinstance(value, Mapping), f"{name} is {type(value).__name__}; write an object", TypeError)
    return dict(value)


def known_keys(given: Iterable[str], known: Iterable[str], name: str) -> None:
    """Nothing misspelt."""
    unknown = sorted(set(given) - set(known))
    refuse(bool(unknown), f"{name} has {', '.join(unknown)}; it may hold {', '.join(known)}")


def table_text(path: Path) -> dict[str, Any]:
    """What a plan file says, JSON or TOML."""
    text = path.read_text(encoding="utf-8")
    try:
        if path.suffix != ".toml":
            return mapping(json.loads(text), str(path))
        return mapping(importlib.import_module("tomllib").loads(text), str(path))
    except ModuleNotFoundError:
        raise ModuleNotFoundError(f"{path}: TOML is read from Python 3.11 on; write the same as JSON") from None
    except ValueError as error:  # both decoders' errors are
        raise ValueError(f"{path} cannot be read: {error}") from None


def prompt_entries(path: Path) -> list[dict[str, Any]]:
    """Prompts of a file: a line each of a text, "prompt" of each line of a .jsonl, or the column of a .csv."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".jsonl":
        entries = [
            mapping(json.loads(line), f"{path}, line {i}") for i, line in enumerate(text.splitlines(), 1) if line
        ]
    elif path.suffix == ".csv":
        entries = [dict(row) for row in csv.DictReader(text.splitlines())]
    else:
        entries = [{"prompt": line.strip()} for line in text.splitlines() if line.strip()]
    some(entries, f"prompts in {path}")
    for entry in entries:
        refuse("prompt" not in entry, f'{path} has an entry without "prompt": {sorted(entry)}')
    return entries


def prompts(value: Any, name: str) -> list[dict[str, Any]]:
    """Prompts as entries: from a file, or texts, or entries themselves."""
    if isinstance(value, (str, Path)):
        return prompt_entries(Path(value))
    entries = [dict(v) if isinstance(v, Mapping) else {"prompt": v} for v in value]
    some(entries, name)
    return entries


def same(what: str, folder: Path, was: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """A folder that a comparison goes on in was begun with the same values, where both have them."""
    for key in sorted(set(was) & set(now)):
        changed = was[key] != now[key]
        found = f"{folder} was begun with {what} {key} = {was[key]!r}, and it is now {now[key]!r}"
        refuse(changed, f"{found}; name another folder, or remove this one")


def callable_in(text: str) -> tuple[Path, str] | None:
    """``file.py:function``, or None where the text is something else."""
    file, colon, function = text.rpartition(":")
    if not colon or not file.endswith(".py"):
        return None
    refuse(not Path(file).is_file(), f"MODEL = {text!r}: there is no file {file}", FileNotFoundError)
    return Path(file), function


def attribute(module: Any, name: str, text: str) -> Any:
    """The function that makes the model."""
    refuse(not hasattr(module, name), f"MODEL = {text!r}: the file has no {name}")
    return getattr(module, name)


def values(row: Any, name: str) -> Mapping[str, float]:
    """Numbers by name, such as those a paper prints."""
    found = mapping(row, name)
    for key, value in found.items():
        good = is_real(value) or (isinstance(value, Sequence) and key == "split")
        refuse(not good, f"{name}: {key} = {value!r} is no number")
    return found


on_meta = rule(
    lambda name, device: device == "meta",
    "parameter {name} is on {device}; build the module under torch.device('meta'), where the counter sees attention",
)


def lora_file(lora: str, setting: str) -> Path:
    """A fine-tuned adapter."""
    found = f"setting {setting!r} wants the adapter {lora}, which is not there"
    remedy = "fine-tune one (docs/training.md), name it with lora=, or choose other rows with --only"
    refuse(not Path(lora).is_file(), f"{found}; {remedy}", FileNotFoundError)
    return Path(lora)


no_more = rule(
    lambda arguments, lora, setting: not arguments and lora is None,
    "setting {setting!r} has {arguments}, lora {lora!r}; a network alone takes neither further arguments nor adapters: make a "
    "sampler of it that has them",
)


def metric(name: str, known: Iterable[str]) -> str:
    """The name of a metric."""
    refuse(name not in known, f"metric {name!r} is unknown; known are {', '.join(known)}")
    return name


@contextmanager
def obtainable(name: str, packages: str) -> Iterator[None]:
    """A metric whose package is installed and whose weights can be had, or a sentence that says which is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"metric {name!r} needs {error.name}, which is not installed: pip install {packages}; or leave the metric out"
        ) from error
    except Exception as error:  # whatever a package raises that cannot fetch or read its weights
        reason = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        raise ValueError(
            f"metric {name!r} cannot have its weights here ({reason}); load it once where there is a network, so that they "
            f"lie in its cache, or leave it out"
        ) from error


all_made = rule(
    lambda setting, path: path is None,
    "the picture {path} of setting {setting!r} is not there, and there is no model to make it; give MODEL",
)


def evaluator(name: str, known: Iterable[str]) -> str:
    """The name of an evaluator."""
    refuse(name not in known, f"evaluator {name!r} is unknown; known are {', '.join(known)}")
    return name


def same_kind(source: Path, target: Path) -> None:
    """A picture that is there, of the kind that an evaluator reads, under a name that a file can have."""
    refuse(not source.suffix, f"{source} is not there yet; let the comparison end first", FileNotFoundError)
    differs = source.suffix != target.suffix
    refuse(differs, f"{source} is a {source.suffix} and this evaluator reads {target.suffix} files; name another")
