"""README and docs say what is true: snippets run, generated blocks are fresh, names in the equation table exist."""

from __future__ import annotations

import ast
import csv
import importlib
import json
import pkgutil
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from test_floors import FLOORS

import spectral_pd
from spectral_pd.__main__ import build_parser, main

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
EQUATIONS = list(csv.DictReader((ROOT / "docs" / "equations.csv").open(newline="")))


# Snippets that need trained or stand-in networks are run by the test named here.
RUN_ELSEWHERE = {"adapters.md": "test_adapters_docs.py"}


BLOCK = re.compile(r"<!-- generated: \w+(?: rows=\d+)? -->.*?<!-- end -->", re.DOTALL)
INDENTED = re.compile(r"^ {4}.*$", re.MULTILINE)


def blocks(text: str, language: str) -> list[str]:
    """Fenced code of one language."""
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def inline_code(text: str) -> list[str]:
    """What stands between single backticks, outside of fenced blocks."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))


@pytest.fixture
def tables(monkeypatch):
    """The module that makes the equation table."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("equation_table")


def test_readme_snippet_runs():
    (snippet,) = blocks((ROOT / "README.md").read_text(), "python")
    assert len([line for line in snippet.splitlines() if line.strip()]) <= 12
    scope: dict[str, object] = {}
    exec(compile(snippet, "README.md", "exec"), scope)
    assert scope["picture"].shape == (4, 16, 64, 64)
    assert len(scope["plan"].stages) == 2
    assert min(scope["plan"].split) > 0


def words(text: str) -> int:
    """Everything with a letter or a digit, code and tables included."""
    return sum(re.search(r"\w", word) is not None for word in re.sub(r"<!--.*?-->", "", text).split())


def test_readme_is_read_in_ten_minutes():
    """Requirements first, installation before code, the map before the numbers, a pipeline from its weights on, how to cite."""
    text = (ROOT / "README.md").read_text()
    assert 500 < words(text) <= 900
    project = (ROOT / "pyproject.toml").read_text()
    (oldest,), (torch_version,) = (
        re.findall(pattern, project) for pattern in (r'requires-python = "(.+)"', r'"(torch>=.+?)"')
    )
    top, _, rest = text.partition("\n## ")
    assert f"`python{oldest}` · `{torch_version}` · [MIT licence](LICENSE)" in top
    order = [
        "git clone",
        "pip install",
        "```python",
        "from_pretrained",
        "docs/your_model.md) |",
        "<!-- generated",
        "@article",
    ]
    assert sorted(order, key=rest.index) == order
    assert rest.index("docs/your_model.md) |") < rest.index("docs/adapters.md) |") < rest.index("docs/kernels.md) |")
    for body in BLOCK.findall(text):
        assert sum(line.startswith("| ") for line in body.splitlines()) in (0, 5)  # header, rule and three rows


def test_the_pipelines_of_the_readme_are_ridden():
    """Every family it names has a class among the adapters' layouts."""
    (named,) = re.findall(r"^(FLUX.*?) and others, ", (ROOT / "README.md").read_text(), re.MULTILINE)
    classes = " ".join(importlib.import_module("spectral_pd.adapters.families").LAYOUTS).lower()
    names = named.replace("FLUX.1 and 2", "FLUX.1, FLUX.2").split(", ")
    assert len(names) >= 12
    for name in names:
        stem = name.lower().replace("flux.1", "flux").translate(str.maketrans("", "", " .-"))
        assert f"{stem}pipeline" in classes.split(), name


PYTHON_PAGES = [page for page in PAGES if blocks(page.read_text(), "python") and page.name not in RUN_ELSEWHERE]


