"""``spectral-pd fit``: the report, files, options; torchrun with 1, 2 and 4 processes; kill -9 and go on."""

import argparse
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import warnings
from datetime import date

import numpy as np
import pytest
import torch
from strategies import randn
from tqdm import tqdm

from spectral_pd import DCT, GaussianField, PowerLaw, Spectrum, fit_power_law, make_plan, shift_times
from spectral_pd.__main__ import main
from spectral_pd.measuring import measure, report
from spectral_pd.measuring.command import add_arguments, run
from spectral_pd.measuring.sources import Arrays, Batch
from spectral_pd.measuring.stream import load_checkpoint, save_checkpoint, ticking

SCRIPT = """
import argparse, os, signal, sys, time, torch
from spectral_pd.measuring import command
signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell inherit that it is ignored
torch.set_num_threads(1)
slow = float(sys.argv.pop(1))
if slow:  # a source as slow as a disk or an encoder, so that there is a middle to be killed in
    from spectral_pd.measuring.sources import Chain
    read = Chain.__getitem__
    def slowly(self, i):
        time.sleep(slow)
        if i == int(os.environ.get("HALT_AT", -1)):  # wait here for the signal, however late it comes
            open(os.environ["READY"], "w").close()
            time.sleep(60)
        return read(self, i)
    Chain.__getitem__ = slowly
parser = argparse.ArgumentParser()
command.add_arguments(parser)
command.run(parser.parse_args())
"""


def fit(*arguments):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    run(parser.parse_args([str(a) for a in arguments]))


@pytest.fixture(scope="module")
def latents(tmp_path_factory):
    """70 latents of two channels in three files, float32."""
    folder = tmp_path_factory.mktemp("latents")
    x = GaussianField(PowerLaw(80.0, 2.0, shape=(32, 32)), (32, 32)).sample(
        (70, 2), generator=torch.Generator().manual_seed(0)
    )
    for name, part in zip("abc", x.split([30, 30, 10]), strict=True):
        np.save(folder / f"{name}.npy", part.numpy())
    return folder


def read(path):
    data = json.loads(path.read_text())
    return data, data["measurement"]


# -- one process ------------------------------------------------------------------------------------------------------


def test_report_and_files(latents, tmp_path, capsys):
    out = [tmp_path / name for name in ("law.json", "table.json", "figure.png")]
    fit(latents, "--json", out[0], "--table", out[1], "--figure", out[2], "--scales", "1/4", "1/2", "1")
    text = capsys.readouterr().out
    assert "70 samples, 140 planes of 32x32, 2 channels, basis dct" in text
    for line in (
        r"A +\d",
        r"beta +\d",
        "R2 +0.9",
        r"t\*\(0.25\)",
        r"t\*\(0.5\)",
        "curvature",
        "noise floor",
        "horizontal",
    ):
        assert re.search(line, text), line
    assert "warning" not in text
    data, record = read(out[0])
    law = PowerLaw.load(out[0])
    assert law.amplitude == pytest.approx(80, rel=0.05)
    assert law.exponent == pytest.approx(2, abs=0.03)
    assert law.data == f"70 samples, grid 32x32, of {latents}"
    assert (law.source, law.basis) == ("spectral_pd", "dct")
    assert law.date == date.today().isoformat()
    interval = record["confidence"]["exponent"]
    assert interval["low"] < law.exponent < interval["high"]
    assert len(record["confidence"]["transition_times"]) == 2
    assert len(record["channel_power"]) == 2
    assert fit_power_law(Spectrum.load(out[1])).exponent == law.exponent
    assert out[2].read_bytes()[:4] == b"\x89PNG"
    assert data["kind"] == "measured"


