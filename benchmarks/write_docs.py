"""Rewrite the generated blocks of README and docs from committed rows: ``python benchmarks/write_docs.py [--check]``.

A block lies between ``<!-- generated: NAME -->`` and ``<!-- end -->``; NAME is a function below. ``NAME rows=3`` keeps three
rows of its table, spread from the first to the last. With --check nothing is written and the exit status is 1 when a block is
out of date.
"""

from __future__ import annotations

import argparse
import csv
import math
import re
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

from equation_table import equations

from spectral_pd import PRESETS, make_plan, shift_times
from spectral_pd.agreement import KINDS
from spectral_pd.pretrained import PRETRAINED, step_cost

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"(<!-- generated: (\w+)(?: rows=(\d+))? -->\n).*?(<!-- end -->)", re.DOTALL)


def rows(name: str) -> list[dict[str, str]]:
    """Committed result rows of one benchmark."""
    with (ROOT / "benchmarks" / "results" / f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def markdown(header: list[str], body: list[list[str]]) -> str:
    """A Markdown table."""
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, ["---"] * len(header), *body]) + "\n"


def same_seed() -> str:
    """Median PSNR by transition time and variant."""
    data = rows("same_seed")
    variants = list(dict.fromkeys((row["clock"], row["coupling"]) for row in data))
    times = list(dict.fromkeys(row["transition"] for row in data))
    value = {(row["transition"], row["clock"], row["coupling"]): row["psnr_median"] for row in data}
    header = ["T", *(f"{clock} clock, {coupling} noise" for clock, coupling in variants)]
    table = markdown(header, [[f"{float(t):.2f}", *(value[(t, *variant)] for variant in variants)] for t in times])
    first = data[0]
    return f"{table}\n{first['samples']} samples; torch {first['torch']}, commit {first['commit']}.\n"


def same_seed_share() -> str:
    """Share of samples above 30 dB by transition time and variant."""
    data = rows("same_seed")
    variants = list(dict.fromkeys((row["clock"], row["coupling"]) for row in data))
    value = {(row["transition"], row["clock"], row["coupling"]): float(row["same_picture"]) for row in data}
    header = ["T", *(f"{clock} clock, {coupling} noise" for clock, coupling in variants)]
    times = list(dict.fromkeys(row["transition"] for row in data))
    return markdown(header, [[f"{float(t):.2f}", *(f"{value[(t, *v)]:.0%}" for v in variants)] for t in times])


def same_seed_steps() -> str:
    """Median PSNR by number of steps and variant, and what independent noise in the new band must come to."""
    data = [{**row, "steps": str(sum(map(int, row["split"].split("+"))))} for row in rows("same_seed_steps")]
    variants = list(dict.fromkeys((row["clock"], row["coupling"]) for row in data))
    counts = list(dict.fromkeys(row["steps"] for row in data))
    value = {(row["steps"], row["clock"], row["coupling"]): row["psnr_median"] for row in data}
    header = ["steps", *(f"{clock} clock, {coupling} noise" for clock, coupling in variants)]
    table = markdown(header, [[n, *(value[(n, *variant)] for variant in variants)] for n in counts])
    first = data[0]
    limit = 10 * math.log10(4 / (2 * 0.75 * float(first["bandwidth"]) ** 2))
    return (
        f"{table}\nTransition at {float(first['transition']):.2f}, bandwidth h = {first['bandwidth']}, {first['samples']} "
        f"samples; limit for another high band: {limit:.1f} dB; torch {first['torch']}, commit {first['commit']}.\n"
    )


def cost() -> str:
    """TFLOP of one step of the real transformers."""
    header = ["model", "latent", "text tokens", "guidance passes", "products with weights", "attention", "both"]
    names = ["model", "latent", "text_tokens", "passes", "linear_tflop", "attention_tflop", "total_tflop"]
    return markdown(header, [[row[name] for name in names] for row in rows("cost")])


def usual_plans() -> str:
    """Predicted speedup of each model as it is usually run."""
    header = ["model", "latent", "steps", "delta", "stages", "steps of each stage", "spectrum", "predicted speedup"]
    body = [[*list(row.values())[:-1], f"{row['predicted_speedup']}x"] for row in rows("usual_plans")]
    return markdown(header, body)


def few_steps() -> str:
    """The small transformer distilled to few steps: fewer of them, and coarse ones among them."""
    data = rows("few_steps")
    header = ["network", "solver", "steps of each stage", "GFLOP"]
    header += ["distance to 32 steps of the teacher, same noise", "spectrum", "Wasserstein"]
    body = [
        [
            {"others": "teacher, other noise"}.get(row["network"], row["network"]),
            *(row[name] for name in ("solver", "split", "gflops")),
            *(f"{row[w]} [{row[f'{w}_low']}, {row[f'{w}_high']}]" for w in ("rmse", "spectrum", "wasserstein")),
        ]
        for row in data
    ]
    first = data[0]
    note = f"{first['samples']} samples, 95 % intervals; torch {first['torch']}, commit {first['commit']}."
    return f"{markdown(header, body)}\n{note}\n"


def adapters() -> str:
    """What was tried of every pipeline."""
    data = rows("adapters")
    header = [
        "pipeline",
        "called as",
        "one scale is the stock result",
        "several scales",
        "batch is its items",
        "LoRA",
        "spectrum",
    ]
    names = ["pipeline", "call", "one_scale", "several_scales", "batch", "lora", "spectrum"]
    body = [[f"`{row['pipeline']}`", *(row[name] or "-" for name in names[1:])] for row in data]
    first, commits = data[0], ", ".join(dict.fromkeys(row["commit"] for row in data))
    return f"{markdown(header, body)}\ndiffusers {first['diffusers']}, torch {first['torch']}, commit {commits}.\n"


def comfyui() -> str:
    """What a real ComfyUI did: model classes, workflows, behaviours, refusals, samplers."""
    data = rows("comfyui")
    heads = {
        "class": ["model class", "one scale is the stock result, two run", "calls at 1/2, 1"],
        "workflow": ["workflow", "runs; one scale is the stock result", "calls at 1/2, 1"],
        "behaviour": ["what", "as documented", "seen"],
        "refusal": ["wrong input", "refused", "node and sentence"],
        "sampler": ["sampler", "one scale is the stock result, two the same picture", "off by: flow, EDM"],
    }
    tables = []
    for part, head in heads.items():
        body = [[row["case"], row["result"], row["detail"]] for row in data if row["part"] == part]
        tables.append(markdown(head, body))
    first, commits = data[0], ", ".join(dict.fromkeys(row["commit"] for row in data))
    made = f"ComfyUI {first['comfyui']}, {first['device']}, torch {first['torch']}, commit {commits}."
    return "\n".join([*tables, made]) + "\n"


def flux_reduced() -> str:
    """Measured against predicted speedup of FLUX.1-dev with few blocks, medians over rounds."""
    data = rows("flux_reduced")
    header = ["latent", "rounds", "steps of each stage", "predicted", "measured, process time", "measured, wall time"]
    body = []
    for latent in dict.fromkeys(row["latent"] for row in data):
        chosen = [row for row in data if row["latent"] == latent]
        by_run = {(row["round"], row["run"]): row for row in chosen}
        rounds = sorted({number for number, _ in by_run})
        plan = by_run[rounds[0], "progressive"]
        predicted = float(plan["predicted_speedup"])
        cells = []
        for column in ("process_seconds", "wall_seconds"):
            ratio = statistics.median(
                float(by_run[n, "full size"][column]) / float(by_run[n, "progressive"][column]) for n in rounds
            )
            cells.append(f"{ratio:.3f}x ({ratio / predicted - 1:+.1%})")
        body.append([latent, str(len(rounds)), plan["split"], f"{predicted:.3f}x", *cells])
    first = data[0]
    return f"{markdown(header, body)}\n{first['device']}, one thread, float32; torch {first['torch']}.\n"


