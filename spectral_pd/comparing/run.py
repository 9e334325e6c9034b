"""Make the pictures, measure them, and go on where a run was stopped.

Processes that ``torchrun`` or ``accelerate launch`` started share the (prompt, sample) pairs: each makes every setting's
picture of its own pairs, from one noise, and measures them. They talk through the folder alone; whoever finds everything
there writes the report.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from spectral_pd import inputs
from spectral_pd.comparing import metrics as known
from spectral_pd.comparing import report
from spectral_pd.comparing.environment import environment
from spectral_pd.comparing.flops import Flops
from spectral_pd.comparing.metrics import METRICS, Features, Measure
from spectral_pd.comparing.samplers import BatchSampler, Sampler
from spectral_pd.comparing.settings import Setting, Table, named_once
from spectral_pd.comparing.storage import (
    COSTS,
    LATENCY,
    VALUES,
    Appended,
    Folder,
    grid,
    read_picture,
    save_features,
    save_picture,
)
from spectral_pd.inputs import comparisons, shown


def compare(
    sampler: Sampler | None,
    prompts: Any,
    settings: Table | Sequence[Setting],
    *,
    out: str | Path,
    metrics: Sequence[str] = (),
    seeds: int = 1,
    rounds: int = 3,
    about: Mapping[str, Any] | None = None,
    device: torch.device | str = "cpu",
    progress: bool = False,
) -> report.Comparison | None:
    """Compare ways of sampling one model: pictures, metrics, latency, FLOPs and a report, in a folder.

    Everything that can be known to fail does so before the first picture: settings, adapters, packages, weights. A second
    call with the same folder makes what is missing, so more seeds, prompts, settings or metrics can follow, and so can
    metrics whose packages need another environment.

    Parameters
    ----------
    sampler
        Makes the pictures, e.g. a :class:`~spectral_pd.comparing.samplers.PipelineSampler`; None where they are all
        there.
    prompts
        Texts, entries with "prompt" (what else they hold is kept for evaluators), or a file of them.
    settings
        From :func:`~spectral_pd.comparing.settings.load_table`, or some of your own. The first full run of the most steps
        is what the others are compared with.
    out
        Folder of this comparison.
    metrics
        Names of :data:`spectral_pd.comparing.metrics.METRICS`.
    seeds
        Pictures of each prompt; sample s of prompt p has the seed ``10000 p + s`` in every setting.
    rounds
        Timed denoisings of each setting, in turns, after one that warms up; 0 takes no time.
    about
        Facts for the report, such as the model's name.
    device
        Of the metrics.
    progress
        Show a bar with the time left.

    Returns
    -------
    What the report says; ``print`` shows its table. None where other processes still have to finish.
    """
    table = settings if isinstance(settings, Table) else Table("", named_once(settings))
    entries = comparisons.prompts(prompts, "prompts")
    comparisons.seeds(seeds, comparisons.MOST_SEEDS)
    inputs.whole(0)(rounds, "rounds")
    loaded = {name: known.load(name, device) for name in metrics}
    reference = full_run(table.settings)
    comparisons.reference([name for name in loaded if METRICS[name].needs_reference], reference)
    if sampler is not None:
        plans = {s.name: sampler.plan(s, entries[0]["prompt"]) for s in table.settings}
    folder, (rank, world), every = Folder(Path(out)), share(), list(grid(len(entries), seeds))
    if sampler is None:
        missing = (
            (s.name, path)
            for s in table.settings
            for pair in every
            if not (path := folder.picture(s.name, *pair)).suffix
        )
        comparisons.all_made(*next(missing, ("", None)))
    folder.path.mkdir(parents=True, exist_ok=True)
    if rank == 0:
        _begin(folder, table, entries, metrics=metrics, seeds=seeds, reference=reference, about=about or {})
        if sampler is not None:
            _costs(folder, sampler, table.settings, plans, entries[0]["prompt"])
            _latency(folder, sampler, table.settings, entries[0]["prompt"], rounds=rounds, progress=progress)
    size = sampler.batch if isinstance(sampler, BatchSampler) else 1
    mine = [every[i : i + size] for i in range(0, len(every), size)][rank::world]
    # The reference first: others are measured against it.
    order = sorted(table.settings, key=lambda s: s is not reference)
    done = folder.values()
    values = Appended(folder.path / f"values-{rank}.csv", VALUES)
    texts, total = [entry["prompt"] for entry in entries], sum(map(len, mine)) * len(order)
    with tqdm(total=total, desc="pictures", unit="picture", disable=not progress or rank > 0, smoothing=0) as bar:
        for pairs, setting in product(mine, order):
            _make(folder, sampler, setting, texts, pairs)
            for prompt, sample in pairs:
                against = None if reference is None else folder.picture(reference.name, prompt, sample)
                wanted = {n: m for n, m in loaded.items() if (setting.name, prompt, sample, n) not in done}
                wanted = {n: m for n, m in wanted.items() if setting is not reference or not METRICS[n].relative}
                _measure(folder, setting, wanted, texts[prompt], (prompt, sample), against, values)
                bar.update()
    values.close()
    complete = bool(folder.record()) and report.Comparison(folder).has([s.name for s in order], metrics)
    return report.write(folder) if complete else None


def share() -> tuple[int, int]:
    """(rank, number of processes), as torchrun and accelerate tell their processes."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def full_run(settings: Sequence[Setting]) -> Setting | None:
    """The ordinary run of the most steps, which the others are compared with."""
    return max((s for s in settings if s.is_full), key=lambda s: s.steps or 10**6, default=None)