def test_options_reach_the_fit(latents, tmp_path):
    results = {}
    for name, options in {
        "plain": [],
        "band": ["--band", 2, 10],
        "log": ["--weights", "log"],
        "fourier": ["--basis", "fourier"],
        "batch": ["--batch-size", 7],
        "workers": ["--workers", 2],
        "none": ["--bootstrap", 0],
    }.items():
        fit(latents, "--json", tmp_path / "law.json", *options)
        results[name] = read(tmp_path / "law.json")
    exponent = {name: data["exponent"] for name, (data, _) in results.items()}
    assert len({exponent[n] for n in ("plain", "band", "log", "fourier")}) == 4
    assert exponent["workers"] == exponent["plain"]
    for name in ("workers", "batch"):
        assert exponent[name] == pytest.approx(exponent["plain"], rel=1e-9)
        same = [results[n][1]["confidence"]["exponent"]["error"] for n in (name, "plain")]
        assert same[0] == pytest.approx(same[1], rel=1e-9)
    assert results["none"][1]["confidence"] is None


def test_warnings_where_the_law_fails(tmp_path, capsys):
    frequency = DCT.frequency((48, 48))
    root = (40 * frequency.clamp(min=0.5) ** -3.0 + 0.2).sqrt()
    x = DCT.inverse(torch.randn(64, 1, 48, 48, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * root)
    np.save(tmp_path / "x.npy", x)
    fit(tmp_path, "--scales", "1/4", 1)
    text = " ".join(capsys.readouterr().out.split())
    assert "warning: R2" in text
    assert "warning: two power laws fit better" in text
    assert "warning: a noise floor makes up" in text
    assert "plan with the table's envelope" in text


def test_plans_take_the_law_or_the_table(latents, tmp_path, capsys):
    law, table = tmp_path / "law.json", tmp_path / "table.json"
    fit(latents, "--json", law, "--table", table)
    splits = []
    for path in (law, table):
        capsys.readouterr()
        assert main(["plan", "--spectrum", str(path), "--size", "32", "--steps", "40", "--delta", "0.05"]) == 0
        splits.append([line.split()[2] for line in capsys.readouterr().out.splitlines()[2:4]])
    assert splits[0] == splits[1]
    assert [int(n) for n in splits[0]] == list(
        make_plan(shift_times(40), Spectrum.load(table).envelope(), (32, 32), scales=(0.5, 1), delta=0.05).split
    )


def test_measuring_leaves_the_random_numbers_of_others_alone(latents):
    before = torch.get_rng_state()
    measure(latents, workers=1)
    assert torch.equal(torch.get_rng_state(), before)


def test_data_that_some_diagnostics_cannot_take_are_measured_all_the_same():
    stripes = measure(randn(40, 1, 1, 32, seed=6).expand(40, 1, 32, 32))
    assert stripes.anisotropy is None
    assert stripes.confidence is not None
    assert any("no power along one of the axes" in w for w in stripes.warnings)
    mostly_constant = torch.zeros(3, 1, 16, 16)
    mostly_constant[0] = randn(1, 16, 16, seed=9)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # no logarithms of zero on the way
        few = measure(mostly_constant)
    assert few.confidence.replicates < 200  # replicates of constant samples alone are left out
    assert few.confidence.amplitude.low < few.law.amplitude < few.confidence.amplitude.high


def test_one_scale_has_no_transition():
    plain = measure(randn(12, 1, 16, 16, seed=8), scales=(1,))
    assert plain.confidence.transition_times == plain.shift == ()
    assert "t*" not in str(plain)


def test_the_bar_shows_rate_time_left_and_samples(latents, capsys):
    measure(latents, progress=True, replicates=0)
    last = capsys.readouterr().err.split("\r")[-1]
    assert re.search(r"measuring: 100%.* 5/5 \[\d\d:\d\d<\d\d:\d\d, .+batch(/s)?, 70 samples\]", last), last
    measure(latents, replicates=0)
    assert capsys.readouterr().err == ""


def test_the_bar_moves_while_a_batch_takes_long(capsys):
    """Within the first second, whatever the first batch costs; without the clock behind it, it would stand still."""
    shown = []
    for moving in (ticking, lambda bar: contextlib.nullcontext()):
        with tqdm(total=2) as bar, moving(bar):
            capsys.readouterr()
            time.sleep(1.2)
            shown.append(capsys.readouterr().err.count("\r"))
    assert shown[0] >= 1
    assert shown[1] == 0


def test_few_samples_are_said_to_be_few():
    x = randn(1, 3, 16, 16, seed=2)
    one = measure(x)
    assert one.confidence is None
    assert any("one sample" in w for w in one.warnings)
    few = measure(randn(4, 3, 16, 16, seed=3))
    assert any("independent samples; intervals are rough" in w for w in few.warnings)


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (torch.ones(3, 1, 8, 8), [], "the data are constant"),
        (torch.full((3, 1, 8, 8), torch.nan), ["--on-error", "raise"], "NaN or infinity"),
        (torch.full((3, 1, 8, 8), torch.nan), [], "the source gave no samples"),
        (torch.zeros(2, 1, 8, 8, dtype=torch.int32), [], "is of torch.int32"),
        (torch.zeros(2, 1, 8, 8, dtype=torch.complex64), [], "is of torch.complex64"),
        (torch.zeros(2, 1, 8, 1), [], "has no radial bin"),
        (torch.zeros(5), ["--on-error", "raise"], "spectra need at least"),
        (randn(4, 1, 8, 8), ["--size", 4], "leave size out"),
        (randn(4, 1, 8, 8), ["--band", 5, 2], "band = "),
        (randn(4, 1, 8, 8), ["--bootstrap", 1], "replicates = 1"),
        (randn(4, 1, 8, 8), ["--delta", 2], "delta = 2"),
        (randn(4, 1, 8, 8), ["--workers", -1], "workers = -1 must be at least 0"),
        (randn(4, 1, 8, 8), ["--size", 1, 2, 3], "size = (1, 2, 3): give one side, or (height, width)"),
    ],
)
def test_bad_input(tmp_path, data, options, message):
    np.save(tmp_path / "x.npy", data.numpy())
    with pytest.raises((ValueError, TypeError), match=re.escape(message)):
        fit(tmp_path, *options)


