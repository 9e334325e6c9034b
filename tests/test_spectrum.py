"""Measuring and fitting: scipy as oracle, recovery of known power laws, wrong binning as negative control, files."""

import csv
import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import scipy.fft
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import grids, randn
from tolerances import assert_close

from spectral_pd import (
    DCT,
    FOURIER,
    HAAR,
    PRESETS,
    GaussianField,
    PowerLaw,
    Spectrum,
    SpectrumMeter,
    activation_time,
    fit_power_law,
    fit_spectrum,
    power_spectrum,
    transition_times,
    velocity_error,
)
from spectral_pd.bases import BASES
from spectral_pd.power import load_spectrum, radial_bins

# -- against scipy ----------------------------------------------------------------------------------------------------


def radial_average(power, omega, last):
    """Mean of `power` in the bins [k - 1/2, k + 1/2), bin by bin."""
    table = [(k, power[(omega >= k - 0.5) & (omega < k + 0.5)]) for k in range(1, last + 1)]
    return np.array([(k, values.mean(), values.size) for k, values in table if values.size]).T


def centred(x):
    return x - x.mean((-2, -1), keepdims=True)


@pytest.mark.parametrize("grid", [(16, 16), (15, 20), (24, 9), (2, 2), (13, 13), (3, 40)])
def test_dct_spectrum_is_scipys(grid):
    x = randn(3, 2, *grid, seed=1) + 4.0
    power = (scipy.fft.dctn(centred(x.numpy()), norm="ortho", axes=(-2, -1)) ** 2).mean((0, 1))
    short = min(grid)
    f = [np.arange(n) / 2 * short / n for n in grid]
    frequency, mean, size = radial_average(power, np.hypot(f[0][:, None], f[1][None]), short // 2)
    spectrum = power_spectrum(x)
    assert_close(spectrum.frequency, frequency)
    assert_close(spectrum.power, mean)
    assert_close(spectrum.count, size * 6)
    assert spectrum.shape == grid


@pytest.mark.parametrize("grid", [(16, 16), (15, 20), (24, 9), (13, 13)])
def test_fourier_spectrum_is_scipys(grid):
    """Radial bins hold whole pairs (cos, sin), whose energy is that of the FFT's k and -k."""
    x = randn(3, 2, *grid, seed=2)
    power = (np.abs(scipy.fft.fft2(centred(x.numpy()), norm="ortho")) ** 2).mean((0, 1))
    short = min(grid)
    f = [np.abs(np.fft.fftfreq(n) * n) * short / n for n in grid]
    frequency, mean, size = radial_average(power, np.hypot(f[0][:, None], f[1][None]), short // 2)
    spectrum = power_spectrum(x, basis=FOURIER)
    assert_close(spectrum.frequency, frequency)
    assert_close(spectrum.power, mean)
    assert_close(spectrum.count, size * 6)


def test_three_spectral_axes_and_one():
    x = randn(4, 6, 8, 7, seed=3)
    c = scipy.fft.dctn((x - x.mean((1, 2, 3), keepdim=True)).numpy(), norm="ortho", axes=(1, 2, 3)) ** 2
    f = [np.arange(n) / 2 * 6 / n for n in (6, 8, 7)]
    omega = np.sqrt(f[0][:, None, None] ** 2 + f[1][:, None] ** 2 + f[2] ** 2)
    assert_close(power_spectrum(x, dims=3).power, radial_average(c.mean(0), omega, 3)[1])
    line = randn(5, 9, seed=4)
    c = scipy.fft.dct((line - line.mean(1, keepdim=True)).numpy(), norm="ortho", axis=1) ** 2
    assert_close(power_spectrum(line, dims=1).power, radial_average(c.mean(0), np.arange(9) / 2, 4)[1])


# -- recovery ---------------------------------------------------------------------------------------------------------


def synthetic(basis, amplitude, exponent, size=128, planes=96, seed=5):
    law = PowerLaw(amplitude, exponent, shape=(size, size))
    generator = torch.Generator().manual_seed(seed)
    return GaussianField(law, (size, size), basis).sample((planes, 1), generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("basis", [DCT, FOURIER], ids=repr)
def test_fit_at_bin_centres_gives_the_binned_law(basis):
    """Over all bins the fit at bin centres is that of the exact law averaged in the same bins: a fifth off in A here."""
    x = synthetic(basis, 200.0, 1.9, planes=200)
    exact = GaussianField(PowerLaw(200.0, 1.9, shape=(128, 128)), (128, 128), basis).power()
    expected = fit_power_law(Spectrum(*radial_bins(exact, basis.frequency((128, 128))), (128, 128)))
    law = fit_power_law(power_spectrum(x, basis=basis), frequency="centre")
    assert law.amplitude == pytest.approx(expected.amplitude, rel=0.03)
    assert law.exponent == pytest.approx(expected.exponent, abs=0.01)


def test_centre_binned_dct_misses():
    """Negative control: DCT coefficients binned around the image centre, as if they were a shifted FFT."""
    x = synthetic(DCT, 200.0, 1.9)
    power = (scipy.fft.dctn(centred(x.numpy()), norm="ortho", axes=(-2, -1)) ** 2).mean((0, 1))
    i = np.arange(128) - 64
    frequency, mean, size = radial_average(power, np.hypot(i[:, None], i[None]), 64)
    law = fit_power_law(Spectrum(frequency, mean, size, (128, 128)), band=(4, 64))
    assert abs(law.exponent - 1.9) > 0.5
    assert abs(law.amplitude / 200.0 - 1) > 0.5


def test_index_instead_of_cycles_misses():
    """Negative control: a DCT index is half a cycle; taken as a cycle the amplitude is off by 2^beta."""
    x = synthetic(DCT, 200.0, 1.9)
    power = (scipy.fft.dctn(centred(x.numpy()), norm="ortho", axes=(-2, -1)) ** 2).mean((0, 1))
    i = np.arange(128.0)
    law = fit_power_law(Spectrum(*radial_average(power, np.hypot(i[:, None], i[None]), 64), (128, 128)), band=(4, 64))
    assert law.amplitude / 200.0 == pytest.approx(2**1.9, rel=0.05)


@pytest.mark.parametrize("basis", BASES.values(), ids=repr)
def test_white_noise_has_power_one(basis, rng):
    spectrum = power_spectrum(torch.randn(64, 2, 32, 32, generator=rng), basis=basis)
    z = (spectrum.power - 1) / np.sqrt(2 / spectrum.count)
    assert np.abs(z).max() < 5
    law = fit_power_law(spectrum)
    assert law.amplitude == pytest.approx(1.0, abs=0.05)
    assert law.exponent == pytest.approx(0.0, abs=0.02)


def test_dct_and_fourier_agree_on_a_smooth_law_in_the_interior():
    """One data set, two bases: crops from the middle of a larger field have no structure at either kind of border."""
    x = synthetic(FOURIER, 400.0, 1.0, size=192)[..., 32:160, 32:160]
    a, b = power_spectrum(x).power, power_spectrum(x, basis=FOURIER).power
    assert np.abs(np.log(a[7:48] / b[7:48])).max() < 0.1


@given(grid=grids(2, 2), value=st.floats(-50, 50), seed=st.integers(0, 100), basis=st.sampled_from([DCT, FOURIER]))
def test_adding_constants_changes_nothing(grid, value, seed, basis):
    grid = tuple(max(n, 2) for n in grid)
    x = randn(3, 2, *grid, seed=seed)
    offsets = value * torch.arange(6, dtype=torch.float64).reshape(3, 2, 1, 1)
    before, after = power_spectrum(x, basis=basis), power_spectrum(x + offsets, basis=basis)
    assert_close(after.power, before.power)


def test_without_centring_an_offset_would_reach_the_haar_bins():
    """Negative control: where no bin is the mean alone, an uncentred constant adds power."""
    x = randn(4, 1, 6, 6, seed=1)  # one Haar level: the 3 x 3 low band lies in the first bin
    raw = HAAR.forward(x + 10).square().mean((0, 1))
    inside = HAAR.forward(x).square().mean((0, 1))
    assert (raw[:3, :3] - inside[:3, :3]).min() > 50
    assert_close(power_spectrum(x + 10, basis=HAAR).power, power_spectrum(x, basis=HAAR).power)


# -- the meter --------------------------------------------------------------------------------------------------------


def test_streaming_equals_one_batch():
    x = randn(12, 3, 10, 14, seed=6)
    whole = power_spectrum(x)
    meter = SpectrumMeter((10, 14))
    for batch in x.split([1, 5, 6]):
        assert meter.update(batch) is meter
    left, right = SpectrumMeter((10, 14)).update(x[:4]), SpectrumMeter((10, 14)).update(x[4:])
    for spectrum in (
        meter.result(),
        left.merge(right).result(),
        right.merge(SpectrumMeter((10, 14))).merge(SpectrumMeter((10, 14)).update(x[:4])).result(),
    ):
        assert_close(spectrum.power, whole.power)
        assert np.array_equal(spectrum.count, whole.count)


def test_meter_goes_on_from_its_state():
    x = randn(8, 10, 14, seed=7)
    meter = SpectrumMeter((10, 14), basis=FOURIER).update(x[:3])
    state = meter.state_dict()
    meter.update(x[3:])  # must not reach the saved state
    other = SpectrumMeter((10, 14), basis=FOURIER)
    other.load_state_dict(state)
    other.update(x[3:])
    assert np.array_equal(other.result().power, meter.result().power)
    saved = meter.state_dict()
    before = meter.result().power
    for value in saved.values():  # the saved tensors are copies
        if isinstance(value, torch.Tensor):
            value.zero_()
    assert np.array_equal(meter.result().power, before)
    assert int(state["samples"]) == 3
    early = SpectrumMeter((10, 14), basis=FOURIER)
    early.load_state_dict(state)
    assert np.array_equal(early.result().power, power_spectrum(x[:3], basis=FOURIER).power)


def test_a_refused_batch_leaves_the_meter_alone():
    meter = SpectrumMeter((8, 8)).update(randn(2, 8, 8))
    before = meter.result().power
    for bad in (torch.full((1, 8, 8), math.nan), torch.zeros(0, 8, 8), torch.zeros(1, 8, 9)):
        with pytest.raises(ValueError, match="batch"):
            meter.update(bad)
    assert np.array_equal(meter.result().power, before)
    assert meter.planes == 2


def test_half_precision_is_measured_in_float32():
    x = randn(4, 16, 16, seed=8).half()
    assert_close(power_spectrum(x).power, power_spectrum(x.double()).power, torch.float32, factor=10)


# -- laws and tables --------------------------------------------------------------------------------------------------


def test_fit_is_least_squares_of_the_logarithms():
    k = np.arange(1.0, 33)
    noisy = 7.0 * k**-1.7 * np.exp(0.1 * np.sin(k))
    law = fit_power_law(Spectrum(k, noisy, np.ones(32), (64, 64)))
    slope, intercept, r, *_ = scipy.stats.linregress(np.log(k), np.log(noisy))
    assert law.exponent == pytest.approx(-slope, rel=1e-10)
    assert law.amplitude == pytest.approx(math.exp(intercept), rel=1e-10)
    assert law.r2 == pytest.approx(r**2, rel=1e-10)


def test_fit_spectrum_takes_tensors_lists_and_generators():
    x = randn(6, 2, 16, 16, seed=9)
    law = fit_spectrum(x)
    assert law == fit_power_law(power_spectrum(x))
    for latents in ([x[:2], x[2:]], (b for b in x.split(3))):
        other = fit_spectrum(latents)
        assert other.amplitude == pytest.approx(law.amplitude, rel=1e-12)
        assert other.exponent == pytest.approx(law.exponent, rel=1e-12)


@given(size=st.integers(2, 512), omega=st.floats(0.5, 100))
def test_amplitude_follows_the_grid(size, omega):
    law = PowerLaw(3.0, 2.0, shape=(64, 32))
    moved = law.at((size, 2 * size))
    assert moved(omega) == pytest.approx(law(omega) * 2 * size * size / (64 * 32), rel=1e-12)
    assert moved.at((64, 32)).amplitude == pytest.approx(3.0, rel=1e-12)
    assert PowerLaw(3.0, 2.0).at((size, size)).amplitude == 3.0


def test_amplitude_rescaling_on_pictures():
    """The same pictures on two grids: measured power at the same omega grows with the number of points."""
    coarse = synthetic(DCT, 50.0, 1.5, size=32)
    fine = 2 * DCT.embed(coarse, (64, 64))  # r = 2: the same values at twice the density
    a, b = power_spectrum(coarse), power_spectrum(fine)
    assert_close(b.power[:14], a.at((64, 64)).power[:14])


def test_kinds_in_and_out():
    law = PowerLaw(8.0, 1.0)
    table = Spectrum(np.array([1.0, 2.0, 4.0]), np.array([8.0, 4.0, 2.0]), np.ones(3), (8, 8))
    for spectrum in (law, table):
        assert spectrum(2.0) == pytest.approx(4.0)
        assert type(spectrum(2.0)) is float
        assert isinstance(spectrum(np.array([2.0, 4.0])), np.ndarray)
        result = spectrum(torch.tensor([2.0, 4.0]))
        assert result.dtype == torch.float32
        assert_close(result, torch.tensor([4.0, 2.0]))
    assert table(3.0) == pytest.approx(8 / 3)  # straight in log-log: exact for a power law
    assert table(0.6) == pytest.approx(8.0)  # constant over the outer half bins
    assert table(4.4) == pytest.approx(2.0)


def test_json_round_trips(tmp_path):
    law = PowerLaw(np.float32(203.6), 1.9, r2=0.98, shape=(96, 128), kind="calibrated", source="here")
    law.save(tmp_path / "law.json")
    assert PowerLaw.load(tmp_path / "law.json") == law
    bare = PowerLaw(1 / 3, -0.1)
    bare.save(tmp_path / "bare.json")
    assert PowerLaw.load(tmp_path / "bare.json") == bare
    spectrum = power_spectrum(randn(3, 9, 12, seed=1))
    spectrum.save(tmp_path / "spectrum.json")
    loaded = Spectrum.load(tmp_path / "spectrum.json")
    for name in ("frequency", "power", "count"):
        assert np.array_equal(getattr(loaded, name), getattr(spectrum, name))
    assert loaded.shape == spectrum.shape
    assert load_spectrum(tmp_path / "law.json") == law
    assert isinstance(load_spectrum(tmp_path / "spectrum.json"), Spectrum)
    (tmp_path / "other.json").write_text("[1, 2]")
    with pytest.raises(ValueError, match="does not hold a PowerLaw"):
        load_spectrum(tmp_path / "other.json")
    assert json.loads((tmp_path / "law.json").read_text())["type"] == "PowerLaw"


def test_a_table_owns_its_numbers():
    frequency, power, count = np.array([1.0, 2.0]), torch.tensor([4.0, 1.0], dtype=torch.float64), np.ones(2)
    spectrum = Spectrum(frequency, power, count, (4, 4))
    frequency[0], power[0] = 0.7, 9.0
    assert spectrum.frequency[0] == 1.0
    assert spectrum.power[0] == 4.0
    with pytest.raises(ValueError, match="read-only"):
        spectrum.power[0] = 1.0


def test_presets_say_where_they_come_from():
    flux, wan, pixels = PRESETS["flux"], PRESETS["wan"], PRESETS["pixels"]
    assert (flux.amplitude, flux.exponent, flux.r2, flux.shape) == (203.615097, 1.915461, 0.978, (128, 128))
    assert (wan.amplitude, wan.exponent, wan.r2, wan.shape) == (219.484718, 2.422687, 0.999, (60, 104))
    assert (pixels.amplitude, pixels.exponent, pixels.r2, pixels.shape) == (3745.46, 2.4493, 1.0, (512, 512))
    assert PRESETS["z-image"](3.0) == flux(3.0)
    assert PRESETS["qwen-image"](3.0) == wan(3.0)
    published = ("flux", "z-image", "wan", "pixels")
    for name, law in PRESETS.items():
        assert law.shape is not None, name
        assert law.basis == "dct", name
        assert law.date.startswith("2026-"), name
        if name in published:
            assert law.kind == "measured", name
            assert "VChitect videos" in law.data if name == "wan" else "Aesthetics-Train-V2" in law.data, name
        assert ("arXiv 2605.18736, App. C" in law.source) == (name in published), name
        assert ("not measured on" in law.source) == (law.kind == "borrowed") == (name == "qwen-image"), name
        assert (law.covariance is not None) == (law.kind == "measured, distilled encoder"), name
    with pytest.raises(TypeError, match="data is list; pass a text"):
        PowerLaw(1.0, 2.0, data=["latents"])


def test_measured_presets_are_the_rows_of_the_benchmark():
    """And the control: the authors' law of FLUX.1's own autoencoder lies within the intervals of the distilled one's.

    A and beta within those over photographs; t*, which content moves by more than that, within the one over sets.
    """
    path = Path(__file__).parents[1] / "benchmarks/results/latent_spectra.csv"
    rows = list(csv.DictReader(path.open(newline="")))
    encoders = {"flux2": "taef2", "sd3": "taesd3", "sdxl": "taesdxl", "sd": "taesd", "sana": "taesana"}
    measured = {name for name, law in PRESETS.items() if law.kind == "measured, distilled encoder"}
    assert measured == set(encoders)
    for name, encoder in encoders.items():
        law = PRESETS[name]
        (row,) = (r for r in rows if r["encoder"] == encoder and r["set"] == ("lomiri" if name == "sana" else "all"))
        assert (law.amplitude, law.exponent, law.r2) == tuple(float(row[k]) for k in ("amplitude", "exponent", "r2"))
        assert law.covariance == tuple(map(float, row["covariance"].split()))
        assert "x".join(map(str, law.shape)) == row["grid"]
        assert law.data.startswith(f"{row['samples']} photographs through")
        half = tuple(n // 2 for n in law.shape)
        low, high = law.t_star_interval(half, law.shape, delta=0.01)
        assert law.t_star(half, law.shape, delta=0.01) == pytest.approx(float(row["transition"]), abs=1e-5)
        assert (low, high) == pytest.approx([float(row[f"transition_{end}"]) for end in ("low", "high")], abs=0.005)
    flux = PRESETS["flux"]
    theirs = {
        "amplitude": flux.amplitude,
        "exponent": flux.exponent,
        "transition_sets": flux.t_star((64, 64), (128, 128), delta=0.01),
    }
    controls = {
        row["encoder"]: [
            float(row[f"{what}_low"]) <= value <= float(row[f"{what}_high"]) for what, value in theirs.items()
        ]
        for row in rows
        if (row["pixels"], row["set"]) == ("1024", "all")
    }
    assert all(controls.pop("taef1"))
    assert len(controls) == 3
    assert not any(map(all, controls.values())), "negative control: another model's latents are no control"


def test_the_covariance_of_a_law():
    law = PowerLaw(100.0, 2.0, shape=(64, 64), covariance=(0.04, 0.009, 0.0025))
    assert law.t_star_interval((32, 32), (64, 64), delta=0.01, level=1e-9) == pytest.approx(
        [law.t_star((32, 32), (64, 64), delta=0.01)] * 2
    )
    low, high = law.t_star_interval((32, 32), (64, 64), delta=0.01)
    # log P at the cut, 16 cycles, by hand: variance 0.04 - 2 log 16 0.009 + log 16^2 0.0025.
    spread = 1.959964 * math.sqrt(0.04 - 2 * math.log(16) * 0.009 + math.log(16) ** 2 * 0.0025)
    assert high == pytest.approx(activation_time(law(16.0) * math.exp(spread), 0.01))
    assert low == pytest.approx(activation_time(law(16.0) * math.exp(-spread), 0.01))
    assert law.at((128, 128)).covariance == law.covariance
    assert PowerLaw(100.0, 2.0).t_star_interval((32, 32), (64, 64), delta=0.01) is None
    for bad, message in (
        ((0.1, 0.2), "must be"),
        ((-1.0, 0.0, 1.0), "no covariance"),
        ((1.0, 2.0, 1.0), "no covariance"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            PowerLaw(1.0, 2.0, covariance=bad)


# -- channels ---------------------------------------------------------------------------------------------------------


def test_strongest_channel_bounds_every_channel():
    """A plan made from the strongest channel keeps every channel within delta; one made from the mean does not."""
    fields = [
        GaussianField(PowerLaw(a, b, shape=(32, 32)), (32, 32)) for a, b in ((60.0, 2.0), (5.0, 2.0), (200.0, 3.0))
    ]
    rng = torch.Generator().manual_seed(0)
    x = torch.cat([field.sample((400, 1), generator=rng) for field in fields], 1)
    meter = SpectrumMeter((32, 32)).update(x)
    each = meter.channel_results()
    strongest, mean = meter.result(channels="max"), meter.result()
    assert_close(strongest.power, np.max([table.power for table in each], 0))
    assert_close(mean.power, np.mean([table.power for table in each], 0))
    assert strongest.power.argmax() == 0
    assert each[0].power[-1] > each[2].power[-1]  # the laws cross: no single channel is the strongest
    assert each[2].power[0] > each[0].power[0]

    def worst(spectrum):
        (t,) = transition_times(spectrum, (1 / 2, 1), (32, 32), delta=0.01)
        return max(velocity_error(t, table(8.0)) for table in each)

    assert worst(strongest) <= 0.01 * (1 + 1e-9)
    assert worst(mean) > 0.012


def test_channels_in_one_call():
    rng = torch.Generator().manual_seed(1)
    x = torch.randn(16, 2, 16, 16, generator=rng) * torch.tensor([2.0, 1.0]).reshape(2, 1, 1)
    assert_close(power_spectrum(x, channels="max").power, power_spectrum(x[:, :1]).power)
    one, other = fit_spectrum(x, channels="max"), fit_spectrum(x[:, :1])
    assert one.r2 == pytest.approx(other.r2)  # plain torch sums the two layouts in another order
    assert dataclasses.replace(one, r2=other.r2) == other
    for call in (power_spectrum, fit_spectrum):
        with pytest.raises(ValueError, match=r"channels = 'all' must be 'mean' or 'max'"):
            call(x, channels="all")
