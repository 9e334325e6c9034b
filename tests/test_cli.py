"""The command line: what it prints, what it writes, how it fails."""

from __future__ import annotations

import re
import subprocess
import sys

import numpy as np
import pytest
import torch

from spectral_pd import PowerLaw, Spectrum
from spectral_pd.__main__ import build_parser, main


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    status = main(arguments)
    out, err = capsys.readouterr()
    return status, out, err


def test_plan_prints_the_flux_split(capsys):
    status, out, _ = run(
        capsys, "plan", "--preset", "flux", "--size", "128", "--scales", "1/2", "1", "--steps", "50", "--mu", "1.15"
    )
    assert status == 0
    rows = [line.split() for line in out.splitlines()]
    assert [row[4] for row in rows[2:4]] == ["18", "32"]
    assert "0.852663" in out
    assert "predicted speedup" in out


def test_plan_counts_tokens_and_attention(capsys):
    options = ["--preset", "flux", "--size", "128", "--mu", "1.15", "--multiple-of", "2"]
    _, plain, _ = run(capsys, "plan", *options)
    assert "by grid points" in plain
    status, out, _ = run(capsys, "plan", *options, "--attention", "0.2", "--text-tokens", "512")
    assert status == 0
    header, first, second = (line.split() for line in out.splitlines()[1:4])
    assert header[-3:] == ["tokens", "cost", "share"]
    assert [row[10:12] for row in (first, second)] == [["1024", "0.288889"], ["4096", "1"]]
    assert f"by cost function: {50 / (18 * 0.288889 + 32):.2f}x" in out


def test_plan_reads_what_fit_wrote(capsys, tmp_path):
    generator = torch.Generator().manual_seed(0)
    np.save(tmp_path / "latents.npy", torch.randn(8, 4, 32, 32, generator=generator).cumsum(-1).cumsum(-2).numpy())
    law, table, figure = (str(tmp_path / name) for name in ("law.json", "table.json", "fit.png"))
    status, out, _ = run(
        capsys, "fit", str(tmp_path / "latents.npy"), "--json", law, "--table", table, "--figure", figure
    )
    assert status == 0
    fitted = PowerLaw.load(law)
    assert f"{fitted.exponent:.6g}" in out
    assert fitted.shape == Spectrum.load(table).shape == (32, 32)
    assert (tmp_path / "fit.png").read_bytes().startswith(b"\x89PNG")
    status, out, _ = run(capsys, "plan", "--spectrum", law, "--size", "32", "--steps", "50", "--shift", "3")
    assert status == 0
    assert "16x16" in out


def test_fit_measures_images_of_a_folder_at_one_size(capsys, tmp_path):
    image = pytest.importorskip("PIL.Image")
    generator = np.random.default_rng(0)
    for i, size in enumerate([(64, 48), (80, 50)]):
        image.fromarray(generator.integers(0, 256, (*size, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")
    status, out, _ = run(capsys, "fit", str(tmp_path), "--size", "32", "--band", "1", "8")
    assert status == 0
    assert "2 samples, 6 planes of 32x32" in out


def test_plan_for_a_budget(capsys):
    common = ["plan", "--preset", "flux", "--size", "32", "--budget", "6", "--attention", "0.2", "--text-tokens", "32"]
    status, free, _ = run(capsys, *common, "--scales", "1/2", "1", "--delta", "0.1")
    assert status == 0
    cost = float(re.search(r"at cost ([0-9.]+) of 6", free)[1])
    assert 5 < cost <= 6
    status, shifted, _ = run(capsys, *common, "--scales", "1/2", "1", "--delta", "0.1", "--grid", "shifted")
    assert status == 0
    errors = [float(re.search(r"predicted with euler: ([0-9.]+)", text)[1]) for text in (free, shifted)]
    assert errors[0] < errors[1], "more freedom, less error"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["plan", "--preset", "flux", "--size", "32", "--budget", "0.5"], "does not pay"),
        (["fit", "no/such/file.png"], "no such file"),
        (["plan", "--preset", "flux", "--size", "128", "--scales", "0.7", "0.5"], "strictly increasing"),
        (["plan", "--preset", "flux", "--size", "128", "--delta", "1"], "delta"),
        (["plan", "--preset", "flux", "--size", "128", "--steps", "1"], "never reached"),
        (["plan", "--preset", "flux", "--size", "128", "--steps", "1"], "fewer scales, or --force"),
        (["plan", "--preset", "flux", "--size", "128", "--mu", "900"], "--mu 900: exp(mu) is too large"),
        (["plan", "--preset", "flux", "--size", "128", "--attention", "2"], "attention = 2.0 must be in [0, 1]"),
        (["demo", "--figure", "no/such/folder/demo.png"], "its folder does not exist; make it first"),
        (["plan", "--preset", "flux", "--size", "129", "--multiple-of", "2"], "multiple_of"),
        (["plan", "--spectrum", "missing.json", "--size", "32"], "missing.json"),
    ],
)
def test_bad_values_are_one_line_and_status_1(capsys, arguments, message):
    status, out, err = run(capsys, *arguments)
    assert status == 1
    assert message in err
    assert len(err.strip().splitlines()) == 1
    assert "Traceback" not in err + out


def test_a_bad_file_is_named(capsys, tmp_path):
    np.save(tmp_path / "good.npy", np.ones((2, 8, 8), dtype=np.float32).cumsum(0))
    np.save(tmp_path / "words.npy", np.zeros((2, 8, 8), dtype=np.int64))
    status, _, err = run(capsys, "fit", str(tmp_path / "words.npy"))
    assert status == 1
    assert "words.npy" in err
    assert "int64" in err


def test_force_moves_a_transition_never_reached(capsys):
    status, out, _ = run(capsys, "plan", "--preset", "flux", "--size", "128", "--steps", "2", "--shift", "8", "--force")
    assert status == 0
    assert "forced to T_1" in out


@pytest.mark.parametrize("command", ["fit", "plan", "demo"])
def test_help_names_defaults_that_exist(capsys, command):
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    assert end.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "(default: None)" not in text
    assert "(default: False)" not in text
    assert {
        "fit": "bootstrap (default: 0)",
        "plan": "solver steps (default: 50)",
        "demo": "samples (default: demo.png)",
    }[command] in text


@pytest.mark.parametrize("arguments", [[], ["plan"], ["plan", "--size", "64"], ["fit", "x", "--basis", "sine"]])
def test_wrong_usage_is_status_2(arguments):
    with pytest.raises(SystemExit) as error:
        build_parser().parse_args(arguments)
    assert error.value.code == 2


def test_runs_as_a_module():
    done = subprocess.run([sys.executable, "-m", "spectral_pd", "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert all(command in done.stdout for command in ("fit", "plan", "demo"))


def test_a_reader_that_goes_away_is_no_error():
    plan = [sys.executable, "-m", "spectral_pd", "plan", "--preset", "flux", "--size", "64", "--scales", "1/2", "1"]
    with subprocess.Popen(plan, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait() == 141
