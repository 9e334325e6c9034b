r"""Fine-tune a model for one schedule (paper Sec. 4.3): LoRA on the stage-wise targets of ``spectral_pd.training``.

    python benchmarks/finetune.py tiny --folder RUN --scales 1/2 1 --delta 0.1 --out lora.safetensors
    accelerate launch --num_processes 8 benchmarks/finetune.py /models/FLUX.1-dev --latents FOLDER \
        --call '{"height": 1024, "width": 1024, "num_inference_steps": 50, "guidance_scale": 1.0}' \
        --folder RUN --base-dtype bfloat16 --precision bf16 --checkpointing --out lora.safetensors

The model is the small transformer (``tiny``) or a folder with a diffusers pipeline that spectral_pd.adapters supports. A
pipeline's data are safetensors files, one a picture: ``latents`` (C, [T], H, W), spatial and scaled as the sampler's state
is, and the embeddings of its caption under the names of the pipeline's arguments (``prompt_embeds``,
``pooled_prompt_embeds``, ...), all without a batch axis.

``--objective agree`` repairs a network whose sizes disagree (docs/agreement.md): its coarse calls learn to say what its own
frozen full-size calls say, on its own pictures, which it makes first; files need no ``latents`` then. The adapter is on in
coarse stages only: ``progressive(..., stage_lora=FILE)``. With ``--informed`` these also read the seed's own high band.

All randomness of step k is a function of the seed and k: a stopped run goes on exactly, and P processes with one global
batch draw what one process draws. Before the first step the training states are compared with the sampler's own. The
adapter is written in diffusers' LoRA layout (``pipe.load_lora_weights`` reads it) with its schedule in the header.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model, set_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_dit.data import Photographs, load_photographs
from tiny_dit.model import SPECTRUM, WEIGHTS, load
from torch import Tensor, nn
from tqdm import tqdm

from spectral_pd import DCT, FOURIER, HAAR, Plan, PowerLaw, make_plan, sample, shift_times
from spectral_pd.adapters.layouts import FLUX
from spectral_pd.adapters.rider import own_solver
from spectral_pd.bases import Basis
from spectral_pd.inputs import comparisons
from spectral_pd.restriction import restrict_noise, restrict_signal
from spectral_pd.solvers import Solver, dpmpp_2m
from spectral_pd.stage_lora import StageLora, features
from spectral_pd.training import (
    StageSample,
    agreement_sample,
    check_metadata,
    draw_times,
    schedule_metadata,
    stage_endpoints,
    stage_loss,
    stage_sample,
    step_weights,
)

BASES = {"dct": DCT, "haar": HAAR, "fourier": FOURIER}
PREFIX = "transformer."
"""What diffusers puts before the names of a transformer's LoRA weights."""

RECIPE = (
    "objective",
    "draw",
    "weighted",
    "steps",
    "batch",
    "rate",
    "warmup",
    "clip",
    "precision",
    "seed",
    "own",
    "informed",
)
"""Arguments that the adapter's header names, beside its schedule and rank."""

Condition = Mapping[str, Tensor]


class Trainable(Protocol):
    """What the recipe needs of a model."""

    network: nn.Module
    targets: Sequence[str]
    """Name endings of the linear layers that get an adapter."""
    reads: str
    """Name of the first layer, which informed coarse calls widen; empty where that is not supported."""
    patch: int
    solver: Solver
    """What the model is sampled with."""

    def plan(self, **options: Any) -> Plan: ...

    def spectrum(self) -> PowerLaw: ...

    def item(self, generator: torch.Generator) -> tuple[Tensor, Condition]:
        """A clean picture (C, [T], H, W) and what it is conditioned on."""
        ...

    def condition(self, index: int) -> tuple[tuple[int, ...], Condition]:
        """Shape (C, [T], H, W) and condition of the model's own picture number `index`."""
        ...

    def pack(self, planes: Tensor) -> Tensor:
        """Planes (batch, channels, [T], H, W) as the first layer reads them."""
        ...

    def velocity(self, x: Tensor, t: Tensor, conditions: Sequence[Condition]) -> Tensor: ...


