"""The look at the site sees what it should: each fault planted in a small page, and none in a page without."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "build_tools"))
site_check = importlib.import_module("site_check")

PROGRAM = site_check.chromium()
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="Chromium is not installed (Debian: apt install chromium)")

PAGE = (
    "<!doctype html><html><head><meta name=viewport content='width=device-width'>{head}</head>"
    "<body><article>{body}</article></body></html>"
)
HEAD = "<link rel=icon href='data:,'><style>img {background: #fff} code {overflow-wrap: anywhere}</style>"
FORMULA = "<math><mfrac><mi>a</mi><mi>b</mi></mfrac></math>"
PIXEL = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
WIDE = "<table><tr><td>" + "word " * 6 + "<code>" + "name" * 200 + "</code></td></tr></table>"
PAGES = {
    "good": (
        f"<p>text {FORMULA}</p><img src='{PIXEL}'><code>{'name' * 99}</code>"
        f"<div style='overflow-x: auto'><pre>{'x' * 999}</pre></div>"
    ),
    "wide": f"<p style='width: 50px; white-space: nowrap'>{'word ' * 99}</p>",
    "wide table": f"<div style='white-space: nowrap'>{WIDE}</div>",
    "empty formula": "<p>text <math></math></p>",
    "bad formula": "<p><math><merror><mtext>what?</mtext></merror></math></p>",
    "raw formula": r"<p>as \(\frac{a}{b}\) says</p>",
    "no picture": "<img src='missing.png'>",
    "dark picture": f"<img style='background: transparent' src='{PIXEL}'>",
    "console": "<script>console.error('broken')</script>",
    "exception": "<script>throw new Error('broken')</script>",
    "elsewhere": "<script src='https://example.invalid/mathjax.js'></script>",
}
SEEN = {
    "wide": "text wider than its box|pixels wide",
    "wide table": "wider than the text",
    "empty formula": "formula: math",
    "bad formula": "formula: math",
    "raw formula": "raw TeX",
    "no picture": "picture missing",
    "dark picture": "without a light card",
    "console": "console:",
    "exception": "exception:",
    "elsewhere": "asks another host",
}


def test_every_planted_fault_is_seen_and_no_other(tmp_path):
    for name, body in PAGES.items():
        (tmp_path / f"{name}.html").write_text(PAGE.format(head=HEAD, body=body))
    (tmp_path / "search.html").write_text(
        PAGE.format(
            head=HEAD, body="<div id=search-results><ul class=search><li><a href=guide.html>g</a></li></ul></div>"
        )
    )
    questions = {"found": ("guide", 1), "lost": ("another", 1)}
    found = site_check.run(tmp_path, PROGRAM, list(PAGES), questions=questions)
    for name in PAGES:
        of_it = [line for line in found if line.startswith(f"{name} at ")]
        if name not in SEEN:
            assert of_it == []
        else:
            assert any(text in line for line in of_it for text in SEEN[name].split("|")), (name, of_it)
    assert [line for line in found if line.startswith("search")] == [
        "search for 'lost': another is not among the first 1 of ['guide.html']"
    ]
    assert {line.partition(" at ")[2].partition(",")[0] for line in found if " at " in line} == {"1366", "390"}