@pytest.mark.parametrize("page", PYTHON_PAGES, ids=lambda page: page.name)
def test_python_on_a_page_runs_as_pasted(page, tmp_path, monkeypatch):
    """All of a page's Python, top to bottom in one session, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    scope: dict[str, object] = {}
    for snippet in blocks(page.read_text(), "python"):
        exec(compile(snippet, page.name, "exec"), scope)


def test_pages_run_elsewhere_are():
    for page, test in RUN_ELSEWHERE.items():
        assert page in (ROOT / "tests" / test).read_text()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """What a reader has when the pages speak of it: photographs, stored latents, a ComfyUI, a checkout."""
    demo = pytest.importorskip("spectral_pd.measuring.demo")
    image = pytest.importorskip("PIL.Image")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "benchmarks").symlink_to(ROOT / "benchmarks")
    (tmp_path / "photos").mkdir()
    for name, picture in list(demo.photographs().items())[:3]:
        array = ((picture.permute(1, 2, 0) + 1) * 127.5).round().byte().numpy()
        image.fromarray(array).save(tmp_path / "photos" / f"{name}.png")
    (tmp_path / "ComfyUI" / "custom_nodes").mkdir(parents=True)
    (tmp_path / "ComfyUI" / "main.py").touch()
    (tmp_path / "latents").mkdir()
    field = spectral_pd.GaussianField(spectral_pd.PRESETS["flux"], (32, 32))
    for index in range(8):
        latent = field.sample((4,), generator=torch.Generator().manual_seed(index))
        np.save(tmp_path / "latents" / f"{index}.npy", latent.numpy())


def commands(page: Path) -> list[str]:
    """Every call of the command line tool in a shell block or in inline code, in order; the demonstration has its own test."""
    text = page.read_text()
    shell = "\n".join(blocks(text, "sh") + blocks(text, "bash")) + "\n" + "\n".join(inline_code(text))
    found = re.findall(r"^(?:torchrun .*-m spectral_pd|spectral-pd) (\w+ .+?)(?: +#.*)?$", shell, re.MULTILINE)
    return [call for call in found if not call.startswith("demo") and "..." not in call]


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)], ids=lambda page: page.name)
def test_commands_on_a_page_run_as_pasted(page, folder, capsys):
    """In order, in one folder. Where a page asks for a path of the reader's own, the call must at least be understood."""
    for call in commands(page):
        if "path/to" in call:
            build_parser().parse_args(shlex.split(call))
        else:
            assert main(shlex.split(call)) == 0, f"{call}: {capsys.readouterr().err}"


def test_commands_are_found():
    """Negative control: all three ways of writing a call are seen, with the comment behind it cut off."""
    page = ROOT / "docs" / "spectra.md"
    assert "fit photos/ --size 512 --json law.json" in commands(page)
    assert any(call.startswith("fit photos/ --size 1024 --vae path/to/vae --resume") for call in commands(page))
    assert any(call.startswith("plan --preset flux") for call in commands(ROOT / "README.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_names_exists(page):
    """Targets of make, extras of pip, files of the repository, modules and their contents."""
    text = page.read_text()
    code = "\n".join([*inline_code(text), *blocks(text, "sh"), *blocks(text, "bash"), *INDENTED.findall(text)])
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z]+)", code)) <= targets
    extras = (ROOT / "pyproject.toml").read_text().partition("[project.optional-dependencies]")[2].partition("\n[")[0]
    for extra in re.findall(r"pip install '[\w.]+\[(\w+)\]'", code):
        assert f"\n{extra} = [" in extras
    for path in re.findall(r"\b(?:benchmarks|build_tools|csrc|docs|spectral_pd|tests)/[\w./-]+\.\w+", code):
        assert (ROOT / path).exists(), path
    for name in re.findall(r"\bspectral_pd(?:\.\w+)+", text):
        assert exists(name), name


def exists(name: str) -> bool:
    """Whether a dotted name is a module or something in one."""
    try:
        pkgutil.resolve_name(name)
    except (ImportError, AttributeError):
        return False
    return True


# Numbers that stand in running text because they are settings, thresholds, names or versions. Whatever was measured belongs
# into a generated block.
TYPED = {
    "0.01": "the usual delta",
    "0.001": "a delta tried on the page",
    "30 dB": "what counts as the same picture",
    "95 %": "level of intervals",
    "0.95": "R2 below which a fit warns",
    "0.75": "a start time tried on the page",
    "80 GB": "a GPU",
    "3.10": "oldest Python",
    "2605.18736": "the paper",
    **dict.fromkeys(("4.1", "4.3", "5.5"), "sections of the paper"),
    **dict.fromkeys(("1.3", "2.1", "2.2", "3.5"), "names of models"),
}
# Tables and pages whose numbers another test compares with what they state.
COMPARED_ELSEWHERE = {"paper_tables.md": "test_cost.py", "adapters.md": "test_adapters_docs.py"}
DECIMAL_OR_UNIT = re.compile(r"(?<![\w.-])\d+(?:\.\d+)+|(?<![\w.-])\d+ ?(?:%|dB|GB|MB|ms|us|ns|x\b(?! ?\d)|times)")