class TinyModel:
    """The small transformer and crops of its photographs."""

    targets = ("qkv", "out", "up", "down")
    reads, patch, solver = "read", 4, staticmethod(dpmpp_2m)

    def __init__(self, pictures: Photographs, *, weights: Path, steps: int, shift: float) -> None:
        self.network = load(weights)
        self.pictures, self.times = pictures, shift_times(steps, shift=shift)

    def spectrum(self) -> PowerLaw:
        return PowerLaw.load(SPECTRUM)

    def plan(self, **options: Any) -> Plan:
        return make_plan(self.times, self.spectrum(), (64, 64), multiple_of=4, **options)

    def item(self, generator: torch.Generator) -> tuple[Tensor, Condition]:
        return self.pictures.crops(1, generator=generator)[0], {}

    def condition(self, index: int) -> tuple[tuple[int, ...], Condition]:
        return (3, 64, 64), {}

    def pack(self, planes: Tensor) -> Tensor:
        return replace(FLUX, patch=self.patch).pack(planes)

    def velocity(self, x: Tensor, t: Tensor, conditions: Sequence[Condition]) -> Tensor:
        return self.network(x, t)


class PipelineModel:
    """The transformer of a diffusers pipeline and a folder of encoded pictures."""

    targets = ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")

    def __init__(self, folder: str, latents: Path, call: Mapping[str, Any], *, dtype: torch.dtype) -> None:
        from diffusers import DiffusionPipeline

        parts = DiffusionPipeline.load_config(folder)
        text = {name: None for name in parts if name.startswith(("text_encoder", "tokenizer"))}  # captions are encoded
        self.pipe = DiffusionPipeline.from_pretrained(folder, torch_dtype=dtype, **text)
        self.network = self.pipe.transformer
        self.call = dict(call)
        self.files = sorted(latents.glob("*.safetensors"))
        if not self.files:
            raise FileNotFoundError(f"no *.safetensors below {latents}; encode the pictures first (see --help)")
        x0, condition = self._read(self.files[0])
        self._adapter = self._adapt(condition)
        layout = self._adapter.layout
        self.reads, self.patch, self.solver = layout.reads, layout.patch, own_solver(self.pipe.scheduler)
        grid = self._adapter.shape[1:]
        if x0 is not None and tuple(x0.shape) != grid:
            raise ValueError(
                f"latents of {self.files[0].name} are {tuple(x0.shape)}, but --call makes a state of {grid}"
            )

    def _read(self, path: Path) -> tuple[Tensor | None, Condition]:
        tensors = load_file(path)
        x0 = tensors.pop("latents", None)
        return None if x0 is None else x0.float(), tensors

    def _adapt(self, condition: Condition) -> Any:
        from spectral_pd.adapters import adapt

        device, dtype = self.pipe.device, self.network.dtype
        batched = {name: value.to(device, dtype)[None] for name, value in condition.items()}
        return adapt(self.pipe, **self.call, **batched)

    def spectrum(self) -> PowerLaw:
        return self._adapter.layout.spectrum

    def plan(self, **options: Any) -> Plan:
        return self._adapter.plan(**options)

    def item(self, generator: torch.Generator) -> tuple[Tensor, Condition]:
        path = self.files[int(torch.randint(len(self.files), (1,), generator=generator))]
        x0, condition = self._read(path)
        if x0 is None:
            raise ValueError(
                f"{path} holds no latents; encode the pictures, or use --objective agree, which needs none"
            )
        return x0, condition

    def condition(self, index: int) -> tuple[tuple[int, ...], Condition]:
        return self._adapter.shape[1:], self._read(self.files[index % len(self.files)])[1]

    def pack(self, planes: Tensor) -> Tensor:
        return self._adapter.read(planes)

    def velocity(self, x: Tensor, t: Tensor, conditions: Sequence[Condition]) -> Tensor:
        # Captions differ in length and an adapter takes one time: pictures go through one by one.
        return torch.cat([self._adapt(c).velocity(x[i : i + 1], float(t[i])) for i, c in enumerate(conditions)])


