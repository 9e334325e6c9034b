"""Importing the package is light: no optional dependency is loaded, and hardly any time passes beyond torch's own."""

import subprocess
import sys

HEAVY = ("matplotlib", "diffusers", "transformers", "scipy", "sklearn", "skimage", "PIL", "pandas")


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def loaded_by(statement):
    names = run(
        f"import sys\nimport torch\nbefore = set(sys.modules)\n{statement}\nprint(*(set(sys.modules) - before))"
    )
    return {name.split(".")[0] for name in names.split()}


def test_importing_loads_nothing_heavy():
    loaded = loaded_by("import spectral_pd")
    assert "spectral_pd" in loaded
    assert not loaded & set(HEAVY)


def test_the_check_sees_a_heavy_import():
    """Negative control."""
    assert "scipy" in loaded_by("import scipy.fft")


def test_importing_takes_little_time():
    """Under 0.3 s on top of torch: best of up to six tries, since other processes may be running."""
    code = "import time, torch\nstart = time.perf_counter()\nimport spectral_pd\nprint(time.perf_counter() - start)"
    times = []
    for _ in range(6):
        times.append(float(run(code)))
        if min(times) < 0.3:
            break
    assert min(times) < 0.3


def test_the_command_line_starts_without_the_demo_extra():
    loaded = loaded_by("import spectral_pd.__main__")
    assert not loaded & {"matplotlib", "sklearn", "skimage"}