def typed_numbers(text: str) -> list[str]:
    """Decimals and numbers with a unit in running text: not in generated blocks, code, formulas, links."""
    for pattern in (BLOCK, r"```.*?```", INDENTED, r"\$\$.*?\$\$", r"`[^`]*`", r"\$[^$\n]*\$", r"\]\([^)]*\)"):
        text = re.sub(pattern, "", text, flags=0 if isinstance(pattern, re.Pattern) else re.DOTALL)
    return DECIMAL_OR_UNIT.findall(text)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_number_is_typed_by_hand(page):
    if page.name in COMPARED_ELSEWHERE:
        assert (ROOT / "tests" / COMPARED_ELSEWHERE[page.name]).exists()
        return
    typed = [number for number in typed_numbers(page.read_text()) if number not in TYPED]
    assert not typed, f"{page.name}: {typed} belong into a generated block, from a row of benchmarks/results"


def test_a_typed_number_is_noticed():
    """Negative control."""
    text = "<!-- generated: cost -->\n| 1.5 |\n<!-- end -->\nIt is 1.34x faster, by 12 %, see `1.2`, $3.4$ and\n\n    5.6\n"
    assert typed_numbers(text) == ["1.34", "12 %"]


RESULTS = sorted((ROOT / "benchmarks" / "results").glob("*.csv"))
# Counted or computed in closed form, the same on every machine; a test computes them anew.
COUNTED = {"cost", "paper_tables", "usual_plans"}


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_rows_name_what_they_were_made_with(path):
    rows = list(csv.DictReader(path.open(newline="")))
    assert rows
    if path.stem in COUNTED:
        assert f'"{path.name}"' in (ROOT / "tests" / "test_cost.py").read_text()
    elif path.stem == "cuda_kernels":
        assert all(row["nvcc"] and row["sources"] for row in rows)
    else:
        assert all(row["device"] and row["torch"] and row["python"] for row in rows)
        for commit in {row["commit"].rstrip("+") for row in rows}:
            assert known_commit(commit), f"{path.name} names a commit that this history does not have: {commit}"


def known_commit(name: str) -> bool:
    """Whether this history has a commit; without a full history every well-formed name will do."""
    if not re.fullmatch(r"[0-9a-f]{7,40}", name):
        return False

    def git(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)

    if shutil.which("git") is None or git("rev-parse", "--is-shallow-repository").stdout.strip() != "false":
        return True
    return git("merge-base", "--is-ancestor", name, "HEAD").returncode == 0


def test_generated_blocks_are_up_to_date(tmp_path):
    command = [sys.executable, str(ROOT / "benchmarks" / "write_docs.py"), "--check"]
    assert subprocess.run(command, check=False).returncode == 0