def evaluate_hours() -> str:
    """Seconds a picture and hours for a thousand of every setting, from the counted FLOPs at the measured rate."""
    measured = next(row for row in rows("full_size") if row["model"] == "FLUX.1-dev" and row["mode"] == "eager")
    step = next(row for row in rows("cost") if row["model"] == "FLUX.1-dev" and row["latent"] == measured["latent"])
    rate = float(step["total_tflop"]) / float(measured["full_step_seconds"])
    body = []
    for model in dict.fromkeys(row["model"] for row in rows("paper_tables")):
        spent = [
            float(r["full TFLOP"]) for r in rows("paper_tables") if r["model"] == model and r["printed TFLOP"] != "-"
        ]
        seconds = [tflop / rate for tflop in spent]
        body.append([model, str(len(spent)), f"{max(seconds):.1f}", f"{sum(seconds):.1f}", f"{sum(seconds) / 3.6:.1f}"])
    header = [
        "table of",
        "settings",
        "the full run, s",
        "one picture of every setting, s",
        "1000 of every setting, hours",
    ]
    note = f"{rate:.0f} TFLOP a second: {measured['device']}, {measured['dtype']}, torch {measured['torch']}"
    return f"{markdown(header, body)}\n{note}, commit {measured['commit']}.\n"


def savings() -> str:
    """Predicted speedup of one row a model and number of stages."""
    shown = {
        ("FLUX.1-dev", "0.01", "50"),
        ("Z-Image", "0.01", "50"),
        ("Z-Image", "0.05", "50"),
        ("Wan2.1-1.3B", "0.01", "50"),
    }
    header = ["model", "steps", "delta", "scales", "steps of each stage", "predicted speedup"]
    body = [
        [row["model"], row["steps"], row["delta"], row["scales"], row["split"], f"{row['speedup, full']}x"]
        for row in rows("paper_tables")
        if (row["model"].split()[0], row["delta"], row["steps"]) in shown
    ]
    return markdown(header, body)


def kernel_cases(threads: str) -> dict[tuple[str, str], dict[str, dict[str, str]]]:
    """Rows of kernels.csv on a number of threads: (operation, case) -> candidate -> row."""
    cases: dict[tuple[str, str], dict[str, dict[str, str]]] = {}
    for row in rows("kernels"):
        if row["threads"] == threads:
            cases.setdefault((row["operation"], row["case"]), {})[row["candidate"]] = row
    return cases


def fastest_other(candidates: dict[str, dict[str, str]]) -> dict[str, str]:
    return next(row for row in candidates.values() if row["fastest"])


def kernel_note(case: dict[str, dict[str, str]]) -> str:
    row = case["native"]
    return f"{row['device']} ({row['cpu']}), torch {row['torch']}, commit {row['commit']}."


def kernel_speed() -> str:
    """Native operations against the fastest other candidate, and all others' ratios, by case."""
    cases = kernel_cases("1")
    body = []
    for (operation, case), candidates in cases.items():
        fastest = fastest_other(candidates)
        rest = [row for name, row in candidates.items() if name not in ("native", "floor") and row is not fastest]
        rest.sort(key=lambda row: float(row["ratio"]))
        body.append(
            [
                operation,
                case,
                candidates["native"]["ns_per_sample"],
                f"{fastest['candidate']}: {fastest['ratio']}",
                "; ".join(f"{row['candidate']} {row['ratio']}" for row in rest) or "-",
            ]
        )
    header = ["operation", "case", "native, ns per sample", "time of the fastest other", "of the rest"]
    return f"{markdown(header, body)}\nOne thread; {kernel_note(next(iter(cases.values())))}\n"


def cuda_speed() -> str:
    """The CUDA kernels against the fastest other candidate of each case, by GPU."""
    from kernels import CASES, OTHERS

    gates = {(case.operation, case.name): case.gpu_gate for case in CASES + OTHERS}
    parts = []
    on_gpu = [row for row in rows("kernels") if row["driver"]]
    for device in dict.fromkeys(row["device"] for row in on_gpu):
        cases: dict[tuple[str, str], dict[str, dict[str, str]]] = {}
        for row in on_gpu:
            if row["device"] == device:
                cases.setdefault((row["operation"], row["case"]), {})[row["candidate"]] = row
        body = []
        for case, candidates in cases.items():
            fastest, gate = fastest_other(candidates), gates[case]
            rest = [row for name, row in candidates.items() if name not in ("native", "floor") and row is not fastest]
            rest.sort(key=lambda row: float(row["ratio"]))
            missed = " (missed)" if gate and float(fastest["ratio"]) < gate else ""
            body.append(
                [
                    *case,
                    candidates["native"]["ns_per_sample"],
                    f"{fastest['candidate']}: {fastest['ratio']}",
                    "" if gate is None else f"{gate}{missed}",
                    "; ".join(f"{row['candidate']} {row['ratio']}" for row in rest) or "-",
                ]
            )
        header = ["operation", "case", "native, ns per sample", "time of the fastest other", "gate", "of the rest"]
        row = next(iter(cases.values()))["native"]
        note = f"{device}, driver {row['driver']}, torch {row['torch']}, commit {row['commit']}."
        parts.append(f"{markdown(header, body)}\n{note}\n")
    return "\n".join(parts)


def full_size() -> str:
    """Measured and predicted speedups of the real transformers on a GPU, with the rate their steps reach at each size."""
    data = rows("full_size")
    counted = {(row["model"], row["latent"]): float(row["total_tflop"]) for row in rows("cost")}
    header = ["model", "mode", "steps of each stage", "one step of each stage, s", "TFLOP a second", "whole call, s"]
    header += ["speedup", "predicted", "over 50 full steps", "predicted", "growing, share of time", "peak, GiB"]
    body = []
    for row in data:
        sizes = [tuple(map(int, size.split("x"))) for size in row["stages"].split()]
        times = [float(value) for value in row["step_seconds"].split()]
        rates = [counted[row["model"], "x".join(map(str, s))] / t for s, t in zip(sizes, times, strict=True)]
        body.append(
            [
                row["model"],
                row["mode"],
                row["split"],
                row["step_seconds"].replace(" ", ", "),
                ", ".join(f"{rate:.0f}" for rate in rates),
                f"{float(row['seconds']):.2f}" if row["seconds"] else "",
                *(f"{float(row[name]):.2f}x" for name in ("speedup", "predicted", "over_50", "predicted_over_50")),
                f"{float(row['expansion_share']):.3%}",
                f"{float(row['peak_gib']):.1f}",
            ]
        )
    row = data[0]
    note = (
        f"{row['device']}, driver {row['driver']}, {row['dtype']}, torch {row['torch']}, diffusers {row['diffusers']}"
    )
    return f"{markdown(header, body)}\n{note}, commit {row['commit']}.\n"


def multistep_history() -> str:
    """Relative W2 error of DPM-Solver++(2M) with its history carried or dropped at transitions."""
    names = ["steps", "split", "carried", "dropped", "full_resolution"]
    header = ["steps", "split", "history carried", "history dropped", "full resolution"]
    return markdown(header, [[row[name] for name in names] for row in rows("multistep_history")])


def channels() -> str:
    """Transition, velocity error and same-seed error of every channel under three plans."""
    data = rows("channels")
    header = [
        "channels",
        "channel",
        "A",
        "beta",
        "plan from",
        "transition",
        "steps",
        "velocity error at the cut",
        "same-seed error",
    ]
    names = [
        "space",
        "channel",
        "amplitude",
        "exponent",
        "plan_from",
        "transition",
        "split",
        "velocity_error",
        "same_seed_error",
    ]
    return markdown(header, [[row[name] for name in names] for row in data])


def _interval(row: dict[str, str], name: str, form: str) -> str:
    """A value with its interval, where the row has one."""
    value = f"{float(row[name]):{form}}"
    if not row[f"{name}_low"]:
        return value
    return f"{value} [{float(row[f'{name}_low']):{form}}, {float(row[f'{name}_high']):{form}}]"


def _spectra(chosen: list[dict[str, str]], first: list[str]) -> str:
    header = [*first, "A", "beta", "R2", "t* of the law", "t* of the table"]
    body = [
        [
            *(row[name] for name in first),
            _interval(row, "amplitude", ".4g"),
            _interval(row, "exponent", ".2f"),
            f"{float(row['r2']):.4f}",
            _interval(row, "transition", ".3f"),
            f"{float(row['transition_of_table']):.3f}",
        ]
        for row in chosen
    ]
    return markdown(header, body)


def spectra_choices() -> str:
    """A, beta and t* of one set at one size as one choice after another changes."""
    chosen = [row for row in rows("spectra_study") if (row["set"], row["size"]) == ("debian", "512")]
    return f"{chosen[0]['samples']} photographs at 512 pixels.\n\n" + _spectra(chosen, ["change"])


def spectra_sets() -> str:
    """The reference measurement of every set and size."""
    chosen = [row for row in rows("spectra_study") if row["change"] == "reference"]
    return _spectra(chosen, ["set", "size", "samples"])


