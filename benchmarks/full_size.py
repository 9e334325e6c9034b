r"""Time the real transformers, with random weights, through their pipelines and adapters: what progressive sampling saves.

Time and memory do not depend on the values of weights, so random ones do. For each model, eager and compiled: the time of
one step at every stage size, each plan end to end (denoising only), the time of its expansions, peak memory, and the speedup
beside the one predicted by the FLOP count (:mod:`cost`). A plan that would run longer than --longest is priced from its step
times, and its ``seconds`` stay empty.

    python benchmarks/full_size.py                         # everything, on one GPU of 80 GB: tens of minutes
    python benchmarks/full_size.py --models flux --modes eager
    python benchmarks/full_size.py --device cpu --reduced --latent 32 32 --dtype bfloat16      # rehearsal: few blocks

On a machine without a network, bring diffusers along as wheels: ``pip download -d wheels diffusers transformers accelerate``
where there is one (the same Python and platform), then ``pip install --no-index --find-links wheels diffusers transformers``.

Rows go to benchmarks/results/full_size.csv (rehearsals: full_size_reduced.csv) after every plan; older rows of the
same model, mode, size and device are replaced. A model that fails is reported and does not stop the others.
"""

from __future__ import annotations

import argparse
import csv
import gc
import importlib.util
import itertools
import resource
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from cost import MODELS, RESULTS, counted_cost
from environment import driver, environment

from spectral_pd import DCT, NoiseField, Plan, expand_aligned
from spectral_pd.adapters import Ride, adapt


@dataclass(frozen=True)
class Setup:
    """How one model is called: its native size and the plans of the paper.

    Attributes
    ----------
    latent
        Full latent (height, width).
    pipeline
        ``pipeline(transformer)``: the pipeline without encoders and autoencoder.
    arguments
        ``arguments(dtype, device)``: prompt embeddings and guidance.
    plans
        (steps, scales) at delta 0.01.
    """

    latent: tuple[int, int]
    pipeline: Callable[[Any], Any]
    arguments: Callable[[torch.dtype, torch.device], dict[str, Any]]
    plans: tuple[tuple[int, tuple[float, ...]], ...]


def _flux_pipeline(transformer: Any) -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline

    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15)
    missing = dict.fromkeys(("vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"))
    return FluxPipeline(scheduler=scheduler, transformer=transformer, **missing)


