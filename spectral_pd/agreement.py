r"""Do a model's sizes agree? How far coarse calls are from full-size ones, which part can be mended, what it costs.

Along a seed's own full run let ``x'`` be the state with the high band a coupled run has, ``x' = U U^T x + T (w - U U^T
w)``, ``R(x') = U^T D(x', T) / r`` the low band of the full-size answer, and ``C = D(y, tau)`` the coarse call (``y = U^T x
/ kappa``). The coarse call ought to have said R. It misses it by

    ``I = E |C - R|^2 = B + V``,    ``B = E |C - E[R | y]|^2``,    ``V = E |R - E[R | y]|^2 = 1/2 E |R(x') - R(x'')|^2``,

with another draw of the high band in ``x''``. B is the network's disagreement with itself and can be trained away
(:func:`~spectral_pd.training.agreement_sample`); V is what y cannot know, and a coarse call that is told the seed's own high
band can (:func:`~spectral_pd.restriction.folded_noise`). What then remains is ``|R(x') - R(x)|^2``, the content of the high
band that every coarse stage drops, which delta bounds.

*What that costs the picture.* On the full clock a progressive run is the full run with ``D + e_k`` in the place of D, where
``e_k = r U C - D``. So the distance to the full run moves along the solver itself with ``v = (xi - (g xi + eta + e_k)) /
T``: an answer follows its state by a gain g, and otherwise changes by an ``eta`` of power ``n |xi|^2`` that nothing else
knows of. Both are measured, band by band, on a second run of each seed that the coarse calls have led astray; they are 0
where a grid holds nothing. The moments ``<e_k, e_l>`` of each seed so predict its PSNR for any split into stages.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from spectral_pd import inputs
from spectral_pd.bases import BASES, BASIS, DCT, Basis, size_ratio
from spectral_pd.inputs import door, plans, runs, shown, working_dtype
from spectral_pd.plan import STAGED, Plan
from spectral_pd.restriction import high_band, restrict_aligned
from spectral_pd.schedule import stage_shape
from spectral_pd.solvers import SolverName, Velocity, find_solver, towards
from spectral_pd.theory import posterior_data_gain
from spectral_pd.two_grids import ONE_CALL, Shape, bands, growing_grids, nested_grids

Kind = Literal["as is", "repaired", "informed"]
KINDS: tuple[Kind, ...] = ("as is", "repaired", "informed")
"""The coarse calls as they are; the best that sees the coarse state alone, ``E[R | y]``; and R itself."""
FRESH = 6_174_220_309_415
"""Seed of the other draws of the high band: no run's own."""


