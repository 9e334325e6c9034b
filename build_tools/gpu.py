"""Everything that needs a GPU, in one command (``make gpu``): build, tests, sanitizers, benchmarks; results are printed last.

    python build_tools/gpu.py                  # on a machine with a GPU and nvcc; builds in place
    python build_tools/gpu.py --rehearse       # where there is only nvcc: the same on the CPU, what needs a GPU left out
    python build_tools/gpu.py --stages build tests

Everything that is not timed runs at once: the tests, nvcc's table, the sanitizers, each of which must also find a mistake
planted for it. A stage that fails, or runs over its time, is reported and does not stop the others, except the build. Output
of every stage goes to build/gpu, rows to benchmarks/results.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

ROOT = Path(__file__).parent.parent
LOGS = ROOT / "build" / "gpu"
TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")
CHECKED = "match_float64 and not 512 and not 1024 and not 300 or every_call or short_types"
"""Tests small enough for compute-sanitizer, which slows a kernel down a hundred times; every kernel is among them."""
FOUND = 9  # exit status of a sanitizer that has found something


@dataclass(frozen=True)
class Stage:
    """One command: its name, limit in seconds, and whether others may run beside it.

    Attributes
    ----------
    expected
        Exit status of success; that of a sanitizer run on a planted mistake is :data:`FOUND`.
    variables
        Environment variables of its own.
    """

    name: str
    command: tuple[str, ...]
    limit: int
    beside: bool = False
    needs_gpu: bool = False
    expected: int = 0
    variables: tuple[tuple[str, str], ...] = ()


def python(*arguments: str) -> tuple[str, ...]:
    return (sys.executable, *arguments)


def stages(rehearse: bool) -> list[Stage]:
    """In order; with `rehearse` the device is the CPU and few rows are measured."""
    device = ("--device", "cpu", "--quick") if rehearse else ("--device", "cuda", "--check")
    small = ("--device", "cpu", "--reduced", "--latent", "16", "16", "--longest", "0", "--out", os.devnull)
    faults = str(LOGS / "sanitizer_faults")
    found = [
        Stage("build", python("setup.py", "-q", "build_ext", "--inplace"), 300),
        Stage("faults", ("nvcc", "-o", faults, "build_tools/sanitizer_faults.cu"), 60),
        Stage("tests", python("-m", "pytest", "tests/test_cuda.py", "tests/test_cuda_build.py"), 120, beside=True),
        Stage("kernels table", python("build_tools/cuda_table.py", "--check"), 240, beside=True),
    ]
    # Memory of torch's allocator comes in blocks of megabytes, past whose small pieces nothing would be noticed.
    exact = (("PYTORCH_NO_CUDA_MEMORY_CACHING", "1"),)
    tests = python("-m", "pytest", "-p", "no:cacheprovider", "tests/test_cuda.py", "-k", CHECKED)
    for tool in TOOLS:
        sanitizer = ("compute-sanitizer", "--tool", tool, "--error-exitcode", str(FOUND), "--target-processes", "all")
        found += [
            Stage(tool, (*sanitizer, *tests), 120, beside=True, needs_gpu=True, variables=exact),
            Stage(f"{tool}, planted", (*sanitizer, faults, tool), 60, beside=True, needs_gpu=True, expected=FOUND),
        ]
    # The benchmarks' compiled candidates, so that they only have to be looked up when timing begins.
    once = python("benchmarks/kernels.py", "--device", "cuda", "--rounds", "1", "--output", os.devnull)
    found.append(Stage("compiling", once, 120, beside=True, needs_gpu=True))
    found.append(Stage("benchmarks", python("benchmarks/kernels.py", *device), 180))
    if importlib.util.find_spec("diffusers"):
        models = ("--models", "flux", "--modes", "eager", *(small if rehearse else ()))
        found.append(Stage("full-size models", python("benchmarks/full_size.py", *models), 240))
    return found


@dataclass(frozen=True)
class Outcome:
    """What a stage came to: verdict, seconds, what it wrote."""

    stage: Stage
    verdict: str
    seconds: float = 0.0
    output: str = ""

    @property
    def failed(self) -> bool:
        return self.verdict.startswith("FAILED")


def run(stage: Stage) -> Outcome:
    """Run one stage to its end or its limit; its output goes to a file as it comes."""
    tool = stage.command[0]
    if shutil.which(tool) is None:
        return Outcome(stage, f"FAILED (no {tool} on PATH)")
    print(f"{stage.name} ...", flush=True)
    log = LOGS / f"{stage.name.replace(', ', '-').replace(' ', '-')}.log"
    paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    variables = {
        "SPECTRAL_PD_CUDA": "1",
        "SPECTRAL_PD_REQUIRE_EXT": "1",
        "PYTHONPATH": paths,
        "PYTHONUNBUFFERED": "1",
        **dict(stage.variables),
    }
    start = time.monotonic()
    with log.open("w") as file:
        # A group of its own: at its limit whatever it has started ends with it.
        process = subprocess.Popen(
            stage.command,
            cwd=ROOT,
            env=os.environ | variables,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status = process.wait(stage.limit)
            verdict = "passed" if status == stage.expected else f"FAILED ({status})"
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            verdict = f"FAILED (over {stage.limit} s)"
    return Outcome(stage, verdict, time.monotonic() - start, log.read_text(errors="replace"))


def run_all(planned: Sequence[Stage], rehearse: bool) -> Iterator[Outcome]:
    """Outcomes in order: neighbours that may run beside others run at once; nothing follows a failed build."""
    for beside, group in groupby(planned, key=lambda stage: stage.beside):
        chosen = list(group)
        with ThreadPoolExecutor(len(chosen) if beside else 1) as pool:
            started = [None if rehearse and stage.needs_gpu else pool.submit(run, stage) for stage in chosen]
            for stage, future in zip(chosen, started, strict=True):
                outcome = future.result() if future else Outcome(stage, "left out: needs a GPU")
                yield outcome
                if stage.name == "build" and outcome.failed:
                    pool.shutdown(cancel_futures=True)
                    return


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rehearse", action="store_true", help="on the CPU, without what needs a GPU")
    parser.add_argument("--stages", nargs="+", help="only these")
    options = parser.parse_args()

    import torch

    if not options.rehearse and not torch.cuda.is_available():
        parser.error("torch sees no GPU; --rehearse runs the stages that can be run without one")
    known = stages(options.rehearse)
    planned = [stage for stage in known if not options.stages or stage.name in options.stages]
    if not planned:
        parser.error(f"--stages {options.stages}: known are {[stage.name for stage in known]}")
    LOGS.mkdir(parents=True, exist_ok=True)
    outcomes = list(run_all(planned, options.rehearse))
    for outcome in outcomes:
        if outcome.failed or outcome.stage.name in ("benchmarks", "full-size models"):
            print(f"\n==== {outcome.stage.name}\n" + "\n".join(outcome.output.splitlines()[-60:]))
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    print(f"\n{name}, torch {torch.__version__}")
    for outcome in outcomes:
        # The last lines of pytest and of the sanitizers say how much they looked at.
        said = [line for line in outcome.output.splitlines() if re.search(r"SUMMARY:|\d+ (passed|failed)", line)]
        last = ", ".join(line.strip("= ") for line in said)
        print(f"{outcome.stage.name:18} {outcome.seconds:6.1f} s  {outcome.verdict:12} {last}".rstrip())
    return int(any(outcome.failed for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
