"""The documentation site: ``make docs`` builds it into ``site/`` and fails on every warning."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import sys
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.util.nodes import make_refnode

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

import spectral_pd  # noqa: E402  (after the path)

project = "spectral_pd"
author = "the spectral_pd contributors"
copyright = author
release = spectral_pd.__version__
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.viewcode"]
source_suffix = {".md": "myst-nb", ".ipynb": "myst-nb", ".rst": "restructuredtext"}
html_theme = "furo"
html_title = "spectral_pd"
html_static_path = ["figures", "static"]
html_css_files = ["site.css"]
html_search_scorer = str(HERE / "static" / "scorer.js")
html_math_renderer = "mathml"
html_show_sphinx = False
smartquotes = False
exclude_patterns = ["figures", "static"]

# Notebooks are shown with the outputs stored in them; build_tools/notebooks.py runs and compares them.
nb_execution_mode = "off"
nb_merge_streams = True
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_dmath_double_inline = True
myst_heading_anchors = 3

autodoc_default_options = {"members": True, "show-inheritance": True, "member-order": "bysource"}
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 60
default_role = "code"

# Every reference into this package must resolve; other projects' names are shown without links, so the build needs no network.
nitpicky = True
nitpick_ignore_regex = [
    (
        "py:.*",
        r"(torch|numpy|np|collections|matplotlib|typing|pathlib|argparse|types|abc|contextlib|os|diffusers)(\..*)?",
    ),
    ("py:.*", r"spectral_pd\.(inputs\.(P|R|R_co)|plan\.State|measuring\.options\.R)"),  # type variables
    ("py:.*", r"(Tensor|Axes|Path|Any|Callable|Sequence|Mapping|Iterable|Iterator|Literal|SimpleNamespace|ABC)"),
]


INTERNAL = re.compile(
    r"spectral_pd\.(_.*|inputs.*|philox|unipc|stepwise|comfyui\.nodes|measuring\.(command|stream|sources)|comparing\..*)"
)
"""Modules without a page: what is behind the public functions. What others keep to themselves, their `__all__` says."""

TASKS = {
    "Measure a spectrum": (
        "fit_spectrum power_spectrum fit_power_law SpectrumMeter Spectrum PowerLaw PRESETS spacetime_spectrum "
        "measuring.report.measure power.load_spectrum"
    ),
    "Decide when to grow": (
        "make_plan plan_at shift_times Plan transition_times activation_time activation_power velocity_error snr "
        "schedule.stage_shape"
    ),
    "Price a plan, and find the best": "token_cost pretrained.step_cost optimise_plan plan_front predict",
    "Sample, edit": "sample edit sdedit passthrough solvers.find_solver sampling.StepInfo",
    "Use a network of your own": (
        "velocity_from_denoised velocity_from_noise velocity_from_vp velocity_from_edm parametrisation.wrap_network "
        "parametrisation.times_from_vp parametrisation.flow_from_vp parametrisation.flow_from_edm"
    ),
    "Run a pretrained pipeline": (
        "adapters.progressive adapters.adapt adapters.rider.Ride adapters.k_diffusion.sample_spectral "
        "adapters.layouts.Layout adapters.families.find_layout"
    ),
    "Grow a state yourself": "expand expand_aligned align_time align_scale restrict_noise restrict_signal NoiseField",
    "Keep a picture with fewer calls": (
        "two_grids.TwoGrids two_grids.Pattern two_grids.anchored calibrate.calibrate calibrate.choose_pattern"
    ),
    "Train": "draw_times stage_sample stage_loss training.schedule_metadata",
    "Choose or write a basis": "DCT HAAR FOURIER Basis bases.verify_basis",
    "Try it without a network": "GaussianField FiniteDataset",
    "See which kernels run": "ops.has_native ops.build_info",
}
"""Public names by what they are for; those without a dot are importable from ``spectral_pd`` itself."""


def write_pages() -> None:
    """Pages made from other files: a copy of the notebooks, and one API page a module, so that a new one needs no line here."""
    names = [info.name for info in pkgutil.walk_packages(spectral_pd.__path__, "spectral_pd.")]
    names = [name for name in names if not INTERNAL.fullmatch(name)]
    _sync(HERE / "api", {"index.rst": _index(names)} | {f"{name}.rst": _page(name) for name in names})
    _sync(HERE / "notebooks", {path.name: path.read_text() for path in (HERE.parent / "notebooks").glob("*.ipynb")})


def _sync(folder: Path, wanted: dict[str, str]) -> None:
    """Make `folder` hold exactly these files; unchanged ones keep their time, so that Sphinx need not read them again."""
    folder.mkdir(exist_ok=True)
    for path in folder.iterdir():
        if path.name not in wanted:
            path.unlink()
    for name, text in wanted.items():
        path = folder / name
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


def _index(names: list[str]) -> str:
    listed = {name for task in TASKS.values() for name in task.split()}
    public = {name for name in vars(spectral_pd) if name[0] != "_" and not inspect.ismodule(getattr(spectral_pd, name))}
    if missing := public - listed:
        raise ValueError(f"{sorted(missing)} of spectral_pd stand under no task in docs/conf.py")
    lines = [
        "API",
        "===",
        "",
        "Names without a dot are importable from ``spectral_pd`` itself, the others from their module.",
        "",
    ]
    for task, members in TASKS.items():
        lines += [task, "-" * len(task), ""]
        for name in members.split():
            value = pkgutil.resolve_name(f"spectral_pd.{name}") if "." in name else getattr(spectral_pd, name)
            first = (getattr(value, "__doc__", "") or "").strip().partition("\n\n")[0]
            if not (inspect.isroutine(value) or inspect.isclass(value)):
                first = DATA[name]
            lines += [f":py:obj:`{name} <spectral_pd.{name}>`", f"    {' '.join(first.split())}", ""]
    lines += ["Modules", "-------", ""]
    for name in names:
        first = (importlib.import_module(name).__doc__ or "").strip().partition("\n\n")[0]
        lines += [f":doc:`{name} <{name}>`", f"    {' '.join(first.split())}", ""]
    return "\n".join([*lines, ".. toctree::", "    :hidden:", "", *(f"    {name}" for name in names), ""])


DATA = {
    "PRESETS": "Power laws by model name: kind, source, data, basis, date and grid of each.",
    "DCT": "The cosine basis, the default.",
    "HAAR": "The Haar basis: ratios are powers of 2.",
    "FOURIER": "The Fourier basis, real and exact at every parity.",
}
"""What values are, whose docstrings are their class's."""


