"""What a comparison keeps in its folder: pictures, values, costs, latencies. Everything is written once, so that a killed
run goes on.

    comparison.json                 model, settings, call, versions
    prompts.jsonl                   one entry a line
    pictures/SETTING/0003-0001.png  prompt 3, sample 1; videos as .mp4, coded without loss
    features/METRIC/SETTING/...npy  what distances between sets are made of
    values-RANK.csv, latency.csv, costs.csv   appended, a line at a time
"""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spectral_pd.comparing.metrics import Rows
from spectral_pd.inputs import comparisons

VALUES = ("setting", "prompt", "sample", "metric", "value")
LATENCY = ("setting", "round", "seconds")
COSTS = ("setting", "split", "shapes", "linear_flop", "attention_flop", "once_flop", "warnings")
FRAMES_A_SECOND = 16


def slug(name: str) -> str:
    """A name as a folder's."""
    return re.sub(r"[^a-zA-Z0-9.]+", "-", name).strip("-")


@dataclass(frozen=True)
class Folder:
    """A comparison's folder."""

    path: Path

    def picture(self, setting: str, prompt: int, sample: int) -> Path:
        """Where a picture is, or is to be; without its suffix while it is not there."""
        stem = self.path / "pictures" / slug(setting) / f"{prompt:04d}-{sample:04d}"
        return next((p for suffix in (".png", ".mp4") if (p := stem.with_suffix(suffix)).exists()), stem)

    def features(self, metric: str, setting: str, prompt: int, sample: int) -> Path:
        """Where the features of a picture are, or are to be."""
        return self.path / "features" / metric / slug(setting) / f"{prompt:04d}-{sample:04d}.npy"

    def record(self) -> dict[str, Any]:
        """What ``comparison.json`` says."""
        path = self.path / "comparison.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def write_record(self, record: Mapping[str, Any]) -> None:
        self._write("comparison.json", json.dumps(record, indent=2) + "\n")

    def prompts(self) -> list[dict[str, Any]]:
        """The prompts' entries."""
        path = self.path / "prompts.jsonl"
        return comparisons.prompt_entries(path) if path.exists() else []

    def write_prompts(self, prompts: Sequence[Mapping[str, Any]]) -> None:
        self._write("prompts.jsonl", "".join(json.dumps(entry) + "\n" for entry in prompts))

    def _write(self, name: str, text: str) -> None:
        with whole(self.path / name) as part:
            part.write_text(text, encoding="utf-8")

    def rows(self, pattern: str) -> list[dict[str, str]]:
        """Lines of the tables whose name fits, but for one that was cut off."""
        found = []
        for path in sorted(self.path.glob(pattern)):
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
            found += list(csv.DictReader(line for line in lines if line.endswith("\n")))
        return found

    def values(self) -> dict[tuple[str, int, int, str], float]:
        """(setting, prompt, sample, metric) -> value."""
        return {
            (row["setting"], int(row["prompt"]), int(row["sample"]), row["metric"]): float(row["value"])
            for row in self.rows("values-*.csv")
        }


class Appended:
    """A table that grows by a line at a time; what a kill cut off is taken away first."""

    def __init__(self, path: Path, header: Sequence[str]) -> None:
        text = path.read_bytes() if path.exists() else b""
        with path.open("wb" if not text else "r+b") as file:
            file.truncate(text.rfind(b"\n") + 1)
        self._file = path.open("a", newline="", encoding="utf-8")
        self._writer = csv.writer(self._file, lineterminator="\n")
        if path.stat().st_size == 0:
            self.add(*header)

    def add(self, *values: Any) -> None:
        """One line, on the disk when this returns."""
        self._writer.writerow(values)
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class whole:
    """A file that is there as a whole or not at all: written beside its place, each process under a name of its own, then moved
    there. What a kill leaves is written over by the run that goes on."""

    def __init__(self, path: Path) -> None:
        self.path, self.part = path, path.with_name(f".{os.environ.get('RANK', '0')}-{path.name}")

    def __enter__(self) -> Path:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        return self.part

    def __exit__(self, kind: Any, *rest: Any) -> None:
        if kind is None:
            self.part.replace(self.path)
        else:
            self.part.unlink(missing_ok=True)


def save_picture(path: Path, picture: Tensor) -> None:
    """A picture (channels, height, width) as PNG, a video (frames, ...) as MP4, in eight bits; `path` is without
    suffix."""
    pixels = picture.mul(255).round().byte().movedim(-3, -1).numpy()
    with whole(path.with_suffix(".png" if picture.ndim == 3 else ".mp4")) as part:
        if picture.ndim == 3:
            from PIL import Image

            Image.fromarray(pixels).save(part, format="png")
            return
        import av

        with av.open(str(part), "w", format="mp4") as file:
            # RGB as it is: the metrics see what the network made, not what a codec left of it.
            stream = file.add_stream("libx264rgb", rate=FRAMES_A_SECOND, options={"crf": "0", "preset": "veryfast"})
            stream.height, stream.width, stream.pix_fmt = *pixels.shape[1:3], "rgb24"
            for frame in pixels:
                file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            file.mux(stream.encode())


def read_picture(path: Path) -> Tensor:
    """Frames (frames, channels, height, width) in [0, 1]; a picture is one frame."""
    if path.suffix == ".png":
        from PIL import Image

        frames = np.asarray(Image.open(path).convert("RGB"))[None]
    else:
        import av

        with av.open(str(path)) as file:
            frames = np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)])
    return torch.from_numpy(frames.copy()).movedim(-1, -3).float() / 255


def save_features(path: Path, row: Rows) -> None:
    """One picture's row."""
    with whole(path) as part, part.open("wb") as file:
        np.save(file, row)


def read_features(paths: Sequence[Path]) -> Rows:
    """Rows of many pictures."""
    return np.stack([np.load(path, allow_pickle=False) for path in paths])


def grid(prompts: int, seeds: int) -> Iterator[tuple[int, int]]:
    """(prompt, sample) of every picture of a setting: the first of all prompts, then the second."""
    return ((prompt, sample) for sample in range(seeds) for prompt in range(prompts))
