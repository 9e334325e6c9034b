"""Registers, spills and shared memory of every CUDA kernel, as the compiler reports them: benchmarks/results/cuda_kernels.csv.

    python build_tools/cuda_table.py          # compile for every architecture and write the table
    python build_tools/cuda_table.py --check  # also fail where a kernel spills or needs more registers than written

No GPU is needed, only nvcc. The table carries a hash of the kernels' sources, and a test compares it with the sources, so that
a changed kernel cannot keep an old table.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
TABLE = ROOT / "benchmarks" / "results" / "cuda_kernels.csv"
ARCHITECTURES = (80, 90, 100, 120)
UNIT = """// What cuda_ops.cu launches, without torch.
#include "cuda_launch.cuh"
void* anywhere(size_t) { return nullptr; }
void every_kernel(const spd::GridCall& call, const spd::Device& device) {
  spd::cuda_expand_dct(call, device, anywhere);
  spd::cuda_restrict_dct(call, device, anywhere);
  spd::cuda_power_map(call, 1, device, anywhere);
  spd::cuda_expand_haar(call, device);
  spd::cuda_restrict_haar(call, device);
  spd::cuda_normals(call, device);
}
"""


def sources() -> str:
    """Hash of everything the kernels are made of."""
    digest = hashlib.sha256()
    for path in sorted([*ROOT.glob("csrc/*.cuh"), *ROOT.glob("csrc/*.h")]):
        if not path.name.startswith(("cpu", "simd", "scratch", "dct", "checks")):  # the CPU's half
            digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def nvcc(*arguments: str) -> str:
    """Run nvcc on all kernels; what it wrote to both streams."""
    compiler = shutil.which("nvcc")
    if compiler is None:
        raise SystemExit("no nvcc on PATH")
    with tempfile.TemporaryDirectory() as folder:
        unit = Path(folder) / "unit.cu"
        unit.write_text(UNIT)
        command = [compiler, "-std=c++17", "-O3", f"-I{ROOT / 'csrc'}", *arguments, str(unit)]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)}\n{done.stderr}")
        made = sorted(Path(folder).glob("*.ptx"))
        return done.stdout + done.stderr + "".join(path.read_text() for path in made)


def version() -> str:
    text = subprocess.run(["nvcc", "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"release [\d.]+, V([\d.]+)", text)
    return found.group(1) if found else "unknown"


def short_name(mangled: str) -> str:
    """The kernel's own name of an Itanium-mangled one: the last of the nested names."""
    names, rest = [], re.sub(r"^_ZN?K?L?", "", mangled)
    while match := re.match(r"L?(\d+)", rest):
        start, length = match.end(), int(match.group(1))
        names.append(rest[start : start + length])
        rest = rest[start + length :]
    own = [name for name in names if not name.startswith("_GLOBAL")]
    return own[-1] if own else mangled


def measure() -> list[dict[str, str]]:
    """A row for each kernel and architecture."""
    codes = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in ARCHITECTURES]
    report = nvcc("-c", "-o", "unit.o", "-Xptxas=-v", "--threads=2", *codes)
    pattern = re.compile(
        r"Compiling entry function '(?P<name>\S+)' for 'sm_(?P<arch>\d+)'.*?"
        r"(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads.*?"
        r"Used (?P<registers>\d+) registers",
        re.DOTALL,
    )
    common = {"nvcc": version(), "sources": sources()}
    rows = [
        {
            "kernel": short_name(found["name"]),
            "architecture": f"sm_{found['arch']}",
            "registers": found["registers"],
            "spill_stores": found["stores"],
            "spill_loads": found["loads"],
            "stack_bytes": found["stack"],
            **common,
        }
        for found in pattern.finditer(report)
    ]
    if not rows:
        raise SystemExit(f"nvcc reported no kernel:\n{report}")
    return sorted(rows, key=lambda row: (row["kernel"], int(row["architecture"][3:])))


def entries() -> dict[str, str]:
    """PTX of each kernel by name."""
    text = nvcc("-ptx", "-o", "unit.ptx", f"-arch=compute_{ARCHITECTURES[0]}")
    parts = re.split(r"^\s*(?:\.visible |\.weak )?\.entry ", text, flags=re.MULTILINE)[1:]
    return {short_name(part.split("(", 1)[0].strip()): part for part in parts}


def inexact(ptx: str) -> list[str]:
    """Floating point instructions of `ptx` that the compiler may contract, or that are not rounded to nearest.

    Sums, products, quotients and roots must say ``.rn``; approximations (``.approx``, ``.ftz``) must not occur.
    """
    instruction = re.compile(
        r"^\s*(?:@\S+ )?((?:add|sub|mul|mad|fma|div|sqrt|rcp|rsqrt|ex2|lg2|sin|cos|tanh)\.\S*f(?:32|64))\b"
    )
    found = [match.group(1) for line in ptx.splitlines() if (match := instruction.match(line))]
    return [op for op in found if ".rn" not in op or ".approx" in op or ".ftz" in op]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true", help="compare with the table instead of writing it")
    options = parser.parse_args()
    rows = measure()
    if options.check:
        with TABLE.open(newline="") as file:
            known = {(row["kernel"], row["architecture"]): row for row in csv.DictReader(file)}
        worse = [
            row
            for row in rows
            if int(row["spill_stores"])
            or (row["kernel"], row["architecture"]) not in known
            or int(row["registers"]) > int(known[row["kernel"], row["architecture"]]["registers"])
        ]
        for row in worse:
            print("worse than the table:", row)
        return int(bool(worse))
    with TABLE.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    print(f"{len(rows)} rows, at most {max(int(row['registers']) for row in rows)} registers")
    return 0


if __name__ == "__main__":
    sys.exit(main())
