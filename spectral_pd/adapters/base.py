r"""What every pipeline adapter shares: arguments, time grid, noise, the sampling loop, and its way back into the pipeline.

An adapter turns one call of a diffusers pipeline into the three things :func:`spectral_pd.sample` asks for: a velocity on
the SPATIAL latent (batch, channels, [frames,] height, width), a white field of the full size, and a plan. Packing,
position ids, timestep scale and sign, and guidance live in the adapter and nowhere else. In diffusers ``sigma`` is the
time ``t`` of this library; timesteps are ``1000 t``.
"""

from __future__ import annotations

import copy
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import SimpleNamespace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from spectral_pd.adapters.unipc import unipc
from spectral_pd.bases import DCT, Basis
from spectral_pd.power import PowerLaw, Spectrum
from spectral_pd.sampling import Coupling, StepInfo, sample
from spectral_pd.schedule import Clock, Cost, Plan, make_plan
from spectral_pd.solvers import Solver, SolverName, dpmpp_2m, euler

Grid = tuple[int, ...]


class Adapter(ABC):
    """One call of one pipeline, prompt already encoded, ready to be sampled at any stage size.

    Subclasses implement :meth:`encode`, :meth:`times`, :meth:`velocity` and :meth:`decode`, and set `grid`, `leading` and
    `dtype` in :meth:`encode`. Everything else is here.

    Parameters
    ----------
    pipe
        A diffusers pipeline of the family.
    arguments
        Every argument of ``pipe(...)`` by name, defaults filled in; see :func:`bind_arguments`.

    Raises
    ------
    ValueError
        An argument this family cannot honour yet, a scheduler that is not deterministic flow matching, or whatever the
        pipeline's own check refuses.
    """

    preset: ClassVar[PowerLaw]
    """The family's spectrum; it says itself whether it was measured or borrowed."""
    multiple_of: ClassVar[int] = 2
    """Latent sizes are multiples of this, the patch of the transformer."""
    refused: ClassVar[Mapping[str, str]] = {}
    """Arguments that are not supported, and what supporting them would need."""
    fixed_loop: ClassVar[str | None] = None
    """Why the pipeline's own loop cannot begin with a smaller latent, or None when it can."""

    grid: Grid
    """Full latent (height, width)."""
    leading: tuple[int, ...]
    """(batch, channels) or (batch, channels, frames)."""
    dtype: torch.dtype
    """Type of the latents the transformer is fed with."""

    def __init__(self, pipe: Any, arguments: SimpleNamespace) -> None:
        self.pipe, self.arguments = pipe, arguments
        for name, needed in self.refused.items():
            if not _is_empty(getattr(arguments, name, None)):
                raise ValueError(f"{name} is not supported by progressive sampling yet: {needed}; remove the argument")
        check_scheduler(pipe.scheduler)
        # Most signatures say None, and the call itself fills in the model's native size before it checks anything.
        for side in ("height", "width"):
            if not getattr(arguments, side, True):
                setattr(arguments, side, self.default_size())
        # The pipeline's own check of prompts, sizes and embeddings, by the names it asks for.
        names = inspect.signature(pipe.check_inputs).parameters if hasattr(pipe, "check_inputs") else ()
        if names:
            pipe.check_inputs(**{name: getattr(arguments, name) for name in names if hasattr(arguments, name)})
        self._stage: Grid | None = None
        self._step = self._steps = 0
        self._whole_timesteps: dict[float, int] = {}  # of a scheduler that has no others, at the times of its grid
        pipe._interrupt = False
        # Properties of the pipeline that callbacks and its encoders read; the stock call sets them first, too.
        for name in ("guidance_scale", "joint_attention_kwargs", "attention_kwargs", "clip_skip"):
            if hasattr(arguments, name):
                setattr(pipe, f"_{name}", getattr(arguments, name))
        with torch.no_grad():  # as the stock call; a text encoder's graph would be held for the whole run
            self.encode()
        self.times()  # what the scheduler cannot do is refused now
        if any(n % self.multiple_of for n in self.grid):
            raise ValueError(
                f"latent grid {self.grid} must be a multiple of {self.multiple_of}; change height or width"
            )

    @abstractmethod
    def encode(self) -> None:
        """Encode the prompt through the pipeline and set `grid`, `leading` and `dtype`."""

    @abstractmethod
    def times(self) -> tuple[float, ...]:
        """The full-resolution time grid from the pipeline's own scheduler, N + 1 floats from noise to 0."""

    @abstractmethod
    def velocity(self, x: Tensor, t: float) -> Tensor:
        """``dx/dt = eps - x_0`` of a float32 spatial latent at its local time `t`, guided, float32, in x's shape."""

    @abstractmethod
    def decode(self, x: Tensor) -> Any:
        """The pipeline's output (its own class and ``output_type``) for the final full-size latent."""

    def begin_stage(self, grid: Grid) -> None:
        """Called before the first velocity of every stage size, and before the first of all.

        The caches of diffusers' hooks hold features of the old size and are emptied. Subclasses rebuild position ids, and
        may empty caches of their own.
        """
        from diffusers.hooks import HookRegistry

        for network in self.transformers():
            HookRegistry.check_if_exists_or_initialize(network).reset_stateful_hooks()

    def check_caches(self, plan: Plan) -> None:
        """Refuse feature caches that cannot be emptied between the stages of `plan`.

        Raises
        ------
        ValueError
            MagCache with more than one stage; FasterCache of a guidance-distilled network where a stage begins inside the
            times whose attention it skips.
        """
        for hook in self._hooks():
            name = type(hook).__name__
            if name.startswith("MagCache") and len(plan.stages) > 1:
                raise ValueError(
                    "MagCache cannot be used across a transition: it looks its ratios up by a step counter of its own, "
                    "which starts anew when the cache is emptied; use another cache, such as FirstBlockCacheConfig, or "
                    "scales=(1,)"
                )
            if name == "FasterCacheBlockHook" and hook.is_guidance_distilled:
                # Its first call in the skipped range answers from the cache without asking whether there is anything in it.
                low, high = hook.timestep_skip_range
                begins = [1000 * stage.times[0] for stage in plan.stages if low < 1000 * stage.times[0] < high]
                if begins:
                    raise ValueError(
                        f"FasterCache skips attention at timesteps in ({low}, {high}), and a stage begins at "
                        f"{begins[0]:.0f}, where its emptied cache has nothing to answer with; end the skipped range "
                        f"below {begins[0]:.0f}, or use another cache, such as FirstBlockCacheConfig"
                    )

    def _hooks(self) -> Iterator[Any]:
        """diffusers' hooks on the networks and their blocks, feature caches among them."""
        for network in self.transformers():
            for module in network.modules():
                if hasattr(module, "_diffusers_hook"):
                    yield from module._diffusers_hook.hooks.values()

    def transformers(self) -> list[Any]:
        """The networks the velocity calls."""
        return [self.pipe.transformer]

    def default_size(self) -> int:
        """Pixels of a side that the call does not give."""
        return self.pipe.default_sample_size * self.pipe.vae_scale_factor

    def from_latents(self, latents: Tensor, grid: Grid) -> Tensor:
        """Spatial form, on a latent grid, of ``latents=`` in the layout the pipeline takes; spatial already by default."""
        return latents

    def to_latents(self, x: Tensor) -> Tensor:
        """Inverse of :meth:`from_latents`."""
        return x

    def position_arguments(self) -> dict[str, Any]:
        """Arguments of the transformer that name the present stage's positions; none where the size tells them."""
        return {}

    def start_size(self, latents: Tensor) -> dict[str, int]:
        """Height and width arguments of a pipeline call that begins with the first stage's latents; the full ones."""
        return {"height": self.arguments.height, "width": self.arguments.width}

    def draw_noise(self) -> Tensor:
        """The white field of the full size, float32: the very numbers the stock pipeline would start from."""
        latents, device = self.arguments.latents, self.device
        shape = (*self.leading, *self.grid)
        if latents is None:
            return self.random(shape).to(torch.float32)
        x = self.from_latents(latents.to(device=device, dtype=torch.float32), self.grid)
        if tuple(x.shape) != shape:
            raise ValueError(
                f"latents has shape {tuple(latents.shape)}, which is not the full-size noise of this call: spatially "
                f"{shape}; progressive sampling takes its first, smaller stage from the full-size field"
            )
        return x

    def random(self, shape: Sequence[int]) -> Tensor:
        """Standard normals as diffusers draws them: one generator for the batch, or one for each item."""
        from diffusers.utils.torch_utils import randn_tensor

        generator = self.arguments.generator
        if isinstance(generator, list) and len(generator) != shape[0]:
            raise ValueError(f"generator lists {len(generator)} generators for a batch of {shape[0]}; they must agree")
        return randn_tensor(tuple(shape), generator=generator, device=self.device, dtype=self.noise_dtype)

    @property
    def noise_dtype(self) -> torch.dtype:
        """Type the pipeline draws its noise in; another type would be other numbers for the same seed."""
        return self.dtype

    @property
    def device(self) -> torch.device:
        """Where the pipeline computes, also under offloading."""
        return self.pipe._execution_device

    def timestep(self, t: float, batch: int) -> Tensor:
        """``1000 t`` for every item, rounded as the pipeline's timesteps are: to float32, or down to whole numbers."""
        timestep = torch.full((batch,), t, dtype=torch.float32, device=self.device) * 1000
        if not self._whole_timesteps:
            return timestep
        # At a time of the scheduler's own grid it is the scheduler's number: cut off before sigma was rounded to float32.
        known = self._whole_timesteps.get(t)
        return timestep.floor() if known is None else torch.full_like(timestep, known)

    def scheduler_times(
        self, *, sigmas: Sequence[float] | None = None, mu: float | None = None, scheduler: Any = None
    ) -> tuple[float, ...]:
        """The time grid the pipeline's scheduler would run, N + 1 floats ending at 0; the scheduler itself is not touched.

        Parameters
        ----------
        sigmas
            Unshifted sigmas to be used in place of the scheduler's own spacing, or None.
        mu
            Log of the dynamic shift for the FULL size; used where the scheduler is configured for one.
        scheduler
            Another one than the pipeline's; its own ``set_timesteps`` does the shifting.

        Raises
        ------
        ValueError
            Sigmas for a scheduler that spaces its steps only by itself.
        """
        import numpy as np

        # A deep copy: some write their shift into their configuration.
        scheduler = copy.deepcopy(self.pipe.scheduler if scheduler is None else scheduler)
        accepted = inspect.signature(scheduler.set_timesteps).parameters
        if sigmas is not None and "sigmas" not in accepted:
            raise ValueError(
                f"scheduler {type(scheduler).__name__} takes no sigmas, by which this call spaces its steps; set "
                f"pipe.scheduler to FlowMatchEulerDiscreteScheduler, with solver='dpmpp_2m' for a multistep method"
            )
        shift = {"mu": mu} if scheduler.config.get("use_dynamic_shifting") and "mu" in accepted else {}
        if sigmas is None:
            scheduler.set_timesteps(self.arguments.num_inference_steps, **shift)
        else:
            scheduler.set_timesteps(
                sigmas=np.asarray(sigmas), **shift
            )  # the multistep ones compute with it as an array
        times = tuple(float(s) for s in scheduler.sigmas)
        if not scheduler.timesteps.is_floating_point():
            self._whole_timesteps = dict(zip(times, scheduler.timesteps.tolist(), strict=False))
        return times

    def cache_context(self, network: Any, branch: str, t: float) -> AbstractContextManager[Any]:
        """The network's cache context: tells feature caches the guidance branch, the noise level and the step."""
        if not hasattr(network, "cache_context"):
            return nullcontext()
        # Older diffusers take the branch alone.
        takes_position = len(inspect.signature(network.cache_context).parameters) > 1
        position = {"sigma": t, "step_index": self._step, "num_inference_steps": self._steps} if takes_position else {}
        return network.cache_context(branch, **position)

    def plan(
        self,
        *,
        scales: Sequence[float] = (1 / 2, 1),
        delta: float = 0.01,
        clock: Clock = "full",
        spectrum: PowerLaw | Spectrum | Callable[[Any], Any] | None = None,
        transition_times: Sequence[float] | None = None,
        unreached: Literal["error", "force"] = "error",
        cost: Cost | None = None,
    ) -> Plan:
        """The plan of this call: :func:`spectral_pd.make_plan` on the pipeline's time grid and latent size.

        `spectrum` defaults to the family's preset. Other parameters and errors as there.
        """
        return make_plan(
            self.times(),
            self.preset if spectrum is None else spectrum,
            self.grid,
            scales=scales,
            delta=delta,
            multiple_of=self.multiple_of,
            clock=clock,
            cost=cost,
            transition_times=transition_times,
            unreached=unreached,
        )

    def solver(self) -> Solver:
        """The solver that repeats the pipeline's scheduler on its own grid."""
        scheduler = self.pipe.scheduler
        name, order = type(scheduler).__name__, scheduler.config.get("solver_order", 1)
        if name.startswith("UniPC") and order == 2 and scheduler.config.get("solver_type") == "bh2":
            return unipc
        return dpmpp_2m if order > 1 else euler

    def run(
        self,
        plan: Plan,
        *,
        solver: SolverName | Solver | None = None,
        basis: Basis = DCT,
        coupling: Coupling = "coupled",
    ) -> Any:
        """Sample along `plan` and return what the pipeline returns.

        `solver` defaults to :meth:`solver`. Other parameters and errors as :func:`spectral_pd.sample`, and those of
        :meth:`check_caches`.
        """
        self.check_caches(plan)
        noise = self.draw_noise()
        self._stage, self._step, self._steps = None, 0, plan.nfe
        self.pipe._num_timesteps = plan.nfe  # callbacks of diffusers read it
        with torch.no_grad(), self.pipe.progress_bar(total=plan.nfe) as bar:

            def after_step(info: StepInfo) -> Tensor | None:
                bar.update()
                self._step = info.step
                return self._user_callback(info, plan)

            x = sample(
                self,
                noise,
                plan,
                solver=self.solver() if solver is None else solver,
                basis=basis,
                coupling=coupling,
                generator=self.arguments.generator if coupling == "fresh" else None,
                callback=after_step,
            )
            self.pipe._current_timestep = None
            output = self.decode(x)
        self.pipe.maybe_free_model_hooks()
        return output

    def __call__(self, x: Tensor, t: float) -> Tensor:
        """The velocity as the sampler calls it: announces new stage sizes and honours ``pipe._interrupt``."""
        grid = tuple(x.shape[-2:])
        if grid != self._stage:
            self.begin_stage(grid)
            self._stage = grid
        if getattr(self.pipe, "interrupt", False):
            return torch.zeros_like(x)
        # Some feature caches read the pipeline's current timestep.
        self.pipe._current_timestep = self.timestep(t, 1)[0]
        return self.velocity(x, t)

    def _user_callback(self, info: StepInfo, plan: Plan) -> Tensor | None:
        callback = self.arguments.callback_on_step_end
        if callback is None:
            return None
        step = info.step - 1
        tensors = {"latents": info.state, "stage": info.stage, "shape": tuple(info.state.shape)}
        result = callback(self.pipe, step, self.timestep(plan.times[step], 1)[0], tensors)
        return result.get("latents") if isinstance(result, dict) else None


