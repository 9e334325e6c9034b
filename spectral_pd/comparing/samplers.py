"""What is compared: something that makes one picture of a setting, a prompt and a seed, and says what it cost.

:class:`PipelineSampler` rides a diffusers pipeline, :class:`NetworkSampler` calls a network of your own. Anything with
the methods of :class:`Sampler` can stand in their place; one that is a :class:`BatchSampler` as well makes several
pictures at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from spectral_pd.adapters import Layout, Ride, adapt, find_layout
from spectral_pd.adapters.schedulers import own_solver
from spectral_pd.bases import BASES
from spectral_pd.comparing.flops import Calls, Flops, synchronise
from spectral_pd.comparing.settings import Setting
from spectral_pd.inputs import comparisons
from spectral_pd.passthrough import activation_map, holding
from spectral_pd.plan import Plan
from spectral_pd.power import PowerLaw
from spectral_pd.sampling import sample
from spectral_pd.solvers import SOLVERS, Solver, Velocity, find_solver
from spectral_pd.stepwise import planned
from spectral_pd.training import check_metadata


class Sampler(Protocol):
    """What a comparison asks of a model."""

    def plan(self, setting: Setting, prompt: str) -> Plan:
        """Stages, steps and sizes of a setting; refuses what cannot be run."""
        ...

    def picture(self, setting: Setting, prompt: str, seed: int) -> Tensor:
        """The picture (channels, height, width) or video (frames, channels, height, width), in [0, 1], on the CPU."""
        ...

    def seconds(self, setting: Setting, prompt: str) -> float:
        """Wall-clock seconds of one denoising, without encoding and decoding, the device's queue empty before and
        after."""
        ...

    def flops(self, setting: Setting, prompt: str) -> Flops:
        """FLOPs of the network's calls for one picture."""
        ...

    def once(self, setting: Setting, prompt: str) -> Flops:
        """FLOPs besides, of encoding the prompt and decoding the picture."""
        ...


@runtime_checkable
class BatchSampler(Sampler, Protocol):
    """A sampler that makes up to `batch` pictures of one setting at once; what it keeps besides is its own."""

    batch: int

    def pictures(self, setting: Setting, prompts: Sequence[str], seeds: Sequence[int]) -> Sequence[Tensor]:
        """As :meth:`Sampler.picture`, one for each (prompt, seed)."""
        ...


