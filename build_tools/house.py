"""How the house stands: the rules of CONTRIBUTING.md that can be counted, counted (tests/test_house.py keeps them).

    python build_tools/house.py

Validation is what only refuses: an ``if`` that does nothing but raise, a statement that calls a parser of
:mod:`spectral_pd.inputs`, a ``@door``. Code lines are lines that hold a statement, without docstrings and comments.
"""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "spectral_pd"
COMMAND_LINE = {"__main__.py", "measuring/command.py"}


@dataclass(frozen=True)
class Module:
    """One file of the package."""

    name: str
    source: str

    @property
    def tree(self) -> ast.Module:
        return ast.parse(self.source)

    @property
    def lines(self) -> int:
        """All lines."""
        return len(self.source.splitlines())

    @property
    def is_door(self) -> bool:
        """Whether it holds parsers."""
        return self.name.startswith("inputs")

    def code(self) -> set[int]:
        """Numbers of the lines that hold code."""
        ignored = (
            tokenize.COMMENT,
            tokenize.NL,
            tokenize.NEWLINE,
            tokenize.INDENT,
            tokenize.DEDENT,
            tokenize.ENDMARKER,
        )
        found = set()
        for token in tokenize.generate_tokens(io.StringIO(self.source).readline):
            if token.type not in ignored:
                found |= set(range(token.start[0], token.end[0] + 1))
        return found - self.docstrings()

    def docstrings(self) -> set[int]:
        """Lines of strings that stand alone."""
        alone = [n for n in ast.walk(self.tree) if isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant)]
        return {line for n in alone for line in range(n.lineno, (n.end_lineno or n.lineno) + 1)}

    def validation(self) -> set[int]:
        """Lines of code that only refuse."""
        found: set[int] = set()
        for node in ast.walk(self.tree):
            guard = isinstance(node, ast.If) and not node.orelse and all(isinstance(s, ast.Raise) for s in node.body)
            check = isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and is_parser(node.value.func)
            if isinstance(node, ast.stmt) and (guard or check):
                found |= span(node)
            elif isinstance(node, ast.FunctionDef):
                for decorator in node.decorator_list:
                    if isinstance(decorator, ast.Call) and getattr(decorator.func, "id", "") == "door":
                        found |= span(decorator)
        return found & self.code()


def span(node: ast.stmt | ast.expr) -> set[int]:
    return set(range(node.lineno, (node.end_lineno or node.lineno) + 1))


def is_parser(function: ast.expr) -> bool:
    """``inputs.name(...)``, or what a parser factory made: ``inputs.choice(...)(value, name)``."""
    if isinstance(function, ast.Call):
        return is_parser(function.func)
    return isinstance(function, ast.Attribute) and getattr(function.value, "id", "") == "inputs"


def modules() -> list[Module]:
    """Every module of the package."""
    return [Module(str(p.relative_to(PACKAGE)), p.read_text()) for p in sorted(PACKAGE.rglob("*.py"))]


def needed_by(name: str) -> list[Module]:
    """A module and all of the package that it imports, directly or not: what its reader may have to open."""
    known = {module.name: module for module in modules()}
    found: list[str] = []
    waiting = [f"{name}.py"]
    while waiting:
        this = waiting.pop()
        if this in found or this not in known:
            continue
        found.append(this)
        for node in ast.walk(known[this].tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("spectral_pd"):
                parts = (node.module or "").split(".")[1:]
                waiting += ["/".join(parts) + ".py"] if parts else [f"{alias.name}.py" for alias in node.names]
    return [known[n] for n in found]


def noise_questions() -> list[str]:
    """Places behind the door that ask what kind of noise they have: ``isinstance(noise, ...)``."""
    return [
        f"{module.name}:{node.lineno}"
        for module in modules()
        if not module.is_door
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call)
        and getattr(node.func, "id", "") == "isinstance"
        and getattr(node.args[0], "id", "") in ("noise", "field", "white")
    ]


def crowded(most: int = 10) -> list[str]:
    """Public functions with more parameters than `most`, the command line's excepted."""

    def public(module: Module) -> Iterator[ast.FunctionDef]:
        for node in module.tree.body:
            scopes = node.body if isinstance(node, ast.ClassDef) and not node.name.startswith("_") else [node]
            yield from (n for n in scopes if isinstance(n, ast.FunctionDef) and not n.name.startswith("_"))

    found = []
    for module in modules():
        for function in public(module):
            a = function.args
            names = [*a.posonlyargs, *a.args, *a.kwonlyargs, *([a.kwarg] if a.kwarg else [])]
            if len([n for n in names if n.arg not in ("self", "cls")]) > most and module.name not in COMMAND_LINE:
                found.append(f"{module.name}: {function.name}")
    return found


def copies() -> list[str]:
    """Names of theory.py or solvers.py that another module defines again, under the same name or with an underscore."""
    known = {module.name: module for module in modules()}
    formulas = {
        node.name
        for name in ("theory.py", "solvers.py")
        for node in known[name].tree.body
        if isinstance(node, ast.FunctionDef)
    }
    return [
        f"{module.name}: {node.name}"
        for module in modules()
        for node in module.tree.body
        if isinstance(node, ast.FunctionDef)
        and node.name.strip("_") in formulas
        and not module.is_door
        and module.name not in ("theory.py", "solvers.py")
    ]


def main() -> None:
    every = modules()
    inside = [module for module in every if not module.is_door]
    code, refusing = (sum(len(part(m)) for m in inside) for part in (Module.code, Module.validation))
    print(f"{'module':32} {'lines':>6} {'code':>6} {'refuses':>8}")
    for module in every:
        print(f"{module.name:32} {module.lines:6} {len(module.code()):6} {len(module.validation()):8}")
    print(f"{'package':32} {sum(m.lines for m in every):6}")
    print(f"validation outside inputs.py: {refusing} of {code} code lines, {refusing / code:.1%}")
    reading = needed_by("sampling")
    print(
        f"to understand sample: {sum(m.lines for m in reading)} lines of {', '.join(sorted(m.name for m in reading))}"
    )
    print(f"asks what kind of noise: {noise_questions()}")
    print(f"more than 10 parameters: {crowded()}")
    print(f"formulas in a second copy: {copies()}")


if __name__ == "__main__":
    main()