def _begin(
    folder: Folder,
    table: Table,
    entries: Sequence[Mapping[str, Any]],
    *,
    metrics: Sequence[str],
    seeds: int,
    reference: Setting | None,
    about: Mapping[str, Any],
) -> None:
    """Say in the folder what is compared; a run that goes on must agree with what is said there."""
    record, before = folder.record(), folder.prompts()
    rows = {s.name: {"family": s.family, "printed": dict(s.printed), **s.facts()} for s in table.settings}
    comparisons.same("the model's", folder.path, record.get("about", {}), about)
    if reference is not None and record.get("reference"):
        comparisons.same("the", folder.path, {"reference": record["reference"]}, {"reference": reference.name})
    facts = record.get("settings", {})
    for name in set(rows) & set(facts):
        pictured = {key: facts[name][key] for key in facts[name] if key not in ("family", "printed")}
        comparisons.same(f"setting {name!r},", folder.path, pictured, rows[name])
    was, now = ({str(i): entry["prompt"] for i, entry in enumerate(e)} for e in (before, entries))
    comparisons.same("prompt", folder.path, was, now)
    folder.write_prompts(entries)
    folder.write_record(
        {
            "title": table.title or record.get("title", ""),
            "about": {**record.get("about", {}), **about},
            "settings": {**facts, **rows},
            "reference": record.get("reference") if reference is None else reference.name,
            "metrics": list(dict.fromkeys([*record.get("metrics", ()), *metrics])),
            "seeds": seeds,
            "environment": environment(),
        }
    )


def _costs(
    folder: Folder, sampler: Sampler, settings: Sequence[Setting], plans: Mapping[str, Any], prompt: str
) -> None:
    known_costs = {row["setting"] for row in folder.rows("costs.csv")}
    costs = Appended(folder.path / "costs.csv", COSTS)
    for setting in settings:
        if setting.name not in known_costs:
            plan, notes = plans[setting.name], plans[setting.name].warnings
            try:
                flops, once = sampler.flops(setting, prompt), sampler.once(setting, prompt)
            except (RuntimeError, TypeError, ValueError, AttributeError, NotImplementedError) as error:
                # A network that asks for numbers cannot be counted where there are none; all else can still be compared.
                flops = once = Flops(float("nan"), float("nan"))
                notes = (*notes, f"FLOPs not counted, {type(error).__name__}: {str(error).partition(chr(10))[0]}")
            sizes, split = " ".join(map(shown, plan.shapes)), "+".join(map(str, plan.split))
            costs.add(setting.name, split, sizes, flops.linear, flops.attention, once.linear, "; ".join(notes))
    costs.close()


def _latency(
    folder: Folder, sampler: Sampler, settings: Sequence[Setting], prompt: str, *, rounds: int, progress: bool
) -> None:
    """Rounds in turns, so that whatever slows the machine for a while slows every setting."""
    done = {(row["setting"], int(row["round"])) for row in folder.rows("latency.csv")}
    wanted = [(r, s) for r in range(rounds) for s in settings if (s.name, r) not in done]
    latency = Appended(folder.path / "latency.csv", LATENCY)
    warm = set[str]()
    for number, setting in tqdm(wanted, desc="latency", unit="run", disable=not progress):
        if setting.name not in warm:
            sampler.seconds(setting, prompt)
            warm.add(setting.name)
        latency.add(setting.name, number, f"{sampler.seconds(setting, prompt):.6f}")
    latency.close()


def _make(
    folder: Folder, sampler: Sampler | None, setting: Setting, texts: Sequence[str], pairs: Sequence[tuple[int, int]]
) -> None:
    """The pictures of some (prompt, sample) that are not there, several at once where the sampler can."""
    missing = [pair for pair in pairs if not folder.picture(setting.name, *pair).suffix]
    if not missing:
        return
    assert sampler is not None  # or every picture would be there
    prompts = [texts[prompt] for prompt, _ in missing]
    seeds = [prompt * comparisons.MOST_SEEDS + sample for prompt, sample in missing]
    if isinstance(sampler, BatchSampler):
        made = sampler.pictures(setting, prompts, seeds)
    else:
        made = [sampler.picture(setting, text, seed) for text, seed in zip(prompts, seeds, strict=True)]
    for pair, picture in zip(missing, made, strict=True):
        save_picture(folder.picture(setting.name, *pair), picture)


def _measure(
    folder: Folder,
    setting: Setting,
    metrics: Mapping[str, Measure | Features],
    prompt: str,
    which: tuple[int, int],
    against: Path | None,
    values: Appended,
) -> None:
    """What the metrics say of one picture, read back from its file."""
    rows = {name: folder.features(name, setting.name, *which) for name in metrics if METRICS[name].distance}
    missing = {n: m for n, m in metrics.items() if n not in rows or not rows[n].exists()}
    if not missing:
        return
    frames = read_picture(folder.picture(setting.name, *which))
    relative = any(METRICS[name].relative for name in missing)
    others = read_picture(against) if relative and against is not None else [None] * len(frames)
    for name, metric in missing.items():
        if name in rows:
            save_features(rows[name], np.asarray(metric(frames[len(frames) // 2])))  # type: ignore[call-arg]
        else:
            found = [metric(frame, prompt, other) for frame, other in zip(frames, others, strict=True)]  # type: ignore[call-arg]
            values.add(setting.name, *which, name, repr(statistics.fmean(found)))