class PipelineSampler:
    """A diffusers pipeline, each setting through its own loop (:func:`spectral_pd.adapters.adapt`).

    Parameters
    ----------
    pipe
        The pipeline, on its device.
    arguments
        Of ``pipe(...)``, for every picture: sizes, guidance.
    encode
        ``encode(prompt)`` returns further arguments in place of ``prompt=``, such as embeddings.
    layout
        As :func:`spectral_pd.adapters.progressive`.
    """

    def __init__(
        self,
        pipe: Any,
        arguments: Mapping[str, Any] | None = None,
        *,
        encode: Callable[[str], Mapping[str, Any]] | None = None,
        layout: Layout | None = None,
    ) -> None:
        self.pipe, self.arguments = pipe, dict(arguments or {})
        self.layout = find_layout(pipe) if layout is None else layout
        self._encode = encode or (lambda prompt: {"prompt": prompt})
        self._plans: dict[str, Plan] = {}
        self._calls, self._lora = Calls(), list[str]()
        self._once: Flops | None = None

    @property
    def networks(self) -> list[Any]:
        """The networks that the loop calls."""
        return [n for name in self.layout.networks if (n := getattr(self.pipe, name, None)) is not None]

    def compile(self) -> None:
        """Compile the networks; each stage's size makes its graph when it is first met."""
        for network in self.networks:
            network.compile()

    def plan(self, setting: Setting, prompt: str) -> Plan:
        if setting.name not in self._plans:
            law = setting.law(self.layout.spectrum)
            self._plans[setting.name] = self._ride(setting, prompt).plan(spectrum=law, **setting.plan_options)
            self._with_lora(setting)
        return self._plans[setting.name]

    def picture(self, setting: Setting, prompt: str, seed: int) -> Tensor:
        made = self._run(setting, prompt, seed=seed, output_type="pt")
        return made.detach().float().clamp(0, 1).cpu()

    def seconds(self, setting: Setting, prompt: str) -> float:
        with _loop_timed(self.pipe) as seconds:
            self._run(setting, prompt, seed=0, output_type="latent")
        return sum(seconds)

    def flops(self, setting: Setting, prompt: str) -> Flops:
        with self._calls.of(self.networks):
            self._run(setting, prompt, seed=0, output_type="latent")
        return self._calls.flops()

    def once(self, setting: Setting, prompt: str) -> Flops:
        if self._once is None:
            own = self.pipe.components.items()
            encoders = [module for name, module in own if name.startswith("text_encoder") and module is not None]
            vae: Any = getattr(self.pipe, "vae", None)
            parts = {"decoder": vae} if hasattr(vae, "decoder") else {}
            self.plan(setting, prompt)  # which encodes the prompt as well, once for all
            with self._calls.of(encoders, parts=parts):
                picture = self._run(setting, prompt, seed=0, output_type="pt")
            # Decoders of videos go frame by frame with a memory, and the paper leaves them out.
            self._once = self._calls.flops() if picture.ndim == 3 else Flops()
        return self._once

    def _ride(self, setting: Setting, prompt: str, **more: Any) -> Ride:
        steps = {} if setting.steps is None else {"num_inference_steps": setting.steps}
        arguments = {**self.arguments, **steps, **setting.arguments, **self._encode(prompt), **more}
        return adapt(self.pipe, layout=self.layout, **arguments)

    def _run(self, setting: Setting, prompt: str, *, seed: int, output_type: str) -> Tensor:
        plan, generator = self.plan(setting, prompt), torch.Generator().manual_seed(seed)
        self._use(setting)
        ride = self._ride(setting, prompt, generator=generator, output_type=output_type, return_dict=False)
        solver = own_solver(self.pipe.scheduler) if setting.solver is None else SOLVERS[setting.solver]
        solver = _held(solver, setting, plan, self.layout.spectrum)
        return ride.run(plan, solver=solver, coupling=setting.coupling)[0][0]

    def _with_lora(self, setting: Setting) -> None:
        """Load an adapter once, and say where it was trained for another schedule."""
        if setting.lora is None or setting.lora in self._lora:
            return
        from safetensors import safe_open

        path = comparisons.lora_file(setting.lora, setting.name)
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
        if "spectral_pd.schedule" in metadata:
            check_metadata(metadata, self._plans[setting.name])
        self.pipe.load_lora_weights(str(path.parent), weight_name=path.name, adapter_name=self._adapter(setting.lora))
        self._lora.append(setting.lora)

    def _adapter(self, lora: str) -> str:
        return Path(lora).stem.replace(".", "_")

    def _use(self, setting: Setting) -> None:
        if setting.lora is not None:
            self.pipe.enable_lora()
            self.pipe.set_adapters([self._adapter(setting.lora)])
        elif self._lora:
            self.pipe.disable_lora()