class StageVelocity(nn.Module):
    """The model as a module whose forward is its velocity, which is what data-parallel wrappers wrap."""

    def __init__(self, model: Trainable, lora: StageLora | None = None, basis: Basis = DCT) -> None:
        super().__init__()
        self.network, self._model, self._lora, self._basis = model.network, model, lora, basis
        self.informed = None if lora is None else lora.informed  # its maps are trained with the network's

    def forward(self, x: Tensor, t: Tensor, conditions: Sequence[Condition], noise: Tensor | None = None) -> Tensor:
        if self._lora is not None and noise is not None:
            self._lora.enter(noise, tuple(x.shape[-2:]), float(t[0]), basis=self._basis, pack=self._model.pack)
        return self._model.velocity(x, t, conditions)


def layers(network: nn.Module, targets: Sequence[str]) -> list[str]:
    """Names of the linear layers that end in `targets`. ValueError where none does."""
    names = [
        name
        for name, layer in network.named_modules()
        if isinstance(layer, nn.Linear) and any(f".{name}".endswith(f".{target}") for target in targets)
    ]
    if not names:
        raise ValueError(f"targets = {tuple(targets)} match no linear layer of {type(network).__name__}")
    return names


def add_lora(network: nn.Module, targets: Sequence[str], *, rank: int, seed: int) -> LoraConfig:
    """Put a LoRA of `rank` on the linear layers whose names end in `targets`; only it is trained, in float32."""
    names = layers(network, targets)
    network.requires_grad_(False)
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=names)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        inject_adapter_in_model(config, network)
    for parameter in network.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return config


def save_lora(network: nn.Module, path: Path, config: LoraConfig, metadata: Mapping[str, str]) -> None:
    """Write the adapter in diffusers' layout and float16, with the schedule it was trained for in the header."""
    weights = get_peft_model_state_dict(network)
    tensors = {PREFIX + name: value.cpu().half().contiguous() for name, value in weights.items()}
    shape = {"rank": config.r, "targets": sorted(config.target_modules or ())}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, metadata={"format": "pt", "spectral_pd.lora": json.dumps(shape), **metadata})


def load_lora(network: nn.Module, path: Path, plan: Plan) -> list[str]:
    """Put a saved adapter onto `network` and compare its schedule with the one to sample with.

    Returns
    -------
    The differences between the schedules, also given as a warning; empty when they agree.

    Raises
    ------
    ValueError
        The file holds no schedule, or weights that do not fit the network.
    """
    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
    differences = check_metadata(metadata, plan)
    shape = json.loads(metadata["spectral_pd.lora"])
    config = LoraConfig(r=shape["rank"], lora_alpha=shape["rank"], target_modules=shape["targets"])
    inject_adapter_in_model(config, network)
    tensors = {name.removeprefix(PREFIX): value.float() for name, value in load_file(path).items()}
    result = set_peft_model_state_dict(network, tensors)
    if result.unexpected_keys:
        raise ValueError(f"{path} holds weights the network does not have: {result.unexpected_keys[:3]} ...")
    return differences


