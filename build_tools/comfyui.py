"""Try the nodes in a real ComfyUI, headless on the CPU, and write what it did: ``python build_tools/comfyui.py PATH``.

PATH is a checkout of ComfyUI; run this with the Python that runs it, into which spectral_pd is installed. The nodes are
installed, a server is started on this machine alone, and everything goes through its own API: a workflow is queued, polled and
its results fetched. Networks are tiny and random (comfyui_trial.py). Rows go to benchmarks/results/comfyui.csv, from which
docs/comfyui.md is written (``python benchmarks/write_docs.py``).
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))
from environment import environment  # noqa: E402

from spectral_pd.comfyui.command import install, uninstall  # noqa: E402

TRIAL = "spectral_pd_trial"
DEFAULTS = {
    "sampler_name": "euler",
    "scales": "1/2, 1",
    "delta": 0.05,
    "spectrum": "auto",
    "spectrum_file": "",
    "transition_sigmas": "",
    "clock": "full",
    "coupling": "coupled",
    "basis": "dct",
}
SMALL = {"width": 384, "height": 256, "length": 9}
"""Sizes of a trial in place of a workflow's own."""
SWAPPED = {"UNETLoader": "TrialModel", "CLIPTextEncode": "TrialConditioning", "VAELoader": "TrialVAE"}
SHOWN = ("SpectralPlan", "SaveImage", "SaveAnimatedWEBP")
WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
Prompt = dict[str, dict[str, Any]]