class NetworkSampler:
    """A network of your own, without prompts: ``velocity(x, t) = dx/dt`` of pictures in [-1, 1].

    For ways of sampling that the library does not know, make a class of it with its own :meth:`plan` and :meth:`run`.

    Parameters
    ----------
    velocity
        Takes states (batch, channels, height, width) of every stage's size.
    shape
        (channels, height, width) of a state.
    times
        ``times(steps)``: the time grid of a number of steps.
    spectrum
        The power law of its data.
    steps, solver
        Where a setting names none.
    cost
        ``cost(grid)``: FLOPs of one call on a state of that size.
    decode
        ``decode(state)``: the picture in [-1, 1], where the state is a latent.
    device
        Where the network is.
    """

    def __init__(
        self,
        velocity: Velocity,
        shape: Sequence[int],
        *,
        times: Callable[[int], Sequence[float]],
        spectrum: PowerLaw,
        steps: int = 50,
        solver: str | Solver = "euler",
        cost: Callable[[tuple[int, ...]], Flops] | None = None,
        decode: Callable[[Tensor], Tensor] | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self._velocity, self.shape, self._times, self._spectrum = velocity, tuple(shape), times, spectrum
        self._steps, self._solver, self._cost, self._decode = steps, find_solver(solver), cost, decode
        self._device = torch.device(device)

    def plan(self, setting: Setting, prompt: str) -> Plan:
        comparisons.no_more(setting.arguments, setting.lora, setting.name)
        options = {"spectrum": setting.law(self._spectrum), **setting.plan_options}
        return planned(self._times(setting.steps or self._steps), self.shape[1:], options)

    def picture(self, setting: Setting, prompt: str, seed: int) -> Tensor:
        return self.shown(self.run(setting, *self._drawn(seed)))[0]

    def seconds(self, setting: Setting, prompt: str) -> float:
        synchronise()
        began = time.perf_counter()
        self.run(setting, *self._drawn(0))
        synchronise()
        return time.perf_counter() - began

    def flops(self, setting: Setting, prompt: str) -> Flops:
        spent = Flops()

        def velocity(x: Tensor, t: float) -> Tensor:
            nonlocal spent
            spent += Flops() if self._cost is None else self._cost(tuple(x.shape[-2:]))
            return x

        self.run(setting, *self._drawn(0), velocity=velocity)
        return spent

    def once(self, setting: Setting, prompt: str) -> Flops:
        return Flops()

    def run(
        self, setting: Setting, noise: Tensor, fresh: torch.Generator, *, velocity: Velocity | None = None
    ) -> Tensor:
        """Final states of a setting, of starting noise (batch, *shape) and a source of fresh noise, by its network or
        `velocity` in its place."""
        plan = self.plan(setting, "")
        solver = self._solver if setting.solver is None else SOLVERS[setting.solver]
        solver = _held(solver, setting, plan, self._spectrum)
        seed = fresh if setting.coupling == "fresh" else None
        return sample(velocity or self._velocity, noise, plan, solver=solver, coupling=setting.coupling, seed=seed)

    def shown(self, states: Tensor) -> Tensor:
        """Pictures of final states, in [0, 1] on the CPU."""
        made = states if self._decode is None else self._decode(states)
        return made.detach().float().cpu().add(1).div(2).clamp(0, 1)

    def _drawn(self, seed: int) -> tuple[Tensor, torch.Generator]:
        noise = torch.randn(1, *self.shape, generator=torch.Generator().manual_seed(seed)).to(self._device)
        return noise, torch.Generator().manual_seed(2**32 + seed)


def _held(solver: Solver, setting: Setting, plan: Plan, usual: PowerLaw) -> Solver:
    """The solver, or for noise passthrough one that holds frequencies until they activate."""
    if setting.passthrough is None:
        return solver
    basis = BASES[setting.basis]
    return holding(solver, activation_map(setting.law(usual), plan.shape, setting.passthrough, basis=basis), basis)


@contextmanager
def _loop_timed(pipe: Any) -> Iterator[list[float]]:
    """Seconds of a pipeline's loops: it opens its progress bar before the first step and closes it after the last."""
    bar, seconds = pipe.progress_bar, list[float]()

    @contextmanager
    def entered(inner: Any) -> Iterator[Any]:
        synchronise()
        began = time.perf_counter()
        with inner as shown:
            yield shown
        synchronise()
        seconds.append(time.perf_counter() - began)

    pipe.progress_bar = lambda *args, **kwargs: entered(bar(*args, **kwargs))
    try:
        yield seconds
    finally:
        del pipe.progress_bar