def check_consistency(x0: Tensor, noise: Tensor, plan: Plan) -> None:
    """Compare the training states at every stage's start with the states the sampler itself arrives with.

    The sampler is driven along the path of (x0, noise) by a solver that jumps to the path's points.

    Raises
    ------
    RuntimeError
        A stage would be trained from other states than it will be sampled from.
    """
    arrived: dict[tuple[int, ...], Tensor] = {}

    def jump(_: Any, x: Tensor, t: float, t_next: float, history: Any) -> tuple[Tensor, None]:
        shape = tuple(x.shape[-len(plan.shape) :])
        arrived.setdefault(shape, x)
        on_path = (1 - t_next) * restrict_signal(x0, shape, basis=plan.basis)
        return on_path + t_next * restrict_noise(noise, shape, basis=plan.basis), None

    sample(lambda x, t: x, noise, plan, solver=jump)
    for index, stage in enumerate(plan.stages):
        if not stage.steps:
            continue
        start, _ = stage_endpoints(x0, noise, plan, index)
        error = float((start - arrived[stage.shape]).abs().max())
        if error > 1e-5:
            raise RuntimeError(
                f"stage {index} would be trained from states that differ from the sampler's by {error:.3g}; "
                f"do not train with this plan and basis"
            )


@dataclass(frozen=True, eq=False)
class Batch:
    """What a process learns from at once; with the white field and the weight of the loss where coarse calls learn to agree."""

    pair: StageSample
    conditions: Sequence[Condition]
    noise: Tensor | None = None
    weight: float = 1.0

    def to(self, device: torch.device) -> Batch:
        pair = self.pair
        moved = StageSample(pair.x.to(device), pair.t.to(device), pair.target.to(device), pair.stage)
        return replace(self, pair=moved, noise=None if self.noise is None else self.noise.to(device))


def draw(model: Trainable, plan: Plan, args: argparse.Namespace, step: int, mine: range) -> Iterator[Batch]:
    """Micro-batches of this process at a step.

    Stage and times come from the step, picture and noise from the step and the item's place in the global batch.
    """
    generator = torch.Generator().manual_seed(args.seed * 2**40 + step)
    stage, times = draw_times(plan, args.batch, draw=args.draw, generator=generator)
    coarse = int(torch.randint(max(plan.stages[-1].start, 1), (1,), generator=generator))  # a step of the plan
    for begin in range(0, len(mine), args.micro_batch):
        places = mine[begin : begin + args.micro_batch]
        pictures, conditions, noise = [], [], []
        for place in places:
            item = torch.Generator().manual_seed(args.seed * 2**40 + 2**39 + step * args.batch + place)
            x0, condition = (
                own_item(args.folder / "own", args.own, item) if args.objective == "agree" else model.item(item)
            )
            pictures.append(x0)
            conditions.append(condition)
            noise.append(torch.randn(x0.shape, generator=item))
        x0, eps, t = torch.stack(pictures), torch.stack(noise), times[list(places)]
        if args.objective == "agree":
            yield agreeing(model, plan, x0, eps, coarse, conditions)
        elif args.objective == "stage":
            yield Batch(stage_sample(x0, eps, t, plan, stage=stage), conditions)
        else:
            yield Batch(plain_sample(x0, eps, t, plan, stage), conditions)


def agreeing(
    model: Trainable, plan: Plan, x0: Tensor, noise: Tensor, step: int, conditions: Sequence[Condition]
) -> Batch:
    """What the frozen network says at full size; an error weighs what it costs the picture, in D."""
    device, t = next(model.network.parameters()).device, plan.times[step]

    def frozen(x: Tensor, t: float) -> Tensor:
        return model.velocity(x, torch.full((len(x),), t, device=x.device), conditions).float()

    x0, noise = x0.to(device), noise.to(device)
    pair = agreement_sample(frozen, (1 - t) * x0 + t * noise, noise, step, plan)
    weight = step_weights(plan, model.spectrum(), solver=model.solver)[step] * float(pair.t[0]) ** 2
    return Batch(pair, conditions, noise, weight)


