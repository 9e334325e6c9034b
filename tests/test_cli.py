"""The command line: what it prints, what it writes, how it fails."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import numpy as np
import pytest
import torch
from strategies import randn

import spectral_pd
from spectral_pd import PowerLaw, Spectrum
from spectral_pd.__main__ import build_parser, main
from spectral_pd.pretrained import step_cost


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
    assert [row[2] for row in rows[2:4]] == ["18", "32"]
    assert "0.8527" in out
    cost = step_cost("flux", (128, 128))
    assert f"by counted FLOPs of FLUX.1-dev: {50 / (18 * cost((64, 64)) + 32):.2f}x" in out
    assert "note:" not in out


def test_plan_counts_tokens_and_attention(capsys):
    options = ["--preset", "flux", "--size", "128", "--mu", "1.15", "--multiple-of", "2"]
    _, plain, _ = run(capsys, "plan", "--preset", "pixels", *options[2:])
    assert "by grid points" in plain  # of no network that was counted
    status, out, _ = run(capsys, "plan", *options, "--attention", "0.2", "--text-tokens", "512")
    assert status == 0
    header, first, second = (line.split() for line in out.splitlines()[1:4])
    assert header[-3:] == ["tokens", "cost", "share"]
    assert [row[8:10] for row in (first, second)] == [["1024", "0.289"], ["4096", "1"]]
    assert f"by cost function: {50 / (18 * 0.288889 + 32):.2f}x" in out


def test_a_preset_without_a_shift_names_the_usual_one(capsys):
    """And the plan it would give, which is the plan that it gives."""
    options = ["plan", "--preset", "flux", "--size", "128", "--steps", "50"]
    _, out, _ = run(capsys, *options)
    note = " ".join(out.split()).partition("note: ")[2]
    flag, split, speedup = re.search(
        r"(--shift=\S+), usual of FLUX.* would make it (\S+) steps, (\S+)x$", note
    ).groups()
    _, shifted, _ = run(capsys, *options, flag)
    steps = [line.split()[2] for line in shifted.splitlines()[2:4]]
    assert split == "+".join(steps) == "18+32" != "+".join(line.split()[2] for line in out.splitlines()[2:4])
    assert f"FLUX.1-dev: {speedup}x" in shifted
    assert "note:" not in shifted
    assert "no shift was given" not in run(capsys, *options, "--shift", "1")[1]  # asked for


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
    free = " ".join(free.split())
    cost = float(re.search(r"at cost ([0-9.]+) of 6", free)[1])
    assert 5 < cost <= 6
    status, shifted, _ = run(capsys, *common, "--scales", "1/2", "1", "--delta", "0.1", "--grid", "shifted")
    assert status == 0
    shifted = " ".join(shifted.split())
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
        (["plan", "--spectrum", ".", "--size", "32"], ". is a folder; pass the JSON file that save(path)"),
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


@pytest.mark.parametrize("command", ["compare", "fit", "plan", "demo"])
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
        "compare": "pictures of each prompt (default: 1)",
    }[command] in text


@pytest.mark.parametrize("arguments", [["plan"], ["plan", "--size", "64"], ["fit", "x", "--basis", "sine"]])
def test_wrong_usage_is_status_2(arguments):
    with pytest.raises(SystemExit) as error:
        build_parser().parse_args(arguments)
    assert error.value.code == 2


def test_without_a_command_it_prints_its_help(capsys):
    status, out, _ = run(capsys)
    assert status == 0
    assert out == build_parser().format_help()


TERMINAL = """
import json, sys
from spectral_pd.__main__ import main
from spectral_pd.measuring import demo
demo.small_transformer = lambda: None  # its table is in tests/test_demo.py
for arguments in json.loads(sys.argv[1]):
    print("$", *arguments)
    try:
        assert main(arguments) == 0
    except SystemExit as end:
        assert end.code == 0
"""
LONG = "long" * 30
COMMANDS = {
    "two stages": ["plan", "--preset", "flux", "--size", "128"],
    "three stages": [
        "plan",
        "--preset",
        "wan",
        "--size",
        "90",
        "160",
        "--scales",
        "1/3",
        "2/3",
        "1",
        "--multiple-of",
        "2",
    ],
    "budget": ["plan", "--preset", "sana", "--size", "32", "--budget", "9"],
    "borrowed": ["plan", "--preset", "qwen-image", "--size", "129", "65", "--scales", "1/4", "1/2", "1", "--force"],
    "fit": ["fit", "latents.npy", "--scales", "1/4", "1/2", "1"],
    "demo": ["demo", "--size", "64", "--steps", "8"],
    "fit --help": ["fit", "--help"],
    "plan --help": ["plan", "--help"],
    "compare --help": ["compare", "--help"],
    "a long path": ["fit", "latents.npy", "--bootstrap", "0", "--json", f"{LONG}/law.json"],
}


@pytest.fixture(scope="module")
def terminal(tmp_path_factory):
    """What the commands write on a terminal of 80 columns and 24 lines, one after the other: name -> lines."""
    folder = tmp_path_factory.mktemp("terminal")
    (folder / LONG).mkdir()
    np.save(folder / "latents.npy", randn(40, 12, 32, 32, seed=3).cumsum(-1).cumsum(-2).numpy())
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    environment["PYTHONPATH"] = str(Path(spectral_pd.__file__).parents[1])
    command = [sys.executable, "-c", TERMINAL, json.dumps(list(COMMANDS.values()))]
    streams = {"stdin": follower, "stdout": follower, "stderr": follower}
    with subprocess.Popen(command, **streams, cwd=folder, env=environment) as process:
        os.close(follower)
        written = b""
        with contextlib.suppress(OSError):  # how a terminal ends whose writer has gone
            while part := os.read(leader, 65536):
                written += part
    os.close(leader)
    text = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", written.decode())
    assert process.returncode == 0, text
    parts = re.split(r"^\$ .*\n", text.replace("\r\n", "\n"), flags=re.MULTILINE)[1:]
    return {name: re.split(r"[\r\n]+", part) for name, part in zip(COMMANDS, parts, strict=True)}


def test_nothing_is_wider_than_the_terminal(terminal):
    widest = {name: max(lines, key=len) for name, lines in terminal.items()}
    too_wide = {name: line for name, line in widest.items() if len(line) > 80}
    assert set(too_wide) == {"a long path"}  # the negative control: a path is never broken


def test_rows_of_plans_are_whole(terminal):
    for name in ("two stages", "three stages", "budget", "borrowed", "demo"):
        header = next(k for k, line in enumerate(terminal[name]) if line.split()[:2] == ["scale", "size"])
        table = terminal[name][header : header + 3]
        assert len({len(line) for line in table}) == 1
        assert all(len(line.split()) > 8 for line in table)


def test_runs_as_a_module():
    done = subprocess.run([sys.executable, "-m", "spectral_pd", "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert all(command in done.stdout for command in ("fit", "plan", "compare", "demo"))


def test_a_reader_that_goes_away_is_no_error():
    plan = [sys.executable, "-m", "spectral_pd", "plan", "--preset", "flux", "--size", "64", "--scales", "1/2", "1"]
    with subprocess.Popen(plan, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait() == 141