def latent_spectra() -> str:
    """Laws of real latents, by autoencoder and set."""
    data = rows("latent_spectra")
    header = ["latents", "encoder", "pixels", "set", "photographs", "A", "beta", "R2", "t*", "full-size steps"]

    def interval(row: dict[str, str], what: str, digits: int) -> str:
        low, high = (float(row[f"{what}_{end}"]) for end in ("low", "high"))
        return f"{float(row[what]):.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"

    body = [
        [
            *(row[name] for name in ("model", "encoder", "pixels")),
            row["set"],
            row["samples"],
            interval(row, "amplitude", 0),
            interval(row, "exponent", 2),
            f"{float(row['r2']):.3f}",
            interval(row, "transition", 3),
            f"{row['full_steps']} [{row['full_steps_low']}, {row['full_steps_high']}]",
        ]
        for row in data
    ]
    first = data[0]
    made = f"torch {first['torch']}, commit {first['commit']}"
    return f"{markdown(header, body)}\nBrackets: 95 %, bootstrap over photographs. {made}.\n"


def latent_content() -> str:
    """What another set, another choice of photographs and another choice of sets do to the laws of real latents."""
    data = rows("latent_spectra")
    header = ["latents", "pixels", "sets", "beta of the sets", "t* of the sets", "full-size steps of the sets"]
    header += ["t* of all, over photographs", "t*, over sets", "steps of all, over photographs", "steps, over sets"]

    def between(found: list[dict[str, str]], what: str, form: str) -> str:
        values = [float(row[what]) for row in found]
        return f"{min(values):{form}} to {max(values):{form}}"

    body = []
    for pooled in (row for row in data if row["set"] == "all"):
        key = {name: pooled[name] for name in ("encoder", "pixels")}
        sets = [row for row in data if row != pooled and key.items() <= row.items()]
        t, *times = (
            f"{float(pooled[f'transition{end}']):.3f}" for end in ("", "_low", "_high", "_sets_low", "_sets_high")
        )
        steps = [pooled[f"full_steps{end}"] for end in ("", "_low", "_high", "_sets_low", "_sets_high")]
        body.append(
            [
                *(pooled["model"], pooled["pixels"], " ".join(row["set"] for row in sets)),
                between(sets, "exponent", ".2f"),
                between(sets, "transition", ".3f"),
                between(sets, "full_steps", ".0f"),
                f"{t} [{times[0]}, {times[1]}]",
                f"[{times[2]}, {times[3]}]",
                f"{steps[0]} [{steps[1]}, {steps[2]}]",
                f"[{steps[3]}, {steps[4]}]",
            ]
        )
    law = PRESETS["flux"]
    plan = make_plan(shift_times(50, shift=3.0), law, law.shape or (), scales=(0.5, 1), delta=0.01)
    theirs = f"The authors' law of FLUX.1 has t* {plan.stages[0].t_star:.3f}, {plan.split[-1]} full-size steps."
    return f"{markdown(header, body)}\n{theirs}\n"


def latent_clip() -> str:
    """WAN's clip under both readings of the grid."""
    header = [
        "reading",
        "latents",
        "A there on the clip's grid",
        "A of the clip",
        "z",
        "odds",
        "50 steps at 480p",
        "at 720p",
    ]
    names = ["reading", "grid", "amplitude_there", "clip_amplitude", "z", "odds", "split_at_480p", "split_at_720p"]
    return markdown(header, [[row[name] for name in names] for row in rows("latent_clip")])


def spectra_throughput() -> str:
    """Time of every candidate over the meter's, and the long stream."""
    data = rows("spectra_throughput")
    timed, stream = ([row for row in data if (row["case"] == "stream") == long] for long in (False, True))
    cases = list(dict.fromkeys(row["case"] for row in timed))
    names = list(dict.fromkeys(row["candidate"] for row in timed))
    value = {(row["candidate"], row["case"]): row["time_over_meter"] for row in timed}
    table = markdown(
        ["time over the meter's", *cases], [[name, *(value[name, case] for case in cases)] for name in names]
    )
    first, last = stream[0], stream[-1]
    return (
        f"{table}\nA stream of {last['candidate']} went through one meter at {last['gigabytes_per_second']} GB/s (only read: "
        f"{last['read_gigabytes_per_second']} GB/s); resident memory was {first['resident_megabytes']} MB after "
        f"{first['candidate']} and {last['resident_megabytes']} MB at the end.\n\n"
        f"{last['device']}, {last['threads']} thread, torch {last['torch']}, commit {last['commit']}.\n"
    )


def editing() -> str:
    """Geometry and style of edits and of SDEdit from the same start, for each texture."""
    data = rows("editing")
    label = {"sdedit": "SDEdit", "noised": "edit, noised", "clean": "edit, clean", "texture sample": "no input"}
    header = [
        "texture",
        "method",
        "band kept",
        "grids",
        "T",
        "steps",
        "low-band PSNR, dB",
        "correlation",
        "style distance",
    ]
    shown = [row for row in data if row["grids"] != "64" or row["start"] in ("0.750", "0.500")]
    names = ["kept", "grids", "start", "steps", "low_band_psnr", "low_band_correlation", "style_distance"]
    table = markdown(header, [[row["texture"], label[row["method"]], *(row[name] for name in names)] for row in shown])
    first = data[0]
    return f"{table}\n{first['samples']} photographs; torch {first['torch']}, commit {first['commit']}.\n"


def passthrough() -> str:
    """What holding frequencies until their activation costs, by delta, for both models."""
    data = rows("passthrough")
    gaussian, crops = ({row["delta"]: row for row in data if row["model"].startswith(name)} for name in ("G", "p"))
    header = [
        "delta",
        "held",
        "Gaussian: power lost, top octave",
        "delta / (1 + P)",
        "Gaussian: RMS change",
        "crops: RMS change",
        "crops: median PSNR, dB",
        "crops: same picture",
    ]
    body = [
        [
            delta,
            row["held"],
            row["top_octave_power_lost"],
            row["delta_over_1_plus_p"],
            row["relative_rms"],
            crops[delta]["relative_rms"],
            crops[delta]["psnr_median"],
            crops[delta]["same_picture"],
        ]
        for delta, row in gaussian.items()
    ]
    first = data[0]
    note = f"{first['samples']} samples, {first['steps']} steps; torch {first['torch']}, commit {first['commit']}."
    return f"{markdown(header, body)}\n{note}\n"


def passthrough_transformer() -> str:
    """The same sweep on the small trained transformer."""
    columns = {"delta": "delta", "held": "held", "top_octave_power_lost": "power lost, top octave"}
    columns |= {"delta_over_1_plus_p": "delta / (1 + P)", "relative_rms": "RMS change"}
    return chosen(
        "passthrough_transformer", columns | {"psnr_median": "median PSNR, dB", "same_picture": "same picture"}
    )


def passthrough_error() -> str:
    """Measured velocity error over the closed form of Eq. 19, by time and frequency."""
    data = rows("passthrough_error")
    value = {(row["model"], row["t"], row["omega"]): row for row in data}
    columns = [(model, omega) for model in ("Gaussian field", "photograph crops") for omega in ("1", "4", "16")]
    times = [t for t in dict.fromkeys(row["t"] for row in data) if t in ("0.98", "0.9", "0.8", "0.7", "0.5", "0.3")]

    def ratio(model: str, t: str, omega: str) -> str:
        row = value[(model, t, omega)]
        return f"{float(row['measured']) / float(row['equation_19']):.2f}"

    header = ["t", *(f"{model}, omega = {omega}" for model, omega in columns)]
    return markdown(header, [[t, *(ratio(model, t, omega) for model, omega in columns)] for t in times])


def tiny_dit() -> str:
    """Distances of the small transformer's samples to photographs, with those of other crops as the yardstick."""
    data = rows("tiny_dit")
    header = ["pixels", "steps", "to", "Wasserstein", "(other crops)", "spectrum", "(crops)", "worst bin", "(crops)"]
    what = ("wasserstein", "spectrum", "worst_bin")
    body = []
    for row in data:
        for name, label in (("training", "training crops"), ("held_out", "held-out crops")):
            pairs = [(row[f"{w}_samples_{name}"], row[f"{w}_crops_{name}"]) for w in what]
            body.append([row["size"], row["steps"], label, *(cell for pair in pairs for cell in pair)])
    first = data[0]
    note = f"{first['training_steps']} steps of training; {first['samples']} samples; commit {first['commit']}."
    return f"{markdown(header, body)}\n{note}\n"


