r"""A scheduler-shaped object that makes an UNMODIFIED loop progressive: the pipeline's own, or yours.

It hands out the local time of every step, and its ``step`` grows the state where a stage ends. All local times are known
before the loop, so nothing is patched while it runs::

    adapter = adapt(pipe, prompt, height=480, width=832, generator=g)
    with SpectralScheduler(adapter, adapter.plan(scales=(1 / 2, 1))) as start:
        video = pipe(prompt, **start).frames

The loop must accept a smaller latent for its start. WAN, Z-Image and Stable Diffusion 3 take positions from the latent's
size; FLUX.1 and Qwen-Image are given the present ids or shapes by a hook on their transformer; FLUX.2 unpacks its result by
the ids of the start and is refused.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from types import SimpleNamespace, TracebackType
from typing import Any

import torch
from torch import Tensor

from spectral_pd.adapters.base import Adapter
from spectral_pd.bases import DCT, Basis
from spectral_pd.expansion import expand_aligned
from spectral_pd.schedule import Plan
from spectral_pd.theory import align_scale


class SpectralScheduler:
    """Euler's method along a plan behind the interface of a diffusers scheduler; noise is coupled.

    As a context manager it stands in for ``pipe.scheduler``, and gives the arguments the pipeline call needs besides the
    prompt: ``latents`` of the first stage, sizes and number of steps.

    Parameters
    ----------
    adapter
        From :func:`spectral_pd.adapters.adapt`, with the sizes and generator of the call to be made.
    plan
        From ``adapter.plan(...)``.
    basis
        The basis the state grows in.

    Raises
    ------
    ValueError
        A family whose loop cannot begin with a smaller latent, or a cache that :meth:`Adapter.check_caches` refuses.
    """

    order = 1
    init_noise_sigma = 1.0

    def __init__(self, adapter: Adapter, plan: Plan, *, basis: Basis = DCT) -> None:
        if adapter.fixed_loop is not None:
            raise ValueError(
                f"{type(adapter.pipe).__name__} cannot run progressively with its own loop: {adapter.fixed_loop}; "
                f"use progressive(pipe, ...)"
            )
        adapter.check_caches(plan)
        self.adapter, self.plan, self.basis = adapter, plan, basis
        self.stock = adapter.pipe.scheduler
        self.config = self.stock.config
        self.noise = adapter.draw_noise()
        self._handles: list[Any] = []
        self._rewind()
        self.set_timesteps()

    def __enter__(self) -> dict[str, Any]:
        pipe, latents = self.adapter.pipe, self.start()
        pipe.scheduler = self
        for network in self.adapter.transformers():
            self._handles.append(network.register_forward_pre_hook(self._before_forward, with_kwargs=True))
        wanted = {"num_inference_steps": self.plan.nfe, "latents": latents, **self.adapter.start_size(latents)}
        known = inspect.signature(type(pipe).__call__).parameters
        return {name: value for name, value in wanted.items() if name in known}

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.adapter.pipe.scheduler = self.stock
        while self._handles:
            self._handles.pop().remove()

    def start(self) -> Tensor:
        """The first stage's state in the layout of the pipeline's latents."""
        self._rewind()
        first = self.plan.stages[0]
        x = self.basis.restrict(self.noise, first.shape)
        if self.plan.clock == "full":
            x = x / align_scale(first.times[0], first.ratio)
        self.adapter.begin_stage(first.shape)
        return self.adapter.to_latents(self._grown(x)).to(self.adapter.noise_dtype)

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: torch.device | str | None = None,
        sigmas: Sequence[float] | None = None,
        mu: float | None = None,
        timesteps: Sequence[float] | None = None,
    ) -> None:
        """Lay out the plan's local times; the plan was made from the full-size grid, so sigmas and mu are not used.

        Raises
        ------
        ValueError
            Another number of steps than the plan's.
        """
        asked = [n for n in (num_inference_steps, None if sigmas is None else len(sigmas)) if n is not None]
        if any(n != self.plan.nfe for n in asked):
            raise ValueError(f"the loop asks for {asked[0]} steps, the plan has {self.plan.nfe}; make both the same")
        if timesteps is not None:
            raise ValueError("timesteps cannot be set: they are the plan's local times")
        local = [t for stage in self.plan.stages for t in stage.times[:-1]]
        self.timesteps = torch.tensor(local, dtype=torch.float32, device=device) * 1000
        self.sigmas = torch.tensor([*local, 0.0], dtype=torch.float32)
        self.num_inference_steps = self.plan.nfe

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Part of the interface; the loop always begins at the plan's first step."""
        if begin_index != 0:
            raise ValueError(f"begin_index = {begin_index}: a progressive loop begins at step 0")

    def scale_model_input(self, sample: Tensor, timestep: Any = None) -> Tensor:
        """Flow matching scales nothing."""
        return sample

    def step(self, model_output: Tensor, timestep: Any, sample: Tensor, return_dict: bool = True, **unused: Any) -> Any:
        """One Euler step in float32, and the growth into the next stage where this one ends.

        Parameters
        ----------
        model_output
            The velocity, in the layout of the loop's latents.
        timestep
            Ignored: steps are counted.
        sample
            The state.
        return_dict
            Object with ``prev_sample``, or a tuple.
        """
        stage = self.plan.stages[self._index]
        x, v = (self.adapter.from_latents(y.to(torch.float32), stage.shape) for y in (sample, model_output))
        x = x + (stage.times[self._done + 1] - stage.times[self._done]) * v
        self._done += 1
        x = self._grown(x)
        latents = self.adapter.to_latents(x).to(sample.dtype)
        return SimpleNamespace(prev_sample=latents) if return_dict else (latents,)

    def _rewind(self) -> None:
        self._index, self._done = 0, 0

    def _grown(self, x: Tensor) -> Tensor:
        """`x` on the grid of the stage that makes the next step."""
        stages = self.plan.stages
        while self._done == stages[self._index].steps and self._index + 1 < len(stages):
            t, shape = stages[self._index].times[-1], stages[self._index + 1].shape
            x, _ = expand_aligned(x, shape, t, noise=self.basis.restrict(self.noise, shape), basis=self.basis)
            self._index, self._done = self._index + 1, 0
            self.adapter.begin_stage(shape)
        return x

    def _before_forward(self, module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return args, {**kwargs, **self.adapter.position_arguments()}
