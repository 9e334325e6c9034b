"""One Gaussian field, whose denoiser is known, told in every parametrisation: the samples must be the same.

Each stand-in network reads the noise level from its OWN second argument (a time, a sigma, a timestep), so that a wrong state, a
wrong index or a wrong scale shows in the samples. Distances are signal over error in dB.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from spectral_pd import (
    GaussianField,
    Plan,
    PowerLaw,
    make_plan,
    parametrisation,
    plan_at,
    sample,
    shift_times,
    velocity_from_denoised,
    velocity_from_edm,
    velocity_from_noise,
    velocity_from_vp,
)
from spectral_pd.parametrisation import flow_from_edm, flow_from_vp, times_from_vp, wrap_network

LAW = PowerLaw(60.0, 2.2, shape=(32, 32))
FIELD = GaussianField(LAW, (32, 32))
# Stable Diffusion's: beta from 0.00085 to 0.012, linear in its root.
ALPHAS_CUMPROD = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)
INDICES = range(999, 0, -37)
TIMES = times_from_vp(ALPHAS_CUMPROD, INDICES)
FULL = make_plan(TIMES, LAW, (32, 32), scales=(1,))
HALF = plan_at(TIMES, (0.6,), (32, 32), scales=(1 / 2, 1))


def noise(*, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0), dtype=dtype)


def decibels(a: torch.Tensor, b: torch.Tensor) -> float:
    return -20 * math.log10(float((a - b).double().norm() / b.double().norm()) + 1e-30)


def drawn(velocity, plan: Plan = FULL, *, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """From the state of pure noise at the plan's first time."""
    x = noise(dtype=dtype)
    return sample(velocity, x, plan, start=plan.times[0] * x)


def predicted(x: torch.Tensor, t: float, what: str) -> torch.Tensor:
    """The field's ideal prediction from a flow state."""
    v = FIELD.velocity(x, t)
    return {"flow": v, "denoised": x - t * v, "noise": x + (1 - t) * v}[what]


def edm(x: torch.Tensor, sigma: float) -> torch.Tensor:
    return predicted(*flow_from_edm(x, sigma), "denoised")


def vp_network(what: str, *, off: float = 0):
    """A network of timesteps 0 to 999, trained on variance-preserving states; `off`: what it is mistaken by.

    Between whole timesteps its level is linear in log sigma / alpha, as k-diffusion has it: not the library's own rule.
    """

    def network(x, k):
        log_level = np.interp(k + off, np.arange(1000), 0.5 * np.log(1 / ALPHAS_CUMPROD - 1))
        alpha = 1 / math.sqrt(1 + math.exp(2 * log_level))
        sigma = math.sqrt(1 - alpha**2)
        state = flow_from_vp(x, alpha, sigma)
        if what == "v":
            return alpha * predicted(*state, "noise") - sigma * predicted(*state, "denoised")
        return predicted(*state, what)

    return network


def vp(what: str, *, off: float = 0, **options):
    return velocity_from_vp(vp_network(what, off=off), predicts=what, alphas_cumprod=ALPHAS_CUMPROD, **options)


VELOCITIES = {
    "x0 of a flow state": velocity_from_denoised(lambda x, t: predicted(x, t, "denoised")),
    "noise of a flow state": velocity_from_noise(lambda x, t: predicted(x, t, "noise")),
    "EDM": velocity_from_edm(edm),
    **{f"VP, {what}": vp(what) for what in ("denoised", "noise", "v")},
}


@pytest.mark.parametrize("name", VELOCITIES)
@pytest.mark.parametrize("plan", [FULL, HALF], ids=["full size", "progressive"])
def test_every_parametrisation_draws_the_same_samples(name, plan):
    """To rounding; between a table's timesteps library and network interpolate each in its own way."""
    distance = decibels(drawn(VELOCITIES[name], plan), drawn(FIELD.velocity, plan))
    assert distance > (120 if name.startswith("VP") and plan is HALF else 200)


@pytest.mark.parametrize("what", ["denoised", "noise", "v"])
def test_whole_timesteps_are_exact_on_the_models_own_grid(what):
    """At full size every time is one of the table; between its entries, on a coarse stage, the nearest is half a step off."""
    nearest = vp(what, index="nearest")
    assert decibels(drawn(nearest), drawn(FIELD.velocity)) > 200
    coarse, interpolated = (decibels(drawn(v, HALF), drawn(FIELD.velocity, HALF)) for v in (nearest, vp(what)))
    assert 60 < coarse < interpolated - 40


