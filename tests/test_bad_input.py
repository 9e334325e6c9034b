"""Bad input: the exception, and a message that names argument, value, what is allowed or what to do.

Every case runs before any model call: the velocity handed to the sampler must never have been called.
"""

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from strategies import randn

from spectral_pd import (
    DCT,
    FOURIER,
    HAAR,
    PRESETS,
    FiniteDataset,
    GaussianField,
    NoiseField,
    PowerLaw,
    Spectrum,
    SpectrumMeter,
    activation_power,
    activation_time,
    align_scale,
    align_time,
    edit,
    expand,
    expand_aligned,
    fit_power_law,
    fit_spectrum,
    make_plan,
    optimise_plan,
    passthrough,
    plan_at,
    power_spectrum,
    predict,
    restrict_noise,
    restrict_signal,
    sample,
    sdedit,
    shift_times,
    snr,
    token_cost,
    transition_times,
    velocity_error,
)
from spectral_pd.measuring import measure
from spectral_pd.passthrough import activation_map, noise_prediction_error
from spectral_pd.pretrained import step_cost
from spectral_pd.schedule import stage_shape
from spectral_pd.theory import max_frequency, optimal_gain
from spectral_pd.two_grids import anchored

NAN, INF = math.nan, math.inf
FLUX = PRESETS["flux"]
X, W = randn(1, 2, 4, 4), randn(1, 2, 8, 8)
TIMES = shift_times(10)
CALLS = []


def velocity(x, t):
    CALLS.append(t)
    return x


def plan(shape=(8, 8), scales=(0.5, 1), at=(0.6,), **options):
    return plan_at(TIMES, at[: len(scales) - 1], shape, scales=scales, **options)


def planned(times=TIMES, spectrum=FLUX, shape=(64, 64), **options):
    return make_plan(times, spectrum, shape, **{"scales": (0.5, 1), **options})


def run(noise=W, plan_=None, **options):
    return sample(options.pop("velocity", velocity), noise, plan_ or plan(), **options)


def edited(image=W, plan_=None, **options):
    options = {"stage": 1, **options}
    if not {"noise", "seed"} & set(options):
        options["noise"] = W
    return edit(options.pop("velocity", velocity), image, plan_ or plan(), **options)


def held(noise=W, spectrum=FLUX, delta=0.1, plan_=None, **options):
    full = plan_ or plan(scales=(1,))
    return passthrough(options.pop("velocity", velocity), noise, full, spectrum, delta, **options)


def explicit(*at, **options):
    return plan_at(TIMES, at, (64, 64), **{"scales": (0.5, 1), **options})


def table(frequency=(1.0, 2.0), power=(2.0, 1.0), count=(1.0, 1.0), shape=(4, 4)):
    return Spectrum(np.array(frequency), np.array(power), np.array(count), shape)


