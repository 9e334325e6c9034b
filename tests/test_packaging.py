"""What is released: a source distribution and a wheel that install, workflows that run the Makefile's targets, one version."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import pickle
import re
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from packaging.requirements import Requirement

from spectral_pd.__main__ import main

ROOT = Path(__file__).parent.parent
PYPROJECT = (ROOT / "pyproject.toml").read_text()
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
VERSION = re.search(r'^version = "(.+)"$', PYPROJECT, re.MULTILINE)[1]


# -- distributions ----------------------------------------------------------------------------------------------------


def run(*command: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command with nothing of the running tests in its environment but the tools of PATH."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("SPECTRAL_PD_", "CUDA", "PYTHON", "PIP_"))}
    variables = {
        **kept,
        "PIP_NO_INDEX": "1",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "SPECTRAL_PD_CUDA": "0",
        **environment,
    }
    return subprocess.run(command, cwd=cwd, env=variables, capture_output=True, text=True, check=False)


def checkout(target: Path) -> Path:
    """A copy of what building reads, as git has it: nothing compiled, nothing built."""
    hidden = shutil.ignore_patterns(
        ".*", "*.so", "__pycache__", "*.egg-info", "build", "dist", "site", "results", "notebooks"
    )
    return Path(shutil.copytree(ROOT, target, ignore=hidden))


def source_distribution(source: Path, target: Path) -> Path:
    build = "import sys; sys.path.insert(0, 'build_tools'); import backend; backend.build_sdist(sys.argv[1])"
    done = run(sys.executable, "-c", build, str(target), cwd=source)
    assert done.returncode == 0, done.stderr
    (archive,) = target.glob("*.tar.gz")
    return archive


def members(archive: Path) -> set[str]:
    """Files of a source distribution, without its leading folder."""
    with tarfile.open(archive) as tar:
        return {name.partition("/")[2] for name in tar.getnames()}


def needed_to_build(source: Path) -> set[str]:
    """The package, the build files, and every source and header that csrc holds or includes."""
    package = {
        str(p.relative_to(source))
        for p in (source / "spectral_pd").rglob("*")
        if p.suffix == ".py" or p.name == "py.typed"
    }
    native = {str(p.relative_to(source)) for p in (source / "csrc").glob("*.*")}
    return package | native | {"pyproject.toml", "setup.py", "build_tools/backend.py", "README.md", "LICENSE"}


def closure(names: list[str]) -> dict[str, importlib.metadata.Distribution]:
    """Distributions installed here that these need, all the way down."""
    found: dict[str, importlib.metadata.Distribution] = {}
    while names:
        requirement = Requirement(names.pop())
        key = requirement.name.lower().replace("_", "-")
        if key not in found and (requirement.marker is None or requirement.marker.evaluate({"extra": ""})):
            found[key] = importlib.metadata.distribution(requirement.name)
            names += found[key].requires or []
    return found


def empty_environment(folder: Path) -> Path:
    """A virtual environment with pip, setuptools and the package's dependencies, linked from here; returns its Python."""
    venv.create(folder, with_pip=False, symlinks=True)
    (site,) = folder.glob("lib/python*/site-packages")
    dependencies = re.search(r"^dependencies = (\[.*?\])$", PYPROJECT, re.MULTILINE)[1]
    for distribution in closure([*ast.literal_eval(dependencies), "pip", "setuptools"]).values():
        for name in {Path(f).parts[0] for f in distribution.files or []} - {"..", "__pycache__"}:
            if not (site / name).exists():
                (site / name).symlink_to(Path(str(distribution.locate_file(name))).resolve())
    return folder / "bin" / "python"


def installs_and_works(python: Path, what: Path, kind: str, folder: Path, **environment: str) -> None:
    """``pip install`` of a distribution, then ``build_tools/installed.py``, both outside of the repository."""
    done = run(str(python), "-m", "pip", "install", "-q", "--no-build-isolation", str(what), cwd=folder, **environment)
    assert done.returncode == 0, done.stderr
    used = run(str(python), str(ROOT / "build_tools" / "installed.py"), kind, cwd=folder, OMP_NUM_THREADS="1")
    assert used.returncode == 0, used.stderr
    assert str(python.parent.parent) in used.stdout
    assert f"spectral_pd {VERSION} " in used.stdout


def no_compiler(folder: Path) -> dict[str, str]:
    return {"PATH": str(folder), "CXX": str(folder / "no-compiler"), "CC": str(folder / "no-compiler")}