def _is_empty(value: Any) -> bool:
    return value is None or value is False or (isinstance(value, (list, tuple, dict)) and not value)


def bind_arguments(pipe: Any, arguments: Mapping[str, Any]) -> SimpleNamespace:
    """Every argument of ``pipe(...)`` by name, with the pipeline's own defaults where `arguments` has none.

    Raises
    ------
    TypeError
        A name the pipeline does not know.
    ValueError
        A callback that asks for other tensors than the latents.
    """
    signature = inspect.signature(type(pipe).__call__)
    known = [name for name in signature.parameters if name != "self"]
    unknown = sorted(set(arguments) - set(known))
    if unknown:
        raise TypeError(
            f"unknown argument {', '.join(unknown)}: {type(pipe).__name__} takes {', '.join(known)}, and progressive "
            f"sampling its own options"
        )
    bound = signature.bind(pipe, **arguments)
    bound.apply_defaults()
    values = SimpleNamespace(**{name: value for name, value in bound.arguments.items() if name != "self"})
    callback = getattr(values, "callback_on_step_end", None)
    # diffusers' own callback objects name their tensors themselves, whatever the call says.
    named = getattr(callback, "tensor_inputs", None)
    names = list(named or getattr(values, "callback_on_step_end_tensor_inputs", None) or [])
    if set(names) - {"latents"}:
        raise ValueError(
            f"the callback asks for {names}: only ['latents'] can be handed to it; prompt embeddings are fixed for the "
            f"whole call"
        )
    return values