def test_a_stale_block_is_noticed(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    write_docs = importlib.import_module("write_docs")
    text = (ROOT / "README.md").read_text()
    assert write_docs.render(text) == text
    tampered = re.sub(r"(\| 0\.96 \| )\d+", r"\g<1>999", text)
    assert tampered != text
    assert write_docs.render(tampered) == text


def test_a_short_block_has_first_and_last_row(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    write_docs = importlib.import_module("write_docs")
    whole = "Before.\n\n" + write_docs.markdown(["n"], [[str(n)] for n in range(8)]) + "\nAfter.\n"
    short = write_docs.shortened(whole, 3)
    assert short == "Before.\n\n" + write_docs.markdown(["n"], [["0"], ["4"], ["7"]]) + "\nAfter.\n"
    assert write_docs.shortened(whole, 8) == whole
    text = (ROOT / "README.md").read_text()
    longer = text.replace("generated: savings rows=3", "generated: savings")
    assert len(write_docs.render(longer).splitlines()) > len(text.splitlines())


def test_contributing_has_the_floors():
    listed = (ROOT / "CONTRIBUTING.md").read_text().partition("**Where things live.**")[2].partition("\n- ")[0]
    for number, names in re.findall(r"(\d+) ([^|]*?)(?= \||\.\Z)", listed):
        floor = {name for name, at in FLOORS.items() if at == int(number)} - {"__init__"}
        assert set(re.findall(r"[a-z_]+", names.replace("command line", ""))) == floor
    assert len(re.findall(r" \|", listed)) == max(FLOORS.values())


def test_every_figure_is_on_a_page():
    pictures = r"\]\(([^)]+\.(?:png|svg|jpg))\)"
    shown = {path.name for page in PAGES for path in map(Path, re.findall(pictures, page.read_text()))}
    assert {path.name for path in (ROOT / "docs" / "figures").iterdir()} <= shown


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_local_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("row", EQUATIONS, ids=lambda row: row["equation"])
def test_equation_table_names_existing_functions_and_tests(row):
    module, _, attribute = row["function"].partition(".")
    value = importlib.import_module(f"spectral_pd.{module}")
    for part in attribute.split("."):
        value = getattr(value, part)
    file, _, test = row["test"].partition("::")
    tree = ast.parse((ROOT / "tests" / file).read_text())
    names = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    assert test in names, f"{file} has no test named {test}"


@pytest.mark.parametrize("row", EQUATIONS, ids=lambda row: row["equation"])
def test_every_equation_has_a_notebook_cell(row, tables):
    """Coverage of the paper's numbered equations, and of what is named besides: function, test and a cell that checks it."""
    assert tables.row_notebooks(row, tables.notebook_checks()), (
        f"no cell begins with '# Checks: ...' and {row['what']!r}"
    )


@pytest.mark.parametrize("row", EQUATIONS, ids=lambda row: row["equation"])
def test_a_cell_that_checks_an_equation_uses_its_function(row, tables):
    """Or, for a basis, the object that the library makes of its class."""
    labels = {*tables.row_labels(row), row["what"]}
    code = "".join(code for _, named, code in tables.checking_cells() if labels & set(named))
    name = row["function"].rpartition(".")[2]
    assert re.search(rf"\b({name}|{name.removesuffix('Basis').upper()})\b", code), f"no cell for {labels} uses {name}"


def test_notebooks_claim_only_what_the_table_knows(tables):
    known = {label for row in tables.equation_rows() for label in [*tables.row_labels(row), row["what"]]}
    assert not set(tables.notebook_checks()) - known


def test_a_missing_cell_is_noticed(tables):
    """Negative control: without the notebooks, or with one of two equations checked, a row counts as not covered."""
    row = {"equation": "11, 13", "what": "end of a stage"}
    assert not tables.row_notebooks(row, {})
    assert not tables.row_notebooks(row, {"Eq. 11": ["6.ipynb"]})
    assert tables.row_notebooks(row, {"Eq. 11": ["6.ipynb"], "Eq. 13": ["6.ipynb"]}) == ["6.ipynb"]


# How the paper's numbered equations begin. Of 5, 6, 9 and 10 the authors' code says the same: kappa, align_timestep,
# activation_time and delta_optimal_transitions in utils.py of howardhx/speed.
NUMBERED = {
    "x_t = (1-t)": "1",
    r"v = \frac{dx_t}{dt}": "2",
    r"P(\omega) = \mathbb{E}": "3",
    r"P(\omega) = A": "4",
    r"\kappa(t, r)": "5",
    r"\tilde t": "6",
    r"t_\omega": "9",
    "t^*_i": "10",
    "x_b": "11",
    r"v = \frac{\tilde x_a - x_b}": "12",
    "x_t = x_b": "13",
    r"\mathcal{L}": "14",
    r"\mathrm{SNR}_\omega(t)": "15",
    r"\omega_{max}": "16",
    r"\mathbb{E}\,|v^* - \epsilon|^2": "19, 35",
    r"\mathbb{E}[x_0|x_t]": "23",
    r"\mathbb{E}[\epsilon|x_t]": "24",
    "v^* = A": "26",
}
THE_PAPERS_NUMBERS = range(1, 45)


def numbered_formulas(text: str) -> list[tuple[str, str]]:
    """(formula, number) of everything that carries a number ``\\quad (n)`` in a displayed formula."""
    found = []
    for display in re.findall(r"\$\$(.*?)\$\$", text, re.DOTALL):
        pieces = re.split(r"\\quad \(([\d, ]+)\)", display)
        found += [(re.sub(r"^(\s|\\qquad)+", "", f), n) for f, n in zip(pieces[::2], pieces[1::2], strict=False)]
    return found


def wrongly_numbered(text: str) -> list[tuple[str, str]]:
    """Formulas whose number is not the one the paper gives to what they begin with."""
    return [
        (f, n) for f, n in numbered_formulas(text) if not any(f.startswith(k) and n == v for k, v in NUMBERED.items())
    ]


def markdown_of_notebooks() -> dict[str, str]:
    found = {}
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = json.loads(path.read_text())["cells"]
        found[path.name] = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    return found


@pytest.mark.parametrize(
    ("name", "text"), [*((page.name, page.read_text()) for page in PAGES), *markdown_of_notebooks().items()]
)
def test_formulas_carry_the_papers_numbers(name, text):
    assert not wrongly_numbered(text), name


def test_an_exchanged_number_is_noticed():
    """Negative control: the rescaling by kappa is 5, the aligned time 6, not the other way round."""
    right = (ROOT / "docs" / "theory.md").read_text()
    assert len(numbered_formulas(right)) >= len(NUMBERED)
    exchanged = right.replace(r"\quad (5)", "@@").replace(r"\quad (6)", r"\quad (5)").replace("@@", r"\quad (6)")
    assert [number for _, number in wrongly_numbered(exchanged)] == ["6", "5"]


def cited(doc: str) -> set[str]:
    """Numbers of equations that a docstring names: Eq. 9, Eqs. 5-6, Eqs. 19, 35."""
    found = set()
    for first, last, rest in re.findall(r"Eqs?\. (\d+)(?:-(\d+))?((?:, \d+)*)", doc):
        found |= {str(n) for n in range(int(first), int(last or first) + 1)} | set(re.findall(r"\d+", rest))
    return found


@pytest.mark.parametrize(
    "row", [row for row in EQUATIONS if row["equation"][0].isdigit()], ids=lambda row: row["equation"]
)
def test_a_docstring_names_the_number_of_its_row(row):
    named = cited(
        (pkgutil.resolve_name(f"spectral_pd.{row['function']}").__doc__ or "").partition("\n\n    Parameters")[0]
    )
    assert not named or named & set(re.findall(r"\d+", row["equation"])), f"{row['function']} names {named}"


def test_docstring_numbers_are_read():
    """Negative control: ranges and lists are read, and at least the closed forms name their numbers."""
    assert cited("steps (Eqs. 5-6), bound (Eqs. 19, 35), Eq. 9") == {"5", "6", "19", "35", "9"}
    (kappa,) = [row["function"] for row in EQUATIONS if row["equation"] == "5"]
    assert cited(pkgutil.resolve_name(f"spectral_pd.{kappa}").__doc__) == {"5"}


def without_a_row() -> list[list[str]]:
    """Rows of the table of numbers that are left out, of docs/theory.md."""
    section = (ROOT / "docs" / "theory.md").read_text().partition("## Steps of proofs\n")[2].partition("\n## ")[0]
    return [
        [cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line.startswith("| ")
    ][2:]


def test_every_numbered_equation_of_the_paper_has_a_row_or_is_left_out_by_name():
    rows = [n for row in EQUATIONS if row["equation"][0].isdigit() for n in re.findall(r"\d+", row["equation"])]
    left_out = [n for numbers, *_ in without_a_row() for n in re.findall(r"\d+", numbers)]
    assert not set(rows) & set(left_out)
    assert len(left_out) == len(set(left_out))
    assert set(rows) | set(left_out) == {str(n) for n in THE_PAPERS_NUMBERS}


def test_tests_of_what_is_left_out_exist():
    for *_, judged_by in without_a_row():
        named = re.findall(r"`(\w+\.py)::(\w+)`", judged_by)
        assert named
        for file, test in named:
            assert f"def {test}(" in (ROOT / "tests" / file).read_text(), f"{file} has no test named {test}"


def test_the_page_states_every_numbered_equation():
    stated = {
        n
        for _, group in numbered_formulas((ROOT / "docs" / "theory.md").read_text())
        for n in re.findall(r"\d+", group)
    }
    numbered = {n for row in EQUATIONS if row["equation"][0].isdigit() for n in re.findall(r"\d+", row["equation"])}
    assert stated == numbered
