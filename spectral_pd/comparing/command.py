"""``spectral-pd compare``: the flags, and the model they name."""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from spectral_pd.comparing.layouts import PLACES, lay_out
from spectral_pd.comparing.metrics import METRICS
from spectral_pd.comparing.run import compare
from spectral_pd.comparing.samplers import PipelineSampler, Sampler
from spectral_pd.comparing.settings import PAPER, SHIPPED, Table, load_table, make_setting, named_once
from spectral_pd.comparing.storage import Folder
from spectral_pd.inputs import comparisons, storage

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def add(commands: Any, formatter: Any) -> None:
    """The command's parser; :func:`run` takes what it parses to."""
    parser = commands.add_parser(
        "compare",
        help="compare ways of sampling a model: pictures, metrics, latency, FLOPs, a report",
        description="Make pictures or videos of every (setting, prompt, seed), measure them, time the denoising, count "
        "its FLOPs, and write a table in the paper's layout with a figure, a contact sheet and a page. A stopped run goes "
        "on; torchrun and accelerate share the work among processes.",
        epilog="example: spectral-pd compare Tongyi-MAI/Z-Image --table 6 --only training-free --only full-size "
        "--prompts prompts.txt --metrics psnr clip-score --out zimage",
        formatter_class=formatter,
    )
    parser.set_defaults(run=run)
    what = "folder or name of a diffusers pipeline, or FILE.py:FUNCTION that makes a pipeline or a Sampler; left out where "
    parser.add_argument(
        "model", nargs="?", metavar="MODEL", help=what + "every picture is in OUT and only metrics are missing"
    )
    parser.add_argument("--prompts", metavar="FILE", help='one a line, .jsonl or .csv with "prompt"')
    parser.add_argument(
        "--prompt", action="append", default=[], metavar="TEXT", help="a prompt by itself, again and again"
    )
    rows = parser.add_argument_group("settings")
    table = f"plan file (JSON, TOML), or the paper's: {' '.join(PAPER)}, by name {' '.join(SHIPPED)}"
    rows.add_argument("--table", metavar="FILE", help=table)
    plan = "a setting in words, again and again: 'scales=1/2,1 delta=0.01 steps=50'"
    rows.add_argument("--plan", action="append", default=[], metavar="WORDS", help=plan)
    rows.add_argument(
        "--every", default="", metavar="WORDS", help="words for all settings, e.g. 'clock=full coupling=coupled'"
    )
    rows.add_argument(
        "--only", action="append", default=[], metavar="TEXT", help="settings with this in their name or family"
    )
    going = parser.add_argument_group("run")
    going.add_argument(
        "--call", default="", metavar="WORDS", help="arguments of the pipeline: 'height=1024 guidance_scale=3.5'"
    )
    going.add_argument("--seeds", type=int, default=1, metavar="N", help="pictures of each prompt")
    names = f"of {' '.join(METRICS)}"
    going.add_argument("--metrics", nargs="+", default=[], metavar="NAME", help=names)
    going.add_argument(
        "--rounds", type=int, default=3, metavar="N", help="timed denoisings of each setting; 0 takes no time"
    )
    going.add_argument("--dtype", choices=PRECISIONS, default="bfloat16", help="of a loaded pipeline")
    going.add_argument("--device", metavar="NAME", help="cuda or cpu; what there is, unless given")
    going.add_argument("--compile", action="store_true", help="compile the networks first")
    evaluators = "lay the pictures out as the official scripts of an evaluator read them, and say what to run"
    going.add_argument("--layout", choices=PLACES, help=evaluators)
    going.add_argument(
        "--out", required=True, metavar="FOLDER", help="pictures, values and report; a second run goes on in it"
    )


def run(args: argparse.Namespace) -> None:
    """``spectral-pd compare``: print the table when everything is there."""
    table = _table(args)
    # A network alone takes no prompt; a run that goes on has its own.
    known: Any = args.prompt or Folder(Path(args.out)).prompts() or [{"prompt": ""}]
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda" and "LOCAL_RANK" in os.environ:
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    storage.device(device, "--device")
    sampler = None if args.model is None else find_sampler(args.model, device=device, dtype=PRECISIONS[args.dtype])
    about = {"model": args.model, "call": table.arguments, "compiled": args.compile}
    if isinstance(sampler, PipelineSampler):
        sampler.arguments |= table.arguments
        about["type"] = str(sampler.networks[0].dtype)
    found = compare(
        sampler,
        args.prompts or known,
        table,
        out=args.out,
        metrics=args.metrics,
        seeds=args.seeds,
        rounds=args.rounds,
        about={key: value for key, value in about.items() if value},
        device=device,
        progress=sys.stderr.isatty(),
    )
    if found is not None:
        print(found)
        print(f"report written to {Path(args.out) / 'report.html'}")
        if args.layout is not None:
            print(*lay_out(args.out, args.layout), sep="\n")


def _table(args: argparse.Namespace) -> Table:
    every = comparisons.words(args.every, "--every")
    table = Table("", ()) if args.table is None else load_table(args.table, every=every)
    call = {**table.arguments, **comparisons.words(args.call, "--call")}
    if every or any(call[key] != value for key, value in table.arguments.items()):
        # What a paper prints belongs to its own setting, and this is another one.
        table = replace(table, settings=tuple(replace(s, printed={}) for s in table.settings))
    given = [make_setting({"name": text, **comparisons.words(text, "--plan"), **every}) for text in args.plan]
    settings = named_once([*table.settings, *given])
    if args.only:
        chosen = [s for s in settings if any(text in s.name or text in s.family for text in args.only)]
        settings = tuple(comparisons.matched(chosen, args.only, [s.name for s in settings]))
    return Table(table.title, settings, call)


def find_sampler(model: str, *, device: str, dtype: torch.dtype) -> Sampler:
    """What makes the pictures of a model that the command line names."""
    place = comparisons.callable_in(model)
    if place is None:
        from diffusers import DiffusionPipeline

        made = DiffusionPipeline.from_pretrained(model, torch_dtype=dtype).to(device)
    else:
        spec = importlib.util.spec_from_file_location(place[0].stem, place[0])
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.path.insert(0, str(place[0].parent))
        sys.modules[place[0].stem] = module
        spec.loader.exec_module(module)
        made = comparisons.attribute(module, place[1], model)()
    if hasattr(made, "picture"):
        return made
    made.set_progress_bar_config(disable=True)
    return PipelineSampler(made)