@dataclass(frozen=True, eq=False)
class SizeAgreement:
    """How a model's coarse calls differ from its full-size ones; of :func:`size_agreement`, ``print`` shows it.

    Attributes
    ----------
    model, times, shapes, solver, basis
        Whose full runs, on which time grid; the grids, coarse to fine; names of solver and basis.
    miss, missing, dropped
        float64 (seeds, coarse grids, steps): ``|C - R(x')|^2``, ``1/2 |R(x') - R(x'')|^2`` and ``|R(x') - R(x)|^2``, means
        over the coarse grid's values, in units of the data squared. Their means over seeds are I, V and what delta bounds.
    linear
        float64 (coarse grids, steps): the same of a Gaussian field's best estimate from y alone in the place of C, with the
        pictures' own power: what a network that knows nothing of a size could be replaced by.
    moments
        float64 (seeds, kinds, bands, coarse grids x steps, the same): ``<e_k, e_l>`` over the full grid's number of values.
    gain, rest
        float64 (steps, bands): g, and n over the power of the whole ``xi``.
    """

    model: str
    times: tuple[float, ...]
    shapes: tuple[Shape, ...]
    solver: SolverName
    basis: str
    miss: Tensor
    missing: Tensor
    dropped: Tensor
    linear: Tensor
    moments: Tensor
    gain: Tensor
    rest: Tensor

    def save(self, path: str | Path) -> None:
        """Write what :meth:`load` reads back."""
        torch.save({"type": "SizeAgreement", **self.__dict__}, path)

    @classmethod
    def load(cls, path: str | Path) -> SizeAgreement:
        """Read what :meth:`save` wrote. ValueError if it is anything else."""
        refusal = ValueError(f"{path} holds no size agreement; write one with SizeAgreement.save")
        with Path(path).open("rb") as file:
            try:
                data = torch.load(file, weights_only=True)
                kind, found = data.pop("type"), cls(**data)
            except Exception:  # whatever is raised of other content
                raise refusal from None
        if kind != "SizeAgreement":
            raise refusal
        return found

    def errors(self, split: Sequence[int], grids: Sequence[int], kind: Kind = "as is") -> Tensor:
        """Predicted mean squared distance of each seed's picture to its full run, float64 (seeds,).

        Parameters
        ----------
        split, grids
            Steps of each stage and the index of its grid in `shapes`, coarse to fine; the last stage is at full size.
        kind
            With the coarse calls as they are, or as a repair could make them at best.
        """
        basis, solver, steps = BASES[self.basis], find_solver(self.solver), len(self.times) - 1
        owner, moments = bands(self.shapes, basis)[1], self.moments[:, KINDS.index(inputs.choice(*KINDS)(kind, "kind"))]
        calls = moments.shape[-1]
        variance = torch.zeros(*moments.shape[:2], steps, dtype=torch.float64)
        xi = torch.zeros(len(owner), calls + steps, dtype=torch.float64)  # of every e, and of every eta so far

        def powers(xi: Tensor) -> Tensor:
            """Of each seed and band."""
            a = xi[:, :calls]
            return (torch.einsum("bi,sbij,bj->sb", a, moments, a) + (variance * xi[:, calls:] ** 2).sum(-1)).clamp(
                min=0
            )

        history: Any = None
        stages = (g for g, n in zip(grids, split, strict=True) for _ in range(n))
        for k, (g, (t, t_next)) in enumerate(zip(stages, pairwise(self.times), strict=True)):
            held, added = (owner <= g).double(), torch.zeros_like(xi)
            variance[:, :, k] = held * self.rest[k] * powers(xi).sum(1, keepdim=True)
            added[:, calls + k] = 1.0
            if g < len(self.shapes) - 1:
                added[:, g * steps + k] = 1.0
            answer = (held * self.gain[k])[:, None] * xi + added
            xi, history = solver(towards(answer), xi, t, t_next, history)
        return powers(xi).sum(1)

    @door(plan=STAGED)
    def psnr(self, plan: Plan, kind: Kind = "as is") -> float:
        """Predicted median PSNR of a progressive run to the full run of the same seed, in dB, for values that span 2.

        Parameters
        ----------
        plan
            On these times and grids, on the full clock; run with coupled noise.
        kind
            As :meth:`errors`.

        Raises
        ------
        ValueError
            A plan of other times, grids, basis or clock than were measured.
        """
        own = (self.times, self.shapes[-1], self.basis, "full")
        if (plan.times, plan.shape, plan.basis.name, plan.clock) != own or not set(plan.shapes) <= set(self.shapes):
            raise ValueError(
                f"plan has {plan.nfe} steps on {plan.shapes}, basis {plan.basis.name}, clock={plan.clock!r}; measured were "
                f"{len(self.times) - 1} on {self.shapes}, {self.basis}, full clock: measure this plan's times and scales"
            )
        return self._psnr(plan.split, [self.shapes.index(shape) for shape in plan.shapes], kind)

    def _psnr(self, split: Sequence[int], grids: Sequence[int], kind: Kind) -> float:
        error = float(self.errors(split, grids, kind).median())
        return 10 * math.log10(4 / error) if error > 1e-14 else math.inf

    def left_at(self, grid: int, step: int, kind: Kind = "as is") -> float:
        """Predicted PSNR of two stages: grid `grid` until after step `step`, then the full size."""
        steps = len(self.times) - 1
        return self._psnr((step + 1, steps - step - 1), (grid, len(self.shapes) - 1), kind)

    def knows(self, grid: int) -> bool:
        """Whether the network says more on a grid than a linear filter of the state does, while that knows anything itself.

        Compared where V is not all there is to know, over the steps above T = 0.3: below, the state says nearly everything.
        """
        used = torch.tensor(self.times[:-1]) > 0.3
        return float(self.miss.mean(0)[grid, used].sum()) < float(self.linear[grid, used].sum())

    def least_times(self, psnr: float) -> dict[Shape, float]:
        """For each coarse grid the least time it may make a step from for a predicted `psnr` in dB; above 1: never.

        For ``optimise_plan(..., least_times=...)``.
        """
        found = {}
        for g, shape in enumerate(self.shapes[:-1]):
            good = [k for k in range(len(self.times) - 2) if self.knows(g) and self.left_at(g, k) >= psnr]
            found[shape] = self.times[max(good)] if good else math.inf
        return found

    def verdict(self, psnr: float = 30.0) -> tuple[str, ...]:
        """One sentence a coarse grid: until when it may be used for a predicted `psnr`, and what a repair would give."""
        lines, least = [], self.least_times(psnr)
        for g, shape in enumerate(self.shapes[:-1]):
            name = shown(shape)
            if not self.knows(g):
                lines.append(
                    f"{name}: the network says less here than a linear filter of the state; leave this size out"
                )
                continue
            time = least[shape]
            ok = f"agrees to {psnr:g} dB down to T = {time:.2f}" if time <= 1 else f"does not agree to {psnr:g} dB"
            last = min(range(len(self.times) - 2), key=lambda k: abs(self.times[k + 1] - 0.5))
            levels = ", ".join(f"{kind} {self.left_at(g, last, kind):.1f}" for kind in KINDS)
            lines.append(f"{name}: {ok}; left at T = {self.times[last + 1]:.2f}: {levels} dB")
        return tuple(lines)

    def noted(self, plan: Plan) -> Plan:
        """The plan with what was measured in its table."""
        levels = ", ".join(f"{kind} {self.psnr(plan, kind):.1f}" for kind in KINDS)
        text = f"sizes measured on {len(self.miss)} runs: {levels} dB to the full run of the same seed"
        return replace(plan, notes=(*plan.notes, text))

    def rows(self) -> Iterator[dict[str, Any]]:
        """A row a coarse grid and step: I, V, B with 95 % intervals over seeds, and predictions on leaving there."""
        for g, shape in enumerate(self.shapes[:-1]):
            for k, t in enumerate(self.times[:-2]):
                row: dict[str, Any] = {"size": shown(shape), "T": t}
                parts = {"I": self.miss, "V": self.missing, "B": self.miss - self.missing, "dropped": self.dropped}
                for name, value in parts.items():
                    one = value[:, g, k]
                    row[name] = float(one.mean())
                    row[f"{name}_half"] = 1.96 * float(one.std()) / math.sqrt(len(one)) if len(one) > 1 else math.nan
                row["linear"] = float(self.linear[g, k])
                yield row | {kind: self.left_at(g, k, kind) for kind in KINDS}

    def __str__(self) -> str:
        return self.table()

    def table(self, psnr: float = 30.0) -> str:
        """Every size and step, and the :meth:`verdict` for a `psnr` in dB."""
        head = f"{'size':>9}  {'T':>5}  {'I':>8} {'+-':>7}  {'B':>8}  {'V':>8}  {'dropped':>8}  {'linear':>8}"
        head += "".join(f"  {kind:>8}" for kind in KINDS)
        lines = [
            f"{self.model or 'model'}: {len(self.miss)} full runs, {len(self.times) - 1} steps; dB if left there",
            head,
        ]
        for r in self.rows():
            line = f"{r['size']:>9}  {r['T']:5.3f}  {r['I']:8.5f} {r['I_half']:7.5f}  {r['B']:8.5f}  {r['V']:8.5f}"
            lines.append(line + f"  {r['dropped']:8.5f}  {r['linear']:8.5f}" + "".join(f"  {r[k]:8.1f}" for k in KINDS))
        return "\n".join([*lines, *self.verdict(psnr)])