def latent_dit() -> str:
    """Both small networks side by side: their samples at many steps against training and held-out crops."""
    header = ["network", "size", "samples", "references", "sampler", "to", "Wasserstein", "(other crops)", "spectrum"]
    header += ["(crops)", "worst bin", "(crops)"]
    what = ("wasserstein", "spectrum", "worst_bin")
    latent = [{**row, "network": "latent", "sampler": f"{row['solver']}, {row['steps']}"} for row in rows("latent_dit")]
    pixel = [
        {**row, "network": "pixel", "sampler": f"dpmpp_2m, {row['steps']}", "references": ""}
        for row in rows("tiny_dit")
    ]
    body = []
    for row in [*sorted(latent, key=lambda row: -int(row["size"])), *(row for row in pixel if row["steps"] == "64")]:
        for name, label in (("training", "training crops"), ("held_out", "held-out crops")):
            cells = [row[f"{w}_{who}_{name}"] for w in what for who in ("samples", "crops")]
            if f"wasserstein_low_samples_{name}" in row:
                for place, w in ((0, "wasserstein"), (4, "worst_bin")):
                    low, high = (row[f"{w}_{side}_samples_{name}"] for side in ("low", "high"))
                    cells[place] += f" [{low}, {high}]"
            body.append([row[k] for k in ("network", "size", "samples", "references", "sampler")] + [label, *cells])
    first = latent[0]
    note = (
        f"Latent network: {first['training_steps']} steps of training; samples drawn on {first['device']}, distances with "
        f"torch {first['torch']}, commit {first['commit']}. In brackets 95 % for many such samples (basic bootstrap): "
        "few samples are farther away than many, so that the Wasserstein distance itself may lie above."
    )
    return f"{markdown(header, body)}\n{note}\n"


def _converged(data: list[dict[str, str]]) -> list[dict[str, str]]:
    """Of the samples with the most steps, the largest size first."""
    most = max(int(row["steps"]) for row in data)
    return sorted((row for row in data if int(row["steps"]) == most), key=lambda row: -int(row["size"]))


def latent_dit_done() -> str:
    """What was asked of the latent network, and what its rows say."""
    shown = {row["size"]: row for row in rows("latent_dit_decoded")}
    body = []
    for row in _converged(rows("latent_dit")):
        worst, pictures = float(row["worst_bin_samples_training"]), shown[row["size"]]
        body.append([f"{row['size']}x{row['size']}", f"{worst:.0%}", "yes" if worst <= 0.2 else "no"])
        for found, form in ((row, "wasserstein_{}_{}"), (pictures, "{}_{}")):
            between = float(found[form.format("crops", "training")])
            samples, crops = (float(found[form.format(who, "held_out")]) / between for who in ("samples", "crops"))
            body[-1] += [f"{samples:.2f} ({crops:.2f})", "yes" if samples <= 1.25 else "no"]
        body[-1].append(pictures["pictures"])
    header = ["latents", "worst bin off by", "within 20 %"]
    header += ["Wasserstein to held-out over that between training crops (of training crops)", "within 1.25"]
    header += ["the same, decoded", "within 1.25", "pictures decoded"]
    return markdown(header, body)


def latent_dit_bins() -> str:
    """Power of every radial bin of the latent network's samples over that of training crops, by size and steps."""
    data = rows("latent_dit_bins")
    columns = sorted({(int(row["size"]), int(row["steps"])) for row in data}, reverse=True)
    value = {
        (int(row["size"]), int(row["steps"]), int(row["bin"])): (row["samples_over"], row["crops_over"]) for row in data
    }
    header = ["bin", *(f"{size}x{size}, {steps} steps (other crops)" for size, steps in columns)]
    body = []
    for k in range(1, max(of for *_, of in value) + 1):
        cells = [value.get((*column, k)) for column in columns]
        body.append([str(k), *(f"{float(c[0]):.2f} ({float(c[1]):.2f})" if c else "" for c in cells)])
    return markdown(header, body)


def latent_dit_neighbours() -> str:
    """Largest correlation with any crop of a training photograph."""
    data = rows("latent_dit_neighbours")
    header = ["pictures", "count", "10 %", "median", "90 %", "largest"]
    return markdown(header, [[row[k] for k in ("of", "pictures", "p10", "p50", "p90", "p100")] for row in data])


def latent_dit_agreement() -> str:
    """Relative disagreement of a call on the small grid with the low band of one on the large, by what was trained on."""
    data = rows("latent_dit_agreement")
    columns = list(dict.fromkeys((row["coarse"], row["small_latents"]) for row in data))
    columns.sort(key=lambda column: -int(column[0]))
    value = {(row["coarse"], row["small_latents"], row["time"]): float(row["disagreement"]) for row in data}
    header = ["t", *(f"{coarse}x{coarse}, {small}" for coarse, small in columns)]
    times = list(dict.fromkeys(row["time"] for row in data))
    table = markdown(header, [[t, *(f"{value[(*column, t)]:.3f}" for column in columns)] for t in times])
    first = data[0]
    return f"{table}\n{first['latents']} held-out latents; {first['device']}; commit {first['commit']}.\n"


def _plus_minus(row: dict[str, str], name: str, digits: int) -> str:
    if not row.get(name):
        return ""
    half = (float(row[name + "_high"]) - float(row[name])) if row[name] != "inf" else 0.0
    return f"{float(row[name]):.{digits}f}" + (f" ± {half:.{digits}f}" if half else "")


def faces() -> str:
    """The pretrained face denoiser: progressive over delta, the exact control, fewer steps, and a start from far above."""
    data = [row for row in rows("faces") if row["way"] != "full run"]
    ways = ("progressive", "fewer steps", "full run, float32")
    exact = {(row["start"], row["side"], row["delta"]): row for row in data if row["way"] == "exact"}
    order = sorted(data, key=lambda row: (row["start"] == "far above", int(row["side"]), float(row["speedup"])))
    body = []
    for row in (row for row in order if row["way"] in ways):
        control = exact.get((row["start"], row["side"], row["delta"]))
        body.append(
            [row["start"], f"{row['side']}x{row['side']}", row["way"], row["delta"], row["split"]]
            + [f"{float(row['speedup']):.2f}x", _interval(row, "psnr", ".1f")]
            + [f"{float(control['psnr']):.1f}" if control else ""]
            + [_interval(row, name, form) for name, form in (("contrast", ".3f"), ("spectrum", ".3f"))]
            + [
                f"{float(row['worst_bin']):.0%}",
                f"{float(row['std']):.3f} of {float(row['std_full']):.3f}",
                row["seeds"],
            ]
        )
    header = ["start", "size", "way", "delta", "steps", "speedup", "PSNR, dB", "exact field", "contrast", "spectrum"]
    header += ["worst bin", "standard deviation", "seeds"]
    first = data[0]
    commits = ", ".join(dict.fromkeys(row["commit"] for row in data))
    note = f"{first['precision']}; {first['device']}; torch {first['torch']}, commit {commits}."
    return f"{markdown(header, body)}\n{note}\n"


def pareto() -> str:
    """Quality against compute, one line a way of sampling."""
    data = rows("pareto")
    columns = {"psnr": 1, "ssim": 3, "spectrum_full": 3, "wasserstein_full": 3, "natural_full": 2, "natural_photos": 2}
    header = ["way", "delta", "steps", "GFLOP", "speedup", "PSNR (dB)", "SSIM"]
    header += ["spectrum", "Wasserstein", "naturalness to full runs", "to photographs"]
    table = markdown(
        header,
        [
            [row["curve"], row["delta"], row["split"], row["gflops"], row["speedup"]]
            + [_plus_minus(row, name, digits) for name, digits in columns.items()]
            for row in data
        ],
    )
    first = data[0]
    return f"{table}\n{first['samples']} seeds; {first['precision']}; {first['device']}; commit {first['commit']}.\n"