class Server:
    """A ComfyUI of this machine, by its API."""

    def __init__(self, port: int) -> None:
        self.base = f"http://127.0.0.1:{port}"

    def get(self, path: str) -> bytes:
        with urllib.request.urlopen(self.base + path, timeout=60) as answer:
            return bytes(answer.read())

    def post(self, path: str, value: Any = None) -> dict[str, Any]:
        body = json.dumps(value or {}).encode()
        request = urllib.request.Request(self.base + path, body, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return dict(json.loads(answer.read() or b"{}"))
        except urllib.error.HTTPError as error:
            return dict(json.loads(error.read()))

    def queue(self, prompt: Prompt) -> str:
        answer = self.post("/prompt", {"prompt": prompt})
        if "prompt_id" not in answer:
            raise RuntimeError(json.dumps(answer))
        return str(answer["prompt_id"])

    def result(self, prompt: Prompt | str, limit: float = 600) -> dict[str, Any]:
        """What the history says of a workflow when it is done: outputs, and `error` with node and sentence."""
        name = prompt if isinstance(prompt, str) else self.queue(prompt)
        end = time.monotonic() + limit
        while time.monotonic() < end:
            history = json.loads(self.get(f"/history/{name}"))
            if name in history:
                done = dict(history[name])
                failed = [what for kind, what in done["status"]["messages"] if kind == "execution_error"]
                stopped = any(kind == "execution_interrupted" for kind, _ in done["status"]["messages"])
                error = (failed[0]["node_type"], failed[0]["exception_message"].strip()) if failed else None
                return {**done, "error": error, "interrupted": stopped}
            time.sleep(0.1)
        raise TimeoutError(f"{name} did not end in {limit:g} s")


@contextmanager
def running(path: Path, port: int) -> Iterator[Server]:
    """The nodes installed, and a server with them."""
    install(path)
    trial = path / "custom_nodes" / TRIAL
    trial.mkdir(exist_ok=True)
    shutil.copy(ROOT / "build_tools" / "comfyui_trial.py", trial / "__init__.py")
    command = [sys.executable, "main.py", "--cpu", "--listen", "127.0.0.1", "--port", str(port), "--disable-api-nodes"]
    with tempfile.NamedTemporaryFile("w+", suffix=".log") as log:
        process = subprocess.Popen(command, cwd=path, stdout=log, stderr=subprocess.STDOUT)
        server = Server(port)
        try:
            for _ in range(240):
                if process.poll() is not None:
                    raise RuntimeError(f"ComfyUI ended: {Path(log.name).read_text()[-2000:]}")
                try:
                    server.get("/system_stats")
                    break
                except OSError:
                    time.sleep(0.5)
            yield server
        finally:
            process.terminate()
            process.wait()
            shutil.rmtree(trial)
            uninstall(path)


def graph(
    kind: str, scales: str | None, *, consistent: bool = False, cfg: float = 1.0, steps: int = 8, **spectral: Any
) -> Prompt:
    """A text-to-image workflow of a trial network; scales None has the stock sampler."""
    chosen: dict[str, Any] = {**DEFAULTS, "scales": scales, **spectral}
    stock = {"class_type": "KSamplerSelect", "inputs": {"sampler_name": chosen["sampler_name"]}}
    ours = {"class_type": "SpectralProgressiveSampler", "inputs": chosen}
    run = {
        "model": ["model", 0],
        "add_noise": True,
        "noise_seed": 3,
        "cfg": cfg,
        "positive": ["yes", 0],
        "negative": ["no", 0],
        "sampler": ["sampler", 0],
        "sigmas": ["sigmas", 0],
        "latent_image": ["latent", 0],
    }
    sigmas = {"model": ["model", 0], "scheduler": "simple", "steps": steps, "denoise": 1.0}
    return {
        "model": {"class_type": "TrialModel", "inputs": {"kind": kind, "consistent": consistent}},
        "yes": {"class_type": "TrialConditioning", "inputs": {"kind": kind, "text": "yes"}},
        "no": {"class_type": "TrialConditioning", "inputs": {"kind": kind, "text": "no"}},
        "latent": {"class_type": "EmptyLatentImage", "inputs": {"width": 384, "height": 256, "batch_size": 1}},
        "sigmas": {"class_type": "BasicScheduler", "inputs": sigmas},
        "sampler": stock if scales is None else ours,
        "run": {"class_type": "SamplerCustom", "inputs": run},
    }


class Trial:
    """One server, and the rows of what it did."""

    def __init__(self, server: Server, path: Path, folder: Path) -> None:
        self.server, self.path, self.folder, self.rows = server, path, folder, list[dict[str, str]]()
        self.info = json.loads(server.get("/object_info"))

    def row(self, part: str, case: str, result: str, detail: str = "") -> None:
        detail = detail.replace(str(self.path), "ComfyUI")
        print(f"{part:10} {case:28} {result:12} {detail}", flush=True)
        self.rows.append({"part": part, "case": case, "result": result, "detail": detail})

    def latent(self, prompt: Prompt, source: str = "run") -> tuple[torch.Tensor, dict[str, Any]]:
        """The latent a workflow makes at node `source`, calls and all outputs; a RuntimeError with its sentence."""
        file = self.folder / "latent.pt"
        file.unlink(missing_ok=True)
        report = {"class_type": "TrialReport", "inputs": {"latent": [source, 0], "file": str(file)}}
        done = self.server.result({**prompt, "report": report})
        if done["error"]:
            raise RuntimeError(f"{done['error'][0]}: {done['error'][1]}")
        return torch.load(file), {**done["outputs"]["report"], "outputs": done["outputs"]}

    def classes(self) -> None:
        """Each class of models: one scale is the stock sampler's result, two scales run and give the full size."""
        for kind in self.info["TrialModel"]["input"]["required"]["kind"][1]["options"]:
            stock, _ = self.latent(graph(kind, None))
            one, _ = self.latent(graph(kind, "1"))
            two, said = self.latent(graph(kind, "1/2, 1"))
            good = torch.equal(stock, one) and two.shape == stock.shape and bool(torch.isfinite(two).all())
            self.row("class", kind, verdict(good and not torch.equal(one, two)), sizes(said["calls"]))

    def samplers(self) -> None:
        """Each sampler on networks whose sizes agree, with guidance: two scales give the full-size result of the seed."""
        for name in self.info["KSamplerSelect"]["input"]["required"]["sampler_name"][1]["options"]:
            found = []
            for kind in ("FLUX.1", "SD1"):
                options = {"consistent": True, "cfg": 3.0, "sampler_name": name}
                try:
                    full, _ = self.latent(graph(kind, None, **options))
                    one, _ = self.latent(graph(kind, "1", **options))
                    two, said = self.latent(graph(kind, "1/2, 1", **options))
                except RuntimeError as error:
                    found.append((False, str(error)))
                    continue
                miss = float((full - two).abs().max() / full.abs().max())
                coarse = any(call[0] == 16 for call in said["calls"])
                found.append((torch.equal(full, one) and coarse and miss < 1e-3, f"{miss:.0e}"))
            self.row("sampler", name, verdict(all(good for good, _ in found)), ", ".join(text for _, text in found))

    def workflows(self) -> None:
        """The four workflow files, with networks, text and autoencoder exchanged for those of the trial, and small."""
        for file in sorted((ROOT / "docs" / "workflows").glob("*.json")):
            kind = "WAN 2.1" if file.stem in ("video", "two_passes") else "FLUX.1"
            prompt = self.small(json.loads(file.read_text()), kind)
            (ours,) = (n for n, node in prompt.items() if node["class_type"] == "SpectralProgressiveSampler")
            (decode,) = (n for n, node in prompt.items() if node["class_type"] == "VAEDecode")
            source = prompt[decode]["inputs"]["samples"][0]
            latents = []
            for scales in (None, "1", "1/2, 1"):
                sampler = graph(kind, scales, delta=0.01)["sampler"]
                changed = {**prompt, ours: sampler}
                if scales != "1/2, 1":  # a stock sampler has no plan, and one saved result is enough
                    changed = {n: node for n, node in changed.items() if node["class_type"] not in SHOWN}
                latent, said = self.latent(changed, source)
                latents.append(latent)
            saved = [i for out in said["outputs"].values() for i in out.get("images", []) if i["type"] == "output"]
            lengths = [len(self.server.get("/view?" + urllib.parse.urlencode(image))) for image in saved]
            good = torch.equal(*latents[:2]) and latents[2].shape == latents[0].shape and min(lengths, default=0) > 0
            self.row("workflow", file.stem, verdict(good), sizes(said["calls"]))

    def small(self, workflow: dict[str, Any], kind: str) -> Prompt:
        """A workflow file as the API takes it, its loaders exchanged."""
        prompt: Prompt = {}
        links = {link[0]: [str(link[1]), link[2]] for link in workflow["links"]}
        for node in workflow["nodes"]:
            name, inputs = node["type"], dict[str, Any]()
            values = iter(node.get("widgets_values", ()))
            spec = self.info[name]["input"]
            for key, given in {**spec["required"], **spec.get("optional", {})}.items():
                options = given[1] if len(given) > 1 else {}
                if isinstance(given[0], list) or given[0] in WIDGETS:
                    inputs[key] = next(values)
                    if (
                        options.get("control_after_generate")
                        or options.get("image_upload")
                        or key in ("seed", "noise_seed")
                    ):
                        next(values, None)
            inputs |= {
                slot["name"]: links[slot["link"]] for slot in node.get("inputs", ()) if slot.get("link") is not None
            }
            if name in SWAPPED:
                inputs = {"kind": kind, **({"text": inputs["text"]} if "text" in inputs else {})}
                inputs |= {"consistent": False} if name == "UNETLoader" else {}
            inputs |= {key: value for key, value in SMALL.items() if key in inputs and name.startswith("Empty")}
            if name not in ("CLIPLoader", "DualCLIPLoader"):
                prompt[str(node["id"])] = {"class_type": SWAPPED.get(name, name), "inputs": inputs}
        loads = [n for n, node in prompt.items() if node["class_type"] == "LoadImage"]
        for n in loads:  # the picture in the size of the trial
            scale = {"image": [n, 0], "upscale_method": "area", "width": 384, "height": 256, "crop": "center"}
            for node in prompt.values():
                node["inputs"] = {k: ["scaled", 0] if v == [n, 0] else v for k, v in node["inputs"].items()}
            prompt["scaled"] = {"class_type": "ImageScale", "inputs": scale}
        return prompt

    def picture(self, prompt: Prompt, kind: str) -> Prompt:
        """A workflow that begins from ComfyUI's example picture."""
        scale = {"image": ["image", 0], "upscale_method": "area", "width": 384, "height": 256, "crop": "center"}
        return {
            **prompt,
            "image": {"class_type": "LoadImage", "inputs": {"image": "example.png"}},
            "scaled": {"class_type": "ImageScale", "inputs": scale},
            "vae": {"class_type": "TrialVAE", "inputs": {"kind": kind}},
            "encoded": {"class_type": "VAEEncode", "inputs": {"pixels": ["scaled", 0], "vae": ["vae", 0]}},
        }

    def masks(self) -> None:
        """Inpainting: a mask works at full size, so that two scales give the stock result where sizes agree."""
        latents = []
        for scales in (None, "1/2, 1"):
            prompt = self.picture(graph("FLUX.1", scales, consistent=True), "FLUX.1")
            prompt["mask"] = {"class_type": "LoadImageMask", "inputs": {"image": "example.png", "channel": "red"}}
            masked = {"samples": ["encoded", 0], "mask": ["mask", 0]}
            prompt["latent"] = {"class_type": "SetLatentNoiseMask", "inputs": masked}
            latent, said = self.latent(prompt)
            latents.append(latent)
        miss = float((latents[0] - latents[1]).abs().max() / latents[0].abs().max())
        self.row("behaviour", "mask (inpainting)", verdict(miss < 1e-3), f"off by {miss:.0e}, {sizes(said['calls'])}")

    def controlnets(self) -> None:
        """A ControlNet acts in the same steps as in the stock run, its picture scaled to each stage."""
        results = {}
        for case, scales, end in (
            ("stock", None, 0.5),
            ("one", "1", 0.5),
            ("two", "1/2, 1", 0.5),
            ("none", "1/2, 1", 0.0),
        ):
            prompt = self.picture(graph("SD1", scales, cfg=3.0), "FLUX.1")
            given = {"positive": ["yes", 0], "negative": ["no", 0], "control_net": ["net", 0], "image": ["image", 0]}
            prompt["net"] = {"class_type": "TrialControlNet", "inputs": {}}
            prompt["apply"] = {
                "class_type": "ControlNetApplyAdvanced",
                "inputs": {**given, "strength": 0.5, "start_percent": 0.0, "end_percent": end},
            }
            prompt["run"]["inputs"] |= {"positive": ["apply", 0], "negative": ["apply", 1]}
            results[case] = self.latent({k: v for k, v in prompt.items() if k not in ("vae", "encoded", "scaled")})
        counts = {case: said["control"][0] for case, (_, said) in results.items()}
        good = torch.equal(results["stock"][0], results["one"][0]) and bool(torch.isfinite(results["two"][0]).all())
        good &= not torch.equal(results["two"][0], results["none"][0]) and counts["none"] == 0
        good &= 0 < counts["two"] == counts["stock"]
        detail = f"{counts['two']} calls of it, stock {counts['stock']}; {sizes(results['two'][1]['calls'])}"
        self.row("behaviour", "ControlNet, first half", verdict(good), detail)

    def conditioning(self) -> None:
        """A part of the picture with its own text, by area."""
        latents = []
        for scales in (None, "1", "1/2, 1"):
            prompt = graph("SD1", scales, cfg=3.0)
            area = {"conditioning": ["no", 0], "width": 0.5, "height": 0.5, "x": 0.25, "y": 0.5, "strength": 1.0}
            prompt["area"] = {"class_type": "ConditioningSetAreaPercentage", "inputs": area}
            both = {"conditioning_1": ["yes", 0], "conditioning_2": ["area", 0]}
            prompt["both"] = {"class_type": "ConditioningCombine", "inputs": both}
            prompt["run"]["inputs"]["positive"] = ["both", 0]
            latent, said = self.latent(prompt)
            latents.append(latent)
        good = torch.equal(*latents[:2]) and bool(torch.isfinite(latents[2]).all())
        self.row("behaviour", "conditioning of an area", verdict(good), sizes(said["calls"]))

    def halves(self) -> None:
        """Split sigmas: two passes of the node make the result of one, cut where it is still on the small latent."""
        whole, _ = self.latent(graph("FLUX.1", "1/2, 1"))
        prompt = graph("FLUX.1", "1/2, 1")
        prompt["split"] = {"class_type": "SplitSigmas", "inputs": {"sigmas": ["sigmas", 0], "step": 3}}
        prompt["first"] = {"class_type": "SamplerCustom", "inputs": {**prompt["run"]["inputs"], "sigmas": ["split", 0]}}
        prompt["run"]["inputs"] |= {"add_noise": False, "sigmas": ["split", 1], "latent_image": ["first", 0]}
        cut, said = self.latent(prompt)
        miss = float((whole - cut).abs().max() / whole.abs().max())
        self.row("behaviour", "split sigmas", verdict(miss < 1e-3), f"off by {miss:.0e}, {sizes(said['calls'])}")

    def papers(self) -> None:
        """The paper's clock and noise: another picture, of the full size; with a picture to start from a refusal."""
        full, _ = self.latent(graph("FLUX.1", "1/2, 1"))
        for options in ({"clock": "stage"}, {"coupling": "fresh"}):
            other, said = self.latent(graph("FLUX.1", "1/2, 1", **options))
            good = other.shape == full.shape and bool(torch.isfinite(other).all()) and not torch.equal(full, other)
            self.row("behaviour", "=".join(next(iter(options.items()))), verdict(good), sizes(said["calls"]))

    def spectra(self) -> None:
        """Measure Spectrum saves a file, the sampler reads it, the plan node shows the plan."""
        prompt = self.picture(graph("FLUX.1", "1/2, 1", spectrum="file", delta=0.001), "FLUX.1")
        batch = {"image": ["scaled", 0], "amount": 2}
        prompt["batch"] = {"class_type": "RepeatImageBatch", "inputs": batch}
        prompt["measure"] = {
            "class_type": "MeasureSpectrum",
            "inputs": {"model": ["model", 0], "name": "trial", "images": ["batch", 0], "vae": ["vae", 0]},
        }
        prompt["sampler"]["inputs"]["spectrum_file"] = ["measure", 0]
        shown = {
            "model": ["model", 0],
            "sampler": ["sampler", 0],
            "sigmas": ["sigmas", 0],
            "latent_image": ["latent", 0],
        }
        prompt["plan"] = {"class_type": "SpectralPlan", "inputs": shown}
        done = self.server.result({k: v for k, v in prompt.items() if k != "encoded"})
        text = "" if done["error"] else done["outputs"]["plan"]["text"][0]
        good = "predicted speedup" in text and bool(done["outputs"]["plan"]["images"])
        self.row(
            "behaviour", "measured spectrum, plan", verdict(good), text.splitlines()[0] if good else str(done["error"])
        )

    def wrong(self) -> None:
        """A wrong input: the node it belongs to turns red, with a sentence."""
        cases: dict[str, dict[str, Any]] = {
            "scales '1/2, x'": {"scales": "1/2, x"},
            "scales '1/2, 2'": {"scales": "1/2, 2"},
            "no such file": {"scales": "1/2, 1", "spectrum": "file", "spectrum_file": "none.json"},
            "too few steps": {"scales": "1/2, 1", "delta": 0.5, "steps": 2},
        }
        for case, options in cases.items():
            node, text = self.server.result(graph("FLUX.1", **options) | REPORT)["error"] or ("nothing", "")
            self.row("refusal", case, verdict(bool(text)), f"{node}: {text}")

    def cancelled(self) -> None:
        """Cancelling mid-run, and the same workflow after it."""
        before, _ = self.latent(graph("SD1", "1/2, 1", cfg=3.0))
        name = self.server.queue(graph("SD1", "1/2, 1", cfg=3.0, steps=400) | REPORT)
        time.sleep(2)
        self.server.post("/interrupt")
        stopped = self.server.result(name, limit=60)["interrupted"]
        self.latent(graph("SD1", "1/2, 1", cfg=3.0, steps=3))  # empties the record of calls
        after, said = self.latent(graph("SD1", "1/2, 1", cfg=3.0))
        good = stopped and torch.equal(before, after) and bool(said["calls"])
        self.row("behaviour", "cancelled mid-run", verdict(good), "the next run is the one before it")


REPORT = {"report": {"class_type": "PreviewAny", "inputs": {"source": ["run", 0]}}}


def verdict(good: bool) -> str:
    return "yes" if good else "NO"


def sizes(calls: list[list[float]]) -> str:
    """Network calls by latent size, in their order."""
    return ", ".join(f"{n} at {h}x{w}" for (h, w), n in Counter((int(c[0]), int(c[1])) for c in calls).items())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("path", type=Path, metavar="PATH", help="a checkout of ComfyUI")
    parser.add_argument("--port", type=int, default=8199)
    parser.add_argument("--only", nargs="+", metavar="PART", help="methods of Trial; the other rows are kept")
    args = parser.parse_args()
    parts = [
        "classes",
        "workflows",
        "masks",
        "controlnets",
        "conditioning",
        "halves",
        "papers",
        "spectra",
        "wrong",
        "cancelled",
    ]
    path = args.path.resolve()
    with running(path, args.port) as server, tempfile.TemporaryDirectory() as folder:
        trial = Trial(server, path, Path(folder))
        for part in args.only or [*parts, "samplers"]:
            getattr(trial, part)()
        version = json.loads(server.get("/system_stats"))["system"]["comfyui_version"]
    file = ROOT / "benchmarks" / "results" / "comfyui.csv"
    rows = [{**row, "comfyui": version, **environment()} for row in trial.rows]
    if args.only:
        new = {(row["part"], row["case"]): row for row in rows}
        with file.open(newline="") as stored:
            rows = [new.pop((row["part"], row["case"]), row) for row in csv.DictReader(stored)]
        rows += new.values()
    with file.open("w", newline="") as stored:
        writer = csv.DictWriter(stored, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return int(any(row["result"] != "yes" for row in trial.rows))


if __name__ == "__main__":
    sys.exit(main())
