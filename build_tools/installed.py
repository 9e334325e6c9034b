"""Is an installed spectral_pd whole? Run outside the repository, with the interpreter it was installed for.

    python installed.py --native     # a wheel, or built with a compiler: the kernels are there and agree with plain torch
    python installed.py --plain      # built without a compiler: everything runs on torch alone

Exits non-zero with a reason; otherwise prints where the package lies and what was compiled. Needs the package's own
dependencies only.
"""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import torch

import spectral_pd
from spectral_pd import ops

OPTIONAL = {"accelerate", "av", "diffusers", "matplotlib", "peft", "PIL", "safetensors", "scipy", "skimage"}
OPTIONAL |= {"sklearn", "transformers", "comfy", "comfy_api", "folder_paths"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    kind = parser.add_mutually_exclusive_group(required=True)
    kind.add_argument("--native", action="store_true", help="the compiled operations must be there")
    kind.add_argument("--plain", action="store_true", help="they must not")
    native = parser.parse_args().native
    here = Path(spectral_pd.__file__).parent
    if (here.parent / "pyproject.toml").exists():
        raise SystemExit(f"{here} is a checkout, not an installed package; run this elsewhere")
    if ops.has_native() != native:
        raise SystemExit(f"has_native() is {ops.has_native()}: {ops.build_info()}")
    for info in pkgutil.walk_packages([str(here)], "spectral_pd."):
        try:
            if not info.name.endswith("__main__"):
                importlib.import_module(info.name)
        except ImportError as error:  # an adapter of a library that is not installed
            if (error.name or "").partition(".")[0] not in OPTIONAL:
                raise SystemExit(f"{info.name} cannot be imported: {error}") from error
    noise = spectral_pd.NoiseField(1)
    grown, time = spectral_pd.expand_aligned(torch.ones(1, 2, 5, 4), (9, 8), 0.7, noise=noise)
    exact, _ = spectral_pd.expand_aligned(torch.ones(1, 2, 5, 4, dtype=torch.float64), (9, 8), 0.7, noise=noise)
    if grown.shape != (1, 2, 9, 8) or not 0.7 < time < 1 or (grown - exact).abs().max() > 1e-4:
        raise SystemExit("a grown state is wrong")
    plan = [sys.executable, "-m", "spectral_pd", "plan", "--preset", "flux", "--size", "64", "--scales", "1/2", "1"]
    told = subprocess.run([*plan, "--steps", "20", "--shift", "3"], capture_output=True, text=True, check=False)
    if told.returncode or "32x32" not in told.stdout.replace(" ", ""):
        raise SystemExit(f"the command line fails: {told.stdout}{told.stderr}")
    print(f"spectral_pd {spectral_pd.__version__} in {here}: {ops.build_info()}")


if __name__ == "__main__":
    main()
