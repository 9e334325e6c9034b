r"""Time the real transformers, with random weights, through their pipelines and adapters: what progressive sampling saves.

Time and memory do not depend on the values of weights, so random ones do. For each model: the time of one step at every
stage size, each plan end to end (denoising only), the time of its expansions, peak memory, and the speedup beside the one
predicted by the FLOP count (:mod:`cost`).

    python benchmarks/full_size.py                         # FLUX.1-dev, Z-Image, Wan2.1-1.3B on one 80 GB GPU
    python benchmarks/full_size.py --compile
    python benchmarks/full_size.py --reduced --models flux --latent 64 64 --device cpu      # rehearsal: few blocks

Rows go to benchmarks/results/full_size.csv (rehearsals: reduced.csv); a row with the same model, mode and device is replaced.
"""

from __future__ import annotations

import argparse
import csv
import platform
import resource
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from cost import MODELS, RESULTS, step_cost

from spectral_pd import NoiseField, Plan, expand_aligned
from spectral_pd.adapters import Adapter, adapt


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

    ``seconds`` is the whole denoising, once. Speedups are of median step times, pooled over all steps of a size, with the
    expansions added: steps of one size do the same work, and a median is not moved by what else the machine does.
    """

    model: str
    blocks: str
    mode: str
    dtype: str
    latent: str
    steps: int
    split: str
    step_seconds: str
    seconds: float
    full_step_seconds: float
    speedup: float
    predicted: float
    over_50: float
    predicted_over_50: float
    expansion_seconds: float
    expansion_share: float
    peak_gib: float
    device: str
    versions: str
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
        transformer.compile(dynamic=False)  # one graph a stage size
    pipe = SETUPS[name].pipeline(transformer)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def prepare(pipe: Any, name: str, steps: int, latent: Sequence[int], arguments: dict[str, Any]) -> Adapter:
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


def timed_steps(adapter: Adapter, plan: Plan, clock: Clock) -> tuple[float, list[list[float]]]:
    """Seconds of the whole denoising, and of every step by stage (the step after a transition includes it)."""
    marks = [clock()]
    stages: list[int] = []

    def mark(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        marks.append(clock())
        stages.append(tensors["stage"])
        return {}

    adapter.arguments.callback_on_step_end = mark
    adapter.run(plan)
    total = clock() - marks[0]
    by_stage: list[list[float]] = [[] for _ in plan.stages]
    for stage, begin, end in zip(stages, marks[:-1], marks[1:], strict=True):
        by_stage[stage].append(end - begin)
    return total, by_stage


def expansion_seconds(adapter: Adapter, plan: Plan, clock: Clock, repeats: int = 5) -> float:
    """Seconds of all transitions of a plan, each the median of a few; the first call makes the tables."""
    total = 0.0
    for before, after in zip(plan.stages[:-1], plan.stages[1:], strict=True):
        shape = (*adapter.leading, *before.shape)
        x = NoiseField(0).on(shape, device=adapter.device)
        field = NoiseField(1).on((*adapter.leading, *after.shape), device=adapter.device)
        times = []
        for _ in range(repeats + 1):
            begin = clock()
            expand_aligned(x, after.shape, before.times[-1], noise=field)
            times.append(clock() - begin)
        total += statistics.median(times[1:])
    return total


def measure(
    name: str,
    device: torch.device,
    plans: Sequence[tuple[int, tuple[float, ...]]],
    *,
    reduced: bool,
    compiled: bool,
    latent: Sequence[int],
) -> list[Row]:
    """Some (steps, scales) plans of one model."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    clock, setup = Clock(device), SETUPS[name]
    pipe = build_pipeline(name, device, dtype, reduced=reduced, compiled=compiled)
    arguments = setup.arguments(dtype, device)
    cost = step_cost(name, reduced=reduced)
    # Warm up every stage size once (kernels, tables, graphs), then time the full-size step.
    sizes = prepare(pipe, name, 3, latent, arguments)
    for scales in sorted({s for _, s in plans}, key=len):
        warm_times = tuple(0.95 - 0.01 * k for k in range(len(scales) - 1))
        sizes.run(sizes.plan(scales=scales, transition_times=warm_times, unreached="force"))
    seen: dict[tuple[int, ...], list[float]] = {sizes.grid: timed_steps(sizes, sizes.plan(scales=(1,)), clock)[1][0]}
    rows = []
    for steps, scales in plans:
        adapter = prepare(pipe, name, steps, latent, arguments)
        plan = adapter.plan(scales=scales, cost=cost)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        seconds, by_stage = timed_steps(adapter, plan, clock)
        peak = _peak_gib(device)
        growing = expansion_seconds(adapter, plan, clock)
        for stage, times in zip(plan.stages, by_stage, strict=True):
            # The first step after a transition includes the expansion, and perhaps cold caches.
            seen.setdefault(stage.shape, []).extend(times[1:] or times)
        typical = {shape: statistics.median(times) for shape, times in seen.items()}
        full_step = typical[plan.shape]
        planned = sum(stage.steps * typical[stage.shape] for stage in plan.stages) + growing
        rows.append(
            Row(
                model=MODELS[name].label,
                blocks="few" if reduced else "all",
                mode="compile" if compiled else "eager",
                dtype=str(dtype).removeprefix("torch."),
                latent="x".join(map(str, latent)),
                steps=steps,
                split="+".join(map(str, plan.split)),
                step_seconds=" ".join(f"{typical[shape]:.4g}" for shape in plan.shapes),
                seconds=seconds,
                full_step_seconds=full_step,
                speedup=steps * full_step / planned,
                predicted=plan.speedup(),
                over_50=50 * full_step / planned,
                predicted_over_50=50 * cost(plan.shape) / plan.cost(),
                expansion_seconds=growing,
                expansion_share=growing / planned,
                peak_gib=peak,
                device=_device_name(device),
                versions=_versions(),
                commit=_commit(),
            )
        )
        print(_brief(rows[-1]), flush=True)
    return rows


