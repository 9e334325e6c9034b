"""A transformer that IS an ideal denoiser, behind the real FLUX and WAN calls: the same seed gives the same picture.

The stand-in networks take exactly what the real ones take (tokens, ids, time, embeddings), rebuild the picture from the ids
they are GIVEN, denoise it in closed form and answer in the real network's units and sign. Same-seed equality with the
full-resolution run then proves packing, ids, time scale, sign and shift, and each of them wrong breaks it.
"""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("diffusers", reason="diffusers is not installed: pip install 'spectral_pd[diffusers]'")

from tiny_pipelines import FLUX, WAN, Family, generator

from spectral_pd import GaussianField, restrict_noise, sample
from spectral_pd.adapters import adapt, progressive
from spectral_pd.adapters.base import linear_mu, unpack

GRID, HALF = (24, 32), (12, 16)  # not square: rows and columns cannot be taken for each other
STEPS = 20


class _Stand(torch.nn.Module):
    """What the pipelines read from a transformer besides its forward."""

    def __init__(self, like: torch.nn.Module, field: GaussianField) -> None:
        super().__init__()
        self.config, self.dtype, self.device, self.field = like.config, torch.float32, torch.device("cpu"), field
        self.times: list[float] = []

    def cache_context(self, name: str):
        return torch.no_grad()

    def ideal(self, x: torch.Tensor, t: float) -> torch.Tensor:
        self.times.append(t)
        return self.field.velocity(x, t)


class IdealFlux(_Stand):
    """Places every 2x2 token at the (row, column) of its id; positions outside, twice or missing are an error."""

    time_scale, sign = 1.0, 1.0

    def forward(self, hidden_states, timestep, img_ids, txt_ids, guidance, **rest):
        assert hidden_states.shape[-1] == self.config.in_channels
        assert txt_ids.shape[-1] == 3
        assert not txt_ids.any()
        rows, columns = (int(img_ids[:, axis].max()) + 1 for axis in (1, 2))
        assert rows * GRID[1] == columns * GRID[0]
        order = (img_ids[:, 1] * columns + img_ids[:, 2]).long()
        assert torch.equal(order.sort().values, torch.arange(rows * columns))
        tokens = torch.empty_like(hidden_states)
        tokens[:, order] = hidden_states
        picture = torch.nn.functional.pixel_shuffle(tokens.transpose(1, 2).unflatten(2, (rows, columns)), 2)
        v = self.ideal(picture, min(float(timestep[0]) * self.time_scale, 1.0))
        back = torch.nn.functional.pixel_unshuffle(v, 2).flatten(2).transpose(1, 2)
        return (self.sign * back[:, order],)


class IdealWan(_Stand):
    """Each frame is a picture; time in 0..1000."""

    time_scale, sign = 1e-3, 1.0

    def forward(self, hidden_states, timestep, encoder_hidden_states, **rest):
        return (self.sign * self.ideal(hidden_states, min(float(timestep[0]) * self.time_scale, 1.0)),)


def ideal_pipe(family: Family, cls: type[_Stand]):
    """The family's pipeline around an ideal denoiser whose spectrum is steep enough that late bands do not matter."""
    pipe = family.build()
    pipe.set_progress_bar_config(disable=True)
    pipe.transformer = cls(pipe.transformer, GaussianField(lambda k: 400.0 * k**-3.0, GRID))
    if family is FLUX:
        # The real dynamic shift, with a table short enough to matter at this size.
        pipe.scheduler = type(pipe.scheduler).from_config(
            pipe.scheduler.config, base_image_seq_len=16, max_image_seq_len=256
        )
    return pipe


def call(family: Family) -> dict:
    return family.arguments(guided=False, height=GRID[0] * 8, width=GRID[1] * 8, num_inference_steps=STEPS)


def run(family: Family, pipe, **options) -> torch.Tensor:
    """The final latent, spatial, of the same seed."""
    result = progressive(pipe, generator=generator(3), **call(family), **options)
    latents = getattr(result, family.output)
    return unpack(latents, GRID) if family is FLUX else latents


def low_band_error(a: torch.Tensor, b: torch.Tensor) -> float:
    low = [restrict_noise(x, HALF) for x in (a, b)]
    return float((low[0] - low[1]).norm() / low[1].norm())


CASES = [(FLUX, IdealFlux), (WAN, IdealWan)]
cases = pytest.mark.parametrize(("family", "cls"), CASES, ids=["FLUX.1", "WAN"])


@cases
@pytest.mark.parametrize("scales", [(1 / 2, 1), (1 / 4, 1 / 2, 1), (3 / 4, 1)])
def test_same_seed_same_picture(family, cls, scales):
    """The equivalence theorem through the adapter: every band of a coarse stage is that of the full-resolution run."""
    pipe = ideal_pipe(family, cls)
    full = run(family, pipe, scales=(1,))
    result = run(family, pipe, scales=scales, transition_times=(0.9, 0.8)[: len(scales) - 1])
    coarse = tuple(int(scales[0] * n) for n in GRID)
    low_full, low = (restrict_noise(x, coarse) for x in (full, result))
    assert float((low - low_full).norm() / low_full.norm()) < 1e-5