@torch.no_grad()
@door(velocity=runs.velocity, solver=ONE_CALL, basis=BASIS, batch=inputs.count, dims=inputs.count)
def size_agreement(
    velocity: Velocity,
    noise: Tensor,
    times: Sequence[float],
    *,
    scales: Sequence[float | Sequence[float]] = (1 / 2, 1.0),
    multiple_of: int | Sequence[int] = 1,
    dims: int = 2,
    solver: SolverName = "dpmpp_2m",
    basis: Basis = DCT,
    batch: int = 16,
    model: str = "",
) -> SizeAgreement:
    """Measure how a model's coarse calls differ from its full-size ones, along its own full runs: no data, no training.

    Costs, a seed and a step, two full-size calls and for each coarse grid two more; coarse ones beside.

    Parameters
    ----------
    velocity
        ``velocity(x, t)``, the model, guidance included; it is called on every grid with that grid's LOCAL time.
    noise
        White fields (seeds, ..., *full grid); eight to sixteen seeds show what there is to see.
    times
        The time grid of the full run, from 1 (or just below, as some schedulers begin) to 0.
    scales, multiple_of, dims, solver, basis, batch, model
        As :func:`~spectral_pd.calibrate.calibrate`.

    Raises
    ------
    ValueError, TypeError
        A time grid that begins in the middle, where states are not noise; whatever `calibrate` refuses.

    Examples
    --------
    >>> from spectral_pd import PRESETS, GaussianField, shift_times
    >>> field = GaussianField(PRESETS["flux"], (16, 16))
    >>> found = size_agreement(field.velocity, torch.randn(4, 4, 16, 16), shift_times(6, shift=3.0))
    >>> bool(found.miss.max() < 1e-9)  # the sizes of an exact denoiser agree
    True
    """
    full = runs.seeds(noise, "noise", dims)
    times = from_noise(plans.times(times, "times"), "times")
    shapes = tuple(stage_shape(full, s, multiple_of=multiple_of) for s in plans.stage_scales(scales, dims))
    growing_grids(shapes, "scales")
    inputs.refuse(len(shapes) < 2, f"scales = {tuple(scales)} has no smaller size to ask; pass e.g. (1/2, 1)")
    nested_grids(basis, shapes)
    probe = _Probe(velocity, times, shapes, basis, solver)
    found = [probe.run(w) for w in noise.to(working_dtype(noise.dtype)).split(batch)]
    miss, missing, dropped, moments, power, products = (torch.cat([one[i] for one in found]) for i in range(6))
    filtered = torch.stack([posterior_data_gain.bare(t, power.mean(0)) for t in times[:-1]])
    xx, xd, dd, moved, along, changed = runs.measured(products).mean(0).unbind()
    owner = bands(shapes, basis)[1]
    each = filtered.square() * xx - 2 * filtered * xd + dd
    # A band that has moved by rounding alone says nothing of how answers follow it.
    safe = moved > 1e-12 * xx
    gain = torch.where(safe, along / torch.where(safe, moved, 1.0), filtered)
    rest = (changed - 2 * gain * along + gain**2 * moved).clamp(min=0) / moved.sum(1, keepdim=True).clamp(min=1e-12)
    linear = torch.stack([(each * (owner <= g)).sum(1) for g in range(len(shapes) - 1)])
    return SizeAgreement(model, times, shapes, solver, basis.name, miss, missing, dropped, linear, moments, gain, rest)


