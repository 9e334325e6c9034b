"""Execute the notebooks and compare what they print with what is stored.

    python build_tools/notebooks.py [--write] [--jobs N] [NAME ...]

Every notebook runs from top to bottom in a fresh kernel with one thread. It fails on an exception, on anything written to
stderr (warnings), on more than a minute of CPU time, and on text output that differs from the stored one: words must agree,
numbers within one unit of their last printed digit or 0.1 %, whole numbers exactly. In cells tagged ``timing`` numbers are
not compared. Figures are compared by count only. With --write the outputs just made are stored instead.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

FOLDER = Path(__file__).parent.parent / "notebooks"
RELATIVE = 1e-3
LONGEST = 60.0
"""CPU seconds a notebook may take: what a reader waits for, whatever else the machine does."""
NUMBER = re.compile(r"(?<![\w.])[-+]?\d+(?:\.\d*)?(?:e[-+]?\d+)?")
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def code_cells(notebook: Any) -> Iterator[Any]:
    """The cells that hold code."""
    return (cell for cell in notebook.cells if cell.cell_type == "code")


def printed(cell: Any) -> str:
    """All text a cell put out, figures left out."""
    parts = []
    for output in cell.outputs:
        if output.output_type == "stream" and output.name == "stdout":
            parts.append(output.text)
        elif output.output_type in ("execute_result", "display_data") and "image/png" not in output.data:
            parts.append(output.data.get("text/plain", "") + "\n")
    return "".join(parts)


def figures(cell: Any) -> int:
    """Number of images a cell put out."""
    return sum("image/png" in output.get("data", {}) for output in cell.outputs)


def _close(a: str, b: str) -> bool:
    """Whether two printed numbers agree: whole numbers exactly, others to a unit of the last digit, or relatively."""
    if a.lstrip("+-").isdigit() and b.lstrip("+-").isdigit():
        return int(a) == int(b)
    mantissa, _, exponent = a.partition("e")
    unit = 10.0 ** (int(exponent or 0) - len(mantissa.partition(".")[2]))
    return abs(float(a) - float(b)) <= max(1.001 * unit, RELATIVE * abs(float(a)))


def difference(stored: str, fresh: str, *, numbers: bool = True) -> str | None:
    """What differs between two outputs, or None: the words exactly, the numbers (if compared) within tolerance."""
    words = [" ".join(NUMBER.sub(" # ", text).split()) for text in (stored, fresh)]
    if words[0] != words[1]:
        return f"stored {stored!r}, now {fresh!r}"
    if numbers:
        for a, b in zip(NUMBER.findall(stored), NUMBER.findall(fresh), strict=True):
            if not _close(a, b):
                return f"stored {a}, now {b} in {fresh!r}"
    return None


def problems(stored: Any, fresh: Any) -> list[str]:
    """Everything that makes an executed notebook fail against the stored one."""
    found = []
    for number, (old, new) in enumerate(zip(code_cells(stored), code_cells(fresh), strict=True), 1):
        where = f"code cell {number} ({old.source.splitlines()[0][:60]})"
        found += [f"{where} wrote to stderr: {o.text.strip()}" for o in new.outputs if o.get("name") == "stderr"]
        text = difference(printed(old), printed(new), numbers="timing" not in old.metadata.get("tags", []))
        if text:
            found.append(f"{where}: {text}")
        if figures(old) != figures(new):
            found.append(f"{where}: {figures(old)} figures stored, {figures(new)} now")
    return found


def cpu_seconds() -> float:
    """CPU time of all processes that this one started and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def execute(path: Path, write: bool) -> tuple[str, float, list[str]]:
    """Run one notebook: its name, the CPU seconds it took, what is wrong with it."""
    stored = nbformat.read(path, as_version=4)
    fresh = nbformat.from_dict(stored)
    fresh.metadata = nbformat.from_dict(METADATA)
    start = cpu_seconds()
    try:
        quiet = ["--log-level=ERROR"]
        client = NotebookClient(fresh, timeout=300, kernel_name="python3", record_timing=False, extra_arguments=quiet)
        client.execute(cwd=str(path.parent))
    except CellExecutionError as error:
        tail = re.sub(r"\x1b\[[0-9;]*m", "", error.traceback).strip().splitlines()[-12:]
        return path.name, cpu_seconds() - start, ["\n".join(tail)]
    seconds = cpu_seconds() - start
    found = [f"took {seconds:.0f} s of CPU time, more than {LONGEST:.0f} s"] if seconds > LONGEST else []
    if not write:
        return path.name, seconds, found + problems(stored, fresh)
    found += [problem for problem in problems(fresh, fresh) if "stderr" in problem]
    if not found:
        nbformat.write(fresh, path)
    return path.name, seconds, found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="file names or parts of them; all notebooks by default")
    parser.add_argument("--write", action="store_true", help="store the outputs instead of comparing them")
    parser.add_argument("--jobs", type=int, default=1, help="notebooks at a time")
    arguments = parser.parse_args()
    paths = [
        path
        for path in sorted(FOLDER.glob("*.ipynb"))
        if not arguments.names or any(name in path.name for name in arguments.names)
    ]
    if not paths:
        parser.error(f"no notebook matches {arguments.names}")
    os.environ |= {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "default"}
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(FOLDER.parent), os.environ.get("PYTHONPATH", "")]))
    done = "written" if arguments.write else "ok"
    failed = 0
    with ProcessPoolExecutor(arguments.jobs) as pool:
        for name, seconds, found in pool.map(execute, paths, [arguments.write] * len(paths)):
            failed += bool(found)
            print(f"{'FAILED' if found else done:8}{seconds:6.1f} s  {name}", flush=True)
            for problem in found:
                print("        " + problem.replace("\n", "\n        "))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
