"""Folders as the official scripts of GenEval, T2I-CompBench and VBench read them, with the commands that run those.

Their models need environments of their own; what they ask for is here: the pictures of each setting under their names,
and the prompts' own entries beside them. Make the pictures from the evaluator's prompt file (``--prompts
evaluation_metadata.jsonl``).

    geneval        SETTING/00012/metadata.jsonl, SETTING/00012/samples/0003.png
    t2i-compbench  SETTING/samples/PROMPT_000003.png
    vbench         SETTING/PROMPT-3.mp4
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from spectral_pd.comparing.report import Comparison
from spectral_pd.comparing.storage import Folder, slug
from spectral_pd.inputs import comparisons

Entry = Mapping[str, Any]
PLACES: Mapping[str, Callable[[Entry, int, int], str]] = {
    "geneval": lambda entry, prompt, sample: f"{prompt:05d}/samples/{sample:04d}.png",
    "t2i-compbench": lambda entry, prompt, sample: f"samples/{_named(entry)}_{sample:06d}.png",
    "vbench": lambda entry, prompt, sample: f"{_named(entry)}-{sample}.mp4",
}
COMMANDS: Mapping[str, str] = {
    "geneval": "python evaluation/evaluate_images.py {folder} --outfile {folder}.jsonl --model-path DETECTOR && "
    "python evaluation/summary_scores.py {folder}.jsonl",
    "t2i-compbench": "python BLIPvqa_eval/BLIP_vqa.py --out_dir={folder}",
    "vbench": "vbench evaluate --videos_path {folder} --dimension DIMENSION",
}
"""To be run in a checkout of the evaluator; VBench of prompts that are not its own wants ``--mode=custom_input``
besides."""


def lay_out(folder: str | Path, evaluator: str) -> list[str]:
    """Lay a comparison's pictures out for an evaluator, as links, and say what to run.

    Parameters
    ----------
    folder
        Of the comparison.
    evaluator
        ``"geneval"``, ``"t2i-compbench"`` or ``"vbench"``.

    Returns
    -------
    One command a setting. The pictures lie in FOLDER/EVALUATOR/SETTING.
    """
    found, name = Comparison(Folder(Path(folder))), comparisons.evaluator(evaluator, PLACES)
    commands, entries = [], found.folder.prompts()
    for setting in found.settings:
        place = found.folder.path / name / slug(setting)
        for prompt, sample in found.pairs:
            target, source = (
                place / PLACES[name](entries[prompt], prompt, sample),
                found.folder.picture(setting, prompt, sample),
            )
            comparisons.same_kind(source, target)
            _link(source, target)
            if name == "geneval":
                (place / f"{prompt:05d}" / "metadata.jsonl").write_text(json.dumps(entries[prompt]), encoding="utf-8")
        commands.append(COMMANDS[name].format(folder=place.absolute()))
    return commands


def _named(entry: Entry) -> str:
    """A prompt as part of a file's name, which the evaluators read it from."""
    return str(entry["prompt"]).replace("/", " ")


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)
