"""A transformer that IS an ideal denoiser, behind the real pipelines' calls: the same seed gives the same picture.

The stand-in networks take exactly what the real ones take (tokens, ids, time, embeddings), rebuild the picture from the ids
they are GIVEN, denoise it in closed form and answer in the real network's units and sign. Same-seed equality with the
full-resolution run then proves packing, ids, time scale, sign and shift, and each of them wrong breaks it. With reference
pictures and condition channels they also look for those where the real networks have them.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers", reason="diffusers is not installed: pip install 'spectral_pd[diffusers]'")

from tiny_pipelines import CHROMA, FLUX, KONTEXT, QWEN, QWEN_EDIT, SDXL, WAN, WAN_I2V, Z_IMAGE, Family, generator

from spectral_pd import GaussianField, restrict_noise, sample
from spectral_pd.adapters import LAYOUTS, adapt, progressive, rider
from spectral_pd.adapters.layouts import time
from spectral_pd.parametrisation import flow_from_vp, velocity_from_noise, velocity_from_vp

GRID, HALF = (24, 32), (12, 16)  # not square: rows and columns cannot be taken for each other
STEPS = 20


class _Stand(torch.nn.Module):
    """What the pipelines read from a transformer besides its forward."""

    sign = 1.0

    def __init__(self, like: torch.nn.Module, field: GaussianField) -> None:
        super().__init__()
        self.config, self.dtype, self.device, self.field = like.config, torch.float32, torch.device("cpu"), field
        self.times: list[float] = []

    def cache_context(self, name: str, **rest):
        return torch.no_grad()

    def ideal(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        self.times.append(min(float(t), 1.0))
        return self.sign * self.field.velocity(x, self.times[-1])

    def placed(self, tokens: torch.Tensor, ids: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """Every 2x2 token at the (row, column) of its id; positions outside, twice or missing are an error."""
        rows, columns = (int(ids[:, axis].max()) + 1 for axis in (0, 1))
        assert rows * GRID[1] == columns * GRID[0]
        order = (ids[:, 0] * columns + ids[:, 1]).long()
        assert torch.equal(order.sort().values, torch.arange(rows * columns))
        laid = torch.empty_like(tokens)
        laid[:, order] = tokens
        picture = torch.nn.functional.pixel_shuffle(laid.transpose(1, 2).unflatten(2, (rows, columns)), 2)
        back = torch.nn.functional.pixel_unshuffle(self.ideal(picture, t), 2).flatten(2).transpose(1, 2)
        return back[:, order]


class IdealFlux(_Stand):
    """Also Chroma and Kontext: tokens of a reference, with a first id of 1, are of the full size at every stage."""

    references = 0

    def forward(self, hidden_states, timestep, img_ids, txt_ids, attention_mask=None, **rest):
        assert hidden_states.shape[-1] == self.config.in_channels
        assert hidden_states.shape[1] == len(img_ids)
        assert not txt_ids.any()
        if attention_mask is not None:
            assert attention_mask.shape[1] == len(txt_ids) + len(img_ids)
        ours = img_ids[:, 0] == 0
        assert int((~ours).sum()) == self.references
        v = torch.zeros_like(hidden_states)
        v[:, ours] = self.placed(hidden_states[:, ours], img_ids[ours][:, 1:], timestep[0])
        return (v,)


class IdealKontext(IdealFlux):
    references = 12 * 16


class IdealQwen(_Stand):
    """Tokens row by row, of as many pictures as `img_shapes` lists; the first is the picture's."""

    pictures = 1

    def forward(self, hidden_states, timestep, img_shapes, **rest):
        ((_, rows, columns), *others) = img_shapes[0]
        assert len(others) + 1 == self.pictures
        n = rows * columns
        assert hidden_states.shape[1] == n + sum(f * h * w for f, h, w in others)
        ids = torch.stack(torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij"), -1).reshape(-1, 2)
        v = torch.zeros_like(hidden_states)
        v[:, :n] = self.placed(hidden_states[:, :n], ids, timestep[0])
        return (v,)


class IdealQwenEdit(IdealQwen):
    pictures = 2


class IdealWan(_Stand):
    """Each frame is a picture; time in 0..1000. The channels after the latents are a mask of 4 and a picture's latents."""

    def forward(self, hidden_states, timestep, encoder_hidden_states, **rest):
        latents, rest_of_it = hidden_states[:, :16], hidden_states[:, 16:]
        if rest_of_it.shape[1]:
            mask, picture = rest_of_it[:, :4], rest_of_it[:, 4:]
            assert set(mask.unique().tolist()) == {0.0, 1.0}
            assert bool((mask[:, :, 0] == 1).all())
            if (means := self.__dict__.setdefault("means", {})) is not None:
                means[tuple(picture.shape[-2:])] = picture.mean((-2, -1))
        return (self.ideal(latents, timestep[0] / 1000),)


class IdealZImage(_Stand):
    """A list of pictures, time from noise to data, and the opposite sign."""

    in_channels = 4

    def forward(self, x, t, cap_feats, **rest):
        return ([-v.unsqueeze(1) for v in self.ideal(torch.stack(x).squeeze(2), 1 - t[0])],)


class IdealSDXL(_Stand):
    """A variance-preserving state at a timestep of the table, of SDXL's sizes; answers with the noise."""

    def __init__(self, like, field):
        super().__init__(like, field)
        self.add_embedding = like.add_embedding

    def forward(self, sample, timestep, added_cond_kwargs, **rest):
        assert added_cond_kwargs["time_ids"].tolist()[0] == [8 * GRID[0], 8 * GRID[1], 0, 0, 8 * GRID[0], 8 * GRID[1]]
        table = SDXL.pipe.scheduler.alphas_cumprod.double().numpy()
        alpha2 = float(np.interp(float(timestep), range(len(table)), table))
        x, t = flow_from_vp(sample, alpha2**0.5, (1 - alpha2) ** 0.5)
        return (x + (1 - t) * self.ideal(x, t),)


def network_of(family: Family) -> str:
    return "unet" if family is SDXL else "transformer"


def ideal_pipe(family: Family, cls: type[_Stand]):
    """The family's pipeline around an ideal denoiser whose spectrum is steep enough that late bands do not matter."""
    pipe = family.build()
    pipe.set_progress_bar_config(disable=True)
    name = network_of(family)
    setattr(pipe, name, cls(getattr(pipe, name), GaussianField(lambda k: 400.0 * k**-3.0, GRID)))
    if family in (FLUX, KONTEXT, CHROMA):
        # The real dynamic shift, with a table short enough to matter at this size.
        pipe.scheduler = type(pipe.scheduler).from_config(
            pipe.scheduler.config, base_image_seq_len=16, max_image_seq_len=256
        )
    return pipe


def call(family: Family) -> dict:
    more = {"max_area": 8 * 8 * GRID[0] * GRID[1]} if family is KONTEXT else {}
    return family.arguments(guided=False, height=GRID[0] * 8, width=GRID[1] * 8, num_inference_steps=STEPS, **more)


def spatial(family: Family, latents: torch.Tensor) -> torch.Tensor:
    return LAYOUTS[type(family.pipe).__name__].unpack(latents, 1, GRID) if latents.ndim == 3 else latents


def run(family: Family, pipe, layout=None, **options) -> torch.Tensor:
    """The final latent, spatial, of the same seed."""
    out = progressive(pipe, generator=generator(3), layout=layout, **call(family), **options)
    return spatial(family, getattr(out, family.output))


def low_band_error(a: torch.Tensor, b: torch.Tensor) -> float:
    low = [restrict_noise(x, HALF) for x in (a, b)]
    return float((low[0] - low[1]).norm() / low[1].norm())


CASES = [
    (FLUX, IdealFlux),
    (KONTEXT, IdealKontext),
    (CHROMA, IdealFlux),
    (QWEN, IdealQwen),
    (QWEN_EDIT, IdealQwenEdit),
    (WAN, IdealWan),
    (WAN_I2V, IdealWan),
    (Z_IMAGE, IdealZImage),
    (SDXL, IdealSDXL),
]
cases = pytest.mark.parametrize(("family", "cls"), CASES, ids=[str(family) for family, _ in CASES])


@cases
@pytest.mark.parametrize("scales", [(1 / 2, 1), (1 / 4, 1 / 2, 1)])
def test_same_seed_same_picture(family, cls, scales):
    """The equivalence theorem through the ride: every band of a coarse stage is that of the full-resolution run."""
    pipe = ideal_pipe(family, cls)
    full = run(family, pipe, scales=(1,))
    found = run(family, pipe, scales=scales, transition_times=(0.9, 0.8)[: len(scales) - 1])
    coarse = tuple(int(scales[0] * n) for n in GRID)
    low_full, low = (restrict_noise(x, coarse) for x in (full, found))
    assert float((low - low_full).norm() / low_full.norm()) < 1e-5
    assert float((found - full).norm() / full.norm()) > 1e-4  # it was another run


@cases
def test_the_whole_picture_is_the_stock_one_up_to_delta(family, cls):
    pipe = ideal_pipe(family, cls)
    full = run(family, pipe, scales=(1,))
    errors = []
    for delta in (0.5, 0.1, 0.001) if family is SDXL else (0.1, 0.01, 0.001):  # whose grid begins later
        spectrum = lambda k: 400.0 * k**-3.0  # noqa: E731
        found = run(family, pipe, scales=(1 / 2, 1), delta=delta, spectrum=spectrum, unreached="force")
        errors.append(float((found - full).norm() / full.norm()))
    assert errors[0] > errors[1] > errors[2]
    assert errors[1] < 0.03


def test_a_condition_picture_keeps_its_values_at_every_stage():
    """Its mean is the same on every grid; as noise is restricted it would be twice as large on half the grid."""
    pipe = ideal_pipe(WAN_I2V, IdealWan)
    run(WAN_I2V, pipe, scales=(1 / 2, 1), transition_times=(0.9,))
    coarse, full = pipe.transformer.means[HALF], pipe.transformer.means[GRID]
    assert full.abs().max() > 0.01
    torch.testing.assert_close(coarse, full, rtol=1e-3, atol=1e-4)


@cases
@pytest.mark.parametrize("wrong", ["sign", "time scale"])
def test_a_wrong_convention_is_seen(family, cls, wrong):
    """Negative controls: the same comparison fails when the network's sign or time scale is misunderstood."""
    full = run(family, ideal_pipe(family, cls), scales=(1,))
    layout = LAYOUTS[type(family.pipe).__name__]
    if wrong == "sign":
        pipe, layout = ideal_pipe(family, type("Wrong", (cls,), {"sign": -1.0})), None
    else:
        pipe = ideal_pipe(family, cls)
        name = "t" if family is Z_IMAGE else "timestep"
        scaled = time(lambda timestep: timestep / (1 if family in (WAN, WAN_I2V, SDXL) else 1000) * 0.7)
        layout = replace(layout, inputs={**layout.inputs, name: scaled})
    error = low_band_error(run(family, pipe, layout, scales=(1 / 2, 1), transition_times=(0.9,)), full)
    assert not error < 0.05  # a wrong sign overflows to infinity


@pytest.mark.parametrize("wrong", ["denoised", "v", "of a flow's state", "without EDM's scale"])
def test_a_wrong_converter_is_seen(wrong, monkeypatch):
    """Negative controls for variance-preserving networks: what they predict, of which state, and what the pipeline holds."""
    pipe = ideal_pipe(SDXL, IdealSDXL)
    full = run(SDXL, pipe, scales=(1,))
    right = rider.path_of(pipe.scheduler)
    table = {"alphas_cumprod": pipe.scheduler.alphas_cumprod}
    if wrong == "of a flow's state":
        path = replace(right, convert=lambda model: velocity_from_noise(lambda x, t: model(x, 1000 * t)))
    elif wrong == "without EDM's scale":
        path = replace(right, held=lambda x, t: x)
    else:
        path = replace(right, convert=lambda model: velocity_from_vp(model, predicts=wrong, **table))
    monkeypatch.setattr(rider, "path_of", lambda scheduler: path)
    error = low_band_error(run(SDXL, pipe, scales=(1 / 2, 1), transition_times=(0.9,)), full)
    assert not error < 0.01


@pytest.mark.parametrize("wrong", ["of the full grid", "transposed"])
@pytest.mark.parametrize(("family", "cls"), CASES[:2], ids=["FLUX.1", "Kontext"])
def test_wrong_ids_are_seen(family, cls, wrong):
    """Negative control: a coarse stage with the ids of the full grid, or with rows for columns, does not place its tokens."""
    layout = LAYOUTS[type(family.pipe).__name__]
    right = layout.inputs["img_ids"]

    def ids(value, seat):
        return value if wrong == "of the full grid" else right(value, seat)[:, [0, 2, 1]]

    layout = replace(layout, inputs={**layout.inputs, "img_ids": ids})
    with pytest.raises((AssertionError, RuntimeError, IndexError)):
        run(family, ideal_pipe(family, cls), layout, scales=(1 / 2, 1), transition_times=(0.9,))


def test_a_shift_from_the_coarse_size_is_seen():
    """Negative control: mu of the coarse token count gives another time grid and another picture."""
    pipe = ideal_pipe(FLUX, IdealFlux)
    right = adapt(pipe, **call(FLUX)).times
    mu, grids = {}, {}
    from diffusers.pipelines.flux.pipeline_flux import calculate_shift

    for size in (GRID, HALF):
        mu[size] = calculate_shift(size[0] * size[1] // 4, 16, 256, 0.5, 1.15)
        pipe.scheduler.set_timesteps(sigmas=[1 - k / STEPS for k in range(STEPS)], mu=mu[size])
        grids[size] = pipe.scheduler.sigmas.tolist()
    assert right == pytest.approx(grids[GRID], abs=1e-6)
    assert max(abs(a - b) for a, b in zip(right, grids[HALF], strict=True)) > 0.05
    full = run(FLUX, pipe, scales=(1,))
    found = run(FLUX, pipe, scales=(1 / 2, 1), sigmas=_unshifted(grids[HALF], mu[GRID]), transition_times=(0.9,))
    assert low_band_error(found, full) > 1e-3


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
    ride = adapt(pipe, generator=generator(), **call(family))
    plan = ride.plan(scales=(1 / 2, 1), transition_times=(0.9,))
    ride.run(plan)
    expected = [t for stage in plan.stages for t in stage.local_times[:-1]]
    assert getattr(pipe, network_of(family)).times == pytest.approx(expected, abs=1e-4 if family is SDXL else 1e-6)


@pytest.mark.parametrize(("family", "cls"), [(FLUX, IdealFlux), (WAN, IdealWan), (Z_IMAGE, IdealZImage)], ids=str)
def test_the_ride_is_the_cores_run(family, cls):
    """Nothing but conventions is added: the core sampler on the ideal velocity gives the same numbers."""
    pipe = ideal_pipe(family, cls)
    ride = adapt(pipe, generator=generator(3), **call(family))
    plan = ride.plan(scales=(1 / 2, 1), transition_times=(0.9,))
    drawn = torch.randn(ride.shape, generator=generator(3))
    expected = sample(pipe.transformer.field.velocity, drawn, plan)
    found = run(family, pipe, scales=(1 / 2, 1), transition_times=(0.9,))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