def pareto_latent() -> str:
    """The same ways on both small networks: what they cost and how far they are from the full runs."""
    pixel = {(row["curve"], row["delta"], row["split"]): row for row in rows("pareto")}
    by_way = {key[:2]: row for key, row in pixel.items() if key[1]}
    data, body = rows("pareto_latent"), []
    for row in data[1:]:
        # The two laws differ, and so do the steps of one delta.
        theirs = by_way.get((row["curve"], row["delta"])) or pixel.get((row["curve"], "", row["split"]), {})
        told = [row["curve"], row["delta"]]
        told += [theirs.get("split", ""), theirs.get("speedup", "")]
        told += [_plus_minus(theirs, n, d) for n, d in {"psnr": 1, "ssim": 3, "spectrum_full": 2}.items()]
        told += [row["split"], row["speedup"]]
        names = {"psnr": 1, "ssim": 3, "spectrum": 2, "flip": 3, "features": 2, "natural": 2, "spectrum_latents": 2}
        body.append(told + [_plus_minus(row, name, digits) for name, digits in names.items()])
    header = ["way", "delta", "pixel: steps", "speedup", "PSNR (dB)", "SSIM", "spectrum"]
    header += ["latent: steps", "speedup", "PSNR (dB)", "SSIM", "spectrum", "FLIP", "features", "naturalness"]
    header += ["spectrum of latents"]
    first = data[0]
    note = (
        f"Latent network: {first['samples']} seeds; {first['precision']}; {first['device']}; commit {first['commit']}."
    )
    return f"{markdown(header, body)}\n{note}\n"


TRAINED = ("control", "fine-tuned", "repaired", "repaired, informed")


def pareto_best() -> str:
    """For each measured speedup and metric the training-free way that comes closest, and what it leaves behind."""
    data = [row for row in rows("pareto") if row["gflops"] and not row["curve"].endswith(TRAINED)]
    metrics = {
        "psnr": "PSNR",
        "spectrum_full": "spectrum",
        "wasserstein_full": "Wasserstein",
        "natural_photos": "naturalness",
    }
    body = []
    for speedup in (1.5, 2.0, 3.0):
        fast_enough = [row for row in data if float(row["speedup"]) >= speedup]
        for name, label in metrics.items():
            best: dict[str, dict[str, str]] = {}
            for row in sorted(fast_enough, key=lambda row: float(row[name]), reverse=name == "psnr"):
                best.setdefault(row["curve"], row)
            first, second, *_ = best.values()
            fewer = best["full resolution, fewer steps"]
            told = [f"{row['curve']}{', delta ' + row['delta'] if row['delta'] else ''}" for row in (first, second)]
            clear = float(first[name + "_low"]) > float(second[name + "_high"]) or (
                float(first[name + "_high"]) < float(second[name + "_low"])
            )
            values = [f"{float(row[name]):.3g}" for row in (first, second, fewer)]
            body.append(
                [f"{speedup:g}x", label, told[0], values[0], told[1], values[1], "yes" if clear else "no", values[2]]
            )
    header = ["speedup at least", "closest in", "best way", "", "next best way", "", "intervals apart", "fewer steps"]
    return markdown(header, body) + "\n"


def _nearest(data: list[dict[str, str]], speedup: str) -> dict[str, str]:
    return min(data, key=lambda row: abs(float(row["speedup"]) - float(speedup)))


def _both(header: str, body: list[list[str]], first: dict[str, str], what: str = "seeds") -> str:
    """A table of both networks, and what the latent one's rows were made with."""
    return (
        f"{markdown(header.split(' | '), body)}\nLatent network: {first['samples']} {what}; torch {first['torch']}, commit "
        f"{first['commit']}.\n"
    )


def both_pictures() -> str:
    """Ways to make the same picture for about half the cost on both small networks, latents decoded."""
    full = float(rows("pareto")[0]["gflops"])
    stages = [{**row, "speedup": str(full / float(row["gflops"]))} for row in rows("pareto") if row["gflops"]]
    of_pixels = {
        "two grids": [row for row in _two_grids("small transformer", "chosen") if row["way"] == "chosen"],
        "fewer steps, best grid": _two_grids("small transformer", "fewer steps, best grid"),
    } | {f"progressive, S={n}": [r for r in stages if r["curve"] == f"S={n}, full clock, coupled"] for n in (2, 3)}
    forms = {"psnr": ".1f", "ssim": ".3f", "flip": ".3f", "spectrum": ".2f", "features": ".2f", "natural": ".2f"}
    body, data = [], rows("latent_pictures")
    for row in data[1:]:
        mine = _nearest(of_pixels[row["way"]], row["speedup"])
        for network, one in (("pixel", mine), ("latent", row)):
            told = one | {name.replace("_full", ""): one[name] for name in one if name.startswith("spectrum_full")}
            calls = one["calls"] if "calls" in one else f"{one['split']}, delta {one['delta']}"
            cells = [_interval(told, name, form) if name in told else "" for name, form in forms.items()]
            body.append([row["way"], network, calls, f"{float(one['speedup']):.2f}x", *cells])
    header = "way | network | calls | speedup | PSNR, dB | SSIM | FLIP | spectrum | features | naturalness"
    return _both(header, body, data[0])


def both_passthrough() -> str:
    """What passthrough costs by delta on both small networks."""
    pixel, data = {row["delta"]: row for row in rows("passthrough_transformer")}, rows("passthrough_latent")
    header = "delta | pixel: held | power lost | PSNR, dB | same picture"
    header += " | latent: held | power lost | PSNR, dB | same picture | FLIP | features"
    body = []
    for row in data:
        body.append([row["delta"]])
        for one in (pixel[row["delta"]], row):
            told = _interval(row, "psnr", ".1f") if one is row else one["psnr_median"]
            lost = f"{float(one['top_octave_power_lost']):.3f}"
            same = _interval(row, "same_picture", ".2f") if one is row else f"{float(one['same_picture']):.2f}"
            body[-1] += [one["held"], lost, told, same]
        body[-1] += [_interval(row, "flip", ".3f"), _interval(row, "features", ".2f")]
    return _both(header, body, data[0])


def both_editing() -> str:
    """Mosaics into photographs on both small networks."""
    label = {"sdedit": "SDEdit", "noised": "edit, noised", "clean": "edit, clean"}
    key, names = ("method", "kept", "start"), ("low_band_psnr", "low_band_correlation", "style_distance")
    pixel = {tuple(row[k] for k in key): row for row in rows("editing_transformer")}
    header = "method | band kept | T | pixel: low-band PSNR, dB | correlation | style"
    header += " | latent: low-band PSNR, dB | correlation | style | style, features"
    body, data = [], rows("editing_latent")
    for row in data:
        theirs = pixel.get(tuple(row[k] for k in key), {})
        first = [label.get(row["method"], f"({row['method']})"), row["kept"], row["start"]]
        mine = [
            _interval(row, "low_band_psnr", ".1f"),
            f"{float(row['low_band_correlation']):.3f}",
            row["style_distance"],
        ]
        body.append([*first, *(theirs.get(name, "") for name in names), *mine, _interval(row, "features", ".2f")])
    return _both(header, body, data[0], "mosaics")


def both_optimal() -> str:
    """Plans of equal cost on both small networks."""
    data, facts = rows("optimal_plans_latent"), ("solver", "budget", "rule")
    pixel = [row for row in rows("optimal_plans_transformer") if (row["solver"], row["budget"]) == ("dpmpp_2m", "8")]
    header = "rule | pixel: split | sizes | predicted | PSNR, dB | spectrum"
    header += " | latent: split | sizes | predicted | PSNR, dB | spectrum | SSIM | FLIP | features"
    body = []
    for theirs, row in zip(pixel, data, strict=True):
        if [theirs[k] for k in facts] != [row[k] for k in facts]:
            raise ValueError(
                f"{row['rule']} stands beside {theirs['rule']}: optimal_plans.py made other rules of one network"
            )
        names = ("split", "sizes", "predicted_w2")
        mine = [
            _interval(row, name, ".1f" if name == "psnr" else ".2f")
            for name in ("psnr", "spectrum", "ssim", "flip", "features")
        ]
        body.append(
            [
                row["rule"],
                *(theirs[k] for k in (*names, "psnr_median", "spectrum_error")),
                *(row[k] for k in names),
                *mine,
            ]
        )
    return _both(header, body, data[0])


def trained_network() -> str:
    """What to expect of a trained network: progressive, against as fast runs of fewer steps and of calls left out."""

    def slowest(way: str, least: float = 0.0) -> dict[str, str]:
        return next(r for r in _two_grids("small transformer", way) if r["way"] == way and float(r["speedup"]) >= least)

    ours = slowest("progressive")
    fewer, chosen = (slowest(way, float(ours["speedup"])) for way in ("fewer steps, best grid", "chosen"))

    return (
        f"Its sizes disagree, so the coarse stage commits to another picture: on this repository's small transformer, at "
        f"{float(ours['speedup']):.2f}x, median PSNR to the full run is {float(ours['psnr']):.1f} dB, where {fewer['steps']} "
        f"steps on their best grid keep {float(fewer['psnr']):.1f} dB and [calls chosen by a few full "
        f"runs](docs/two_grids.md) {float(chosen['psnr']):.1f} dB, both at {float(chosen['speedup']):.2f}x. How close the "
        f"pictures are as a set is [another question](docs/training.md#quality-against-compute).\n"
    )


