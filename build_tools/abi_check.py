"""One wheel, several torch versions: ``python build_tools/abi_check.py 2.11.0 2.13.0 2.15.0``.

The extension is built once, here, against the torch of this environment and torch's stable ABI. Then, in a virtual environment
of its own for each version, the wheel is installed and tests/test_ops.py run with the native operations required. Exits with
1 when any version fails. Downloads every named torch with what it depends on: gigabytes where that is a CUDA build.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
LOADED = """
import torch, spectral_pd
assert torch.__version__.startswith({version!r}), torch.__version__
assert "site-packages" in spectral_pd.__file__, spectral_pd.__file__
assert spectral_pd.ops.has_native(), spectral_pd.ops.build_info()
print("torch", torch.__version__, "runs an extension built against", spectral_pd.ops.build_info()["torch"])
"""


def build_wheel(folder: Path) -> Path:
    """The wheel of this checkout; it must carry the extension and be tagged for every CPython from 3.10 on."""
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(folder), "."]
    subprocess.run(command, cwd=ROOT, env={**os.environ, "SPECTRAL_PD_REQUIRE_EXT": "1"}, check=True)
    (wheel,) = folder.glob("*.whl")
    if "-cp310-abi3-" not in wheel.name:
        raise SystemExit(f"{wheel.name} is not an abi3 wheel")
    if "spectral_pd/_C.abi3.so" not in zipfile.ZipFile(wheel).namelist():
        raise SystemExit(f"{wheel.name} has no extension in it")
    return wheel


def check(version: str, wheel: Path, folder: Path) -> bool:
    """Whether the wheel's operations pass their tests under torch `version`."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = folder / "bin" / "python"
    wanted = [f"torch=={version}", "numpy", "pytest", "hypothesis", str(wheel)]
    subprocess.run([str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", *wanted], check=True)
    runs = [
        [str(python), "-c", LOADED.format(version=version)],
        [
            str(python),
            "-m",
            "pytest",
            "-q",
            "-o",
            "addopts=",
            "-p",
            "no:cacheprovider",
            str(ROOT / "tests" / "test_ops.py"),
        ],
    ]
    # Away from the checkout, whose package would hide the installed one.
    return all(subprocess.run(run, cwd=folder, env=environment()).returncode == 0 for run in runs)


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("versions", nargs="+", metavar="VERSION", help="torch versions, 2.11 or later")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        wheel = build_wheel(Path(temporary))
        failed = [v for v in options.versions if not check(v, wheel, Path(temporary) / f"torch-{v}")]
    print(
        "failed: " + ", ".join(failed) if failed else f"{wheel.name} passes under torch {', '.join(options.versions)}"
    )
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