@pytest.mark.parametrize("off", [-1, 1])
def test_an_index_one_off_is_seen(off):
    """Negative control, in float32 as samplers run: over 90 dB are lost."""
    right, wrong = (
        decibels(drawn(vp("noise", off=k), dtype=torch.float32), drawn(FIELD.velocity, dtype=torch.float32))
        for k in (0, off)
    )
    assert right > 120
    assert wrong < right - 80
    assert wrong < 60


def test_the_converter_of_another_state_is_seen():
    """Negative control: a network of variance-preserving states behind velocity_from_noise draws something, and it is wrong."""
    levels = np.asarray(TIMES[::-1])
    steps = np.asarray([0, *INDICES[::-1]])
    network = vp_network("noise")
    mistaken = velocity_from_noise(lambda x, t: network(x, float(np.interp(t, levels, steps))))
    assert decibels(drawn(mistaken), drawn(FIELD.velocity)) < 25
    assert decibels(drawn(vp("noise")), drawn(FIELD.velocity)) > 200


@pytest.mark.parametrize("name", [name for name in vars(parametrisation) if name.startswith("velocity_from")])
def test_a_converter_says_first_which_state_it_takes(name):
    first = (getattr(parametrisation, name).__doc__ or "").partition("\n")[0]
    state = {"edm": "EDM", "vp": "VARIANCE-PRESERVING"}.get(name.removeprefix("velocity_from_"), "FLOW state")
    assert state in first


def test_the_table_may_be_a_tensor_an_array_or_a_list():
    assert times_from_vp(torch.from_numpy(ALPHAS_CUMPROD), torch.tensor(list(INDICES))) == TIMES
    assert times_from_vp(list(ALPHAS_CUMPROD), list(INDICES)) == TIMES
    for k, t in zip(INDICES, TIMES, strict=False):
        alpha, sigma = math.sqrt(ALPHAS_CUMPROD[k]), math.sqrt(1 - ALPHAS_CUMPROD[k])
        assert t == pytest.approx(sigma / (alpha + sigma), rel=1e-12)
    assert TIMES[-1] == 0.0


def test_a_table_that_ends_in_pure_noise():
    """Zero terminal signal: the grid begins at t = 1, and "v" has no singular time there."""
    table = [0.99, 0.7, 0.2, 0.0]
    assert times_from_vp(table, [3, 0])[0] == 1.0
    seen = []
    velocity = velocity_from_vp(
        lambda x, k: seen.append(k) or torch.zeros_like(x), predicts="v", alphas_cumprod=table, index="nearest"
    )
    x = noise()
    assert torch.equal(velocity(x, 1.0), x)
    assert seen == [3]
    assert isinstance(seen[0], int)


@pytest.mark.parametrize("predicts", ["noise", "v"])
def test_the_samples_are_those_of_ddim(predicts):
    """diffusers' DDIMScheduler in its own loop, with the same network: an outside judge of table, times and start."""
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type={"noise": "epsilon", "v": "v_prediction"}[predicts],
        clip_sample=False,
        timestep_spacing="trailing",
    )
    scheduler.set_timesteps(20)
    network = vp_network(predicts)
    x = noise()
    for k in scheduler.timesteps:
        x = scheduler.step(network(x, int(k)), int(k), x).prev_sample

    times = times_from_vp(scheduler.alphas_cumprod, scheduler.timesteps)
    abar = float(scheduler.alphas_cumprod[scheduler.timesteps[0]])
    start, t = flow_from_vp(noise(), math.sqrt(abar), math.sqrt(1 - abar))
    assert t == pytest.approx(times[0], rel=1e-6)
    velocity = velocity_from_vp(network, predicts=predicts, alphas_cumprod=scheduler.alphas_cumprod, index="nearest")
    plan = make_plan(times, LAW, (32, 32), scales=(1,))
    assert decibels(sample(velocity, noise(), plan, start=start), x) > 90  # diffusers' table is float32
    assert decibels(sample(velocity, noise(), plan), x) < 40  # negative control: noise alone is not the state