def test_grids_that_differ_are_refused(tmp_path):
    np.save(tmp_path / "a.npy", randn(2, 1, 8, 8).numpy())
    np.save(tmp_path / "b.npy", randn(2, 1, 8, 12).numpy())
    with pytest.raises(ValueError, match=r"batch 1: batch has grid \(8, 12\) but this meter measures \(8, 8\)"):
        fit(tmp_path)


def test_worker_errors_stay_readable(tmp_path):
    np.save(tmp_path / "a.npy", np.full((2, 1, 8, 8), np.nan))
    with pytest.raises(ValueError, match=r"NaN or infinity") as caught:
        fit(tmp_path, "--workers", 1, "--on-error", "raise")
    assert "Traceback" not in str(caught.value)


# -- many processes ---------------------------------------------------------------------------------------------------


def environment():
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}


def torchrun_command(processes, *arguments):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return [*launcher, *map(str, arguments)]


def torchrun(processes, *arguments):
    done = subprocess.run(
        torchrun_command(processes, *arguments),
        env=environment(),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "fit.py"
    path.write_text(SCRIPT)
    return path


@pytest.fixture(scope="module")
def shared(latents, tmp_path_factory):
    """What one, two and four processes make of three batches: shares of different length, and none for the last process."""
    folder, records = tmp_path_factory.mktemp("shared"), {}
    for processes in (1, 2, 4):
        path = folder / f"{processes}.json"
        text = torchrun(processes, "-m", "spectral_pd", "fit", latents, "--json", path, "--batch-size", 30)
        assert text.count("70 samples") == 1  # one report, from the first process
        records[processes] = read(path)
    return records


def test_processes_agree(shared):
    """A, beta, tables and intervals to 1e-12."""
    reference, one = shared[1]
    for processes in (2, 4):
        data, record = shared[processes]
        assert data["amplitude"] == pytest.approx(reference["amplitude"], rel=1e-12)
        assert data["exponent"] == pytest.approx(reference["exponent"], rel=1e-12)
        np.testing.assert_allclose(record["spectrum"]["power"], one["spectrum"]["power"], rtol=1e-12)
        np.testing.assert_allclose(record["channel_power"], one["channel_power"], rtol=1e-12)
        for name in ("amplitude", "exponent"):
            for end in ("low", "high"):
                assert record["confidence"][name][end] == pytest.approx(one["confidence"][name][end], rel=1e-12)
        assert (record["samples"], record["planes"]) == (70, 140)


def test_killed_processes_go_on_bit_for_bit(shared, latents, tmp_path, script):
    """kill -9 of torchrun and both its processes while the first reads its second batch."""
    state, out, ready = tmp_path / "state.pt", tmp_path / "law.json", tmp_path / "ready"
    common = [latents, "--batch-size", 30, "--json", out, "--resume", state, "--checkpoint-every", 0]
    process = subprocess.Popen(
        torchrun_command(2, script, 0.1, *common),
        env={**environment(), "HALT_AT": "2", "READY": str(ready)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    other = tmp_path / "state.pt.1of2"
    wait_for(lambda: (ready.exists() and other.exists()) or process.poll() is not None)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(timeout=60)
    assert not out.exists()
    assert [int(torch.load(f"{state}.{rank}of2", weights_only=True)["done"]) for rank in (0, 1)] == [1, 1]
    torchrun(2, script, 0, *common)
    data, record = read(out)
    whole, uninterrupted = shared[2]
    assert record["spectrum"] == uninterrupted["spectrum"]
    assert record["confidence"] == uninterrupted["confidence"]
    assert data["amplitude"] == whole["amplitude"]


def test_loaders_that_would_count_samples_twice_are_refused(tmp_path, monkeypatch):
    x = torch.utils.data.TensorDataset(randn(12, 1, 8, 8, seed=7))
    shuffled = torch.utils.data.DataLoader(x, batch_size=4, shuffle=True)
    assert measure(shuffled).samples == 12  # one run of one process: any order will do
    with pytest.raises(ValueError, match=r"data is a loader that shuffles.*pass shuffle=False"):
        measure(shuffled, resume=tmp_path / "state.pt")
    shares = torch.utils.data.DistributedSampler(x, num_replicas=2, rank=0, shuffle=False)
    monkeypatch.setattr(report, "rank_and_world", lambda: (0, 2))
    for loader, message in (
        (shuffled, "that shuffles: several processes"),
        (torch.utils.data.DataLoader(x, batch_size=4, sampler=shares), "pass it without DistributedSampler"),
    ):
        with pytest.raises(ValueError, match=message):
            measure(loader)


# -- interrupted ------------------------------------------------------------------------------------------------------


def wait_for(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["kill -9", "Ctrl-C"])
def test_killed_run_goes_on_bit_for_bit(latents, tmp_path, script, number):
    state, out = tmp_path / "state.pt", tmp_path / "law.json"
    common = [latents, "--batch-size", 3, "--json", out, "--resume", state]
    # kill -9 loses what came after the last checkpoint, so there is one a batch; Ctrl-C writes its own
    every = 0 if number == signal.SIGKILL else 1000
    start = [sys.executable, str(script), "0.1", *map(str, common), "--checkpoint-every", str(every)]
    ready = tmp_path / "ready"
    halted = {**environment(), "HALT_AT": "5", "READY": str(ready)}
    process = subprocess.Popen(start, env=halted, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    wait_for(lambda: ready.exists() or process.poll() is not None)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode != 0
    assert not out.exists()
    done = int(torch.load(state, weights_only=True)["done"])
    assert 0 < done < 24  # in the middle of 24 batches
    fit(*common)
    resumed = read(out)
    fit(latents, "--batch-size", 3, "--json", tmp_path / "whole.json")
    whole = read(tmp_path / "whole.json")
    assert resumed[1]["spectrum"] == whole[1]["spectrum"]
    assert resumed[1]["confidence"] == whole[1]["confidence"]
    assert resumed[0]["amplitude"] == whole[0]["amplitude"]


def test_checkpoints_belong_to_one_run(latents, tmp_path):
    state = tmp_path / "state.pt"
    fit(latents, "--resume", state)
    fit(latents, "--resume", state)  # finished: reports again without reading
    for options in (["--seed", 1], ["--basis", "fourier"], ["--batch-size", 4]):
        with pytest.raises(
            ValueError, match=r"belongs to another run: .* finish that run, remove the file, or name another"
        ):
            fit(latents, "--resume", state, *options)
    with pytest.raises(ValueError, match="belongs to another run: files was"):
        fit(latents / "a.npy", "--resume", state)
    state.write_bytes(b"rubbish")
    with pytest.raises(ValueError, match="is not a checkpoint of this library"):
        fit(latents, "--resume", state)


def test_a_kill_while_writing_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "state.pt"
    save_checkpoint(path, {"identity": {}, "done": 1})

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(path, {"identity": {}, "done": 2})
    monkeypatch.undo()
    assert load_checkpoint(path, {})["done"] == 1


def test_interrupt_inside_an_update_leaves_whole_batches(latents, tmp_path, monkeypatch):
    """Ctrl-C between the table and the bootstrap of one batch: the checkpoint holds neither."""
    from spectral_pd import meter

    state, calls = tmp_path / "state.pt", []
    weights = meter.poisson_weights

    def interrupted(*args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return weights(*args, **kwargs)

    monkeypatch.setattr(meter, "poisson_weights", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fit(latents, "--resume", state, "--batch-size", 10)
    monkeypatch.undo()
    saved = torch.load(state, weights_only=True)
    assert saved["done"] == 2
    assert saved["meter"]["samples"] == 20
    fit(latents, "--resume", state, "--batch-size", 10, "--json", tmp_path / "a.json")
    fit(latents, "--batch-size", 10, "--json", tmp_path / "b.json")
    assert read(tmp_path / "a.json")[1]["confidence"] == read(tmp_path / "b.json")[1]["confidence"]


def test_iterables_resume_by_skipping(tmp_path):
    x = randn(30, 1, 12, 12, seed=5)
    parts = [Batch(p, torch.arange(3) + 3 * i) for i, p in enumerate(x.split(3))]
    state = tmp_path / "s.pt"

    def broken():
        for i, p in enumerate(parts):
            if i == 6:
                raise OSError("the network went away")
            yield p.values

    with pytest.raises(OSError, match="the network went away"):
        measure(broken(), resume=state, every=0)
    again = measure((p.values for p in parts), resume=state)
    assert again.samples == 30
    assert np.array_equal(again.spectrum.power, measure(p.values for p in parts).spectrum.power)


def test_an_error_loses_nothing(tmp_path):
    """Refused at the sixth batch: the five before it are kept, and the run goes on when told to skip."""
    x = randn(40, 1, 8, 8, seed=10)
    x[23] = float("nan")
    np.save(tmp_path / "x.npy", x.numpy())
    state, out = tmp_path / "state.pt", [tmp_path / name for name in ("a.json", "b.json")]
    common = [tmp_path / "x.npy", "--batch-size", 4]
    with pytest.raises(ValueError, match="sample 23: NaN or infinity"):
        fit(*common, "--resume", state, "--on-error", "raise")
    saved = torch.load(state, weights_only=True)
    assert (saved["done"], saved["meter"]["samples"]) == (5, 20)
    fit(*common, "--resume", state, "--json", out[0])
    fit(*common, "--json", out[1])
    assert read(out[0])[1]["spectrum"] == read(out[1])[1]["spectrum"]
    assert [read(path)[1]["skipped"] for path in out] == [1, 1]
    for empty in ([], iter(())):
        with pytest.raises(ValueError, match=r"the source gave no samples \(0 skipped\)"):
            measure(empty)


def test_skipped_files_are_counted_once(latents, tmp_path):
    (tmp_path / "bad.npy").write_bytes(b"rubbish")
    np.save(tmp_path / "good.npy", randn(5, 1, 8, 8, seed=6).numpy())
    result = measure(tmp_path, errors="skip")
    assert (result.samples, result.skipped) == (5, 1)
    assert "5 samples, 5 planes of 8x8, 1 channels, basis dct, 1 skipped" in str(result)
    assert len(Arrays([tmp_path / "good.npy"])) == 1