class _Probe:
    """Full runs that ask at every step what the coarse grids say, and what they ought to."""

    def __init__(
        self, velocity: Velocity, times: tuple[float, ...], shapes: Sequence[Shape], basis: Basis, solver: SolverName
    ) -> None:
        self.velocity, self.times, self.shapes, self.basis = velocity, times, shapes, basis
        self.solver, self.full = find_solver(solver), shapes[-1]
        label, owner = bands(shapes, basis)
        self.members = [(label.flatten() == b).nonzero()[:, 0] for b in range(len(owner))]
        self.fresh = torch.Generator().manual_seed(FRESH)

    def denoised(self, x: Tensor, t: float) -> Tensor:
        return x - t * runs.answered(self.velocity(x, t), x)

    def run(self, w: Tensor) -> tuple[Tensor, ...]:
        """Per seed: miss, missing, dropped, moments, power, and products of states, answers and their changes."""
        steps, grids, finest = len(self.times) - 1, len(self.shapes) - 1, self.shapes[-2]
        x = astray = w
        history: Any = None
        lost: Any = None
        errors: list[list[list[Tensor]]] = [[[] for _ in range(grids)] for _ in KINDS]
        scalars = torch.zeros(3, len(w), grids, steps, dtype=torch.float64)
        unknown: list[list[Tensor]] = [[] for _ in range(grids)]
        products = torch.zeros(len(w), 6, steps, len(self.members), dtype=torch.float64)
        for k, (t, t_next) in enumerate(pairwise(self.times)):
            answer = self.denoised(x, t)
            xi, eta = astray - x, self.denoised(astray, t) - answer
            pairs = ((x, x), (x, answer), (answer, answer), (xi, xi), (xi, eta), (eta, eta))
            for i, (a, b) in enumerate(pairs):
                products[:, i, k] = self._by_band(a, b)
            for g, shape in enumerate(self.shapes[:-1]):
                low = self._low(x, shape)
                other = torch.randn(w.shape, generator=self.fresh, dtype=w.dtype).to(w.device)
                said = self._coarse(x, t, shape)
                own, drawn = (
                    self._low(self.denoised(low + t * high_band.bare(z, shape, basis=self.basis), t), shape)
                    for z in (w, other)
                )
                for kind, value in enumerate((said, drawn, own)):
                    errors[kind][g].append(value - answer)
                unknown[g].append(own - drawn)
                for i, gap in enumerate((said - own, own - drawn, own - self._low(answer, shape))):
                    scalars[i, :, g, k] = gap.double().square().flatten(1).mean(1).cpu() * (0.5 if i == 1 else 1.0)

            led = self._coarse(astray, t, finest)
            x, history = self.solver(towards(answer), x, t, t_next, history)
            astray, lost = self.solver(towards(led), astray, t, t_next, lost)
        moments = torch.stack([self._moments([e for one in kind for e in one]) for kind in errors], 1)
        # What was drawn says E[R | y] plus an error of its own at every step: off the diagonal it is gone in the mean.
        own_error = torch.stack([self._by_band(gap, gap) for one in unknown for gap in one], -1) / 2
        moments[:, KINDS.index("repaired")] -= torch.diag_embed(own_error)
        counts = torch.tensor([len(inside) for inside in self.members], dtype=torch.float64)
        power = self._by_band(x, x) * math.prod(self.full) / counts
        return scalars[0], scalars[1], scalars[2], moments, power, products

    def _coarse(self, x: Tensor, t: float, shape: Shape) -> Tensor:
        """``r U C``."""
        said = self.denoised(*restrict_aligned.bare(x, shape, t, basis=self.basis))
        return size_ratio(shape, self.full) * self.basis.embed(said, self.full)

    def _low(self, value: Tensor, shape: Shape) -> Tensor:
        return self.basis.embed(self.basis.restrict(value, shape), self.full)

    def _values(self, value: Tensor, inside: Tensor) -> Tensor:
        """Coefficients of a band (batch, values), float64."""
        coefficients = self.basis.forward(value, dims=len(self.full))
        return coefficients.flatten(-len(self.full))[..., inside.to(value.device)].double().flatten(1).cpu()

    def _by_band(self, a: Tensor, b: Tensor) -> Tensor:
        """``<a, b>`` of each band over the number of values of the full grid: (batch, bands)."""
        each = (self._values(a, inside) * self._values(b, inside) for inside in self.members)
        return torch.stack([one.sum(1) for one in each], 1) / a[0].numel()

    def _moments(self, errors: Sequence[Tensor]) -> Tensor:
        """(batch, bands, errors, errors)."""
        found = []
        for inside in self.members:
            rows = torch.stack([self._values(e, inside) for e in errors], 1)
            found.append(rows @ rows.mT / errors[0][0].numel())
        return torch.stack(found, 1)


def from_noise(value: tuple[float, ...], name: str) -> tuple[float, ...]:
    """A time grid whose first state is the noise itself."""
    if value[0] < 0.99:
        raise ValueError(f"{name} begins at {value[0]:g}; full runs from noise begin at 1")
    return value