def chosen(name: str, columns: dict[str, str], keep: Callable[[dict[str, str]], bool] = lambda row: True) -> str:
    """A table of some columns (name in the file -> heading) of the rows to keep, and what they were made with."""
    data = [row for row in rows(name) if keep(row)]
    table = markdown(list(columns.values()), [[row[column] for column in columns] for row in data])
    return f"{table}\ntorch {data[0]['torch']}, commit {data[0]['commit']}.\n"


def optimal_flux() -> str:
    """Error at equal cost on the FLUX.1 spectrum."""
    columns = {"budget": "budget", "rule": "rule", "split": "split", "sizes": "sizes", "transitions": "transitions"}
    columns |= {"relative_w2": "relative W2", "log_power_error": "log-power error", "cpu_seconds": "CPU seconds"}
    return chosen("optimal_plans_flux", columns)


def optimal_interplay() -> str:
    """Which delta the best transitions amount to."""
    columns = {"solver": "solver", "grid": "grid", "stages": "most stages", "budget": "budget", "split": "split"}
    columns |= {"deltas": "delta of each transition", "relative_w2": "relative W2"}
    columns |= {"delta_over_error": "last delta / relative W2"}
    columns |= {"delta_rule": "delta rule 0.01, (1/2, 1), model's shift"}
    return chosen("optimal_plans_interplay", columns)


def optimal_balance() -> str:
    """How the best delta and the error fall with the budget, for two stages on shifted grids, and their ratio."""
    data = [row for row in rows("optimal_plans_interplay") if (row["grid"], row["stages"]) == ("shifted", "2")]
    label = {"euler": "Euler, 1", "heun": "Heun, 2", "dpmpp_2m": "DPM-Solver++(2M), 2"}
    body = []
    for solver in dict.fromkeys(row["solver"] for row in data):
        chosen = [row for row in data if row["solver"] == solver]
        late = [row for row in chosen if float(row["budget"]) >= 16]

        def power(column: str, late: list[dict[str, str]] = late) -> str:
            budget, value = ([math.log(float(row[name])) for row in late] for name in ("budget", column))
            return f"{statistics.linear_regression(budget, value).slope:.2f}"

        ratio = [float(row["delta_over_error"]) for row in chosen]
        body.append([label[solver], power("relative_w2"), power("deltas"), f"{min(ratio):g} to {max(ratio):g}"])
    return markdown(["solver, order", "error falls as budget^", "delta falls as budget^", "delta / error"], body)


def optimal_nonlinear() -> str:
    """Gaussian prediction against the posterior mean of photograph crops."""
    columns = {"solver": "solver", "budget": "budget", "rule": "rule", "split": "split", "predicted_w2": "predicted"}
    columns |= {"distance_to_exact": "distance to exact", "spectrum_error": "spectrum error"}
    columns |= {"sliced_w2": "sliced W2", "sliced_w2_white": "sliced W2, whitened"}
    return chosen("optimal_plans_nonlinear", columns, lambda row: row["budget"] in ("-", "10"))


def optimal_transformer() -> str:
    """Plans of equal cost on the small trained transformer."""
    columns = {"solver": "solver", "budget": "budget", "rule": "rule", "split": "split", "sizes": "sizes"}
    columns |= {"predicted_w2": "predicted", "psnr_median": "PSNR, dB", "spectrum_error": "spectrum error"}
    return chosen("optimal_plans_transformer", columns | {"wasserstein": "sliced Wasserstein"})


def editing_transformer() -> str:
    """What the small transformer makes of mosaics by each method."""
    label = {"sdedit": "SDEdit", "noised": "edit, noised", "clean": "edit, clean"}
    label |= {name: f"({name}, unedited)" for name in ("photographs", "mosaics", "own samples")}
    header = ["method", "band kept", "T", "steps", "low-band PSNR, dB", "correlation", "style distance"]
    names = ["kept", "start", "steps", "low_band_psnr", "low_band_correlation", "style_distance"]
    data = rows("editing_transformer")
    table = markdown(header, [[label[row["method"]], *(row[name] for name in names)] for row in data])
    return f"{table}\n{data[0]['samples']} mosaics; torch {data[0]['torch']}, commit {data[0]['commit']}.\n"


def _two_grids(network: str, *ways: str) -> list[dict[str, str]]:
    """Rows of a network whose way begins so, the slowest first."""
    found = [row for row in rows("two_grids") if row["network"] == network and row["way"].startswith(ways)]
    return sorted(found, key=lambda row: float(row["speedup"]))


def _made(data: list[dict[str, str]]) -> str:
    seeds = sorted({int(row["samples"]) for row in data})
    commits = ", ".join(dict.fromkeys(row["commit"] for row in data))
    return (
        f"Seeds: {' or '.join(map(str, seeds))}; {data[0]['precision']}; torch {data[0]['torch']}, commit {commits}.\n"
    )


def _two_grids_chosen(network: str) -> str:
    """The choice at each speedup, its control, and fewer steps with as many calls or, in fractions, one more."""
    best, shift = (
        {int(row["steps"]): row for row in _two_grids(network, f"fewer steps, best {kind}")}
        for kind in ("grid", "shift")
    )
    alone = {row["aim"]: row for row in _two_grids(network, "chosen, full size only")}
    header = ["speedup", "calls", "PSNR, dB", "predicted", "full size only", "fewer steps", "best grid", "best shift"]
    header += ["lead, dB", "spectrum", "of fewer steps", "Wasserstein", "of fewer steps"]
    body, shown = [], []
    for row in (row for row in _two_grids(network, "chosen") if row["way"] == "chosen"):
        steps = math.ceil(20 / float(row["aim"]) - 0.2)
        if steps in best:
            control, fewer = alone[row["aim"]], best[steps]
            shown += [row, control, fewer, shift[steps]]
            body.append(
                [f"{float(row['speedup']):.2f}x", f"`{row['calls']}`", _interval(row, "psnr", ".1f")]
                + [f"{float(row['predicted']):.1f}", f"{float(control['psnr']):.1f}", f"{float(fewer['speedup']):.2f}x"]
                + [_interval(fewer, "psnr", ".1f"), f"{float(shift[steps]['psnr']):.1f}"]
                + [f"{float(row['psnr']) - float(fewer['psnr']):+.1f}"]
                + [f"{float(r[name]):.3f}" for name in ("spectrum", "wasserstein") for r in (row, fewer)]
            )
    return f"{markdown(header, body)}\n{_made(shown)}"


def two_grids() -> str:
    """Two grids against fewer steps on the small transformer."""
    return _two_grids_chosen("small transformer")


def two_grids_faces() -> str:
    """The same on the pretrained denoiser of faces."""
    return _two_grids_chosen("face denoiser")


def two_grids_latent() -> str:
    """The same on the small transformer in FLUX.1's latent space."""
    return _two_grids_chosen("latent transformer")


def two_grids_parts() -> str:
    """The choice with one kind of feature after another."""
    data = [row for row in _two_grids("small transformer", "part: ")]
    names = list(dict.fromkeys(row["way"] for row in data))
    psnr = {(row["way"], row["aim"]): _interval(row, "psnr", ".1f") for row in data}
    aims = sorted({row["aim"] for row in data}, key=float)
    body = [[name.removeprefix("part: "), *(psnr[name, aim] for aim in aims)] for name in names]
    return f"{markdown(['features', *(f'{float(aim):g}x, dB' for aim in aims)], body)}\n{_made(data)}"


def two_grids_random() -> str:
    """The choice against the best of many random patterns of its cost, on the same few seeds."""
    data = _two_grids("small transformer", "random, best")
    header = [
        "speedup",
        "random patterns",
        "worth a run",
        "the best of them, dB",
        "the choice, dB",
        "the best, on other seeds",
    ]
    body = [
        [
            f"{float(row['aim']):g}x",
            row["tried"],
            row["ran"],
            f"{float(row['best_there']):.1f} `{row['calls']}`",
            f"{float(row['choice_there']):.1f}",
            _interval(row, "psnr", ".1f"),
        ]
        for row in data
    ]
    return f"{markdown(header, body)}\n{_made(data)}"