V, T = ValueError, TypeError
CASES = {
    # theory
    "t above 1": (lambda: snr(1.5, 1.0), V, r"t = 1\.5 is out of range; t must satisfy 0 <= t <= 1"),
    "t below 0": (lambda: velocity_error(-0.1, 1.0), V, r"t = -0\.1 is out of range"),
    "t NaN": (lambda: optimal_gain(NAN, 1.0), V, r"t contains NaN; pass finite numbers"),
    "t array with NaN": (lambda: align_time(np.array([0.5, NAN]), 2.0), V, r"t contains NaN"),
    "t a string": (lambda: snr("0.5", 1.0), T, r"t is str; pass a float, a numpy array or a torch tensor"),
    "t a boolean": (lambda: snr(True, 1.0), T, r"t is bool; pass a float"),
    "t an integer tensor": (lambda: snr(torch.tensor([1]), 1.0), T, r"t is a tensor of torch\.int64; .* t\.float\(\)"),
    "t an integer array": (lambda: snr(np.array([1]), 1.0), T, r"t is an array of int64; pass a floating-point array"),
    "t array out of range": (
        lambda: align_scale(np.array([0.5, 2.0]), 2.0),
        V,
        r"t = ndarray of shape \(2,\) is out of",
    ),
    "power 0": (lambda: activation_time(0.0, 0.1), V, r"power = 0\.0 is out of range; .* 0 < power < inf"),
    "power negative": (lambda: snr(0.5, -1.0), V, r"power = -1\.0 is out of range"),
    "power infinite": (lambda: snr(0.5, INF), V, r"power = inf is out of range"),
    "power None": (lambda: snr(0.5, None), T, r"power is NoneType; pass a float"),
    "delta 0": (
        lambda: activation_time(1.0, 0.0),
        V,
        r"delta = 0\.0 is out of range; .* 0 < delta < 1 \(smaller: earlier",
    ),
    "delta 1": (lambda: activation_time(1.0, 1.0), V, r"delta = 1\.0 is out of range"),
    "delta NaN": (lambda: activation_time(1.0, NAN), V, r"delta contains NaN"),
    "activation power at 1": (lambda: activation_power(1.0, 0.1), V, r"t = 1\.0 .* 0 < t < 1 \(at 0 and 1 no finite"),
    "ratio 0": (
        lambda: align_time(0.5, 0.0),
        V,
        r"ratio = 0\.0 is out of range; .* 0 < ratio < inf \(fine over coarse",
    ),
    "ratio negative": (lambda: align_scale(0.5, -2.0), V, r"ratio = -2\.0 is out of range"),
    "shape without axes": (lambda: max_frequency(()), V, r"shape = \(\) must hold one or more sizes"),
    "shape with a zero": (lambda: max_frequency((8, 0)), V, r"shape = \(8, 0\) must hold .* each at least 1"),
    "shape of floats": (
        lambda: max_frequency((8.0, 8.0)),
        T,
        r"shape = \(8\.0, 8\.0\) must hold integers, e\.g\. \(64, 64\)",
    ),
    "shape a float": (
        lambda: max_frequency(8.0),
        T,
        r"shape is 8\.0; pass the sizes of the spectral axes, .* a square's side",
    ),
    "shape with channels": (
        lambda: planned(shape=(3, 64, 64)),
        V,
        r"shape = \(3, 64, 64\) has 3 axes, but the spectrum was measured on 128x128, with 2; channels and batch are no axes "
        r"of a grid: pass \(64, 64\) \(of video",
    ),
    "shape with channels of a field": (lambda: GaussianField(FLUX, (3, 64, 64)), V, r"pass \(64, 64\)"),
    "shape of one axis": (lambda: FLUX.at((64,)), V, r"shape = \(64,\) has 1 axes, .* has all spectral axes \(of"),
    "a path for latents": (
        lambda: fit_spectrum("photos"),
        T,
        r"latents is the path 'photos'; pass a torch tensor. What files .*spectral_pd\.measuring\.measure\('photos'\)",
    ),
    "paths for latents": (
        lambda: fit_spectrum([Path("a.npy")]),
        T,
        r"latents is the path 'a\.npy'; .*measure\('a\.npy'\)",
    ),
    "a path for a batch": (lambda: power_spectrum("photos"), T, r"x is the path 'photos'; .*measure\('photos'\)"),
    "an array for latents": (
        lambda: fit_spectrum(np.zeros((2, 8, 8))),
        T,
        r"latents is ndarray; .* torch\.from_numpy\(latents\)",
    ),
    "pictures with channels last": (
        lambda: fit_spectrum(randn(4, 32, 24, 3)),
        V,
        r"latents has shape \(4, 32, 24, 3\) and looks channels-last: its last two axes, 24x3, .* latents\.movedim\(-1, -3\)",
    ),
    "a picture with channels last": (lambda: power_spectrum(randn(32, 24, 3)), V, r"looks channels-last"),
    "noise with channels last": (
        lambda: run(W.movedim(1, -1)),
        V,
        r"noise has shape \(1, 8, 8, 2\); .* \(8, 8\) \(it looks channels-last: pass noise\.movedim\(-1, -3\)\)",
    ),
    "image with channels last": (lambda: edited(W.movedim(1, -1)), V, r"pass image\.movedim\(-1, -3\)"),
    "batch with channels last": (
        lambda: SpectrumMeter((8, 8)).update(W.movedim(1, -1)),
        V,
        r"this meter measures \(8, 8\) \(it looks channels-last",
    ),
    "spectrum not callable": (
        lambda: transition_times(3.0, (0.5, 1), (8, 8), delta=0.1),
        T,
        r"spectrum is float; pass a PowerLaw, a Spectrum or",
    ),
    "spectrum negative": (
        lambda: transition_times(lambda w: -w, (0.5, 1), (8, 8), delta=0.1),
        V,
        r"power = .* 0 < power < inf",
    ),
    # bases
    "embed into less": (
        lambda: DCT.embed(W, (4, 4)),
        V,
        r"dct basis: an axis of 8 cannot grow to 4; sizes must not dec",
    ),
    "restrict to more": (lambda: FOURIER.restrict(X, (8, 8)), V, r"fourier basis: an axis of 8 cannot grow to 4"),
    "haar at 1.5": (
        lambda: HAAR.embed(X, (6, 6)),
        V,
        r"haar basis: an axis of 4 cannot grow to 6; .* power of 2 .*DCT",
    ),
    "haar at 3": (lambda: HAAR.isometry(4, 12), V, r"haar basis: an axis of 4 cannot grow to 12"),
    "isometry of size 0": (lambda: DCT.isometry(0, 4), V, r"dct basis: an axis of 0 cannot grow to 4"),
    "isometry of a fraction": (lambda: DCT.isometry(2.5, 4), T, r"an axis from 2\.5 to 4: sizes must be integers"),
    "isometry of a name": (lambda: HAAR.isometry("2", 4), T, r"an axis from '2' to 4: sizes must be integers"),
    "too few axes": (lambda: DCT.forward(torch.zeros(4)), V, r"x has shape \(4,\); it needs at least 2 axes"),
    "integer picture": (
        lambda: DCT.forward(torch.zeros(4, 4, dtype=torch.int32)),
        T,
        r"x is a tensor of torch\.int32; .*float",
    ),
    "complex picture": (
        lambda: FOURIER.forward(torch.zeros(4, 4, dtype=torch.complex64)),
        T,
        r"complex64; pass a real",
    ),
    "a list for a picture": (lambda: HAAR.forward([[1.0]]), T, r"x is list; pass a torch tensor"),
    "spectral axis of size 0": (
        lambda: DCT.forward(torch.zeros(2, 0, 4)),
        V,
        r"every spectral axis must have at least one",
    ),
    "dims 0": (lambda: DCT.forward(X, dims=0), V, r"dims = 0 must be a positive int"),
    # noise
    "noise source a float": (
        lambda: NoiseField(0.5),
        T,
        r"noise source is float; pass an int seed, a torch\.Generator",
    ),
    "noise source empty": (
        lambda: NoiseField([]),
        V,
        r"noise source is an empty list; pass one seed or generator for each",
    ),
    "noise source of a wrong length": (
        lambda: NoiseField([1, 2]).on((3, 4, 4)),
        V,
        r"batch of 3 items, but the noise source lists 2; they must agree",
    ),
    "noise basis a name": (lambda: NoiseField(0, "dct"), T, r"basis is 'dct'; pass DCT, HAAR, FOURIER or an instance"),
    "transition number": (lambda: NoiseField(0, transition=-1), V, r"transition = -1 must be an int in \[0, 65535\]"),
    "field in four dimensions": (
        lambda: NoiseField(0).on((2, 2, 2, 2), dims=4),
        V,
        r"dims = 4: a noise field has 1, 2 or 3",
    ),
    "field without its axes": (lambda: NoiseField(0).on((4,)), V, r"shape = \(4,\) has fewer axes than dims = 2"),
    # spectrum
    "amplitude 0": (lambda: PowerLaw(0.0, 2.0), V, r"amplitude = 0\.0 must be above 0"),
    "amplitude NaN": (lambda: PowerLaw(NAN, 2.0), V, r"amplitude = nan must be finite"),
    "exponent a string": (lambda: PowerLaw(1.0, "2"), T, r"exponent is str; pass a float"),
    "unknown kind": (
        lambda: PowerLaw(1.0, 2.0, kind="guessed"),
        V,
        r"kind = 'guessed' must be 'measured', 'measured, distilled encoder', 'calibrated' or",
    ),
    "frequency 0": (lambda: FLUX(0.0), V, r"omega = 0\.0 must be positive and finite \(cycles per shorter side\)"),
    "table lengths": (lambda: table(power=(1.0,)), V, r"have shapes \(2,\), \(1,\), \(2,\); pass three non-empty"),
    "table order": (
        lambda: table(frequency=(2.0, 1.0)),
        V,
        r"frequency must be positive, finite and strictly increasing",
    ),
    "table power": (lambda: table(power=(1.0, -1.0)), V, r"power must be finite and not negative"),
    "outside the table": (
        lambda: table()(9.0),
        V,
        r"omega = 9 lies above the measured range, which ends at 2\.5 cycles; .*fit",
    ),
    "table with power 0": (lambda: table(power=(1.0, 0.0))(1.0), V, r"bins of power 0"),
    "meter of one sample": (
        lambda: SpectrumMeter((8, 1)),
        V,
        r"shape = \(8, 1\) has no radial bin; the shorter side needs",
    ),
    "meter of another grid": (
        lambda: SpectrumMeter((8, 8)).update(X),
        V,
        r"batch has grid \(4, 4\) but this meter measures",
    ),
    "meter fed with nothing": (
        lambda: SpectrumMeter((8, 8)).update(torch.zeros(0, 8, 8)),
        V,
        r"batch of shape \(0, 8, 8\) is",
    ),
    "meter fed with NaN": (lambda: SpectrumMeter((8, 8)).update(W * NAN), V, r"batch contains NaN or infinity"),
    "meter fed with integers": (lambda: SpectrumMeter((8, 8)).update(W.int()), T, r"batch is a tensor of torch\.int32"),
    "meter read too early": (lambda: SpectrumMeter((8, 8)).result(), V, r"no samples yet; call update\(batch\) first"),
    "meters of two grids": (
        lambda: SpectrumMeter((8, 8)).merge(SpectrumMeter((4, 4))),
        V,
        r"cannot merge.* \(4, 4\) .*\(8, 8\)",
    ),
    "meters of two bases": (
        lambda: SpectrumMeter((8, 8)).merge(SpectrumMeter((8, 8), basis=HAAR)),
        V,
        r"(?i)cannot merge.* '?haar'? .* '?dct'?",
    ),
    "state of another meter": (
        lambda: SpectrumMeter((8, 8)).load_state_dict(SpectrumMeter((4, 4)).state_dict()),
        V,
        r"state.* is .*\(4, 4\)",
    ),
    "fit of constants": (lambda: fit_spectrum(torch.ones(2, 8, 8)), V, r"bins of power 0 have no logarithm"),
    "fit of one bin": (lambda: fit_spectrum(randn(2, 2, 2)), V, r"only 1 bins to fit on grid \(2, 2\)"),
    "fit band of three": (
        lambda: fit_power_law(table(), band=(1, 2, 3)),
        V,
        r"band = \(1, 2, 3\) must be \(lowest, highest\)",
    ),
    "fit in an empty band": (
        lambda: fit_power_law(table(), band=(2, 1)),
        V,
        r"band = \(2, 1\) must be \(lowest, highest\)",
    ),
    "fit of a tensor": (
        lambda: fit_power_law(X),
        T,
        r"spectrum is Tensor; pass a Spectrum, e\.g\. power_spectrum\(x\)",
    ),
    "fit of no latents": (lambda: fit_spectrum([]), V, r"latents is empty; pass at least one tensor"),
    "fit of mixed grids": (
        lambda: fit_spectrum([X, W]),
        V,
        r"batch has grid \(8, 8\) but this meter measures \(4, 4\)",
    ),
    "spectrum of too few axes": (
        lambda: power_spectrum(torch.zeros(4)),
        V,
        r"x has shape \(4,\); it needs at least 2 axes",
    ),
    # expansion
    "expand without noise": (
        lambda: expand_aligned(X, (8, 8), 0.7),
        V,
        r"pass exactly one of noise=, seed= and generator=",
    ),
    "expand with two sources": (
        lambda: expand_aligned(X, (8, 8), 0.7, noise=W, seed=1),
        V,
        r"pass exactly one of noise=",
    ),
    "expand with a bad seed": (
        lambda: expand_aligned(X, (8, 8), 0.7, seed=0.5),
        T,
        r"noise source is float; pass an int seed",
    ),
    "expand to less": (lambda: expand(W, (4, 4), 0.7, noise=X), V, r"dct basis: an axis of 8 cannot grow to 4"),
    "expand with coarse noise": (
        lambda: expand(X, (8, 8), 0.7, noise=X),
        V,
        r"noise has shape \(1, 2, 4, 4\); expected \(1, 2, 8, 8\)",
    ),
    "expand with a batch of other noise": (
        lambda: expand(X, (8, 8), 0.7, noise=randn(2, 2, 8, 8)),
        V,
        r"noise has shape \(2, 2, 8, 8\); expected \(1, 2, 8, 8\)",
    ),
    "expand with integer noise": (
        lambda: expand(X, (8, 8), 0.7, noise=W.int()),
        T,
        r"noise is a tensor of torch\.int32",
    ),
    "expand with a seed for noise": (
        lambda: expand(X, (8, 8), 0.7, noise=3),
        T,
        r"noise is int; pass a white field on",
    ),
    "expand at t above 1": (lambda: expand(X, (8, 8), 1.01, noise=W), V, r"t = 1\.01 is out of range"),
    "expand at t NaN": (lambda: expand(X, (8, 8), NAN, noise=W), V, r"t contains NaN"),
    "expand at a string": (lambda: expand(X, (8, 8), "late", noise=W), T, r"t is str; pass a float"),
    "expand at None": (lambda: expand_aligned(X, (8, 8), None, noise=W), T, r"t is NoneType; pass a float"),
    "expand an empty batch": (
        lambda: expand(X[:0], (8, 8), 0.7, noise=W[:0]),
        V,
        r"x has shape \(0, 2, 4, 4\): an empty batch",
    ),
    "expand integers": (lambda: expand(X.int(), (8, 8), 0.7, noise=W), T, r"x is a tensor of torch\.int32"),
    "expand a field of another basis": (
        lambda: expand(X, (8, 8), 0.7, noise=NoiseField(0, HAAR)),
        V,
        r"noise is a field in HAAR, but basis = DCT; make both",
    ),
    "expand haar unevenly": (
        lambda: expand(X, (8, 16), 0.7, noise=NoiseField(0, HAAR), basis=HAAR),
        V,
        r"not the low corner .* same factor",
    ),
    "expand in a named basis": (
        lambda: expand(X, (8, 8), 0.7, noise=W, basis="dct"),
        T,
        r"basis is 'dct'; pass DCT, HAAR",
    ),
    "expand into a wrong out": (
        lambda: expand_aligned(X, (8, 8), 0.7, noise=W, out=X.clone()),
        V,
        r"out is \(1, 2, 4, 4\) .*result is \(1, 2, 8, 8\)",
    ),
    "expand into an out of other type": (
        lambda: expand_aligned(X, (8, 8), 0.7, noise=W, out=W.float()),
        V,
        r"out is .* torch\.float32 .*torch\.float64",
    ),
    "restrict noise upwards": (lambda: restrict_noise(X, (8, 8)), V, r"dct basis: an axis of 8 cannot grow to 4"),
    "restrict a list": (lambda: restrict_signal([1.0], (8, 8)), T, r"x is list; pass a torch tensor"),
    # schedule
    "no steps": (lambda: shift_times(0), V, r"steps = 0 must be at least 1"),
    "steps a float": (lambda: shift_times(5.0), T, r"steps is 5\.0; pass an int"),
    "shift a string": (lambda: shift_times(5, shift="a"), T, r"shift is 'a'; pass a number above 0"),
    "shift 0": (lambda: shift_times(5, shift=0.0), V, r"shift = 0\.0 must be positive and finite \(1 is no shift\)"),
    "times increasing": (
        lambda: planned((0.0, 0.5, 1.0)),
        V,
        r"times must be strictly decreasing .* got \(0, 0\.5, 1\)",
    ),
    "times repeated": (lambda: planned((1.0, 0.5, 0.5, 0.0)), V, r"times must be strictly decreasing"),
    "times not ending at 0": (lambda: planned((1.0, 0.5)), V, r"times must end at exactly 0; got \(1, 0\.5\)"),
    "times above 1": (
        lambda: planned((1.5, 0.5, 0.0)),
        V,
        r"times = 1\.5 is out of range; times must satisfy 0 <= times <= 1",
    ),
    "times NaN": (lambda: planned((1.0, NAN, 0.0)), V, r"times contains NaN"),
    "times a number": (
        lambda: planned(50),
        T,
        r"times is int; pass the full-resolution time grid, e\.g\. shift_times\(50\)",
    ),
    "times of words": (lambda: planned(("1", "0")), T, r"times is str; pass a float, a numpy array or"),
    "one time": (lambda: planned((0.0,)), V, r"times has 1 values; N steps need N \+ 1"),
    "scales decreasing": (
        lambda: planned(scales=(1, 0.5)),
        V,
        r"scales = \(1\.0, 0\.5\) must be positive and strictly incr",
    ),
    "scales not ending at 1": (
        lambda: planned(scales=(0.25, 0.5)),
        V,
        r"scales = \(0\.25, 0\.5\) must end at 1, .*append 1",
    ),
    "scales above 1": (lambda: planned(scales=(1, 2)), V, r"must end at 1"),
    "scale 0": (lambda: planned(scales=(0, 1)), V, r"must be positive and strictly increasing"),
    "scales NaN": (lambda: planned(scales=(NAN, 1)), V, r"scales contains NaN"),
    "no scales": (lambda: planned(scales=()), V, r"scales is empty; pass at least \(1,\)"),
    "scales a number": (
        lambda: planned(scales=0.5),
        T,
        r"scales is 0\.5; pass a sequence of numbers such as \(0\.5, 1\)",
    ),
    "two stages of one size": (
        lambda: planned(shape=(3, 3), scales=(0.4, 0.5, 1)),
        V,
        r"give stages 1x1 and 1x1; every stage must be larger",
    ),
    "plan with delta 0": (lambda: planned(delta=0.0), V, r"delta = 0\.0 is out of range"),
    "plan with delta 1": (lambda: planned(delta=1.0), V, r"delta = 1\.0 is out of range"),
    "unknown clock": (lambda: planned(clock="wall"), V, r"clock = 'wall' must be 'full' or 'stage'"),
    "unknown remedy": (lambda: planned(unreached="ignore"), V, r"unreached = 'ignore' must be 'error' or 'force'"),
    "multiple_of 2.0": (lambda: planned(multiple_of=2.0), V, r"multiple_of = 2\.0 must be a positive int"),
    "multiple_of 0": (lambda: planned(multiple_of=0), V, r"multiple_of = 0 must be a positive int"),
    "full size not a multiple": (
        lambda: planned(multiple_of=5),
        V,
        r"shape = \(64, 64\) is not a multiple of multiple_of = 5",
    ),
    "no spectrum": (
        lambda: planned(spectrum=None),
        T,
        r"spectrum is NoneType; pass a PowerLaw, a Spectrum or a function of frequency",
    ),
    "spectrum a preset's name": (lambda: planned(spectrum="flux"), T, r"spectrum is 'flux'; pass PRESETS\['flux'\]$"),
    "spectrum a file": (
        lambda: planned(spectrum="a.json"),
        T,
        r"spectrum is 'a\.json'; pass load_spectrum\('a\.json'\)",
    ),
    "transition never reached": (
        lambda: planned(shift_times(4, shift=5), delta=0.9),
        V,
        r"t\* = .* is never reached: .* T_3 = 0\.625.* unreached='force'",
    ),
    "too many transition times": (
        lambda: explicit(0.8, 0.7),
        V,
        r"transition_times has 2 values for 2",
    ),
    "transition times increasing": (
        lambda: explicit(0.7, 0.8, scales=(0.25, 0.5, 1)),
        V,
        r"must lie inside \(0, 1\) and not increase",
    ),
    "transition at 1": (lambda: explicit(1.0), V, r"transition_times = \(1\.0,\) must lie inside"),
    "cost negative": (lambda: plan().cost(lambda shape: -1.0), V, r"cost function returned -1\.0 for grid \(4, 4\)"),
    "cost a number": (lambda: planned(cost=3.0), T, r"cost is float; pass a function of the grid"),
    # ideal
    "field not positive": (
        lambda: GaussianField(lambda w: 0 * w, (4, 4)),
        V,
        r"spectrum must be positive and finite at every",
    ),
    "field of a number": (
        lambda: GaussianField(3.0, (4, 4)),
        T,
        r"spectrum is float; pass a PowerLaw, a Spectrum or a func",
    ),
    "field at a larger grid": (
        lambda: GaussianField(FLUX, (4, 4)).velocity(W, 0.5),
        V,
        r"an axis of 8 cannot grow to 4",
    ),
    "field at t NaN": (lambda: GaussianField(FLUX, (8, 8)).velocity(W, NAN), V, r"t contains NaN"),
    "haar field off its corner": (
        lambda: GaussianField(FLUX, (8, 8), HAAR).power((4, 8)),
        V,
        r"HAAR coefficients of \(4, 8\) are not the low corner",
    ),
    "data set empty": (lambda: FiniteDataset(W[:0]), V, r"samples has shape \(0, 2, 8, 8\); pass at least one sample"),
    "data set of NaN": (lambda: FiniteDataset(W * NAN), V, r"samples contains NaN or infinity"),
    "bandwidth a string": (lambda: FiniteDataset(W, "x"), T, r"bandwidth is 'x'; pass a number, at least 0"),
    "field of a fractional size": (
        lambda: NoiseField(0).on((1, 2.5, 4)),
        T,
        r"shape = \(1, 2\.5, 4\) must hold integers",
    ),
    "field of a negative size": (
        lambda: NoiseField(0).on((-1, 4, 4)),
        V,
        r"shape = \(-1, 4, 4\) holds a negative size",
    ),
    "field of a huge size": (lambda: NoiseField(0).on((1, 2**17, 1, 1), dims=3), V, r"at most 65536 coefficients"),
    "bandwidth negative": (lambda: FiniteDataset(W, -1.0), V, r"bandwidth = -1\.0 must be finite and not negative"),
    "data set at t = 0": (
        lambda: FiniteDataset(W).velocity(W, 0.0),
        V,
        r"t = 0: a denoiser's velocity has no value .* use 0 < t <= 1",
    ),
    "data set of other channels": (
        lambda: FiniteDataset(W).velocity(randn(1, 3, 8, 8), 0.5),
        V,
        r"x has shape \(1, 3, 8, 8\); samples are \(1, 2, 8, 8\)",
    ),
    "prediction for another grid": (
        lambda: predict(plan(), GaussianField(FLUX, (16, 16))),
        V,
        r"plan is for grid \(8, 8\), the field is on \(16, 16\)",
    ),
    "prediction of a list": (
        lambda: predict([1.0], GaussianField(FLUX, (8, 8))),
        T,
        r"plan is list; pass what make_plan ret",
    ),
    # sampling
    "coarse noise": (
        lambda: run(X),
        V,
        r"noise has shape \(1, 2, 4, 4\); its last axes must be the plan's full grid \(8, 8\)",
    ),
    "noise of too few axes": (lambda: run(randn(8)), V, r"noise has shape \(8,\); it needs at least 2 axes"),
    "integer noise": (lambda: run(W.int()), T, r"noise is a tensor of torch\.int32"),
    "empty noise": (lambda: run(W[:0]), V, r"noise has shape \(0, 2, 8, 8\): an empty batch"),
    "noise with NaN": (lambda: run(W * NAN), V, r"noise contains NaN or infinity"),
    "a seed for noise": (lambda: run(3), T, r"noise is int; pass a white field of the full size or a NoiseField"),
    "field without leading axes": (
        lambda: run(NoiseField(0)),
        V,
        r"noise is a NoiseField; pass leading=\(batch, channels",
    ),
    "field with an empty batch": (
        lambda: run(NoiseField(0), leading=(0, 2)),
        V,
        r"leading = \(0, 2\) must hold .* at least 1",
    ),
    "field with a number for leading": (lambda: run(NoiseField(0), leading=2), T, r"leading is 2; pass"),
    "field of another basis": (
        lambda: run(NoiseField(0, HAAR), leading=(1,)),
        V,
        r"noise is a field in HAAR, but basis = DCT",
    ),
    "field of too few sources": (
        lambda: run(NoiseField([1]), leading=(2,)),
        V,
        r"batch of 2 items, but the noise source lists",
    ),
    "tensor with leading axes": (lambda: run(leading=(1,)), V, r"leading is used only with a NoiseField"),
    "unknown solver": (
        lambda: run(solver="ddim"),
        V,
        r"solver = 'ddim' is unknown; pass one of \['dpmpp_2m', 'euler'",
    ),
    "solver a number": (lambda: run(solver=3), T, r"solver is int; pass one of"),
    "unknown coupling": (lambda: run(coupling="loose"), V, r"coupling = 'loose' must be 'coupled' or 'fresh'"),
    "sampling in a named basis": (lambda: plan(basis="dct"), T, r"basis is 'dct'; pass DCT, HAAR, FOURIER"),
    "sampling haar at 1.5": (
        lambda: plan((6, 6), (2 / 3, 1), basis=HAAR),
        V,
        r"haar basis: an axis of 4 cannot grow to 6",
    ),
    "generator without use": (
        lambda: run(seed=torch.Generator()),
        V,
        r"seed is used only without noise, or with a noise tensor and coupling='fresh'",
    ),
    "generator a seed": (
        lambda: run(coupling="fresh", seed=0.5),
        T,
        r"noise source is float; pass an int seed, a torch\.Generator, or a list of either \(one an item\)",
    ),
    "generators with a seed among them": (
        lambda: run(coupling="fresh", seed=["3"]),
        T,
        r"noise source is str; pass an int seed, a torch\.Generator",
    ),
    "generators of another batch": (
        lambda: run(coupling="fresh", seed=[torch.Generator()] * 2),
        V,
        r"seed lists 2 generators for a batch of 1; pass one an item",
    ),
    "callback a number": (lambda: run(callback=3), T, r"callback is int; pass a function of a StepInfo, or None"),
    "start a number": (lambda: run(start=0.0), T, r"start and noise must both be tensors of the full size"),
    "start of integers": (lambda: run(start=W.int()), T, r"start is a tensor of torch\.int32"),
    "start with NaN": (lambda: run(start=W * NAN), V, r"start contains NaN or infinity"),
    "start of another size": (lambda: run(start=X), V, r"start has shape \(1, 2, 4, 4\), noise \(1, 2, 8, 8\)"),
    "start on the stage clock": (
        lambda: run(plan_=plan_at(TIMES, (0.6,), (8, 8), scales=(0.5, 1), clock="stage"), start=W),
        V,
        r"start needs a plan with clock='full'",
    ),
    "plan a list": (lambda: run(plan_=[1.0, 0.0]), T, r"plan is list; pass what make_plan returned"),
    "velocity not callable": (lambda: run(velocity=3.0), T, r"velocity is float; pass a callable velocity\(x, t\)"),
    # editing
    "edit a coarse image": (
        lambda: edited(X),
        V,
        r"image has shape \(1, 2, 4, 4\); its last axes must be the plan's grid \(8, 8\)",
    ),
    "edit a list": (lambda: edited([1.0]), T, r"image is list; pass a torch tensor"),
    "edit integers": (lambda: edited(W.int()), T, r"image is a tensor of torch\.int32"),
    "edit nothing": (lambda: edited(W[:0], noise=W[:0]), V, r"image has shape \(0, 2, 8, 8\): an empty batch"),
    "edit NaN": (lambda: edited(W * NAN), V, r"image contains NaN or infinity"),
    "edit with other noise": (
        lambda: edited(noise=randn(2, 2, 8, 8)),
        V,
        r"noise has shape \(2, 2, 8, 8\) .*, image \(1, 2, 8, 8\) .*make both the same",
    ),
    "edit with coarse noise": (lambda: edited(noise=X), V, r"noise has shape \(1, 2, 4, 4\); its last axes must be"),
    "edit with NaN for noise": (lambda: edited(noise=W * NAN), V, r"noise contains NaN or infinity"),
    "edit with a number for noise": (lambda: edited(noise=3), T, r"noise is int; pass a white field"),
    "edit without noise": (lambda: edited(noise=None), V, r"pass exactly one of noise= and seed="),
    "edit with two sources": (lambda: edited(noise=W, seed=1), V, r"pass exactly one of noise= and seed="),
    "edit with a bad seed": (lambda: edited(seed=0.5), T, r"noise source is float; pass an int seed"),
    "edit with a field of another basis": (
        lambda: edited(noise=NoiseField(0, HAAR)),
        V,
        r"noise is a field in HAAR, but basis = DCT",
    ),
    "edit with too few sources": (
        lambda: edited(randn(2, 2, 8, 8), noise=NoiseField([1])),
        V,
        r"batch of 2 items, but the noise source lists 1",
    ),
    "edit beyond the plan": (lambda: edited(stage=2), V, r"stage = 2 must be from 0 to 1, .*\(4x4, 8x8\)"),
    "edit at a negative stage": (lambda: edited(stage=-1), V, r"stage = -1 must be from 0 to 1"),
    "edit at a fractional stage": (lambda: edited(stage=1.0), T, r"stage is 1\.0; pass the index of the first stage"),
    "edit at True": (lambda: edited(stage=True), T, r"stage is True; pass the index"),
    "clean without a stage before": (
        lambda: edited(stage=0, mode="clean"),
        V,
        r"mode = 'clean' keeps the band of the stage before; with stage = 0 there is none: use 'noised'",
    ),
    "unknown mode": (lambda: edited(mode="dirty"), V, r"mode = 'dirty' must be 'noised' or 'clean'"),
    "edit with a list for a plan": (lambda: edited(plan_=[1.0, 0.0]), T, r"plan is list; pass what make_plan returned"),
    "edit with an unknown solver": (lambda: edited(solver="ddim"), V, r"solver = 'ddim' is unknown"),
    "sdedit in a named basis": (
        lambda: sdedit(velocity, W, (0.6, 0.0), noise=W, basis="dct"),
        T,
        r"basis is 'dct'; pass DCT, HAAR, FOURIER",
    ),
    "edit without a model": (lambda: edited(velocity=3.0), T, r"velocity is float; pass a callable velocity\(x, t\)"),
    "sdedit at strength 2": (lambda: sdedit(velocity, W, (2.0, 0.0), noise=W), V, r"times = 2\.0 is out of range"),
    "sdedit that does not end": (lambda: sdedit(velocity, W, (0.6, 0.3), noise=W), V, r"times must end at exactly 0"),
    "sdedit of a number": (lambda: sdedit(velocity, 3.0, (0.6, 0.0), seed=0), T, r"image is float; pass a torch"),
    # noise passthrough
    "passthrough with delta 0": (lambda: held(delta=0.0), V, r"delta = 0\.0 is out of range; .* 0 < delta < 1"),
    "passthrough with delta NaN": (lambda: held(delta=NAN), V, r"delta contains NaN"),
    "passthrough of a number for a spectrum": (
        lambda: held(spectrum=3.0),
        T,
        r"spectrum is float; pass a PowerLaw, a Spectrum or a function of frequency",
    ),
    "passthrough with negative power": (
        lambda: held(spectrum=lambda w: -w),
        V,
        r"spectrum must be positive and finite",
    ),
    "passthrough beyond a table": (
        lambda: held(spectrum=table(shape=(8, 8))),
        V,
        r"above the measured range, .* fit a power law",
    ),
    "passthrough over two stages": (lambda: held(plan_=plan()), V, r"plan has 2 stages; .* scales=\(1,\)"),
    "passthrough of a field without leading axes": (
        lambda: held(NoiseField(0)),
        V,
        r"noise is a NoiseField; pass leading=",
    ),
    "passthrough on another grid": (lambda: held(X), V, r"its last axes must be the plan's full grid"),
    "passthrough of integers": (lambda: held(W.int()), T, r"noise is a tensor of torch\.int32"),
    "passthrough of NaN": (lambda: held(W * NAN), V, r"noise contains NaN or infinity"),
    "passthrough of a number": (lambda: held(3), T, r"noise is int; pass a torch tensor|noise is int"),
    "passthrough along a list": (lambda: held(plan_=[1.0, 0.0]), T, r"plan is list; pass what make_plan returned"),
    "passthrough without a model": (lambda: held(velocity=3.0), T, r"velocity is float; pass a callable"),
    "map of an empty grid": (lambda: activation_map(FLUX, (0, 4), 0.1), V, r"shape = \(0, 4\) must hold"),
    "error with other noise": (
        lambda: noise_prediction_error(velocity, W, 0.5, noise=X),
        V,
        r"samples have shape \(1, 2, 8, 8\), noise \(1, 2, 4, 4\); they must agree",
    ),
    "error at t = 0": (
        lambda: noise_prediction_error(velocity, W, 0.0, noise=W),
        V,
        r"t = 0: a denoiser's velocity has no value at the data end; use 0 < t <= 1",
    ),
    "error above 1": (lambda: noise_prediction_error(velocity, W, 1.5, noise=W), V, r"t = 1\.5 is out of range"),
    "error of integers": (
        lambda: noise_prediction_error(velocity, W.int(), 0.5, noise=W),
        T,
        r"samples is a tensor of torch\.int32",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_bad_input(name):
    call, exception, message = CASES[name]
    CALLS.clear()
    with pytest.raises(exception, match=message):
        call()
    assert CALLS == []


def test_good_input_calls_the_velocity():
    """Negative control for the assertion above."""
    CALLS.clear()
    run()
    assert len(CALLS) == 10


SQUARES = {
    "max_frequency": lambda shape: max_frequency(shape),
    "make_plan": lambda shape: planned(shape=shape),
    "plan_at": lambda shape: plan(shape),
    "stage_shape": lambda shape: stage_shape(shape, 0.5),
    "token_cost": lambda shape: token_cost(shape)((4, 4)),
    "step_cost": lambda shape: step_cost("flux", shape)((4, 4)),
    "optimise_plan": lambda shape: optimise_plan(FLUX, shape, math.prod, budget=300, scales=(0.5, 1), steps=6),
    "transition_times": lambda shape: transition_times(FLUX, (0.5, 1), shape, delta=0.1),
    "PowerLaw": lambda shape: PowerLaw(2.0, 2.0, shape=shape),
    "PowerLaw.at": lambda shape: FLUX.at(shape),
    "Spectrum.at": lambda shape: table().at(shape).power.tolist(),
    "coefficients": lambda shape: FLUX.coefficients(shape).tolist(),
    "GaussianField": lambda shape: GaussianField(FLUX, shape).power().tolist(),
    "SpectrumMeter": lambda shape: SpectrumMeter(shape).shape,
    "DCT.frequency": lambda shape: DCT.frequency(shape).tolist(),
    "HAAR.frequency": lambda shape: HAAR.frequency(shape).tolist(),
    "DCT.embed": lambda shape: DCT.embed(X, shape).tolist(),
    "DCT.restrict": lambda shape: DCT.restrict(randn(1, 1, 12, 12), shape).tolist(),
    "expand": lambda shape: expand(X, shape, 0.5, noise=W).tolist(),
    "expand_aligned": lambda shape: expand_aligned(X, shape, 0.5, noise=W)[0].tolist(),
    "restrict_noise": lambda shape: restrict_noise(randn(1, 1, 12, 12), shape).tolist(),
    "restrict_signal": lambda shape: restrict_signal(randn(1, 1, 12, 12), shape).tolist(),
    "activation_map": lambda shape: activation_map(FLUX, shape, 0.1).tolist(),
    "anchored": lambda shape: anchored(TIMES, shape, anchors=(0, 5)).shapes,
}


@pytest.mark.parametrize("name", SQUARES)
def test_an_int_is_the_side_of_a_square(name):
    assert SQUARES[name](8) == SQUARES[name]((8, 8))
    with pytest.raises((ValueError, TypeError), match="8"):
        SQUARES[name]("8")  # negative control: not whatever has an 8 in it


def test_a_measurement_is_taken_where_its_law_or_table_is():
    found = measure(GaussianField(PowerLaw(50.0, 2.0, shape=(16, 16)), (16, 16)).sample((20, 2)), replicates=20)
    options = {"shape": (16, 16), "delta": 0.1}
    assert planned(spectrum=found, **options) == planned(spectrum=found.law, **options)
    assert planned(spectrum=found, **options) != planned(spectrum=FLUX, **options)
    times = [transition_times(law, (0.5, 1), (16, 16), delta=0.1) for law in (found, found.law)]
    assert times[0] == times[1]
    assert fit_power_law(found) == fit_power_law(found.spectrum)
    assert GaussianField(found, 16).power().equal(GaussianField(found.law, 16).power())
    with pytest.raises(TypeError, match="spectrum is SimpleNamespace; pass a PowerLaw"):
        planned(spectrum=SimpleNamespace(spectrum=found.spectrum))


def test_what_only_looks_odd_is_taken():
    """Negative controls of the guesses: few columns, three axes of a law that has three, a function on any grid."""
    for shape in ((4, 3, 64, 64), (2, 64, 64, 8), (40, 8, 4), (1, 15, 15, 4)):
        assert fit_spectrum(randn(*shape)).shape == shape[-2:]
    assert fit_spectrum(randn(3, 2, 20, 20, 4), dims=3).shape == (20, 20, 4)
    options = {"scales": ((1, 0.5, 0.5), 1), "delta": 0.1}
    for law in (lambda omega: 50 / omega**2, PowerLaw(50.0, 2.0), PowerLaw(50.0, 2.0, shape=(3, 16, 16))):
        assert planned(spectrum=law, shape=(4, 16, 16), **options).shape == (4, 16, 16)


def test_there_are_enough_cases():
    assert len(CASES) >= 60


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (
            lambda x: x[..., :2],
            r"velocity returned \(1, 2, 4, 2\) for a state of shape \(1, 2, 4, 4\); it must keep the shape",
        ),
        (lambda x: None, r"velocity returned NoneType for a state of shape \(1, 2, 4, 4\)"),
        (lambda x: (x,), r"velocity returned tuple"),
    ],
)
def test_a_velocity_of_another_shape_is_refused_at_that_call(answer, message):
    calls = []

    def bad(x, t):
        calls.append(t)
        return answer(x)

    with pytest.raises(ValueError, match=message):
        sample(bad, W, plan())
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        (PowerLaw, "no json", r"law\.json is not JSON"),
        (PowerLaw, "[1, 2]", r"law\.json does not hold a PowerLaw; write one with PowerLaw\.save\(path\)"),
        (Spectrum, '{"type": "PowerLaw"}', r"does not hold a Spectrum"),
        (PowerLaw, '{"type": "PowerLaw"}', r"whole PowerLaw, \['amplitude', 'exponent', 'shape'\] missing"),
        (
            Spectrum,
            '{"type": "Spectrum", "shape": [4, 4]}',
            r"whole Spectrum, \['count', 'frequency', 'power'\] missing",
        ),
    ],
)
def test_files_of_other_content(tmp_path, kind, text, message):
    path = tmp_path / "law.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        kind.load(path)
