"""A setting is one way of sampling; a table is a list of them with what they share. Written in words, JSON or TOML.

spectral-pd compare MODEL --plan "scales=1/2,1 delta=0.01 steps=50" --plan "scales=1 steps=25"
spectral-pd compare MODEL --table mine.toml
spectral-pd compare MODEL --table 6              # the paper's
"""

# ruff: noqa: RUF009  (_part() is dataclasses.field with metadata)

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from spectral_pd import inputs
from spectral_pd.bases import BASES
from spectral_pd.inputs import comparisons
from spectral_pd.plan import Clock, scale_text
from spectral_pd.power import PRESETS, PowerLaw, Spectrum, load_spectrum
from spectral_pd.sampling import Coupling
from spectral_pd.solvers import SOLVERS, SolverName

SHIPPED = {path.stem: path for path in sorted((Path(__file__).parent / "tables").glob("*.json"))}
"""The paper's tables by name: ``zimage6`` is Table 6, and Table 2, which has some of its rows."""
PAPER = {
    "1": "fluxtable5",
    "2": "zimage6",
    "3": "wan3",
    "5": "fluxtable5",
    "6": "zimage6",
    "7": "pixelgen7",
    "8": "ablation8",
}
"""The paper's numbers of them."""


def _text(value: Any, name: str) -> str:
    return str(value)


def _part(parse: inputs.Parser, default: Any = MISSING, **more: Any) -> Any:
    return field(default=default, metadata={"parse": parse}, **more)


@dataclass(frozen=True)
class Setting:
    """One way of sampling, a row of the table.

    Attributes
    ----------
    name
        What the row is called; unless given, what was written.
    scales, delta, clock, coupling, basis
        As :func:`spectral_pd.make_plan` and :func:`spectral_pd.sample`; the basis by its name.
    steps
        Solver steps; None is the sampler's own number.
    transitions
        Transition times in place of delta.
    anchors
        Two grids at once in place of delta: steps, counted from 0, that call the full size while all others call the smallest.
    solver
        ``"euler"``, ``"heun"`` or ``"dpmpp_2m"``; None is the sampler's own.
    spectrum
        Preset or file of the power law; None is the sampler's own.
    rescaled
        Whether its amplitude follows the grid, as a picture's does. The paper takes a fit as it is on whatever grid it
        samples.
    passthrough
        Full size at every step, but frequencies are held at the initial noise until they activate at this delta
        (:func:`spectral_pd.passthrough.passthrough`). None is not.
    lora
        File of an adapter that was fine-tuned for this setting.
    family
        The curve of the figure that the row is a point of; unless given, what the row is but for delta and steps.
    arguments
        Further arguments of the sampler's call, such as `guidance_scale`.
    printed
        What a paper prints for this row: `tflop`, `speedup`, metrics by name.
    """

    name: str
    scales: tuple[float, ...] = _part(comparisons.fractions, (1 / 2, 1.0))
    delta: float = _part(inputs.one_delta, 0.01)
    steps: int | None = _part(inputs.count, None)
    transitions: tuple[float, ...] | None = _part(comparisons.fractions, None)
    anchors: tuple[int, ...] | None = _part(comparisons.whole_numbers, None)
    basis: str = _part(inputs.choice(*BASES), "dct")
    clock: Clock = _part(inputs.choice("full", "stage"), "full")
    coupling: Coupling = _part(inputs.choice("coupled", "fresh"), "coupled")
    solver: SolverName | None = _part(inputs.choice(*SOLVERS), None)
    spectrum: str | None = _part(_text, None)
    rescaled: bool = _part(inputs.kind(lambda v: isinstance(v, bool), "true or false", repr), True)
    passthrough: float | None = _part(inputs.one_delta, None)
    lora: str | None = _part(_text, None)
    family: str = _part(_text, "")
    arguments: Mapping[str, Any] = _part(comparisons.mapping, default_factory=dict)
    printed: Mapping[str, Any] = _part(comparisons.values, default_factory=dict)

    @property
    def is_full(self) -> bool:
        """Whether every step is an ordinary one of the full size."""
        return len(self.scales) == 1 and (self.passthrough, self.lora, self.anchors) == (None, None, None)

    def law(self, usual: PowerLaw) -> Any:
        """The power law or table that its plan is made from, `usual` where it names none."""
        found: Any = usual
        if self.spectrum is not None:
            found = PRESETS[self.spectrum] if self.spectrum in PRESETS else load_spectrum(self.spectrum)
        return (
            found.envelope() if isinstance(found, Spectrum) else found if self.rescaled else replace(found, shape=None)
        )

    @property
    def plan_options(self) -> dict[str, Any]:
        """What its plan is made with (:func:`spectral_pd.stepwise.planned`), but for the spectrum."""
        options: dict[str, Any] = {"scales": self.scales, "clock": self.clock, "basis": BASES[self.basis]}
        if self.anchors is not None:
            return {**options, "anchors": self.anchors}
        if self.transitions is not None:
            return {**options, "transition_times": self.transitions}
        return {**options, "delta": self.delta}

    def facts(self) -> dict[str, Any]:
        """What its pictures depend on, as JSON has it."""
        named = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("name", "family", "printed")}
        return {key: list(value) if isinstance(value, tuple) else value for key, value in named.items()}


