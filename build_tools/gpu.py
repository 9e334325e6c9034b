"""Everything that needs a GPU, in one command (``make gpu``): build, tests, sanitizers, benchmarks; results are printed last.

    python build_tools/gpu.py                  # on a machine with a GPU and nvcc, into the current environment
    python build_tools/gpu.py --rehearse       # where there is only nvcc: the same on the CPU, what needs a GPU left out
    python build_tools/gpu.py --stages tests graphs

A stage that fails, or runs over its time, is reported and does not stop the others, except the build. Rows go to
benchmarks/results.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
CHECKED = "match_float64 and not 512 and not 1024 and not 300 or every_call or short_types"
"""Tests small enough for compute-sanitizer, which slows a kernel down a hundred times; every kernel is among them."""


@dataclass(frozen=True)
class Stage:
    """One command: its name, limit in seconds, and what it needs."""

    name: str
    command: tuple[str, ...]
    limit: int
    needs_gpu: bool = False


def python(*arguments: str) -> tuple[str, ...]:
    return (sys.executable, *arguments)


def stages(rehearse: bool) -> list[Stage]:
    """In order; with `rehearse` the device is the CPU and few rows are measured."""
    device = ("--device", "cpu", "--quick") if rehearse else ("--device", "cuda", "--check")
    small = ("--device", "cpu", "--reduced", "--latent", "16", "16", "--longest", "0", "--out", os.devnull)
    found = [
        Stage("build", python("-m", "pip", "install", "-q", "--no-build-isolation", "--no-deps", "-e", "."), 600),
        Stage("kernels table", python("build_tools/cuda_table.py", "--check"), 240),
        Stage("tests", python("-m", "pytest", "-q", "tests/test_cuda.py", "tests/test_cuda_build.py"), 120),
        Stage("benchmarks", python("benchmarks/kernels.py", *device), 240),
    ]
    for tool in ("memcheck", "racecheck", "initcheck", "synccheck"):
        command = ("compute-sanitizer", "--tool", tool, "--error-exitcode", "9", "--target-processes", "all")
        found.append(
            Stage(tool, (*command, *python("-m", "pytest", "-q", "tests/test_cuda.py", "-k", CHECKED)), 90, True)
        )
    if importlib.util.find_spec("diffusers"):
        models = ("--models", "flux", "--modes", "eager", *(small if rehearse else ()))
        found.append(Stage("full-size models", python("benchmarks/full_size.py", *models), 240))
    return found


def run(stage: Stage, environment: dict[str, str]) -> tuple[str, float, str]:
    """(verdict, seconds, what it wrote)."""
    start = time.monotonic()
    try:
        done = subprocess.run(
            stage.command,
            cwd=ROOT,
            env=environment,
            timeout=stage.limit,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        verdict, output = "passed" if done.returncode == 0 else f"FAILED ({done.returncode})", done.stdout
    except subprocess.TimeoutExpired as error:
        said = error.stdout or b""
        verdict, output = f"FAILED (over {stage.limit} s)", said.decode(errors="replace")
    except OSError as error:
        verdict, output = f"FAILED ({error})", ""
    return verdict, time.monotonic() - start, output


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rehearse", action="store_true", help="on the CPU, without what needs a GPU")
    parser.add_argument("--stages", nargs="+", help="only these")
    options = parser.parse_args()

    import torch

    if not options.rehearse and not torch.cuda.is_available():
        parser.error("torch sees no GPU; --rehearse runs the stages that can be run without one")
    planned = [stage for stage in stages(options.rehearse) if not options.stages or stage.name in options.stages]
    if not planned:
        parser.error(f"--stages {options.stages}: known are {[stage.name for stage in stages(options.rehearse)]}")
    environment = {**os.environ, "SPECTRAL_PD_CUDA": "1", "SPECTRAL_PD_REQUIRE_EXT": "1", "PYTHONPATH": str(ROOT)}
    report: list[tuple[Stage, str, float, str]] = []
    for stage in planned:
        tool = stage.command[0]
        if stage.needs_gpu and options.rehearse:
            report.append((stage, "left out: needs a GPU", 0.0, ""))
        elif shutil.which(tool) is None and not Path(tool).exists():
            report.append((stage, f"FAILED (no {tool} on PATH)", 0.0, ""))
        else:
            print(f"{stage.name} ...", flush=True)
            report.append((stage, *run(stage, environment)))
        if stage.name == "build" and report[-1][1] != "passed":
            break
    for stage, verdict, _, output in report:
        shown = output if verdict.startswith("FAILED") or stage.name in ("benchmarks", "full-size models") else ""
        if shown:
            print(f"\n==== {stage.name}\n" + "\n".join(shown.splitlines()[-60:]))
    print(
        "\n"
        + (torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU")
        + f", torch {torch.__version__}"
    )
    for stage, verdict, seconds, _ in report:
        print(f"{stage.name:18} {seconds:6.1f} s  {verdict}")
    return int(any(verdict.startswith("FAILED") for _, verdict, _, _ in report))


if __name__ == "__main__":
    sys.exit(main())