def test_the_source_distribution_holds_what_building_needs(tmp_path):
    source = checkout(tmp_path / "source")
    archive = source_distribution(source, tmp_path)
    assert not needed_to_build(source) - members(archive)
    assert not [name for name in members(archive) if name.startswith(("tests/", "docs/", "benchmarks/"))]
    # Negative control: without the manifest, setuptools does not find the backend.
    (source / "MANIFEST.in").unlink()
    shutil.rmtree(next(source.glob("*.egg-info")))
    missing = needed_to_build(source) - members(source_distribution(source, tmp_path / "again"))
    assert "build_tools/backend.py" in missing


def test_the_source_distribution_installs_without_a_compiler(tmp_path):
    archive = source_distribution(checkout(tmp_path / "source"), tmp_path)
    python = empty_environment(tmp_path / "env")
    assert run(str(python), "-c", "import spectral_pd", cwd=tmp_path).returncode != 0  # it is empty
    installs_and_works(python, archive, "--plain", tmp_path, **no_compiler(tmp_path))
    wrong = run(str(python), str(ROOT / "build_tools" / "installed.py"), "--native", cwd=tmp_path)
    assert "has_native() is False" in wrong.stderr  # negative control of the check itself


@pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("c++") is None, reason="the extension is built on Linux, by a compiler"
)
def test_source_distribution_and_wheel_install_with_the_kernels(tmp_path):
    """``pip wheel`` compiles the source distribution, as ``pip install`` of it does; the wheel then needs no compiler."""
    archive = source_distribution(checkout(tmp_path / "source"), tmp_path)
    python = empty_environment(tmp_path / "env")
    command = [
        str(python),
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-build-isolation",
        "--no-deps",
        "-w",
        str(tmp_path),
        str(archive),
    ]
    done = run(*command, cwd=tmp_path, SPECTRAL_PD_REQUIRE_EXT="1")
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    assert re.fullmatch(rf"spectral_pd-{re.escape(VERSION)}-cp310-abi3-linux_\w+\.whl", wheel.name)
    packed = set(zipfile.ZipFile(wheel).namelist())
    modules = {str(p.relative_to(ROOT)) for p in (ROOT / "spectral_pd").rglob("*.py")}
    assert modules | {"spectral_pd/py.typed", "spectral_pd/_C.abi3.so"} <= packed
    assert {name.partition("/")[0] for name in packed} == {"spectral_pd", f"spectral_pd-{VERSION}.dist-info"}
    installs_and_works(python, wheel, "--native", tmp_path, **no_compiler(tmp_path))


# -- workflows --------------------------------------------------------------------------------------------------------


def lint(schema: str, *paths: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}", *map(str, paths)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def steps(text: str) -> list[str]:
    """What the jobs of a workflow run."""
    jobs = yaml.safe_load(text)["jobs"].values()
    return [step["run"] for job in jobs for step in job["steps"] if "run" in step]


@pytest.mark.parametrize(
    ("schema", "names"),
    [
        ("github-workflows", [f".github/workflows/{path.name}" for path in WORKFLOWS]),
        ("readthedocs", [".readthedocs.yaml"]),
        ("citation-file-format", ["CITATION.cff"]),
    ],
)
def test_service_files_follow_their_schemas(schema, names):
    assert names
    done = lint(schema, *(ROOT / name for name in names))
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_broken_service_file_is_noticed(tmp_path):
    """Negative controls: a misspelt key, a citation without authors."""
    (tmp_path / "w.yml").write_text(WORKFLOWS[0].read_text().replace("runs-on", "run-on"))
    (tmp_path / "c.cff").write_text(
        (ROOT / "CITATION.cff").read_text().replace("authors:\n  - name:", "writers:\n  - name:")
    )
    assert lint("github-workflows", tmp_path / "w.yml").returncode == 1
    assert lint("citation-file-format", tmp_path / "c.cff").returncode == 1


def test_workflows_run_targets_of_the_makefile_and_nothing_else():
    """What a workflow does can be done here: every step is one make target. What CI runs here, the workflows run, too."""
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    used = set()
    for path in WORKFLOWS:
        for step in steps(path.read_text()):
            called = re.fullmatch(r"make (\w+)((?: [A-Z]+=\S.*)?)", step)
            assert called, f"{path.name}: {step!r} is not a target of the Makefile"
            used.add(called[1])
    assert used <= targets
    here = set(re.findall(r"^make (\w+)$", (ROOT / ".ci" / "run").read_text(), re.MULTILINE))
    assert used == here | {"dist", "wheels"}
    documents = yaml.safe_load((ROOT / ".readthedocs.yaml").read_text())["build"]["commands"]
    assert documents[0] == "make docs"