def make_own(model: Trainable, times: Sequence[float], args: argparse.Namespace, mine: range) -> None:
    """The model's own pictures, one file each; those that are there are kept. ValueError where another run made them."""
    folder = args.folder / "own"
    folder.mkdir(parents=True, exist_ok=True)
    made = {"model": args.model, "weights": str(args.weights), "call": args.call, "seed": args.seed, "times": times}
    facts = {"made": json.dumps(made, sort_keys=True)}
    for index in tqdm(mine, desc="own pictures"):
        path = folder / f"{index}.safetensors"
        if path.exists():
            with safe_open(path, "pt") as file:
                found = file.metadata()
            if found != facts:
                raise ValueError(f"{path} is of another run ({found}, now {facts}); choose another --folder")
            continue
        shape, condition = model.condition(index)
        x = torch.randn(1, *shape, generator=torch.Generator().manual_seed(args.seed * 2**40 + 2**38 + index))
        x, history = x.to(next(model.network.parameters()).device), None

        def velocity(x: Tensor, t: float, condition: Condition = condition) -> Tensor:
            with torch.no_grad():
                return model.velocity(x, torch.full((1,), t, device=x.device), [condition]).float()

        for t, t_next in pairwise(times):
            x, history = model.solver(velocity, x, t, t_next, history)
        part = path.with_suffix(".part")
        save_file({"latents": x[0].cpu().contiguous(), **condition}, part, facts)
        os.replace(part, path)


def own_item(folder: Path, count: int, generator: torch.Generator) -> tuple[Tensor, Condition]:
    """One of the first `count`, whatever else an earlier run left there."""
    tensors = load_file(folder / f"{int(torch.randint(count, (1,), generator=generator))}.safetensors")
    return tensors.pop("latents"), tensors


def plain_sample(x0: Tensor, noise: Tensor, t: Tensor, plan: Plan, stage: int) -> StageSample:
    """The control: same grids, times, data and noise, but plain flow matching ``v = eps - x_0`` on the stage's grid."""
    shape, basis = plan.shapes[stage], plan.basis
    low0, low1 = restrict_signal(x0, shape, basis=basis), restrict_noise(noise, shape, basis=basis)
    share = t.to(low0.dtype).reshape(-1, *[1] * (low0.ndim - 1))
    return StageSample((1 - share) * low0 + share * low1, t, low1 - low0, stage)


def write_atomically(path: Path, state: Any) -> None:
    """A killed process leaves the old file or the new one."""
    part = path.with_suffix(".part")
    torch.save(state, part)
    os.replace(part, path)


def build(args: argparse.Namespace) -> Trainable:
    """The model the command line names."""
    if args.model == "tiny":
        pictures = load_photographs(args.photographs)
        return TinyModel(pictures, weights=args.weights, steps=args.model_steps, shift=args.shift)
    if args.latents is None:
        raise ValueError("a pipeline needs --latents, a folder of encoded pictures (see --help)")
    return PipelineModel(args.model, args.latents, args.call, dtype=getattr(torch, args.base_dtype))


