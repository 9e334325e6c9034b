"""Four first hours: from an empty folder, page after page, what the pages say in their order, and nothing else.

Each walk begins at README and goes on by a link of the page before; on the way it runs the commands and snippets that stand
there, and it ends where the newcomer wanted to be.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from test_docs import blocks, commands

from spectral_pd import ops
from spectral_pd.__main__ import main

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"


class Reader:
    """Somebody in an empty folder, on one page at a time."""

    def __init__(self) -> None:
        self.page, self.visited = README, [README]

    def follow(self, name: str) -> None:
        """To a page that this one links to."""
        targets = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", self.page.read_text())
        wanted = (ROOT / name).resolve()
        assert wanted in [(self.page.parent / target).resolve() for target in targets], (
            f"{self.page} has no link to {name}"
        )
        self.page = ROOT / name
        self.visited.append(self.page)

    def python(self) -> dict[str, object]:
        """Run the page's Python from top to bottom; what it leaves behind."""
        scope: dict[str, object] = {}
        for snippet in blocks(self.page.read_text(), "python"):
            exec(compile(snippet, self.page.name, "exec"), scope)
        return scope

    def shell(self) -> list[str]:
        """Run the calls of the command line tool that need no files of the reader's."""
        calls = [call for call in commands(self.page) if call.startswith("plan --preset")]
        for call in calls:
            assert main(shlex.split(call)) == 0
        return calls


@pytest.fixture
def reader(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Reader()


def test_with_a_network(reader, capsys):
    """A network in plain PyTorch: README, your_model. Two pages."""
    assert "picture" in reader.python()
    reader.follow("docs/your_model.md")
    scope = reader.python()
    assert scope["picture"].isfinite().all()
    assert {"network", "velocity", "plan", "law"} <= scope.keys()
    assert len(reader.visited) == 2


def test_with_a_pipeline(reader, monkeypatch, capsys):
    """A pretrained pipeline: README's example as it stands, then the page of pipelines. Weights and GPU are stood in for."""
    diffusers = pytest.importorskip("diffusers")
    from tiny_pipelines import FLUX, generator

    pipe = FLUX.build()
    called = type(pipe).__call__

    class FluxPipeline(type(pipe)):
        """The tiny pipeline under the name that README imports; it has no text encoders and makes small pictures."""

        @staticmethod
        def from_pretrained(name: str, torch_dtype: torch.dtype) -> FluxPipeline:
            assert (name, torch_dtype) == ("black-forest-labs/FLUX.1-dev", torch.bfloat16)
            return pipe

        def to(self, device: str) -> FluxPipeline:
            assert device == "cuda"
            return self

        def __call__(self, prompt, num_inference_steps, **more):
            size = {"height": 64, "width": 64, "output_type": "pil", "generator": generator()}
            own = FLUX.arguments(guided=False, num_inference_steps=num_inference_steps, **size)
            return called(self, **{**own, **more})

    pipe.__class__ = FluxPipeline
    monkeypatch.setattr(diffusers, "FluxPipeline", FluxPipeline)
    text = README.read_text().partition("## A pretrained pipeline")[2].partition("\n## ")[0]
    (code,) = re.findall(r"(?:^(?: {4}.*)?\n)+", text.partition("\n\n")[2], re.MULTILINE)[:1]
    code = re.sub(r"^ {4}", "", code, flags=re.MULTILINE)
    assert "from_pretrained" in code
    assert "progressive(" in code
    with pytest.warns(UserWarning, match="is rescaled to"):
        exec(compile(code, "README.md", "exec"), scope := {})
    assert scope["images"][0].size == (64, 64)
    assert Path("lighthouse.png").read_bytes().startswith(b"\x89PNG")
    reader.follow("docs/adapters.md")
    assert "AURA_FLOW" in reader.python()
    assert len(reader.visited) == 2


def test_with_an_equation(reader):
    """A doubt about equation 9: README, theory, and its row's function, test and notebook. Two pages and a notebook."""
    reader.follow("docs/theory.md")
    (row,) = [line for line in reader.page.read_text().splitlines() if line.startswith("| 9 |")]
    _, number, what, function, test, notebook, _ = map(str.strip, row.split("|"))
    assert (number, what) == ("9", "activation time")
    module, name = function.strip("`").split(".")
    value = getattr(importlib.import_module(f"spectral_pd.{module}"), name)(1.0, 0.01)
    assert value == pytest.approx(1 / (1 + (0.01 / (1 + 1 - 0.01)) ** 0.5))
    file, case = test.strip("`").split("::")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
        f"{ROOT}/tests/{file}::{case}",
    ]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, check=False).returncode == 0
    reader.follow(str(Path("docs", re.findall(r"\(([^)]+)\)", notebook)[0]).as_posix()).replace("docs/../", ""))
    cells = ["".join(cell["source"]) for cell in json.loads(reader.page.read_text())["cells"]]
    shutil.copy(ROOT / "notebooks" / "style.mplstyle", ".")  # beside the notebook, as in the repository
    (check,) = [k for k, cell in enumerate(cells) if re.match(r"# Checks: .*Eq\. 9(;|$)", cell, re.MULTILINE)]
    scope: dict[str, object] = {}
    monkey = pytest.MonkeyPatch()
    with monkey.context() as patch:
        patch.setenv("MPLBACKEND", "Agg")
        for cell in (cells[1], cells[check], cells[-1]):
            exec(compile(cell, reader.page.name, "exec"), scope)
    assert len(reader.visited) == 3


@pytest.mark.skipif(not ops.has_native() or shutil.which("make") is None, reason="needs the extension and make")
def test_with_a_kernel(reader, tmp_path):
    """A kernel to change: README, kernels: the file by the map, the refusal of old kernels, the line that rebuilds."""
    reader.follow("docs/kernels.md")
    text = reader.page.read_text()
    (named,) = re.findall(r"^\| `(dct\.h)`, .* \| one-dimensional transforms", text, re.MULTILINE)
    for name in ("csrc", "build_tools", "spectral_pd", "tests", "Makefile", "pyproject.toml", "setup.py"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)  # git clone
    with (tmp_path / "csrc" / named).open("a") as file:
        file.write("// changed\n")
    command = re.search(r"`pytest (tests/test_ops\.py [^`]+)`", text)[1]
    assert all((tmp_path / path).exists() for path in command.split())
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(tmp_path)}
    run = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *command.split()]
    refused = subprocess.run(run, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert refused.returncode != 0
    assert "run make, or python setup.py build_ext --inplace" in refused.stderr
    assert "rebuild with `make`" in text
    assert "`python setup.py build_ext --inplace`" in text
    (tmp_path / ".venv").mkdir()
    for stamp in (".ready", ".built"):
        (tmp_path / ".venv" / stamp).touch()
    os.utime(tmp_path / "csrc" / named, (time.time() + 10,) * 2)  # changed after the last build
    planned = subprocess.run(["make", "-n", "test"], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert "setup.py -q build_ext --inplace" in planned
    assert planned.index("build_ext") < planned.index("-m pytest")
    assert len(reader.visited) == 2


def test_a_page_without_the_link_ends_the_walk(reader):
    """Negative control."""
    with pytest.raises(AssertionError, match="has no link to"):
        reader.follow("docs/conf.py")
