"""PEP 517 backend: setuptools, reusing a torch that is already installed.

A build in isolation would otherwise download torch a second time (several GB) only to read its headers. pip runs the
isolated build with the target environment's Python, so ``sysconfig`` names the site-packages that pip installs into;
when torch is there, it is appended (last: the isolated setuptools still wins) and not listed as a build requirement.

Also what setup.py and the tests agree on: the hash of the extension's sources.
"""

import hashlib
import os
import sys
import sysconfig
from pathlib import Path

from setuptools import build_meta
from setuptools.build_meta import *  # noqa: F403  (a backend is a module with the PEP 517 hooks)

_site = next(
    (
        path
        for path in (sysconfig.get_path("purelib"), sysconfig.get_path("platlib"))
        if os.path.isdir(os.path.join(path, "torch", "include"))
    ),
    None,
)
if _site and _site not in sys.path:
    sys.path.append(_site)

_torch = [] if _site else ["torch>=2.11"]


def get_requires_for_build_wheel(config_settings=None):
    return build_meta.get_requires_for_build_wheel(config_settings) + _torch


def get_requires_for_build_editable(config_settings=None):
    return build_meta.get_requires_for_build_editable(config_settings) + _torch


def source_hash(root: Path) -> str:
    """Hash of everything the extension is made of: ``ops.build_info()["sources"]`` of one that is up to date."""
    digest = hashlib.sha256()
    for path in [*sorted((root / "csrc").iterdir()), root / "setup.py"]:
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]