def _brief(row: Row) -> str:
    return (
        f"{row.model} {row.mode} {row.steps} steps {row.split}: {row.seconds:.2f} s (steps {row.step_seconds}), speedup "
        f"{row.speedup:.3f} (predicted {row.predicted:.3f}), over 50 {row.over_50:.2f} ({row.predicted_over_50:.2f}), "
        f"expansions {row.expansion_share:.3%}, peak {row.peak_gib:.1f} GiB"
    )


def _peak_gib(device: torch.device) -> float:
    """Most memory held so far: by tensors on a GPU since the last reset, by the process on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} thread"


def _versions() -> str:
    import diffusers

    return f"torch {torch.__version__}, diffusers {diffusers.__version__}"


def _commit() -> str:
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    return answer.stdout.strip() or "unknown"


def write(path: Path, rows: Sequence[Row]) -> None:
    """Add rows to a results file; older rows of the same model, blocks, mode, latent and device go."""
    names = [f.name for f in fields(Row)]
    key = ("model", "blocks", "mode", "latent", "device")
    fresh = [{n: f"{v:.5g}" if isinstance(v, float) else str(v) for n, v in asdict(row).items()} for row in rows]
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


def main() -> None:
    parser = argparse.ArgumentParser(description="Time random-weight pretrained transformers through the adapters.")
    parser.add_argument("--models", nargs="+", choices=sorted(SETUPS), default=sorted(SETUPS))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--compile", action="store_true", help="torch.compile the transformer, one graph a stage size")
    parser.add_argument("--reduced", action="store_true", help="real width, few blocks: a rehearsal for small machines")
    parser.add_argument("--latent", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help="another full latent size")
    parser.add_argument("--steps", type=int, nargs="+", help="only the plans with these numbers of steps")
    parser.add_argument("--stages", type=int, nargs="+", help="only the plans with these numbers of stages")
    parser.add_argument("--out", type=Path)
    a = parser.parse_args()
    device = torch.device(a.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error("no CUDA device here; rehearse with --device cpu --reduced --latent 64 64")
    out = a.out or RESULTS / ("reduced.csv" if a.reduced else "full_size.csv")
    for name in a.models:
        setup = SETUPS[name]
        plans = tuple(
            (steps, scales)
            for steps, scales in setup.plans
            if (not a.steps or steps in a.steps) and (not a.stages or len(scales) in a.stages)
        )
        latent = a.latent or setup.latent
        rows = measure(name, device, plans, reduced=a.reduced, compiled=a.compile, latent=latent)
        write(out, rows)


if __name__ == "__main__":
    main()