@cases
def test_the_whole_picture_is_the_stock_one_up_to_delta(family, cls):
    pipe = ideal_pipe(family, cls)
    full = run(family, pipe, scales=(1,))
    errors = []
    for delta in (0.1, 0.01, 0.001):
        spectrum = lambda k: 400.0 * k**-3.0  # noqa: E731
        result = run(family, pipe, scales=(1 / 2, 1), delta=delta, spectrum=spectrum, unreached="force")
        errors.append(float((result - full).norm() / full.norm()))
    assert errors[0] > errors[1] > errors[2]
    assert errors[1] < 0.03


def _wrong_sign(cls):
    return type("Wrong", (cls,), {"sign": -1.0})


def _wrong_scale(cls):
    return type("Wrong", (cls,), {"time_scale": cls.time_scale * 0.7})


@cases
@pytest.mark.parametrize("wrong", [_wrong_sign, _wrong_scale], ids=["sign", "time scale"])
def test_a_wrong_convention_is_seen(family, cls, wrong):
    """Negative controls: the same comparison fails when the network's sign or time scale is misunderstood."""
    full = run(family, ideal_pipe(family, cls), scales=(1,))
    result = run(family, ideal_pipe(family, wrong(cls)), scales=(1 / 2, 1), transition_times=(0.9,))
    error = low_band_error(result, full)
    assert not error < 0.05  # a wrong sign overflows to infinity


@pytest.mark.parametrize("wrong", ["of the full grid", "transposed"])
def test_wrong_ids_are_seen(wrong):
    """Negative control: a coarse stage with the ids of the full grid, or with rows for columns, does not place its tokens."""
    pipe = ideal_pipe(FLUX, IdealFlux)
    adapter = adapt(pipe, generator=generator(3), **call(FLUX))
    right = adapter.begin_stage

    def begin_stage(grid):
        right(GRID if wrong == "of the full grid" else grid)
        if wrong == "transposed":
            adapter.image_ids = adapter.image_ids[:, [0, 2, 1]]

    adapter.begin_stage = begin_stage
    with pytest.raises((AssertionError, RuntimeError, IndexError)):
        adapter.run(adapter.plan(scales=(1 / 2, 1), transition_times=(0.9,)))


def test_a_shift_from_the_coarse_size_is_seen():
    """Negative control: mu of the coarse token count gives another time grid and another picture."""
    pipe = ideal_pipe(FLUX, IdealFlux)
    config = pipe.scheduler.config
    right = adapt(pipe, **call(FLUX)).times()
    mu = {size: linear_mu(size[0] * size[1] // 4, config) for size in (GRID, HALF)}
    grids = {}
    for size, value in mu.items():
        pipe.scheduler.set_timesteps(sigmas=[1 - k / STEPS for k in range(STEPS)], mu=value)
        grids[size] = pipe.scheduler.sigmas.tolist()
    assert right == pytest.approx(grids[GRID], abs=1e-6)
    assert max(abs(a - b) for a, b in zip(right, grids[HALF], strict=True)) > 0.05
    full = run(FLUX, pipe, scales=(1,))
    result = run(FLUX, pipe, scales=(1 / 2, 1), sigmas=_unshifted(grids[HALF], mu[GRID]), transition_times=(0.9,))
    assert low_band_error(result, full) > 1e-3


def test_a_wrong_shift_is_seen():
    """Negative control for WAN's static shift: the grid of another one ends in another picture."""
    pipe = ideal_pipe(WAN, IdealWan)
    full = run(WAN, pipe, scales=(1,))
    options = {"scales": (1 / 2, 1), "transition_times": (0.9,)}
    assert low_band_error(run(WAN, pipe, **options), full) < 1e-5
    pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, shift=1.0)
    assert low_band_error(run(WAN, pipe, **options), full) > 1e-3


def _unshifted(times: list[float], mu: float) -> list[float]:
    """The unshifted sigmas that a shift of mu turns into `times`."""
    s = float(torch.tensor(mu).exp())
    return [t / (s - (s - 1) * t) for t in times[:-1]]


@cases
def test_the_network_sees_local_times(family, cls):
    """A coarse stage's network is called at ``align(T, 1/r)``, in its own units."""
    pipe = ideal_pipe(family, cls)
    adapter = adapt(pipe, generator=generator(), **call(family))
    plan = adapter.plan(scales=(1 / 2, 1), transition_times=(0.9,))
    adapter.run(plan)
    expected = [t for stage in plan.stages for t in stage.times[:-1]]
    assert pipe.transformer.times == pytest.approx(expected, abs=1e-6)


@cases
def test_the_adapter_run_is_the_cores(family, cls):
    """Nothing but conventions is added: the core sampler on the ideal velocity gives the same numbers."""
    pipe = ideal_pipe(family, cls)
    adapter = adapt(pipe, generator=generator(3), **call(family))
    plan = adapter.plan(scales=(1 / 2, 1), transition_times=(0.9,))
    noise = adapter.draw_noise()
    expected = sample(pipe.transformer.field.velocity, noise, plan)
    result = run(family, pipe, scales=(1 / 2, 1), transition_times=(0.9,))
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-4)
