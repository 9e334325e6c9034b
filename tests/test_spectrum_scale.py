"""The meter at scale: bootstrap independent of batches and processes, states, diagnostics with the right error rates."""

import csv
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from strategies import randn

from spectral_pd import (
    DCT,
    FOURIER,
    HAAR,
    GaussianField,
    PowerLaw,
    Spectrum,
    SpectrumMeter,
    activation_time,
    fit_power_law,
    power_spectrum,
)
from spectral_pd.measuring.diagnostics import (
    anisotropy,
    broken_power_law,
    confidence,
    curvature,
    estimate,
    noise_floor,
    student_quantile,
    transition_shift,
)
from spectral_pd.meter import poisson_weights, radial_sums
from spectral_pd.power import Binning
from spectral_pd.theory import transition_times


def gaussian(law, samples, *, channels=1, seed=0, basis=DCT, spread=0.0):
    """Samples of the Gaussian field of `law`; with `spread` each has its own gain, as pictures have, of mean square 1."""
    generator = torch.Generator().manual_seed(seed)
    root = GaussianField(law, law.shape, basis).power().sqrt()
    c = torch.randn(samples, channels, *law.shape, dtype=torch.float64, generator=generator) * root
    gain = torch.randn(samples, 1, 1, 1, dtype=torch.float64, generator=generator) * spread - spread**2
    return basis.inverse(c) * gain.exp()


# -- recovery on every grid -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("basis", [DCT, FOURIER], ids=repr)
@pytest.mark.parametrize("shape", [(64, 64), (60, 104), (128, 128)])
@pytest.mark.parametrize("exponent", [1.0, 2.0, 3.0])
def test_all_bins_recover_the_law(basis, shape, exponent):
    law = PowerLaw(150.0, exponent, shape=shape)
    samples = 192 * 64**2 // math.prod(shape)
    meter = SpectrumMeter(shape, basis=basis).update(gaussian(law, samples, basis=basis, seed=3))
    fitted = fit_power_law(meter.result())
    assert fitted.amplitude == pytest.approx(150.0, rel=0.03)
    assert fitted.exponent == pytest.approx(exponent, abs=0.02)
    if basis is DCT and exponent >= 2:  # negative control: bin centres, as published fits
        centre = fit_power_law(meter.result(), frequency="centre")
        assert centre.amplitude > 1.15 * 150.0
        assert centre.exponent > exponent + 0.04


@pytest.mark.parametrize(
    ("basis", "shape"),
    [(b, s) for b in (DCT, FOURIER) for s in [(64, 64), (48, 80), (33, 47)]] + [(HAAR, (64, 64)), (HAAR, (64, 128))],
    ids=str,
)
def test_effective_frequency_makes_the_binned_law_exact(basis, shape):
    """A power law averaged over the very bins of the meter is recovered to rounding: no estimator bias is left."""
    meter = SpectrumMeter(shape, basis=basis)
    frequency = basis.frequency(shape)
    c = torch.where(frequency > 0, 30.0 * frequency.clamp(min=1e-9) ** -2.3, 0.0).sqrt()
    spectrum = meter.update(basis.inverse(c)).result()
    law = fit_power_law(spectrum)
    assert law.amplitude == pytest.approx(30.0, rel=1e-9)
    assert law.exponent == pytest.approx(2.3, abs=1e-9)
    for weights in ("count", "log"):
        assert fit_power_law(spectrum, weights=weights).exponent == pytest.approx(2.3, abs=1e-9)


@pytest.mark.parametrize("basis", [DCT, FOURIER], ids=repr)
@pytest.mark.parametrize("shape", [(64, 64), (60, 104)])
def test_white_noise_and_constants(basis, shape):
    x = randn(160, 4, *shape, seed=1)
    spectrum = SpectrumMeter(shape, basis=basis).update(x).result()
    law = fit_power_law(spectrum)
    assert abs(law.exponent) < 0.01
    assert law.amplitude == pytest.approx(1.0, rel=0.01)
    offset = SpectrumMeter(shape, basis=basis).update(x + 50 * randn(160, 4, 1, 1, seed=2)).result()
    np.testing.assert_allclose(offset.power, spectrum.power, rtol=1e-10)