def test_workflows_cover_the_promised_versions():
    """Every Python of the classifiers, from the oldest allowed one; torch's newest and its oldest allowed one; macOS."""
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text())["jobs"]
    matrix = jobs["linux"]["strategy"]["matrix"]
    assert matrix["python"] == re.findall(r"Programming Language :: Python :: (3\.\d+)", PYPROJECT)
    assert matrix["python"][0] == re.search(r'requires-python = ">=(.+)"', PYPROJECT)[1]
    oldest = re.search(r'"torch>=([\d.]+)"', PYPROJECT)[1]
    assert matrix["torch"] == ["torch"]
    assert matrix["include"] == [{"python": matrix["python"][0], "torch": f"torch=={oldest}.0"}]
    assert jobs["macos"]["env"] == {"CXX": "no-compiler"}
    built = f"0x{int(oldest.split('.')[0]):02x}{int(oldest.split('.')[1]):02x}{'0' * 12}"
    assert f'STABLE_ABI = "{built}"' in (ROOT / "setup.py").read_text()


@pytest.mark.skipif(sys.platform != "linux", reason="wheels are made on Linux")
def test_cibuildwheel_makes_one_wheel_for_all_pythons(tmp_path):
    command = [
        sys.executable,
        "-m",
        "cibuildwheel",
        "--platform",
        "linux",
        "--archs",
        "x86_64",
        "--print-build-identifiers",
    ]
    done = subprocess.run([*command, str(ROOT)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["cp310-manylinux_x86_64"]


def test_one_version():
    heads = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert heads[0] == VERSION == yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"]


def test_citation_is_the_papers():
    (reference,) = yaml.safe_load((ROOT / "CITATION.cff").read_text())["references"]
    page = (ROOT / "docs" / "citation.md").read_text()
    assert reference["title"] in page
    assert all(f"{author['family-names']}, {author['given-names']}" in page for author in reference["authors"])
    assert f"journal = {{{reference['identifiers'][0]['value']}}}".replace("{arXiv", "{arXiv preprint arXiv") in page


# -- SECURITY.md: files are data --------------------------------------------------------------------------------------


class Bomb:
    """Unpickling it makes a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def executed(source: str) -> list[str]:
    """Calls that could run what a file says: unpickling, evaluation."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            name, keywords = ast.unparse(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords}
            safe = {"torch.load": ("weights_only", "True"), "np.load": ("allow_pickle", "False")}
            if name in safe and keywords.get(safe[name][0]) != safe[name][1]:
                found.append(f"{name} without {'='.join(safe[name])}")
            if re.fullmatch(r"eval|exec|compile|pickle\.loads?|os\.system|yaml\.load|torch\.jit\.load", name):
                found.append(name)
    return found


def test_nothing_in_the_package_runs_a_file():
    for path in (ROOT / "spectral_pd").rglob("*.py"):
        assert not executed(path.read_text()), path
    assert executed("torch.load(p); np.load(p, allow_pickle=True); pickle.load(f); eval(t)") == [
        *("torch.load without weights_only=True", "np.load without allow_pickle=False", "pickle.load", "eval")
    ]


@pytest.mark.parametrize("suffix", [".pt", ".npy", ".npz"])
def test_a_hostile_file_is_refused_and_not_run(tmp_path, suffix, capsys):
    mark, path = tmp_path / "ran", tmp_path / "data" / f"latent{suffix}"
    path.parent.mkdir()
    hostile = np.empty(1, dtype=object)
    hostile[0] = Bomb(mark)
    if suffix == ".pt":
        torch.save({"x": Bomb(mark)}, path)
    elif suffix == ".npy":
        np.save(path, hostile, allow_pickle=True)
    else:
        np.savez(path, x=hostile)
    assert main(["fit", str(path.parent)]) != 0
    assert capsys.readouterr().err
    assert not mark.exists()
    pickle.loads(pickle.dumps(Bomb(mark)))
    assert mark.exists()  # negative control: the bomb works


def test_security_is_short():
    text = (ROOT / "SECURITY.md").read_text()
    assert len(text.splitlines()) <= 10
    assert "weights only" in text
    assert "Trusted" in text
