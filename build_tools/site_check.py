r"""Look at the built site in a real browser: ``python build_tools/site_check.py [--shots FOLDER]``, after ``make docs``.

Every page at two widths, a desktop's and a phone's, the pages of :data:`SHOTS` in light and dark at both. No element is wider
than its box unless it scrolls, every formula is drawn, pictures lie on a light card in the dark, nothing is asked of another
host, and the browser's console has no error. Then the search is asked what a newcomer would type. Exit status: 0 all well,
1 something is not, 2 no Chromium here. With --shots the pages of :data:`SHOTS` are photographed.

The browser is Chromium, driven through its DevTools protocol.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import functools
import itertools
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote
from urllib.request import urlopen

from tornado.websocket import WebSocketClientConnection, websocket_connect

SITE = Path(__file__).parent.parent / "site" / "html"
WIDTHS = {1366: 768, 390: 844}
"""Widths and heights of a common laptop and a common phone, in CSS pixels."""
SCHEMES = ("light", "dark")
SHOTS = (
    "index",
    "your_model",
    "theory",
    "kernels",
    "adapters",
    "benchmarks",
    "two_grids",
    "api/index",
    "api/spectral_pd.schedule",
    "notebooks/4_progressive_sampling",
)
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--remote-debugging-port=0",
]

QUESTIONS = {
    **dict.fromkeys(
        ("ddim", "epsilon", "noise prediction", "my own network", "x0", "EDM", "alphas_cumprod"), ("your_model", 3)
    ),
    "transition time": ("api/spectral_pd.theory.html#spectral_pd.theory.transition_times", 1),
    "fit": ("api/spectral_pd.fit.html#spectral_pd.fit.fit_", 1),
    "sample": ("api/spectral_pd.sampling.html#spectral_pd.sampling.sample", 1),
}
"""What a newcomer types -> what has to be among how many first results."""

FAULTS = r"""(() => {
  const found = [], path = (e) => {
    const name = e.tagName.toLowerCase() + (e.id ? "#" + e.id : "") + (e.className.baseVal ?? e.className).toString()
      .trim().split(/\s+/).filter(Boolean).map((c) => "." + c).join("");
    return name + " " + JSON.stringify((e.textContent || "").trim().replace(/\s+/g, " ").slice(0, 60));
  };
  const shown = (e) => e.getClientRects().length > 0 && getComputedStyle(e).visibility !== "hidden";
  const scrolls = (e) => ["auto", "scroll"].includes(getComputedStyle(e).overflowX);
  const article = document.querySelector("article") ?? document.body;
  document.querySelectorAll("details").forEach((e) => { e.open = true; });
  const holders = (e) => { const all = []; for (; e && e !== article; e = e.parentElement) all.push(e); return all; };
  const right = Math.min(innerWidth, (article.closest(".content") ?? article).getBoundingClientRect().right) + 1;
  for (const e of article.querySelectorAll("*")) {
    if (!shown(e) || e.closest(".headerlink, math, svg") !== null) continue;
    if (!holders(e.parentElement).some(scrolls) && e.getBoundingClientRect().right > right)
      found.push("wider than the text: " + path(e));
  }
  const texts = document.createTreeWalker(article, NodeFilter.SHOW_TEXT), range = document.createRange();
  while (texts.nextNode()) {
    const text = texts.currentNode, e = text.parentElement;
    if (!text.data.trim() || !shown(e) || e.closest(".headerlink, math, svg, summary")) continue;
    const block = holders(e).find((h) => !["inline", "contents"].includes(getComputedStyle(h).display)) ?? article;
    if (holders(e).some(scrolls)) continue;
    range.selectNodeContents(text);
    const edge = block.getBoundingClientRect().right + 1;
    if ([...range.getClientRects()].some((r) => r.right > edge)) found.push("text wider than its box: " + path(e));
  }
  if (document.documentElement.scrollWidth > innerWidth + 1)
    found.push(`the page is ${document.documentElement.scrollWidth} pixels wide`);
  for (const e of article.querySelectorAll("math")) {
    const box = e.getBoundingClientRect();
    const empty = !e.textContent.trim() || box.width < 2 || box.height < 6;
    if (empty || e.querySelector("merror")) found.push("formula: " + path(e));
  }
  if (/\\\(|\\\[|\$\$|\\frac|\\mathrm/.test([...article.querySelectorAll("p, li, td, dd, h1, h2, h3")]
      .filter((e) => !e.querySelector("code, pre")).map((e) => e.textContent).join("\n"))) found.push("a formula as raw TeX");
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  for (const e of article.querySelectorAll("img")) {
    if (!e.complete || e.naturalWidth === 0) found.push("picture missing: " + e.src);
    const [r, g, b, a = 1] = getComputedStyle(e).backgroundColor.match(/[\d.]+/g).map(Number);
    if (dark && (a < 1 || Math.min(r, g, b) < 230)) found.push("picture without a light card: " + e.src);
  }
  return [...new Set(found)];
})()"""

RESULTS = """[...document.querySelectorAll("#search-results ul.search > li > a")].map((e) => e.getAttribute("href"))"""


class Tab:
    """One page of the browser: commands out, what happened in."""

    def __init__(self, socket: WebSocketClientConnection, host: str) -> None:
        self.socket, self.host, self.events, self.numbers = socket, host, [], itertools.count(1)

    async def tell(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self.numbers)
        await self.socket.write_message(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            answer = await self._read()
            if answer.get("id") == number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return dict(answer["result"])

    async def _read(self) -> dict[str, Any]:
        text = await asyncio.wait_for(self.socket.read_message(), 30)
        if text is None:
            raise RuntimeError("the browser went away")
        message = json.loads(text)
        if "method" in message:
            self.events.append(message)
        return dict(message)

    async def open(self, url: str) -> list[str]:
        """Go to a page and wait until it is there; what the console and other hosts have to do with it."""
        self.events.clear()
        await self.tell("Page.navigate", url=url)
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            await self._read()
        await self.look("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        return self.complaints()

    def complaints(self) -> list[str]:
        found = []
        for event in self.events:
            method, about = event["method"], event["params"]
            if method == "Network.requestWillBeSent":
                url = about["request"]["url"]
                if not url.startswith((self.host, "data:", "about:")):
                    found.append(f"asks another host: {url}")
            elif method == "Runtime.exceptionThrown":
                found.append(f"exception: {about['exceptionDetails']['text']}")
            elif method == "Runtime.consoleAPICalled" and about["type"] == "error":
                found.append(f"console: {about['args']}")
            elif method == "Log.entryAdded" and about["entry"]["level"] == "error":
                found.append(f"console: {about['entry']['text']} {about['entry'].get('url', '')}")
        found = [text for text in found if not text.endswith("favicon.ico")]  # which a browser asks for by itself
        return found

    async def look(self, expression: str) -> Any:
        """The value of an expression in the page."""
        answer = await self.tell("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(str(answer["exceptionDetails"]))
        return answer["result"].get("value")

    async def show(self, width: int, scheme: str) -> None:
        """Be a screen of this width in this colour scheme."""
        screen = {"width": width, "height": WIDTHS[width], "deviceScaleFactor": 1, "mobile": width < 500}
        await self.tell("Emulation.setDeviceMetricsOverride", **screen)
        await self.tell("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    async def photograph(self, path: Path, height: int = 2400) -> None:
        size = await self.look("[innerWidth, document.documentElement.scrollHeight]")
        clip = {"x": 0, "y": 0, "width": size[0], "height": min(size[1], height), "scale": 1}
        shot = await self.tell("Page.captureScreenshot", format="png", clip=clip, captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """The folder's address on this machine: what pages ask with a script, a browser refuses to files."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def chromium() -> str | None:
    """Where the browser is, if it is."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return next((path for name in names if (path := shutil.which(name))), None)


@contextmanager
def browsing(program: str) -> Iterator[str]:
    """A browser without a window and without a past; the address of a page's socket."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        process = subprocess.Popen([program, *FLAGS, f"--user-data-dir={profile}", "about:blank"], **streams)  # type: ignore[call-overload]
        try:
            port = Path(profile, "DevToolsActivePort")
            until = time.monotonic() + 60
            while not (port.exists() and port.read_text().count("\n")):
                if process.poll() is not None or time.monotonic() > until:
                    raise RuntimeError(f"{program} did not start")
                time.sleep(0.05)
            with urlopen(f"http://127.0.0.1:{port.read_text().split()[0]}/json") as answer:
                pages = json.loads(answer.read())
            yield next(page["webSocketDebuggerUrl"] for page in pages if page["type"] == "page")
        finally:
            process.terminate()
            process.wait()


def pages(site: Path) -> list[str]:
    """Pages with text of ours: guides, notebooks, API."""
    found = (path.relative_to(site).with_suffix("").as_posix() for path in site.rglob("*.html"))
    listings = ("genindex", "py-modindex", "search")
    return sorted(name for name in found if not name.startswith(("_modules/", "_static/")) and name not in listings)


async def check(
    socket_url: str, host: str, names: Sequence[str], shots: Path | None, questions: Mapping[str, tuple[str, int]]
) -> list[str]:
    """What is wrong with the pages and the answers, one line each."""
    socket = await websocket_connect(socket_url, max_message_size=1 << 28)
    tab, found = Tab(socket, host), []
    for domain in ("Page", "Runtime", "Log", "Network"):
        await tab.tell(f"{domain}.enable")
    for k, (width, scheme) in enumerate(itertools.product(WIDTHS, SCHEMES)):
        await tab.show(width, scheme)
        # Light on the desktop and dark on the phone are looked at everywhere; the other two differ by nothing but these.
        for name in names if k in (0, 3) else [name for name in names if name in SHOTS]:
            complaints = await tab.open(f"{host}{name}.html")
            if shots is not None and name in SHOTS:
                await tab.photograph(shots / f"{name.replace('/', '.')}_{width}_{scheme}.png")
            complaints += await tab.look(FAULTS)
            found += [f"{name} at {width}, {scheme}: {text}" for text in complaints]
    for asked, (wanted, places) in questions.items():
        results = await search(tab, host, asked)
        if not any(wanted in result for result in results[:places]):
            found.append(f"search for {asked!r}: {wanted} is not among the first {places} of {results[:5]}")
    socket.close()
    return found


async def search(tab: Tab, host: str, asked: str) -> list[str]:
    """Links of the results, best first."""
    await tab.open(f"{host}search.html?q={quote(asked)}")
    results: list[str] = []
    for _ in range(100):
        now = await tab.look(RESULTS)
        done = await tab.look("!document.querySelector('#search-results h2')?.textContent.includes('Searching')")
        if done and now and now == results:
            return now
        results = now
        await asyncio.sleep(0.1)
    return results


def run(
    site: Path,
    program: str,
    names: Sequence[str] | None = None,
    *,
    shots: Path | None = None,
    questions: Mapping[str, tuple[str, int]] = QUESTIONS,
) -> list[str]:
    """Everything of a built site, or the pages named; what is wrong, one line each."""
    if shots is not None:
        shots.mkdir(parents=True, exist_ok=True)
    with serving(site) as host, browsing(program) as socket:
        return asyncio.run(check(socket, host, pages(site) if names is None else names, shots, questions))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="*", help="names without .html; all by default")
    parser.add_argument("--site", type=Path, default=SITE)
    parser.add_argument("--shots", type=Path, metavar="FOLDER", help="photograph the chosen pages into it")
    args = parser.parse_args()
    program = chromium()
    if program is None:
        print("no Chromium here (Debian: apt install chromium): the site was not looked at", file=sys.stderr)
        return 2
    started = time.monotonic()
    found = run(args.site, program, args.pages or None, shots=args.shots)
    print("\n".join(found) or "nothing wrong", f"({time.monotonic() - started:.0f} s)", sep="\n")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