class Network(torch.nn.Module):
    """What people have: a time per item that is viewed and embedded, and weights of one type."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.mix = torch.nn.Conv2d(3, 3, 1, dtype=dtype)
        self.times: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        self.times.append(t)
        return self.mix(x) * (t.view(-1, 1, 1, 1) / 1000).to(x.dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_a_network_of_tensor_times_and_its_own_type_samples(dtype):
    network = Network(dtype)
    plan = plan_at(shift_times(8, shift=3.0), (0.6,), (32, 32), scales=(1 / 2, 1))
    picture = sample(wrap_network(network, scale=1000, dtype=dtype), noise(dtype=torch.float32), plan)
    assert picture.dtype == torch.float32
    assert picture.isfinite().all()
    assert all(t.shape == (2,) and t.dtype == torch.float32 for t in network.times)
    local = [t for stage in plan.stages for t in stage.local_times[:-1]]
    assert [float(t[0]) for t in network.times] == pytest.approx([1000 * t for t in local], rel=1e-6)
    # Negative control: in bfloat16 neighbouring times would fall together, or be off by more than the grid's precision.
    assert max(abs(float(torch.tensor(1000 * t).bfloat16()) - 1000 * t) for t in local) > 1
    with pytest.raises(AttributeError, match="view"):
        Network(torch.float32)(noise(dtype=torch.float32), 0.5)


def test_a_wrapped_network_gets_whole_timesteps_as_integers():
    network = Network(torch.float32)
    embedded = torch.nn.Embedding(1000, 3)
    seen = []

    def counting(x, k):
        seen.append(k)
        return x * embedded(k)[:, :, None, None]

    for index, expected in (("nearest", torch.int64), ("interpolated", torch.float32)):
        options = {"predicts": "noise", "alphas_cumprod": ALPHAS_CUMPROD, "index": index}
        model = wrap_network(counting if index == "nearest" else network)
        velocity_from_vp(model, **options)(noise(dtype=torch.float32), TIMES[3])
        (k,) = seen if index == "nearest" else network.times
        assert k.dtype == expected
        assert k.tolist() == pytest.approx([INDICES[3]] * 2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: times_from_vp(np.linspace(0.01, 0.99, 10), [3]), "products of all alphas"),
        (lambda: times_from_vp(np.linspace(0.012, 0.00085, 1000) * 100, [3]), "not alphas, betas or sigmas"),
        (lambda: times_from_vp([[0.9, 0.1]], [1]), "one number a timestep"),
        (lambda: times_from_vp(ALPHAS_CUMPROD, [1000]), "outside of the table's 0 to 999"),
        (lambda: times_from_vp(ALPHAS_CUMPROD, [-1]), "outside of the table's 0 to 999"),
        (lambda: times_from_vp(ALPHAS_CUMPROD, range(0, 999, 20)), "strictly decreasing from noise to data"),
        (lambda: times_from_vp(ALPHAS_CUMPROD, []), "strictly decreasing from noise to data"),
        (lambda: vp("noise", index="floor"), "'interpolated' or 'nearest'"),
        (lambda: sample(vp("noise"), noise(), make_plan(shift_times(4), LAW, (32, 32), scales=(1,))), "times_from_vp"),
    ],
)
def test_bad_tables_and_times_are_refused(call, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        call()


def test_the_noisiest_timestep_is_not_refused():
    """Rounding of a time must not cost the first step; a time cleaner than the table's first is taken for it."""
    assert vp("noise")(noise(), TIMES[0] * (1 + 1e-12)).isfinite().all()
    assert vp("noise")(noise(), 1e-6).isfinite().all()


PAGE = Path(__file__).parent.parent / "docs" / "your_model.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL) if PAGE.exists() else []


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_an_example_runs_alone(number, tmp_path, monkeypatch):
    """Each of the page's examples is pasted by itself."""
    monkeypatch.chdir(tmp_path)
    exec(compile(EXAMPLES[number], PAGE.name, "exec"), {})


def test_the_page_is_found_by_what_people_call_their_models():
    text = PAGE.read_text().lower()
    for word in (
        "ddpm",
        "ddim",
        "epsilon",
        "noise prediction",
        "own network",
        "x0",
        "edm",
        "alphas_cumprod",
        "bfloat16",
    ):
        assert word in text, word
    assert len(EXAMPLES) >= 5
