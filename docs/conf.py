"""The documentation site: ``make docs`` builds it into ``site/`` and fails on every warning."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import sys
from pathlib import Path
from typing import Any

from sphinx.util.nodes import make_refnode

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

import spectral_pd  # noqa: E402  (after the path)

project = "spectral_pd"
author = "the spectral_pd contributors"
release = spectral_pd.__version__
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.viewcode", "sphinx.ext.mathjax"]
source_suffix = {".md": "myst-nb", ".ipynb": "myst-nb", ".rst": "restructuredtext"}
html_theme = "furo"
html_title = "spectral_pd"
html_static_path = ["figures"]
html_show_sphinx = False
smartquotes = False
exclude_patterns = ["figures"]

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


COMFYUI_NODES = "spectral_pd.adapters.comfyui.nodes"


def write_pages() -> None:
    """Pages made from other files: a copy of the notebooks, and one API page a module, so that a new one needs no line here."""
    names = [info.name for info in pkgutil.walk_packages(spectral_pd.__path__, "spectral_pd.")]
    # ComfyUI's nodes can be imported inside of ComfyUI only; docs/comfyui.md is their page.
    names = [n for n in names if not any(part.startswith("_") for part in n.split(".")) and n != COMFYUI_NODES]
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
    title = "API"
    lines = [
        title,
        "=" * len(title),
        "",
        "What most need is importable from ``spectral_pd`` itself, the rest from its module. One page a module:",
        "",
    ]
    for name in names:
        first = (importlib.import_module(name).__doc__ or "").strip().splitlines()[0]
        lines += [f":doc:`{name} <{name}>`", f"    {first}", ""]
    return "\n".join([*lines, ".. toctree::", "    :hidden:", "", *(f"    {name}" for name in names), ""])


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
        return contnode if _is_alias(node["reftarget"]) else None
    name, entry = nearest[0], documented[nearest[0]]
    return make_refnode(app.builder, node["refdoc"], entry.docname, entry.node_id, contnode, name)


def _is_alias(name: str) -> bool:
    """Whether a module of the package gives this name to a type of its signatures, such as ``Clock``: shown without a link."""
    modules = [module for key, module in sys.modules.items() if key.startswith("spectral_pd.")]
    return any(hasattr(module, name) and not inspect.isroutine(getattr(module, name)) for module in modules)


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
    source[0] = text


def setup(app: Any) -> None:
    write_pages()
    app.connect("source-read", for_the_site)
    app.connect("autodoc-process-docstring", sections_to_rst)
    app.connect("missing-reference", find_public_name)