def test_weights_do_what_they_say():
    """A spectrum with a kink: 'count' follows the high end, 'log' the low end."""
    k = np.arange(1.0, 65)
    power = np.where(k < 8, k**-1.0, 8.0 * k**-2.0)
    spectrum = Spectrum(k, power, k, (128, 128))
    by = {w: fit_power_law(spectrum, weights=w).exponent for w in ("log", "uniform", "count")}
    assert 1.0 < by["log"] < by["uniform"] < by["count"] < 2.0
    with pytest.raises(ValueError, match="weights = 'cubic' must be 'uniform', 'count' or 'log'"):
        fit_power_law(spectrum, weights="cubic")
    with pytest.raises(ValueError, match="frequency = 'left' must be"):
        fit_power_law(spectrum, frequency="left")


# -- channels, directions, one place for the transform -----------------------------------------------------------------


def test_channel_tables_average_to_the_result():
    x = randn(5, 3, 2, 16, 20, seed=4) * torch.tensor([1.0, 2.0, 4.0]).double().reshape(3, 1, 1, 1)
    meter = SpectrumMeter((16, 20)).update(x)
    tables = meter.channel_results()
    assert (meter.samples, meter.channels, meter.planes) == (5, 3, 30)
    np.testing.assert_allclose(np.mean([t.power for t in tables], 0), meter.result().power, rtol=1e-12)
    alone = SpectrumMeter((16, 20)).update(x[:, 1:2]).result()
    np.testing.assert_allclose(tables[1].power, alone.power, rtol=1e-12)
    np.testing.assert_array_equal(tables[1].count, alone.count)


def test_radial_sums_hold_all_the_power():
    x = randn(7, 12, 18, seed=5)
    sums = radial_sums(x, DCT, torch.arange(12 * 18) % 5, 5)
    centred = x - x.mean((1, 2), keepdim=True)
    np.testing.assert_allclose(sums.sum(1), centred.square().sum((1, 2)), rtol=1e-12)
    single = torch.cat([radial_sums(x[i : i + 1], DCT, torch.arange(12 * 18) % 5, 5) for i in range(7)])
    np.testing.assert_allclose(sums, single, rtol=1e-13)


def test_directions_tell_stripes_apart():
    """A picture that varies along the width has horizontal frequency only."""
    x = randn(40, 1, 1, 32, seed=6).expand(40, 1, 32, 32)
    vertical, horizontal = SpectrumMeter((32, 32)).update(x).directional()
    assert (horizontal > 0.1).all()
    np.testing.assert_allclose(vertical, 0, atol=1e-20)
    assert SpectrumMeter((32, 32), basis=HAAR).update(x).directional().shape[0] == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_short_types_are_measured_in_float32(dtype):
    x = randn(4, 2, 24, 24, seed=7).to(dtype)
    exact = SpectrumMeter((24, 24)).update(x.double()).result()
    np.testing.assert_allclose(SpectrumMeter((24, 24)).update(x).result().power, exact.power, rtol=2e-6)


# -- bootstrap --------------------------------------------------------------------------------------------------------


def test_poisson_weights_are_poisson_and_addressed():
    w = poisson_weights(torch.arange(20000), 10, seed=3)
    for k in range(5):
        expected = math.exp(-1) / math.factorial(k)
        z = (float((w == k).double().mean()) - expected) / math.sqrt(expected * (1 - expected) / w.numel())
        assert abs(z) < 5
    corr = np.corrcoef(w.numpy())
    assert np.abs(corr - np.eye(10)).max() < 5 / math.sqrt(20000)
    # one number is one address: any subset, any other number of replicates
    assert torch.equal(poisson_weights(torch.tensor([17, 4]), 3, seed=3), w[:3, [17, 4]])
    assert not torch.equal(poisson_weights(torch.arange(20000), 10, seed=4), w)
    far = poisson_weights(torch.tensor([5, 5 + 2**32]), 64, seed=3)
    assert not torch.equal(far[:, 0], far[:, 1])
    shifted = poisson_weights(torch.arange(100), 64, seed=3 + 2**32)
    assert not torch.equal(shifted, poisson_weights(torch.arange(100), 64, seed=3))


