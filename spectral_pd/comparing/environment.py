"""What a results row must name: device, versions, commit."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path

import torch

ARCHIVED = "$Format:%h$"
"""The commit in the files that ``git archive`` writes (see .gitattributes), which come without a repository."""


def processor() -> str:
    """The CPU's model name, as the operating system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def commit() -> str:
    """The commit the rows were made from; '+' when the working tree differs from it."""
    if not ARCHIVED.startswith("$"):
        return ARCHIVED
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git(
            "ls-files", "--error-unmatch", Path(__file__).name
        )  # the repository around an installed package is another one
        changed = git("status", "--porcelain", "--untracked-files=no", "--", "..", "../../csrc")
        return git("rev-parse", "--short", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def driver() -> str:
    """The version of the NVIDIA driver."""
    query = ("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    try:
        return subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return "unknown"


def environment(device: str | None = None) -> dict[str, str]:
    """Columns every results row carries: device, torch, python, commit."""
    return {
        "device": device or processor(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "commit": commit(),
    }