def train(args: argparse.Namespace) -> None:
    """Run or continue the fine-tuning that `args` describes."""
    accelerator = Accelerator(mixed_precision=args.precision, cpu=args.cpu)
    share = args.micro_batch * accelerator.num_processes
    if args.batch % share:
        raise ValueError(
            f"batch = {args.batch} must be a multiple of micro_batch x processes = {args.micro_batch} x "
            f"{accelerator.num_processes}"
        )
    if args.informed and args.objective != "agree":
        raise ValueError("--informed is of --objective agree: only an adapter for coarse stages reads the high band")
    mine = range(accelerator.process_index, args.batch, accelerator.num_processes)
    model = build(args)
    plan = model.plan(scales=args.scales, delta=args.delta, clock=args.clock, basis=BASES[args.basis])
    spectrum = model.spectrum()
    metadata = schedule_metadata(plan, spectrum=spectrum)
    accelerator.print(plan)

    lora = config = None
    if args.objective == "agree":
        ratios = [round(stage.ratio) for stage in plan.stages[:-1]] if args.informed else []
        if ratios and not model.reads:
            raise ValueError(
                "--informed is not supported for this pipeline: its first layer is not one map of the latents"
            )
        read = model.network.get_submodule(model.reads) if ratios else None
        channels = model.condition(0)[0][0]
        planes = {r: features(read, channels, r, model.patch) for r in ratios}
        names = layers(model.network, args.targets or model.targets)
        reads = model.reads if ratios else ""
        with torch.random.fork_rng():
            torch.manual_seed(args.seed)
            lora = StageLora.add(model.network, names, rank=args.rank, reads=reads, planes=planes)
    else:
        config = add_lora(model.network, args.targets or model.targets, rank=args.rank, seed=args.seed)
    if args.checkpointing:
        model.network.enable_gradient_checkpointing()
    if isinstance(model, PipelineModel):
        model.pipe.to(accelerator.device)
    wrapped = StageVelocity(model, lora, plan.basis).to(accelerator.device)
    optimiser = torch.optim.AdamW([p for p in wrapped.parameters() if p.requires_grad], lr=args.rate, weight_decay=0.0)
    wrapped, optimiser = accelerator.prepare(wrapped, optimiser)

    def weights() -> dict[str, Tensor]:
        return get_peft_model_state_dict(model.network) if lora is None else lora.tensors()

    args.folder.mkdir(parents=True, exist_ok=True)
    checkpoint, log_path = args.folder / "checkpoint.pt", args.folder / "log.csv"
    facts = {
        "schedule": metadata,
        "rank": args.rank,
        "seed": args.seed,
        "batch": args.batch,
        "objective": args.objective,
        "informed": args.informed,
    }
    first, rows = 0, []
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
        if state["facts"] != facts:
            raise ValueError(f"{checkpoint} is of another run ({state['facts']}, now {facts}); choose another --folder")
        set_peft_model_state_dict(model.network, state["lora"]) if lora is None else lora.restore(state["lora"])
        optimiser.load_state_dict(state["optimiser"])
        first, rows = state["step"], state["log"]
    elif lora is None:
        x0, _ = model.item(torch.Generator().manual_seed(args.seed))
        noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(args.seed))
        check_consistency(x0[None].double(), noise[None].double(), plan)
        accelerator.print("training states equal the sampler's at every stage's start")
    if lora is not None:
        lora.switch(False)
        make_own(model, plan.times, args, range(accelerator.process_index, args.own, accelerator.num_processes))
        accelerator.wait_for_everyone()

    def finish_checkpoint(step: int) -> None:
        if accelerator.is_main_process:
            state = {"facts": facts, "lora": weights(), "optimiser": optimiser.state_dict(), "step": step, "log": rows}
            write_atomically(checkpoint, state)
            with log_path.open("w", newline="") as file:
                csv.writer(file).writerows([["step", "stage", "loss", "gradient_norm"], *rows])

    weighting = {"spectrum": spectrum, "plan": plan} if args.weighted else {}
    progress = tqdm(range(first, args.steps), initial=first, total=args.steps, disable=not accelerator.is_main_process)
    for step in progress:
        for group in optimiser.param_groups:
            group["lr"] = args.rate * min(1.0, (step + 1) / max(args.warmup, 1))
        total, pair = torch.zeros((), device=accelerator.device), None
        count = len(range(0, len(mine), args.micro_batch))
        for k, drawn in enumerate(draw(model, plan, args, step, mine)):
            batch = drawn.to(accelerator.device)
            pair = batch.pair
            # Gradients are averaged over processes once a step, with the last micro-batch.
            with nullcontext() if k + 1 == count else accelerator.no_sync(wrapped):
                with accelerator.autocast():
                    prediction = wrapped(pair.x, pair.t, batch.conditions, batch.noise)
                loss = batch.weight * stage_loss(prediction.float(), pair, **weighting) / count
                accelerator.backward(loss)
            if lora is not None:
                lora.switch(False)  # the next full-size answers are the untouched network's
            total += loss.detach()
        norm = accelerator.clip_grad_norm_(wrapped.parameters(), args.clip)
        optimiser.step()
        optimiser.zero_grad()
        mean = float(accelerator.reduce(total, reduction="mean"))
        assert pair is not None
        rows.append([step, pair.stage, round(mean, 6), round(float(norm), 6)])
        progress.set_postfix(loss=f"{mean:.4f}", stage=pair.stage, refresh=False)
        if (step + 1) % args.checkpoint_every == 0 or step + 1 == args.steps:
            finish_checkpoint(step + 1)
    if accelerator.is_main_process:
        recipe = {name: getattr(args, name) for name in RECIPE}
        header = {**metadata, "spectral_pd.recipe": json.dumps(recipe)}
        if lora is None:
            save_lora(model.network, args.out, config, header)
        else:
            lora.save(args.out, header)
    # Gloo's threads need the interpreter's lock to free the last reduction's tensors. A process that joined them before they
    # have done so, holding that lock, would wait for ever: let them finish.
    accelerator.wait_for_everyone()
    time.sleep(1)
    accelerator.end_training()


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="'tiny', or a folder with a diffusers pipeline")
    parser.add_argument(
        "--folder", type=Path, required=True, help="folder of checkpoint and log; a run there is continued"
    )
    parser.add_argument("--out", type=Path, required=True, help="adapter to write, *.safetensors")
    parser.add_argument("--latents", type=Path, help="folder of encoded pictures, for a pipeline")
    parser.add_argument(
        "--call",
        type=lambda text: comparisons.words(text, "--call"),
        default={},
        metavar="WORDS",
        help="other arguments of the pipeline's call: 'height=1024 guidance_scale=3.5'",
    )
    parser.add_argument("--base-dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--photographs", type=Path, help="folder of Debian's photographs, for 'tiny'")
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="weights of 'tiny'")
    parser.add_argument("--model-steps", type=int, default=20, help="steps of the time grid, for 'tiny'")
    parser.add_argument("--shift", type=float, default=2.0, help="shift of the time grid, for 'tiny'")
    parser.add_argument("--scales", type=lambda s: float(Fraction(s)), nargs="+", default=(0.5, 1.0))
    parser.add_argument("--delta", type=float, default=0.01)
    parser.add_argument("--clock", choices=("full", "stage"), default="full")
    parser.add_argument("--basis", choices=tuple(BASES), default="dct")
    parser.add_argument("--draw", choices=("covering", "steps", "paper"), default="covering")
    parser.add_argument(
        "--objective",
        choices=("stage", "plain", "agree"),
        default="stage",
        help="plain is the control; agree repairs sizes that disagree",
    )
    parser.add_argument(
        "--own", type=int, default=64, metavar="N", help="own pictures that 'agree' makes and trains on"
    )
    parser.add_argument(
        "--informed", action="store_true", help="'agree': coarse calls also read the seed's own high band"
    )
    parser.add_argument("--weighted", action="store_true", help="weight the loss by SNR / (1 + SNR)")
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--targets", nargs="+", help="name endings of the layers to adapt, instead of the model's own")
    parser.add_argument("--rate", type=float, default=1e-4)
    parser.add_argument("--warmup", type=int, default=50)
    parser.add_argument("--clip", type=float, default=1.0)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=8, help="pictures a step, over all processes")
    parser.add_argument("--micro-batch", type=int, default=1, help="pictures a forward pass")
    parser.add_argument("--checkpointing", action="store_true", help="gradient checkpointing")
    parser.add_argument("--checkpoint-every", type=int, default=100, metavar="STEPS")
    parser.add_argument("--precision", choices=("no", "bf16", "fp16"), default="no")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cpu", action="store_true")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    train(parse())