def test_bootstrap_does_not_see_batches_or_meters():
    x = randn(23, 2, 12, 16, seed=8)
    whole = SpectrumMeter((12, 16), replicates=20, seed=5).update(x)
    split = SpectrumMeter((12, 16), replicates=20, seed=5)
    for part in x.split(4):
        split.update(part)
    np.testing.assert_allclose(split.replicates().power, whole.replicates().power, rtol=1e-12)
    assert split.replicates().samples == whole.replicates().samples
    a = SpectrumMeter((12, 16), replicates=20, seed=5).update(x[10:], index=10)
    b = SpectrumMeter((12, 16), replicates=20, seed=5).update(x[:10][[3, 1]], index=[3, 1])
    b.update(x[[0, 2, 4, 5, 6, 7, 8, 9]], index=torch.tensor([0, 2, 4, 5, 6, 7, 8, 9]))
    np.testing.assert_allclose(a.merge(b).replicates().power, whole.replicates().power, rtol=1e-12)
    other = SpectrumMeter((12, 16), replicates=20, seed=6).update(x)  # negative control: another seed
    assert np.abs(other.replicates().power / whole.replicates().power - 1).max() > 1e-3


def test_meters_that_counted_for_themselves_do_not_merge():
    x = randn(4, 1, 8, 8, seed=9)
    a, b = (SpectrumMeter((8, 8), replicates=8).update(x) for _ in range(2))
    with pytest.raises(ValueError, match="pass update\\(batch, index="):
        a.merge(b)
    empty = SpectrumMeter((8, 8), replicates=8)
    assert empty.merge(b).samples == 4
    plain = SpectrumMeter((8, 8)).update(x).merge(SpectrumMeter((8, 8)).update(x))
    assert plain.samples == 8


def test_clips_count_as_one():
    """Frames with one number are resampled together: the effective number of samples is that of clips."""
    x = randn(6, 1, 8, 8, seed=10).repeat_interleave(10, 0)
    clips = SpectrumMeter((8, 8), replicates=400).update(x, index=torch.arange(6).repeat_interleave(10))
    assert 4.5 < clips.replicates().samples < 7.5
    alone = SpectrumMeter((8, 8), replicates=400).update(x)
    assert alone.replicates().samples > 40
    assert clips.replicates().power.std(0).mean() > 2 * alone.replicates().power.std(0).mean()


@pytest.mark.parametrize("samples", [8, 40])
def test_intervals_cover(samples):
    """95 % intervals of A, beta and t* hold the truth in 90 to 99 % of 300 draws, for few and for many samples."""
    law = PowerLaw(50.0, 2.0, shape=(16, 16))
    truth = (50.0, 2.0, transition_times(law, (0.5, 1), (16, 16), delta=0.01)[0])
    x = gaussian(law, 300 * samples, seed=samples, spread=0.2)
    hits = np.zeros(3)
    for draw in range(300):
        part = x[draw * samples : (draw + 1) * samples]
        meter = SpectrumMeter((16, 16), replicates=100, seed=draw).update(part)
        c = confidence(meter.result(), meter.replicates())
        hits += [
            e.low <= t <= e.high for e, t in zip((c.amplitude, c.exponent, *c.transition_times), truth, strict=True)
        ]
    assert ((hits >= 0.90 * 300) & (hits <= 0.99 * 300)).all(), hits


def test_frames_counted_as_samples_give_intervals_far_too_narrow():
    """Negative control of the coverage: the frames of a clip share its gain. Numbered as one sample each clip, the interval
    of A covers; numbered one by one, it holds the truth in far fewer than 90 % of the draws."""
    law, clips, frames, draws = PowerLaw(50.0, 2.0, shape=(16, 16)), 12, 6, 200
    x = gaussian(law, draws * clips, channels=frames, seed=1, spread=0.2)
    numbers = {"clips": torch.arange(clips).repeat_interleave(frames), "frames": None}
    hits = dict.fromkeys(numbers, 0)
    for draw in range(draws):
        part = x[draw * clips : (draw + 1) * clips].reshape(clips * frames, 1, 16, 16)
        for name, index in numbers.items():
            meter = SpectrumMeter((16, 16), replicates=60, seed=draw).update(part, index=index)
            a = confidence(meter.result(), meter.replicates(), scales=(1,)).amplitude
            hits[name] += a.low <= 50.0 <= a.high
    assert hits["clips"] >= 0.90 * draws, hits
    assert hits["frames"] < 0.75 * draws, hits