def _page(name: str) -> str:
    title = name.removeprefix("spectral_pd.")
    return f"{title}\n{'=' * len(title)}\n\n.. automodule:: {name}\n"


SECTIONS = re.compile(r"^(Parameters|Attributes|Returns|Raises|Examples)\n-+$", re.MULTILINE)


def sections_to_rst(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Docstring sections (numpy layout) as definition lists; stars of shapes such as (batch, ..., *grid) are no markup."""
    literal = r"(``.*?``|::\n\n(?: {4}[^\n]*\n|\n)+|^ *>>>[^\n]*)|\*"
    text = re.sub(literal, lambda match: match[1] or r"\*", "\n".join(lines), flags=re.DOTALL | re.MULTILINE)
    head, *rest = SECTIONS.split(text)
    parts = [head]
    for title, body in zip(rest[::2], rest[1::2], strict=True):
        entries = body.strip("\n")
        if title in ("Parameters", "Attributes"):
            entries = re.sub(r"^(\S.*)$", r"``\1``", entries, flags=re.MULTILINE)
        parts.append(f".. rubric:: {title}\n\n{entries}\n")
    lines[:] = "\n".join(parts).splitlines()


def find_public_name(app: Any, env: Any, node: Any, contnode: Any) -> Any:
    """``spectral_pd.PowerLaw``, or ``PowerLaw`` alone, is documented where it is defined: ``spectral_pd.power.PowerLaw``."""
    if node.get("refdomain") != "py":
        return None
    wanted = "." + node["reftarget"].removeprefix("spectral_pd.")
    documented = env.domaindata["py"]["objects"]
    found = [
        (name.count("."), name) for name, entry in documented.items() if name.endswith(wanted) and not entry.aliased
    ]
    nearest = [name for depth, name in found if depth == min(found)[0]]
    if len(nearest) != 1:
        return contnode if _is_alias(node["reftarget"]) or _is_internal(node["reftarget"]) else None
    name, entry = nearest[0], documented[nearest[0]]
    return make_refnode(app.builder, node["refdoc"], entry.docname, entry.node_id, contnode, name)


def _is_alias(name: str) -> bool:
    """Whether a module of the package gives this name to a type of its signatures, such as ``Clock``: shown without a link."""
    modules = [module for key, module in sys.modules.items() if key.startswith("spectral_pd.")]
    return any(hasattr(module, name) and not inspect.isroutine(getattr(module, name)) for module in modules)


def _is_internal(target: str) -> bool:
    """Whether a reference names something of the package that has no page: shown without a link."""
    path = target.removeprefix("spectral_pd.").split(".")
    modules = [module for key, module in sys.modules.items() if key.split(".")[0] == "spectral_pd"]
    return any(_reaches(module, path) for module in modules)


def _reaches(value: Any, path: list[str]) -> bool:
    for name in path:
        if not hasattr(value, name):
            return name in getattr(value, "__annotations__", {})
        value = getattr(value, name)
    return True


LONG = 24
"""Rows of a table from which on it is folded behind a summary."""


def _folded(match: re.Match[str]) -> str:
    rows = match[0].count("\n") - 2
    if rows < LONG:
        return match[0]
    return f"<details class='rows'>\n<summary>{rows} rows</summary>\n\n{match[0]}\n</details>\n"


def for_the_site(app: Any, docname: str, source: list[str]) -> None:
    """What differs between the repository and the site: where notebooks and other files lie, links into the API."""
    text = source[0]
    if docname.startswith("notebooks/"):
        text = text.replace("](../docs/", "](../")
    else:
        text = text.replace("](../notebooks/", "](notebooks/").replace("](../README.md", "](index.md")
        text = re.sub(
            r"\[([^\]]+)\]\(\.\./([^)]+\.md)\)", r"\1 (`\2`)", text
        )  # pages of the repository, not of the site
    if docname == "index":  # guides are listed by pattern, so that a page may come later than its place
        text = re.sub(r"^(\w+\*)\n", lambda m: m[0] if list(HERE.glob(f"{m[1]}.md")) else "", text, flags=re.MULTILINE)
    if docname == "theory":
        text = re.sub(r"\| `(\w+\.[\w.]+)` \|", r"| {py:obj}`\1 <spectral_pd.\1>` |", text)
        text = re.sub(r"`(test_\w+)\.py::(\w+)`", r'<a href="_sources/tests/\1.py.txt"><code>\2</code></a>', text)
    elif not docname.startswith(("notebooks/", "api/")):
        text = re.sub(r"^\|.*\n\| *-.*\n(?:\|.*\n)+", _folded, text, flags=re.MULTILINE)
    source[0] = text


def copy_tests(app: Any, error: Exception | None) -> None:
    """The tests that the equation table links to, as text."""
    if error is None and app.builder.name == "html":
        folder = Path(app.outdir) / "_sources" / "tests"
        folder.mkdir(parents=True, exist_ok=True)
        for path in (HERE.parent / "tests").glob("test_*.py"):
            (folder / f"{path.name}.txt").write_text(path.read_text())


# Formulas become MathML when the site is built: browsers show it by themselves, so a page needs no script and no network.


def inline_math(translator: Any, node: Any) -> None:
    translator.body.append(_mathml(node))
    raise nodes.SkipNode


def block_math(translator: Any, node: Any) -> None:
    translator.body.append(f"<div class='math'>{_mathml(node, as_block=True)}</div>\n")
    raise nodes.SkipNode


def _mathml(node: Any, *, as_block: bool = False) -> str:
    text = re.sub(r"\\[bB]igg?[lr]?(?![A-Za-z])", "", node.astext())  # brackets grow by themselves
    return tex2mathml(text.replace(r"\dots", r"\ldots"), as_block=as_block)


def setup(app: Any) -> None:
    write_pages()
    app.connect("source-read", for_the_site)
    app.connect("autodoc-process-docstring", sections_to_rst)
    app.connect("missing-reference", find_public_name)
    app.connect("build-finished", copy_tests)
    app.add_html_math_renderer("mathml", (inline_math, None), (block_math, None))
