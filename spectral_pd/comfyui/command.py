"""``spectral-pd comfyui install PATH`` and ``uninstall PATH``: the folder by which ComfyUI finds the nodes."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

NODE = '''"""The nodes of spectral_pd; written by "spectral-pd comfyui install", removed by "spectral-pd comfyui uninstall"."""
from spectral_pd.comfyui.nodes import comfy_entrypoint as comfy_entrypoint
'''
FOLDER = "spectral_pd"


def install(path: Path) -> Path:
    """Write the folder into ``custom_nodes`` of the ComfyUI at `path`; again where it is already. Returns the folder."""
    nodes = _custom_nodes(path)
    folder = nodes / FOLDER
    if folder.exists() and not _ours(folder):
        raise ValueError(f"{folder} exists and is not of spectral-pd's making; rename it first")
    folder.mkdir(exist_ok=True)
    (folder / "__init__.py").write_text(NODE)
    return folder


def uninstall(path: Path) -> Path:
    """Remove what :func:`install` wrote, and nothing else. Returns the folder."""
    folder = _custom_nodes(path) / FOLDER
    if not _ours(folder):
        raise ValueError(f"{folder} is not there, or not of spectral-pd's making; nothing was removed")
    (folder / "__init__.py").unlink()
    for cached in (folder / "__pycache__").glob("__init__.*.pyc"):
        cached.unlink()
    for left in (folder / "__pycache__", folder):
        if left.is_dir() and not any(left.iterdir()):
            left.rmdir()
    return folder


def _custom_nodes(path: Path) -> Path:
    nodes = path / "custom_nodes"
    if not (path / "main.py").is_file() or not nodes.is_dir():
        raise ValueError(f"{path} is no ComfyUI: it holds no main.py beside custom_nodes; pass the folder that does")
    return nodes


def _ours(folder: Path) -> bool:
    file = folder / "__init__.py"
    return file.is_file() and file.read_text().splitlines()[:1] == NODE.splitlines()[:1]


def run(args: argparse.Namespace) -> None:
    """Run the command line's choice and say what was done."""
    folder = (install if args.action == "install" else uninstall)(Path(args.path))
    done = "installed in {}; start ComfyUI anew" if args.action == "install" else "removed from {}"
    print(f"nodes {done.format(folder)}")


def add_parser(commands: Any) -> None:
    """Add ``comfyui`` to the commands of ``spectral-pd``."""
    parser = commands.add_parser(
        "comfyui",
        help="install the ComfyUI nodes, or remove them",
        description="Let a ComfyUI find the nodes of this package: 'install' writes a folder of two lines into its "
        "custom_nodes, 'uninstall' removes it. This package must be installed in the Python that runs ComfyUI.",
        epilog="example: spectral-pd comfyui install ~/ComfyUI",
    )
    parser.add_argument("action", choices=("install", "uninstall"), help="what to do")
    parser.add_argument("path", metavar="PATH", help="folder of ComfyUI, which holds main.py and custom_nodes")
    parser.set_defaults(run=run)