def test_student_quantiles():
    import scipy.stats

    for freedom in (3, 7, 30, 1000):
        exact = scipy.stats.t.ppf(0.975, freedom)
        assert student_quantile(0.975, freedom) == pytest.approx(exact, rel=0.011 if freedom == 3 else 2e-4)


def test_estimate_refuses_what_gives_no_interval():
    with pytest.raises(ValueError, match="measure at least 2 samples"):
        estimate(1.0, np.ones(50), 1.0)
    with pytest.raises(ValueError, match="1 of 2 bootstrap replicates are finite"):
        estimate(1.0, np.array([1.0, np.nan]), 9.0)
    with pytest.raises(ValueError, match=r"level = 1.0 must lie inside \(0, 1\)"):
        estimate(1.0, np.ones(50), 9.0, level=1.0)


# -- is it a power law? -----------------------------------------------------------------------------------------------


def measured(power, samples=64, shape=(64, 64), seed=0):
    """Meter of a Gaussian field with any spectrum, given as a function of frequency."""
    frequency = DCT.frequency(shape)
    root = torch.from_numpy(np.sqrt(power(np.maximum(frequency.numpy(), 0.5))))
    c = torch.randn(samples, 1, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * root
    return SpectrumMeter(shape, replicates=100, seed=seed).update(DCT.inverse(c))


def test_a_true_power_law_raises_no_alarm():
    bent = breaks = floors = leaning = 0
    for seed in range(40):
        meter = measured(lambda w: 20 * w**-2.0, samples=24, shape=(32, 32), seed=seed)
        spectrum, replicates = meter.result(), meter.replicates()
        bent += curvature(spectrum, replicates).coefficient.excludes_zero
        breaks += broken_power_law(spectrum, replicates).preferred
        floors += noise_floor(spectrum, replicates).share.low > 0
        ratio = anisotropy(spectrum, meter.directional(), replicates)
        leaning += not ratio.low <= 1 <= ratio.high
    # 5 % level each: more than 7 of 40 would happen once in 300
    assert max(bent, breaks, floors, leaning) <= 7, (bent, breaks, floors, leaning)


def test_a_break_is_found():
    meter = measured(lambda w: 50 * np.where(w < 10, w**-1.5, 10**1.0 * w**-2.5))
    found = broken_power_law(meter.result(), meter.replicates())
    assert found.preferred
    assert found.below == pytest.approx(1.5, abs=0.15)
    assert found.above == pytest.approx(2.5, abs=0.1)
    assert found.frequency == pytest.approx(10, rel=0.2)
    bend = curvature(meter.result(), meter.replicates())
    assert bend.coefficient.high < 0
    assert bend.first < 1.6 < 2.4 < bend.last


def test_a_noise_floor_is_found():
    meter = measured(lambda w: 100 * w**-2.5 + 0.05)
    found = noise_floor(meter.result(), meter.replicates())
    assert found.exponent == pytest.approx(2.5, abs=0.06)
    assert found.power == pytest.approx(0.05, rel=0.1)
    assert found.share.low > 0.5
    assert fit_power_law(meter.result()).exponent < 2.2  # negative control: the plain law is fooled


def test_anisotropy_is_found():
    x = gaussian(PowerLaw(50.0, 2.0, shape=(48, 64)), 40)
    meter = SpectrumMeter((48, 64), replicates=50).update(x)
    ratio = anisotropy(meter.result(), meter.directional(), meter.replicates())
    assert ratio.value == pytest.approx(1.0, abs=0.05)
    turned = SpectrumMeter((48, 48), replicates=50).update(
        x[..., :48] + 0.5 * x[..., 16:].diff(dim=-1, prepend=x[..., 15:16])
    )
    assert anisotropy(turned.result(), turned.directional(), turned.replicates()).low > 1.0
    haar = SpectrumMeter((48, 64), basis=HAAR, replicates=50).update(x)
    stripes = SpectrumMeter((32, 32), replicates=50).update(randn(9, 1, 1, 32, seed=6).expand(9, 1, 32, 32))
    with pytest.raises(ValueError, match="no power along one of the axes"):
        anisotropy(stripes.result(), stripes.directional(), stripes.replicates())
    with pytest.raises(ValueError, match="anisotropy compares two"):
        anisotropy(haar.result(), haar.directional(), haar.replicates())


def test_envelope_drives_plans_where_power_rises_again():
    k = np.arange(1.0, 33)
    power = 100 * k**-2.0
    power[23] = 1.0  # a line at 24 cycles, above the cut of scale 1/2
    spectrum = Spectrum(k, power, np.ones(32), (64, 64))
    envelope = spectrum.envelope()
    assert (np.diff(envelope.power) <= 0).all()
    assert (envelope.power >= power).all()
    assert envelope.power[15] == 1.0
    plain, safe = (transition_times(s, (0.5, 1), (64, 64), delta=0.01)[0] for s in (spectrum, envelope))
    assert safe > plain
    law = PowerLaw(100.0, 2.0, shape=(64, 64))
    assert transition_shift(spectrum, law)[0] < -0.01
    smooth = Spectrum(k, 100 * k**-2.0, np.ones(32), (64, 64))
    assert abs(transition_shift(smooth, law)[0]) < 1e-9


def test_haar_table_drives_a_plan():
    """Its first octave lies above the half cycle that plans ask for; below it the first power holds."""
    field = GaussianField(PowerLaw(60.0, 2.2, shape=(32, 32)), (32, 32), basis=HAAR)
    table = power_spectrum(field.sample((200, 1), generator=torch.Generator().manual_seed(0)), basis=HAAR)
    assert table.frequency[0] > 0.5
    assert table(0.1) == table.power[0]
    (t,) = transition_times(table, (1 / 2, 1), (32, 32), delta=0.01)
    assert 0 < t < activation_time(table.power[0], 0.01)


def test_weights_and_bands_move_the_amplitude_as_documented():
    """The factors in the docstring of fit_power_law are those of the committed rows."""
    file = Path(__file__).parents[1] / "benchmarks" / "results" / "spectra_study.csv"
    rows = {
        row["change"]: float(row["amplitude"])
        for row in csv.DictReader(file.open(newline=""))
        if (row["set"], row["size"]) == ("debian", "512")
    }
    text = " ".join(str(fit_power_law.__doc__).split())
    for pattern, change in (
        (r"is ([0-9.]+) times that of all", "band without the top 30 %"),
        (r"same photographs ([0-9.]+) times the A", "weights count"),
        (r"every octave alike: ([0-9.]+) times the A", "weights log"),
    ):
        (factor,) = re.findall(pattern, text)
        assert f"{rows[change] / rows['reference']:.1g}" == factor


STREAM = """
import os, torch
from spectral_pd.measuring.stream import accumulate
from spectral_pd.measuring.sources import open_source

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

def stream(batches, held):
    for number in range(batches):
        if number == 40:
            before = resident()
        batch = base + number
        if held:
            kept.append(batch)
        yield batch
    print(resident() - before)

base, kept = torch.randn(16, 4, 64, 64), []
for held in (False, True):
    accumulate(open_source(stream(300, held)), replicates=50)
"""


def test_memory_does_not_grow_with_the_stream():
    """260 batches of 1 MiB add less than 16; negative control: batches that are held add all of theirs."""
    if not Path("/proc/self/statm").exists():
        pytest.skip("needs Linux's /proc")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", STREAM], env=environment, capture_output=True, text=True, check=True)
    dropped, held = map(float, done.stdout.split())
    assert dropped < 16 < 200 < held


def test_photographs_follow_the_law():
    """Pooled, the packaged photographs are what natural images are known to be; no single one need be."""
    pytest.importorskip("skimage")
    from PIL import Image

    from spectral_pd.measuring.demo import photographs
    from spectral_pd.measuring.sources import picture_tensor

    meter = SpectrumMeter((256, 256))
    for picture in photographs().values():
        image = Image.fromarray(((picture + 1) * 127.5).round().byte().permute(1, 2, 0).numpy())
        meter.update(picture_tensor(image, (256, 256))[None])
    law = fit_power_law(meter.result())
    assert 2.3 < law.exponent < 2.9
    assert law.r2 > 0.99
    assert 3745 / 2 < law.at((512, 512)).amplitude < 3745 * 2
    assert not 3745 / 2 < law.amplitude < 3745 * 2  # forgetting the grid would not pass


# -- states, bad input ------------------------------------------------------------------------------------------------


def test_state_goes_through_a_file_and_on(tmp_path):
    x = randn(9, 2, 10, 10, seed=11)
    meter = SpectrumMeter((10, 10), basis=FOURIER, replicates=12, seed=2).update(x[:4])
    torch.save(meter.state_dict(), tmp_path / "state.pt")
    again = SpectrumMeter((10, 10), basis=FOURIER, replicates=12, seed=2)
    again.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for m in (meter, again):
        m.update(x[4:])
    assert np.array_equal(again.replicates().power, meter.replicates().power)
    assert np.array_equal(again.result().power, meter.result().power)
    for wrong in (SpectrumMeter((10, 10)), SpectrumMeter((10, 10), basis=FOURIER, replicates=12, seed=3)):
        with pytest.raises(ValueError, match="cannot load the state"):
            wrong.load_state_dict(meter.state_dict())
    with pytest.raises(ValueError, match="state lacks"):
        again.load_state_dict({"shape": (10, 10)})


def test_sync_without_processes_is_a_copy():
    meter = SpectrumMeter((8, 8), replicates=4).update(randn(3, 1, 8, 8, seed=12))
    total = meter.sync()
    meter.update(randn(3, 1, 8, 8, seed=13))
    assert (total.samples, meter.samples) == (3, 6)


def test_spectrum_file_keeps_the_binning(tmp_path):
    spectrum = SpectrumMeter((12, 16), basis=FOURIER).update(randn(3, 1, 12, 16, seed=14)).result()
    spectrum.save(tmp_path / "s.json")
    again = Spectrum.load(tmp_path / "s.json")
    assert again.binning == Binning(FOURIER, (12, 16))
    assert fit_power_law(again) == fit_power_law(spectrum)
    assert fit_power_law(spectrum.at((24, 32))).exponent == pytest.approx(fit_power_law(spectrum).exponent, rel=1e-12)
    text = (tmp_path / "s.json").read_text().replace('"fourier"', '"mine"')
    (tmp_path / "s.json").write_text(text)
    with pytest.raises(ValueError, match="measured in the basis 'mine'; pass that Basis as basis="):
        Spectrum.load(tmp_path / "s.json")


@pytest.mark.parametrize(
    ("batch", "index", "message"),
    [
        (torch.zeros(2, 3, 8, 8), None, "has 3 channels but this meter has seen 1"),
        (
            torch.zeros(2, 1, 8, 9),
            None,
            r"batch has grid \(8, 9\) but this meter measures \(8, 8\).*use one SpectrumMeter",
        ),
        (torch.full((3, 1, 8, 8), math.nan), None, r"NaN or infinity in samples \[0, 1, 2\]"),
        (torch.zeros(2, 1, 8, 8), [0], "index must be an int or 2 ints"),
        (torch.zeros(2, 1, 8, 8), -1, "index must be an int or 2 ints.*at least 0"),
        (torch.zeros(0, 1, 8, 8), None, "is empty"),
        (torch.zeros(2, 1, 8, 8, dtype=torch.uint8), None, "pass a real floating-point tensor"),
        (torch.zeros(2, 1, 8, 8, dtype=torch.complex64), None, "pass a real floating-point tensor"),
        (torch.zeros(8), None, "at least 2 axes"),
    ],
)
def test_bad_batches_leave_the_meter_alone(batch, index, message):
    meter = SpectrumMeter((8, 8), replicates=4).update(randn(2, 1, 8, 8, seed=15))
    before = meter.state_dict()
    with pytest.raises((ValueError, TypeError), match=message):
        meter.update(batch, index=index)
    after = meter.state_dict()
    assert all(torch.equal(after[k], v) if isinstance(v, torch.Tensor) else after[k] == v for k, v in before.items())


def test_one_sample_and_constant_data():
    meter = SpectrumMeter((8, 8), replicates=16).update(randn(1, 1, 8, 8, seed=16))
    with pytest.raises(ValueError, match="measure"):
        confidence(meter.result(), meter.replicates())
    constant = SpectrumMeter((8, 8)).update(torch.ones(4, 1, 8, 8))
    with pytest.raises(ValueError, match="the data are constant"):
        fit_power_law(constant.result())
    with pytest.raises(ValueError, match="keeps no bootstrap; make it with SpectrumMeter"):
        constant.replicates()
    with pytest.raises(ValueError, match="replicates = 1 must be 0"):
        SpectrumMeter((8, 8), replicates=1)
    with pytest.raises(TypeError, match=r"seed is 0\.5; pass an int"):
        SpectrumMeter((8, 8), seed=0.5)