def _flux_arguments(dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    return {
        "prompt_embeds": torch.randn(1, 512, 4096, dtype=dtype, device=device),
        "pooled_prompt_embeds": torch.randn(1, 768, dtype=dtype, device=device),
    }


def _z_image_pipeline(transformer: Any) -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, ZImagePipeline

    missing = dict.fromkeys(("vae", "text_encoder", "tokenizer"))
    return ZImagePipeline(scheduler=FlowMatchEulerDiscreteScheduler(shift=6.0), transformer=transformer, **missing)


def _z_image_arguments(dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    prompts = torch.randn(2, 256, 2560, dtype=dtype, device=device)
    return {"prompt_embeds": [prompts[0]], "negative_prompt_embeds": [prompts[1]], "guidance_scale": 4.0}


def _wan_pipeline(transformer: Any) -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, WanPipeline

    missing = dict.fromkeys(("vae", "text_encoder", "tokenizer"))
    return WanPipeline(scheduler=FlowMatchEulerDiscreteScheduler(shift=5.0), transformer=transformer, **missing)


def _wan_arguments(dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    prompts = torch.randn(2, 1, 512, 4096, dtype=dtype, device=device)
    return {"prompt_embeds": prompts[0], "negative_prompt_embeds": prompts[1], "guidance_scale": 5.0, "num_frames": 81}


HALF, QUARTER = (1 / 2, 1.0), (1 / 4, 1 / 2, 1.0)
IMAGE_PLANS = tuple((steps, scales) for steps in (50, 12, 10) for scales in (HALF, QUARTER))

SETUPS = {
    "flux": Setup((128, 128), _flux_pipeline, _flux_arguments, IMAGE_PLANS),
    "z-image": Setup((128, 128), _z_image_pipeline, _z_image_arguments, IMAGE_PLANS),
    "wan": Setup((90, 156), _wan_pipeline, _wan_arguments, ((50, (2 / 3, 1.0)), (50, (1 / 3, 2 / 3, 1.0)))),
}


@dataclass(frozen=True)
class Row:
    """One plan of one model: times in seconds, speedups over the same and over 50 full-size steps.

    ``step_seconds`` are those of ``stages``, the latent sizes, and ``split`` how many steps each takes.
    ``seconds`` is the whole denoising, once; None where it was not run to its end. Speedups are of median step times, pooled
    over all steps of a size, with the expansions added: steps of one size do the same work, and a median is not moved by what
    else the machine does.
    """

    model: str
    blocks: str
    mode: str
    dtype: str
    latent: str
    steps: int
    split: str
    stages: str
    step_seconds: str
    seconds: float | None
    full_step_seconds: float
    speedup: float
    predicted: float
    over_50: float
    predicted_over_50: float
    expansion_seconds: float
    expansion_share: float
    peak_gib: float
    device: str
    driver: str
    torch: str
    diffusers: str
    python: str
    commit: str


class Clock:
    """Wall time after all queued work; on the CPU the process's own time, which a busy machine does not inflate."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def __call__(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            return time.perf_counter()
        # Exact for one thread; benchmarks on the CPU are run with one.
        return time.process_time()


def build_pipeline(name: str, device: torch.device, dtype: torch.dtype, *, reduced: bool, compiled: bool) -> Any:
    """The pipeline of a model with random weights."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            transformer = MODELS[name].build(reduced=reduced).eval().requires_grad_(False)
    finally:
        torch.set_default_dtype(default)
    if compiled:
        # Block by block: one graph a kind of block and stage size, compiled once for all layers.
        transformer.compile_repeated_blocks(fullgraph=True, dynamic=False)
    pipe = SETUPS[name].pipeline(transformer)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def prepare(pipe: Any, name: str, steps: int, latent: Sequence[int], arguments: dict[str, Any]) -> Ride:
    """One call of the pipeline at a latent size (8 pixels a latent)."""
    return adapt(
        pipe,
        height=latent[0] * 8,
        width=latent[1] * 8,
        num_inference_steps=steps,
        output_type="latent",
        generator=torch.Generator().manual_seed(0),
        **arguments,
    )


def timed_steps(adapter: Ride, plan: Plan, clock: Clock) -> tuple[float, list[list[float]]]:
    """Seconds of the whole denoising, and of every step by stage (the step after a transition includes it)."""
    begun: list[float] = []
    network = adapter.pipe.transformer
    handle = network.register_forward_pre_hook(lambda *args: begun.append(clock()))
    adapter.run(plan)
    end = clock()
    handle.remove()
    # Guidance may call the network several times a step.
    marks = [*begun[:: len(begun) // plan.nfe], end]
    seconds = [after - before for before, after in itertools.pairwise(marks)]
    return end - marks[0], [seconds[stage.start : stage.stop] for stage in plan.stages]


def expansion_seconds(adapter: Ride, plan: Plan, clock: Clock, repeats: int = 5) -> float:
    """Seconds of all transitions of a plan, each the median of a few; the first call makes the tables."""
    total = 0.0
    white = NoiseField(1).on((*adapter.shape[:-2], *plan.shape), device=adapter.pipe._execution_device)
    for before, after in zip(plan.stages[:-1], plan.stages[1:], strict=True):
        x = NoiseField(0).on((*adapter.shape[:-2], *before.shape), device=adapter.pipe._execution_device)
        times = []
        for _ in range(repeats + 1):
            begin = clock()
            expand_aligned(x, after.shape, before.local_times[-1], noise=DCT.restrict(white, after.shape))
            times.append(clock() - begin)
        total += statistics.median(times[1:])
    return total


def step_times(adapter: Ride, scales: tuple[float, ...], clock: Clock) -> dict[tuple[int, ...], list[float]]:
    """Seconds of a few steps at every stage size of some scales, the first at a size (and its expansion) left out."""
    times = adapter.times
    steps = len(times) - 1
    # Stages of equal length, whatever the model's own transition times are.
    transitions = tuple(times[k * steps // len(scales)] for k in range(1, len(scales)))
    plan = adapter.plan(scales=scales, transition_times=transitions)
    _, by_stage = timed_steps(adapter, plan, clock)
    return {stage.shape: seconds[1:] for stage, seconds in zip(plan.stages, by_stage, strict=True)}


def measure(
    name: str,
    device: torch.device,
    plans: Sequence[tuple[int, tuple[float, ...]]],
    *,
    dtype: torch.dtype,
    reduced: bool,
    compiled: bool,
    latent: Sequence[int],
    longest: float,
) -> Iterator[Row]:
    """Some (steps, scales) plans of one model, a row as soon as it is measured.

    Parameters
    ----------
    name
        Of :data:`SETUPS`.
    device, dtype
        Where and in what type the transformer runs.
    plans
        (steps, scales), at delta 0.01.
    reduced
        Few blocks.
    compiled
        With torch.compile.
    latent
        Full latent (height, width).
    longest
        Seconds; plans expected to take longer are not run to their end.
    """
    clock = Clock(device)
    pipe = build_pipeline(name, device, dtype, reduced=reduced, compiled=compiled)
    arguments = SETUPS[name].arguments(dtype, device)
    cost = counted_cost(name, reduced=reduced)
    seen: dict[tuple[int, ...], list[float]] = {}
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    # A few steps at every size: kernels are chosen and graphs made at the first, the others are measured.
    for scales in sorted({scales for _, scales in plans}, key=len):
        short = prepare(pipe, name, 3 * len(scales), latent, arguments)
        for shape, seconds in step_times(short, scales, clock).items():
            seen.setdefault(shape, []).extend(seconds)
    for steps, scales in plans:
        adapter = prepare(pipe, name, steps, latent, arguments)
        plan = adapter.plan(scales=scales, cost=cost)
        expected = sum(stage.steps * statistics.median(seen[stage.shape]) for stage in plan.stages)
        total = None
        if expected <= longest:
            total, by_stage = timed_steps(adapter, plan, clock)
            for stage, seconds in zip(plan.stages, by_stage, strict=True):
                seen[stage.shape].extend(seconds[1:])
        growing = expansion_seconds(adapter, plan, clock)
        typical = {shape: statistics.median(seconds) for shape, seconds in seen.items()}
        full_step = typical[plan.shape]
        planned = sum(stage.steps * typical[stage.shape] for stage in plan.stages) + growing
        row = Row(
            model=MODELS[name].label,
            blocks="few" if reduced else "all",
            mode="compile" if compiled else "eager",
            dtype=str(dtype).removeprefix("torch."),
            latent="x".join(map(str, latent)),
            steps=steps,
            split="+".join(map(str, plan.split)),
            stages=" ".join("x".join(map(str, shape)) for shape in plan.shapes),
            step_seconds=" ".join(f"{typical[shape]:.4g}" for shape in plan.shapes),
            seconds=total,
            full_step_seconds=full_step,
            speedup=steps * full_step / planned,
            predicted=plan.speedup(),
            over_50=50 * full_step / planned,
            predicted_over_50=50 * cost(plan.shape) / plan.cost(),
            expansion_seconds=growing,
            expansion_share=growing / planned,
            peak_gib=_peak_gib(device),
            driver=driver() if device.type == "cuda" else "",
            diffusers=version("diffusers"),
            **environment(torch.cuda.get_device_name(device) if device.type == "cuda" else None),
        )
        print(_brief(row), flush=True)
        yield row


def _brief(row: Row) -> str:
    total = "" if row.seconds is None else f"{row.seconds:.2f} s, "
    return (
        f"{row.model} {row.mode} {row.steps} steps {row.split}: {total}steps {row.step_seconds} s, speedup "
        f"{row.speedup:.3f} (predicted {row.predicted:.3f}), over 50 {row.over_50:.2f} ({row.predicted_over_50:.2f}), "
        f"expansions {row.expansion_share:.3%}, peak {row.peak_gib:.1f} GiB"
    )


def _peak_gib(device: torch.device) -> float:
    """Most memory held so far: by this model's tensors on a GPU, by the process on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def write(path: Path, rows: Sequence[Row]) -> None:
    """Add rows to a results file; older rows of the same model, blocks, mode, latent and device go."""
    names = [f.name for f in fields(Row)]
    key = ("model", "blocks", "mode", "latent", "device")
    fresh = [{n: _cell(v) for n, v in asdict(row).items()} for row in rows]
    replaced = {tuple(row[k] for k in key) for row in fresh}
    old = []
    if path.exists():
        with path.open(newline="") as file:
            old = [row for row in csv.DictReader(file) if tuple(row[k] for k in key) not in replaced]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(old + fresh)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=sorted(SETUPS), default=sorted(SETUPS))
    parser.add_argument("--modes", nargs="+", choices=("eager", "compile"), default=("eager", "compile"))
    parser.add_argument("--device", type=torch.device, default=torch.device("cuda"))
    parser.add_argument("--dtype", choices=("bfloat16", "float16", "float32"), default="bfloat16")
    parser.add_argument("--reduced", action="store_true", help="real width, few blocks: a rehearsal for small machines")
    parser.add_argument("--latent", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help="another full latent size")
    parser.add_argument("--steps", type=int, nargs="+", help="only the plans with these numbers of steps")
    parser.add_argument("--longest", type=float, default=150.0, help="seconds; longer plans are not run to their end")
    parser.add_argument("--out", type=Path)
    a = parser.parse_args()
    if importlib.util.find_spec("diffusers") is None:
        parser.error(
            "diffusers is not installed: pip install diffusers transformers accelerate, or from wheels, see --help"
        )
    if a.device.type == "cuda" and not torch.cuda.is_available():
        parser.error("no CUDA device here; rehearse with --device cpu --reduced --latent 32 32")
    out = a.out or RESULTS / ("full_size_reduced.csv" if a.reduced else "full_size.csv")
    failed = 0
    for name, mode in [(name, mode) for name in a.models for mode in a.modes]:
        setup = SETUPS[name]
        rows = []
        try:
            for row in measure(
                name,
                a.device,
                [plan for plan in setup.plans if not a.steps or plan[0] in a.steps],
                dtype=getattr(torch, a.dtype),
                reduced=a.reduced,
                compiled=mode == "compile",
                latent=a.latent or setup.latent,
                longest=a.longest,
            ):
                rows.append(row)
                write(out, rows)
        except Exception:
            failed += 1
            print(f"{name} {mode} failed:\n{traceback.format_exc()}", file=sys.stderr, flush=True)
        gc.collect()  # the last transformer
        torch._dynamo.reset()
        if a.device.type == "cuda":
            torch.cuda.empty_cache()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