def check_scheduler(scheduler: Any) -> None:
    """Require a deterministic flow-matching scheduler.

    Raises
    ------
    ValueError
        Not flow matching, stochastic, or with inverted sigmas.
    """
    config, name = scheduler.config, type(scheduler).__name__
    is_euler = any(cls.__name__ == "FlowMatchEulerDiscreteScheduler" for cls in type(scheduler).__mro__)
    if not (is_euler or config.get("use_flow_sigmas")):
        raise ValueError(
            f"scheduler {name} has no plain flow-matching time grid; set pipe.scheduler to FlowMatchEulerDiscreteScheduler "
            f"(with solver='heun' for Heun's method) or a multistep scheduler with use_flow_sigmas=True"
        )
    if str(config.get("algorithm_type", "")).startswith("sde"):
        raise ValueError(
            f"scheduler {name} adds noise (algorithm_type={config['algorithm_type']!r}); use 'dpmsolver++'"
        )
    for option in ("stochastic_sampling", "invert_sigmas"):
        if config.get(option):
            raise ValueError(
                f"scheduler {name} has {option}=True, which progressive sampling cannot follow; turn it off"
            )


def linear_mu(tokens: int, config: Mapping[str, Any], *, max_shift: float = 1.15) -> float:
    """Log of the dynamic shift: linear in the number of image tokens of the FULL size, as FLUX, Qwen-Image and SD3 use it.

    Through (`base_image_seq_len`, `base_shift`) and (`max_image_seq_len`, `max_shift`) of the scheduler's config.
    """
    x0, y0 = config.get("base_image_seq_len", 256), config.get("base_shift", 0.5)
    x1, y1 = config.get("max_image_seq_len", 4096), config.get("max_shift", max_shift)
    slope = (y1 - y0) / (x1 - x0)
    return tokens * slope + (y0 - slope * x0)