def two_grids_seeds() -> str:
    """Choice and weights from few and from many calibration runs."""
    data = _two_grids("small transformer", "calibrated on")
    data.sort(key=lambda row: int(row["runs"]))
    body = [
        [
            row["runs"],
            f"{float(row['speedup']):.2f}x",
            f"`{row['calls']}`",
            f"{float(row['predicted']):.1f}",
            _interval(row, "psnr", ".1f"),
        ]
        for row in data
    ]
    return f"{markdown(['runs', 'speedup', 'calls', 'predicted, dB', 'measured, dB'], body)}\n{_made(data)}"


def two_grids_models() -> str:
    """What the patterns of the small transformer would save of the usual runs of pretrained models, from counted costs."""
    patterns = [row for row in _two_grids("small transformer", "chosen", "held") if row["way"] in ("chosen", "held")]
    patterns = [row for row in patterns if row["way"] == "chosen" or row["steps"] == "15"]
    header = ["model", "usual steps", "a call at half", "at quarter"]
    header += [f"{'held ' * (row['way'] == 'held')}`{row['calls']}`" for row in patterns]
    body = []
    for name, model in PRETRAINED.items():
        cost = step_cost(name, model.grid)
        half, quarter = (cost(tuple(n // r for n in model.grid)) for r in (2, 4))
        price = {"F": 1.0, "h": half, "q": quarter, ".": 0.0}
        shares = [f"{20 / sum(price[c] for c in row['calls']):.2f}x" for row in patterns]
        body.append([model.label, str(model.steps), f"{half:.3f}", f"{quarter:.3f}", *shares])
    return markdown(header, body)


def two_grids_ways() -> str:
    """Ways that need no calibration, on each network."""
    every_network = ("small transformer", "latent transformer", "face denoiser")
    networks = [name for name in every_network if _two_grids(name, "held")]
    data = _two_grids(networks[0], "progressive", "held")
    other = {
        (r["network"], r["way"], r["calls"]): r for name in networks for r in _two_grids(name, "progressive", "held")
    }
    seeds = {row["network"]: row["samples"] for row in other.values()}
    header = ["way", "steps", "calls", "speedup", *(f"{name} ({seeds[name]} seeds), dB" for name in networks)]
    header += [f"{measure}, {name}" for measure in ("spectrum", "Wasserstein") for name in networks]
    body, shown = [], []
    for row in data:
        every = [other.get((name, row["way"], row["calls"])) for name in networks]
        shown += [one for one in every if one]
        body.append(
            [row["way"], row["steps"], f"`{row['calls']}`", f"{float(row['speedup']):.2f}x"]
            + [_interval(one, "psnr", ".1f") if one else "" for one in every]
            + [f"{float(one[name]):.3f}" if one else "" for name in ("spectrum", "wasserstein") for one in every]
        )
    return f"{markdown(header, body)}\n{_made(shown)}"


def two_grids_prediction() -> str:
    """Predicted against measured PSNR of patterns drawn at random: from the moments, and after one run of each."""
    data = [row for row in _two_grids("small transformer", "check") if row["way"] == "check"]
    refined = {row["calls"]: row for row in _two_grids("small transformer", "check, refined")}

    def off(row: dict[str, str]) -> float:
        return float(row["predicted"]) - float(row["psnr"])

    body = []
    for row in data:
        cells = [f"{float(row['speedup']):.2f}x", f"`{row['calls']}`"]
        for one in (row, refined.get(row["calls"])):
            measured = (
                []
                if one is None
                else [f"{float(one['predicted']):.1f}", _interval(one, "psnr", ".1f"), f"{off(one):+.1f}"]
            )
            cells += measured or ["", "", ""]
        body.append(cells)
    header = [
        "speedup",
        "calls",
        "forecast, dB",
        "measured, dB",
        "off by",
        "after refine, dB",
        "measured, dB",
        "off by",
    ]
    said = [
        f"{name}: off by {statistics.median(size):.1f} dB in the median, {max(size):.1f} dB at most."
        for name, ones in (("Forecast", data), ("After refine", list(refined.values())))
        if (size := [abs(off(one)) for one in ones])
    ]
    return f"{markdown(header, body)}\n{' '.join(said)} {_made([*data, *refined.values()])}"


def agreement_sizes() -> str:
    """I, B and V of the small transformer's sizes over time, before and after."""
    data = rows("agreement_sizes")
    kinds, sizes = (list(dict.fromkeys(row[name] for row in data)) for name in ("network", "size"))
    value = {(row["network"], row["size"], f"{float(row['T']):.3f}"): row for row in data}
    first = [row for row in data if (row["network"], row["size"]) == (kinds[0], sizes[0])]
    times = [f"{float(row['T']):.3f}" for row in first][::3]
    header = ["size", "T", "I", "B", "V", "dropped", "linear", *(f"I, {kind}" for kind in kinds[1:])]
    body = []
    for size in sizes:
        for t in times:
            row = value[kinds[0], size, t]
            body.append(
                [size, t, f"{float(row['I']):.5f} ± {float(row['I_half']):.5f}"]
                + [f"{float(row[name]):.5f}" for name in ("B", "V", "dropped", "linear")]
                + [f"{float(value[kind, size, t]['I']):.5f}" for kind in kinds[1:]]
            )
    return (
        f"{markdown(header, body)}\nSeeds: {data[0]['seeds']}; torch {data[0]['torch']}, commit {data[0]['commit']}.\n"
    )


def agreement() -> str:
    """Progressive runs of the network as it is, repaired and informed, beside fewer steps on their best grid."""
    data = [row for row in rows("agreement") if row["way"].startswith("progressive")]
    best = {int(row["steps"]): row for row in _two_grids("small transformer", "fewer steps, best grid")}
    kinds = [kind for kind in KINDS if any(row["way"].endswith(kind) for row in data)]
    found = {(row["split"], row["way"].split(", ")[1]): row for row in data}
    header = [
        "delta",
        "steps",
        "speedup",
        *(f"{kind}, dB" for kind in kinds),
        *(f"{kind}, predicted" for kind in kinds),
    ]
    header += ["fewer steps", *(f"{name}, {kind}" for name in ("spectrum", "Wasserstein") for kind in kinds)]
    body = []
    for split in dict.fromkeys(row["split"] for row in data):
        every = [found.get((split, kind)) for kind in kinds]
        (first, *_) = (row for row in every if row)
        speed = float(first["speedup"])
        fewer = [steps for steps in best if steps >= 20 / speed - 0.2]
        rival = f"{float(best[min(fewer)]['psnr']):.1f}" if fewer else ""
        body.append(
            [first["delta"], split, f"{speed:.2f}x", *(_interval(row, "psnr", ".1f") if row else "" for row in every)]
            + [*(f"{float(row['predicted']):.1f}" if row else "" for row in every), rival]
            + [f"{float(row[n]):.3f}" if row else "" for n in ("spectrum", "wasserstein") for row in every]
        )
    return f"{markdown(header, body)}\n{_made(data)}"


def agreement_fitted() -> str:
    """The same calls with fitted weights."""
    data = [row for row in rows("agreement") if row["way"].startswith("fitted")]
    kinds = [kind for kind in KINDS if any(row["way"].endswith(kind) for row in data)]
    found = {(row["split"], row["way"].split(", ")[1]): row for row in data}
    splits = dict.fromkeys(row["split"] for row in rows("agreement") if row["split"])
    body = []
    for split in (split for split in splits if any((split, kind) in found for kind in kinds)):
        every = [found.get((split, kind)) for kind in kinds]
        (first, *_) = (row for row in every if row)
        body.append(
            [split, f"{float(first['speedup']):.2f}x"]
            + [_interval(row, "psnr", ".1f") if row else "" for row in every]
            + [f"{float(row['spectrum']):.3f}" if row else "" for row in every]
            + [f"{float(row['wasserstein']):.3f}" if row else "" for row in every]
        )
    names = [
        *(f"{kind}, dB" for kind in kinds),
        *(f"{n}, {kind}" for n in ("spectrum", "Wasserstein") for kind in kinds),
    ]
    return f"{markdown(['steps', 'speedup', *names], body)}\n{_made(data)}"


def agreement_two_grids() -> str:
    """Two grids with coarse calls by a repaired network, beside the untouched one's choice at the same speedup."""
    data = [row for row in rows("agreement") if row["way"].startswith("two grids")]
    plain = {float(row["aim"]): row for row in _two_grids("small transformer", "chosen") if row["way"] == "chosen"}
    header = ["speedup", "coarse calls by", "calls", "PSNR, dB", "predicted", "the network as it is", "calls of it"]
    body = [
        [
            f"{float(row['speedup']):.2f}x",
            row["way"].split(", ")[1],
            f"`{row['calls']}`",
            _interval(row, "psnr", ".1f"),
            f"{float(row['predicted']):.1f}",
            _interval(plain[float(row["aim"])], "psnr", ".1f"),
            f"`{plain[float(row['aim'])]['calls']}`",
        ]
        for row in sorted(data, key=lambda row: float(row["speedup"]))
    ]
    return f"{markdown(header, body)}\n{_made(data)}"


def agreement_hours() -> str:
    """What measuring and repairing FLUX.1 at 1024 pixels takes, counted in full-size calls."""
    flops = {row["latent"]: float(row["total_tflop"]) for row in rows("cost") if row["model"] == "FLUX.1-dev"}
    full, half = flops["128x128"], flops["64x64"] / flops["128x128"]
    # Forward, forward again for the checkpoints, and twice a forward for the backward pass.
    calls = {
        "measure: 8 runs of 28 steps, half size": 8 * 28 * (4 + 2 * half),
        "256 own pictures of 28 steps": 256 * 28,
        "1000 steps of batch 8: a full-size answer, and half size forward and back": 8000 * (1 + 4 * half),
    }
    header = ["what", "full-size calls", "hours at 200 TFLOP/s", "hours at 400 TFLOP/s"]
    body = [
        [what, f"{n:.0f}", *(f"{n * full / rate / 3600:.1f}" for rate in (200, 400))]
        for what, n in {**calls, "together": sum(calls.values())}.items()
    ]
    return f"{markdown(header, body)}\nA call: {full:.1f} TFLOP at full size, {half:.2f} of it at half size.\n"


def video_spectrum() -> str:
    """Power of the clips at octaves of temporal (rows) and spatial (columns) frequency."""
    space = ("0", "1", "2", "4", "8", "16", "32")
    power = {(row["omega_t"], row["omega_s"]): float(row["power"]) for row in rows("video_growth_spectrum")}
    header = ["cycles per clip \\ per shorter side", *space]
    time = ("0", "0.5", "1", "2", "4", "8", "15.5")
    return markdown(header, [[t, *(f"{power[t, s]:.3g}" for s in space)] for t in time])


def video_plans() -> str:
    """Growth in space, time and both on the measured table."""
    data = rows("video_growth_plans")
    names = [name for name in data[0] if name not in ("device", "torch", "python", "commit")]
    return chosen("video_growth_plans", {name: name for name in names})


def video_cost() -> str:
    """FLOPs of a step of WAN 2.1 1.3B by latent grid."""
    names = ["latent", "video", "linear TFLOP", "attention TFLOP", "of full size"]
    return chosen("video_growth_cost", {name: name for name in names})


def kernels() -> str:
    """Native operations against the fastest other candidate of each case and against the floor, on one and two threads."""
    from kernels import CASES, OTHERS

    one, two = kernel_cases("1"), kernel_cases("2")
    wanted = {(case.operation, case.name): case for case in CASES + OTHERS}
    body = []
    for case, candidates in one.items():
        fastest = fastest_other(candidates)
        gate, aim = wanted[case].gate, wanted[case].aim
        missed = " (missed)" if gate and float(fastest["ratio"]) < gate else ""
        body.append(
            [
                *case,
                candidates["native"]["ns_per_sample"],
                fastest["candidate"],
                fastest["ratio"],
                "" if gate is None else f"{gate}{missed}",
                "" if aim is None else str(aim),
                f"{float(candidates['native']['ns_per_sample']) / float(candidates['floor']['ns_per_sample']):.1f}",
                fastest_other(two[case])["ratio"] if case in two else "",
            ]
        )
    header = ["operation", "grids", "ns a sample", "fastest other", "times faster", "gate", "aim", "times the floor"]
    table = markdown([*header, "times faster on two threads"], body)
    return f"{table}\n{kernel_note(next(iter(one.values())))}\n"


def cuda_kernels() -> str:
    """Registers of each CUDA kernel on every architecture, and the most it spills."""
    kernels: dict[str, dict[str, dict[str, str]]] = {}
    for row in rows("cuda_kernels"):
        kernels.setdefault(row["kernel"], {})[row["architecture"]] = row
    architectures = list(next(iter(kernels.values())))
    body = [
        [name, *(on[a]["registers"] for a in architectures), str(max(int(row["spill_stores"]) for row in on.values()))]
        for name, on in kernels.items()
    ]
    nvcc = rows("cuda_kernels")[0]["nvcc"]
    table = markdown(["kernel", *(f"registers, {a}" for a in architectures), "bytes spilled"], body)
    return f"{table}\nnvcc {nvcc}.\n"


GENERATORS: dict[str, Callable[[], str]] = {
    "same_seed": same_seed,
    "optimal_flux": optimal_flux,
    "optimal_interplay": optimal_interplay,
    "optimal_balance": optimal_balance,
    "optimal_nonlinear": optimal_nonlinear,
    "optimal_transformer": optimal_transformer,
    "editing_transformer": editing_transformer,
    "video_spectrum": video_spectrum,
    "video_plans": video_plans,
    "video_cost": video_cost,
    "same_seed_share": same_seed_share,
    "same_seed_steps": same_seed_steps,
    "cost": cost,
    "usual_plans": usual_plans,
    "few_steps": few_steps,
    "adapters": adapters,
    "comfyui": comfyui,
    "flux_reduced": flux_reduced,
    "evaluate_hours": evaluate_hours,
    "savings": savings,
    "kernel_speed": kernel_speed,
    "cuda_speed": cuda_speed,
    "full_size": full_size,
    "multistep_history": multistep_history,
    "channels": channels,
    "spectra_choices": spectra_choices,
    "spectra_sets": spectra_sets,
    "latent_spectra": latent_spectra,
    "latent_content": latent_content,
    "latent_clip": latent_clip,
    "spectra_throughput": spectra_throughput,
    "editing": editing,
    "passthrough": passthrough,
    "passthrough_error": passthrough_error,
    "passthrough_transformer": passthrough_transformer,
    "kernels": kernels,
    "cuda_kernels": cuda_kernels,
    "equations": equations,
    "tiny_dit": tiny_dit,
    "latent_dit": latent_dit,
    "latent_dit_done": latent_dit_done,
    "both_pictures": both_pictures,
    "both_passthrough": both_passthrough,
    "both_editing": both_editing,
    "both_optimal": both_optimal,
    "latent_dit_bins": latent_dit_bins,
    "latent_dit_neighbours": latent_dit_neighbours,
    "latent_dit_agreement": latent_dit_agreement,
    "faces": faces,
    "pareto": pareto,
    "pareto_latent": pareto_latent,
    "trained_network": trained_network,
    "two_grids": two_grids,
    "two_grids_faces": two_grids_faces,
    "two_grids_latent": two_grids_latent,
    "two_grids_models": two_grids_models,
    "two_grids_parts": two_grids_parts,
    "two_grids_random": two_grids_random,
    "two_grids_seeds": two_grids_seeds,
    "two_grids_ways": two_grids_ways,
    "two_grids_prediction": two_grids_prediction,
    "agreement": agreement,
    "agreement_fitted": agreement_fitted,
    "agreement_sizes": agreement_sizes,
    "agreement_two_grids": agreement_two_grids,
    "agreement_hours": agreement_hours,
    "pareto_best": pareto_best,
}


def render(text: str) -> str:
    """`text` with every generated block made anew."""

    def fresh(match: re.Match[str]) -> str:
        content = GENERATORS[match[2]]()
        return match[1] + (shortened(content, int(match[3])) if match[3] else content) + match[4]

    return BLOCK.sub(fresh, text)


def shortened(content: str, count: int) -> str:
    """The same block with `count` >= 2 rows of its one table, first and last among them; what surrounds it stays."""
    lines = content.splitlines(keepends=True)
    places = [number for number, line in enumerate(lines) if line.startswith("| ")][2:]
    kept = {places[round(k * (len(places) - 1) / (count - 1))] for k in range(count)}
    return "".join(line for number, line in enumerate(lines) if number not in set(places) - kept)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when a block is out of date")
    check = parser.parse_args().check
    stale = []
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        text = path.read_text()
        fresh = render(text)
        if fresh != text:
            stale.append(path)
            if not check:
                path.write_text(fresh)
    print(
        "\n".join(f"{'out of date' if check else 'rewritten'}: {path.relative_to(ROOT)}" for path in stale)
        or "up to date"
    )
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