_PARSERS = {f.name: f.metadata["parse"] for f in fields(Setting) if f.metadata}


def make_setting(given: Mapping[str, Any]) -> Setting:
    """A setting from a mapping of its fields; any other key is an argument of the sampler's call.

    Examples
    --------
    >>> make_setting({"scales": ["1/2", 1], "steps": 20}).name
    'scales=0.5,1 steps=20'
    """
    own = {key: value for key, value in given.items() if key in _PARSERS and value is not None}
    rest = {key: value for key, value in given.items() if key not in (*_PARSERS, "name")}
    parsed = {key: _PARSERS[key](value, key) for key, value in own.items()}
    if "scales" in parsed:
        parsed["scales"] = inputs.scales(parsed["scales"], "scales")
    if "passthrough" in parsed:
        parsed["scales"] = (1.0,)
    parsed["arguments"] = {**parsed.get("arguments", {}), **rest}
    name = given.get("name") or " ".join(
        f"{key}={_shown(value)}" for key, value in {**parsed, **rest}.items() if key not in _QUIET
    )
    setting = Setting(name=str(name), **parsed)
    return setting if setting.family else Setting(**{**vars(setting), "family": _family(setting)})


_QUIET = ("arguments", "printed", "family")


def _shown(value: Any) -> str:
    return (
        ",".join(map(_shown, value))
        if isinstance(value, tuple)
        else f"{value:g}"
        if isinstance(value, float)
        else str(value)
    )


def _family(setting: Setting) -> str:
    """The curve a setting is a point of: all that is not as usual, but for delta, transitions and steps."""
    usual = {f.name: f.default for f in fields(Setting)}
    words = [f"{setting.basis}"] if setting.basis != usual["basis"] else []
    words += [
        f"{name} {getattr(setting, name)}"
        for name in ("clock", "coupling", "solver")
        if getattr(setting, name) != usual[name]
    ]
    if setting.passthrough is not None:
        return ", ".join(["passthrough", *words])
    if setting.is_full:
        words = [word for word in words if not word.startswith(("clock", "coupling"))]
        return ", ".join(["fewer full-size steps", *words])
    scales = " ".join(map(scale_text, setting.scales))
    kind = "stages" if setting.anchors is None else "grids at once"
    return ", ".join([f"{kind} {scales}", *(["fine-tuned"] if setting.lora else []), *words])


@dataclass(frozen=True)
class Table:
    """Settings with what they share.

    Attributes
    ----------
    title
        Heading of the report.
    settings
        The rows.
    arguments
        Of the sampler's call, for every row.
    """

    title: str
    settings: tuple[Setting, ...]
    arguments: Mapping[str, Any] = field(default_factory=dict)


def load_table(source: str | Path, *, every: Mapping[str, Any] | None = None) -> Table:
    """A table from a JSON or TOML file, or one of the paper's by its name or number.

    Parameters
    ----------
    source
        A path, or a name or number of :data:`SHIPPED`.
    every
        Fields for all its settings, over what the file says.

    Examples
    --------
    >>> len(load_table("6").settings)
    10
    """
    name = PAPER.get(str(source), str(source))
    found = comparisons.table_text(SHIPPED.get(name, Path(source)))
    comparisons.known_keys(found, ("title", "arguments", "every", "settings"), str(source))
    shared = {**comparisons.mapping(found.get("every", {}), "every"), **(every or {})}
    rows = [comparisons.mapping(row, "a setting") for row in found.get("settings", ())]
    settings = named_once([make_setting({**shared, **row, **(every or {})}) for row in rows])
    return Table(found.get("title", name), settings, comparisons.mapping(found.get("arguments", {}), "arguments"))


def named_once(settings: Sequence[Setting]) -> tuple[Setting, ...]:
    """The settings, no two of one name."""
    names = [setting.name for setting in comparisons.some(settings, "settings")]
    for name in names:
        comparisons.one_of_each(name, [other for other in names if other == name])
    return tuple(settings)