def uniform_sigmas(steps: int) -> list[float]:
    """``1, 1 - 1/N, ..., 1/N``: unshifted sigmas of the image pipelines, with the end points of a linear spacing."""
    import numpy as np

    return np.linspace(1.0, 1 / steps, steps).tolist()


def pack(x: Tensor) -> Tensor:
    """2x2 patches to tokens: (batch, C, H, W) -> (batch, H/2 * W/2, 4 C), channel-major inside a token."""
    batch, channels, height, width = x.shape
    x = x.reshape(batch, channels, height // 2, 2, width // 2, 2)
    return x.permute(0, 2, 4, 1, 3, 5).reshape(batch, (height // 2) * (width // 2), channels * 4)


def unpack(tokens: Tensor, grid: Grid) -> Tensor:
    """Inverse of :func:`pack` on a latent grid (height, width)."""
    batch, count, channels = tokens.shape
    height, width = grid
    if count * 4 != height * width:
        raise ValueError(f"{count} tokens of 2x2 do not make a latent of {height}x{width}")
    x = tokens.reshape(batch, height // 2, width // 2, channels // 4, 2, 2)
    return x.permute(0, 3, 1, 4, 2, 5).reshape(batch, channels // 4, height, width)


def batch_size(prompt: str | list[str] | None, embeddings: Tensor | list[Tensor] | None) -> int:
    """Number of prompts of a call, as every diffusers pipeline counts them."""
    if isinstance(prompt, str):
        return 1
    if prompt is not None:
        return len(prompt)
    if embeddings is None:
        raise ValueError("pass prompt= or prompt_embeds=")
    return len(embeddings)
