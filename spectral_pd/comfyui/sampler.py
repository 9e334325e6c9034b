r"""A ComfyUI sampler that calls the guider on small grids while the noise is high.

ComfyUI's samplers get a guider: ``guider(x, sigma, model_options=, seed=)`` is the denoised latent. On the full clock with
coupled noise nothing of theirs is redone: the wrapped sampler runs as ever, with a
:class:`~spectral_pd.adapters.k_diffusion.StagedDenoiser` in the guider's place. Noise, masks, split sigmas, previews, progress
and cancelling stay ComfyUI's own, at full size. What the guider holds for the full size is exchanged while a stage is called:
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import Any

from torch import Tensor
from torch.nn import functional

from spectral_pd.adapters.k_diffusion import Path, StagedDenoiser, by_stages, local_level, plan_of, raised
from spectral_pd.bases import BASES, size_ratio
from spectral_pd.plan import Clock, Plan
from spectral_pd.power import PRESETS, AnySpectrum, PowerLaw
from spectral_pd.restriction import restrict_signal
from spectral_pd.sampling import Coupling

MEASURED = {
    "SD15": "sd",
    "SDXL": "sdxl",
    "SDXL_Playground_2_5": "sdxl",
    "SD3": "sd3",
    "Flux": "flux",
    "Flux2": "flux2",
    "Wan21": "wan",
    "ChromaRadiance": "pixels",
}
"""ComfyUI's latent formats whose autoencoder a preset was measured on."""
PACKED = {"Flux2": 2}
"""Latent formats that hold patches of points as channels: points along a side. They grow in space."""


@dataclass(frozen=True)
class Settings:
    """What the sampler node asks for.

    Attributes
    ----------
    scales, delta, clock, basis
        As :func:`spectral_pd.make_plan`; the basis by its name.
    coupling
        As :func:`spectral_pd.sample`.
    spectrum
        None is the preset of the model's autoencoder.
    transition_sigmas
        The noise level each stage but the last is left at, instead of a spectrum and a delta, in the model's own sigmas.
    """

    scales: tuple[float, ...] = (1 / 2, 1.0)
    delta: float = 0.01
    clock: Clock = "full"
    coupling: Coupling = "coupled"
    basis: str = "dct"
    spectrum: AnySpectrum | None = None
    transition_sigmas: tuple[float, ...] = ()


def path_of(model_sampling: Any) -> Path:
    """How a model's states hold noise, by the class of its ``model_sampling``: a ValueError where neither path is it."""
    names = {cls.__name__ for cls in type(model_sampling).__mro__}
    if "CONST" in names:
        return "flow"
    if names & {"EPS", "COSMOS_RFLOW"} and "IMG_TO_IMG" not in names:
        return "edm"
    raise ValueError(
        f"this model's noise ({type(model_sampling).__name__}) is neither that of a flow nor x + sigma eps: progressive "
        "sampling does not fit it; use a stock sampler"
    )


def preset_of(model: Any) -> PowerLaw:
    """The power law of a model's autoencoder; marked as borrowed where none was measured on it."""
    name = type(model.latent_format).__name__
    if type(model).__name__ == "QwenImage":
        return PRESETS["qwen-image"]
    if name in MEASURED:
        return PRESETS[MEASURED[name]]
    near = "wan" if model.latent_format.latent_dimensions == 3 else "flux"
    source = f"the fit of {near!r}, not measured on {name} latents"
    return replace(PRESETS[near], kind="borrowed", source=source, r2=None, covariance=None)


def points_of(model: Any) -> int:
    """Points along a side of one latent element: 2 where patches are packed into channels."""
    return PACKED.get(type(model.latent_format).__name__, 1)


def multiples_of(model: Any, sizes: Sequence[int]) -> tuple[int, ...]:
    """What stage sizes are multiples of, by the model's network: its patch, or the factor its U-Net shrinks by.

    Where the full size itself is none (ComfyUI pads such latents), what both have in common.
    """
    network = model.diffusion_model
    patch = getattr(network, "patch_size", getattr(network, "patch_spatial", None))
    if patch is None:
        patch = 2 ** (len(getattr(network, "channel_mult", (1,))) - 1)
    spatial = tuple(patch)[-2:] if isinstance(patch, (tuple, list)) else (patch, patch)
    return tuple(points_of(model) * math.gcd(n, int(m)) for n, m in zip(sizes, spatial, strict=True))


class SpectralSampler:
    """A ComfyUI SAMPLER around another one; what else is asked of it, the inner one is asked.

    Parameters
    ----------
    inner
        Any object with ComfyUI's ``sample(model_wrap, sigmas, extra_args, callback, noise, latent_image, denoise_mask,
        disable_pbar)``.
    settings
        See :class:`Settings`.
    """

    def __init__(self, inner: Any, settings: Settings) -> None:
        self.inner, self.settings = inner, settings

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["inner"], name)

    def spectrum(self, model: Any) -> AnySpectrum:
        """What plans for a model are made from."""
        return preset_of(model) if self.settings.spectrum is None else self.settings.spectrum

    def plan(self, model: Any, model_sampling: Any, sigmas: Tensor, shape: Sequence[int]) -> Plan:
        """The plan for a latent of `shape`; errors as :func:`spectral_pd.make_plan`, in the words of the nodes.

        `model` is ComfyUI's ``BaseModel``, `model_sampling` its noise schedule with the patches of the workflow.
        """
        if len(shape) not in (4, 5) or min(shape[-2:]) < 2:
            raise ValueError(f"a latent of shape {tuple(shape)} is no picture or video; use a stock sampler")
        ask, path = self.settings, path_of(model_sampling)
        options: dict[str, Any] = {"scales": ask.scales, "clock": ask.clock, "basis": BASES[ask.basis]}
        options["multiple_of"] = multiples_of(model, shape[-2:])
        if ask.transition_sigmas:
            options["transition_times"] = [s / (1 + s) if path == "edm" else s for s in ask.transition_sigmas]
        else:
            options |= {"spectrum": self.spectrum(model), "delta": ask.delta}
        points = points_of(model)
        try:
            return plan_of(sigmas, (shape[-2] * points, shape[-1] * points), path, options)
        except ValueError as error:
            text = str(error).replace(", fewer scales, or unreached='force'", " or fewer scales")
            raise ValueError(text.replace("transition_times", "transition_sigmas, as flow times")) from None

    def sample(
        self,
        model_wrap: Any,
        sigmas: Tensor,
        extra_args: dict[str, Any],
        callback: Callable[..., object] | None,
        noise: Tensor,
        latent_image: Tensor | None = None,
        denoise_mask: Tensor | None = None,
        disable_pbar: bool = False,
    ) -> Tensor:
        """What ComfyUI calls; parameters and result are its own."""
        model = model_wrap.inner_model
        plan = self.plan(model, model.model_sampling, sigmas, noise.shape)
        logging.info("Spectral Progressive Sampler\n%s", plan)
        path = path_of(model.model_sampling)
        guider = StageGuider(model_wrap, plan, path, sigmas, extra_args, noise, latent_image, denoise_mask)
        if self.settings.clock == "full" and self.settings.coupling == "coupled":
            staged = _Unpacked(guider, plan, path)
            return self.inner.sample(
                staged, sigmas, extra_args, callback, noise, latent_image, denoise_mask, disable_pbar
            )
        return self._by_stages(guider, plan, path, sigmas, extra_args, callback, noise, disable_pbar)

    def _by_stages(
        self,
        guider: StageGuider,
        plan: Plan,
        path: Path,
        sigmas: Tensor,
        extra_args: dict[str, Any],
        callback: Callable[..., object] | None,
        noise: Tensor,
        disable: bool,
    ) -> Tensor:
        """The paper's clock or noise: the sampler's own function once a stage, from noise alone to 0."""
        asked = f"clock = {self.settings.clock!r} with coupling = {self.settings.coupling!r}"
        if guider.denoise_mask is not None or (guider.latent_image is not None and guider.latent_image.any()):
            raise ValueError(f"{asked} starts from noise alone, without picture or mask: use 'full' and 'coupled'")
        if not hasattr(self.inner, "sampler_function"):
            raise ValueError(f"{asked} needs one of ComfyUI's own samplers, not {type(self.inner).__name__}")
        if guider.points > 1:
            raise ValueError(f"{asked} does not know latents packed as patches: use 'full' and 'coupled'")
        steps = len(sigmas) - 1

        def shown(info: dict[str, Any]) -> None:
            if callback is not None:
                callback(info["i"], info["denoised"], info["x"], steps)

        run = partial(self.inner.sampler_function, extra_args=extra_args, disable=disable, **self.inner.extra_options)
        state = by_stages(
            run,
            _Bare(guider),
            noise * sigmas[0],
            sigmas,
            plan,
            path,
            coupling=self.settings.coupling,
            seed=int(extra_args.get("seed") or 0),
            callback=shown,
        )
        return guider.inner_model.model_sampling.inverse_noise_scaling(sigmas[-1], state)


class _Bare:
    """What a sampler's function calls where no mask shows through: a guider, found under ``inner_model``."""

    def __init__(self, guider: Any) -> None:
        self.inner_model = guider

    def __call__(self, x: Tensor, sigma: Tensor, **arguments: Any) -> Tensor:
        return self.inner_model(x, sigma, **arguments)


class _Unpacked(StagedDenoiser):
    """A staged denoiser of latents that hold patches of points as channels: it stages the points themselves."""

    def __call__(self, x: Tensor, sigma: Tensor, **arguments: Any) -> Tensor:
        guider: Any = self.model
        if self.stage(float(sigma.flatten()[0])).shape == self.plan.shape:
            return guider(x, sigma, **arguments)
        staged = StagedDenoiser(
            lambda y, level, **more: guider.spread(guider(guider.packed(y), level, **more)), self.plan, self.path
        )
        return guider.packed(staged(guider.spread(x), sigma, **arguments))


class StageGuider:
    """A guider called on any stage's grid; on the full one it is the guider itself.

    For the time of a coarse call it holds that grid's conditioning: what the model's class makes of the same conditioning for a
    latent of that size, pictures and masks of the full size restricted, areas scaled, sizes it names kept, and the ranges in
    which conditioning and ControlNets act as the noise levels that the stage sees.

    Parameters
    ----------
    guider, plan, path
        What ComfyUI hands to a sampler; the plan and path of the run.
    sigmas, extra_args, noise, latent_image, denoise_mask
        Of the sampler's call.
    """

    def __init__(
        self,
        guider: Any,
        plan: Plan,
        path: Path,
        sigmas: Tensor,
        extra_args: Mapping[str, Any],
        noise: Tensor,
        latent_image: Tensor | None,
        denoise_mask: Tensor | None,
    ) -> None:
        self.guider, self.plan, self.path, self.sigmas = guider, plan, path, sigmas
        self.noise, self.latent_image, self.denoise_mask = noise, latent_image, denoise_mask
        self.points = points_of(guider.inner_model)
        self._seed = extra_args.get("seed")
        self._known = list(extra_args.get("model_options", {}).get("sampler_post_cfg_function", []))
        self._conds: dict[tuple[int, ...], Any] = {}
        if len(plan.stages) > 1:
            _check(guider.conds)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["guider"], name)

    def __call__(self, x: Tensor, sigma: Tensor, model_options: Any = None, seed: int | None = None) -> Tensor:
        options = {} if model_options is None else model_options
        grid = tuple(x.shape[-2:])
        if grid == tuple(self.noise.shape[-2:]):
            return self.guider(x, sigma, model_options=options, seed=seed)
        with self._on(grid):
            return self.guider(x, sigma, model_options=self._options(options, grid), seed=seed)

    def spread(self, x: Tensor) -> Tensor:
        """A latent with its points side by side."""
        return x if self.points == 1 else functional.pixel_shuffle(x, self.points)

    def packed(self, x: Tensor) -> Tensor:
        """Inverse of :meth:`spread`."""
        return x if self.points == 1 else functional.pixel_unshuffle(x, self.points)

    def local(self, sigma: Any, grid: tuple[int, ...]) -> Any:
        """A noise level as the stage sees it; on the paper's clock a stage sees the levels of the full size."""
        ratio = size_ratio(grid, self.noise.shape[-2:])
        return local_level(sigma, ratio, self.path) if self.plan.clock == "full" else sigma

    def _options(self, options: Mapping[str, Any], grid: tuple[int, ...]) -> dict[str, Any]:
        """The levels of the run as the stage sees them; functions that the sampler adds (CFG++) see the full size."""
        own = dict(options.get("transformer_options", {}))
        if "sample_sigmas" in own:
            own["sample_sigmas"] = self.local(own["sample_sigmas"], grid)
        after = options.get("sampler_post_cfg_function", [])
        after = [fn if any(fn is known for known in self._known) else partial(self._full_size, fn) for fn in after]
        return {**options, "transformer_options": own, **({"sampler_post_cfg_function": after} if after else {})}

    def _full_size(self, function: Callable[[dict[str, Any]], Tensor], args: dict[str, Any]) -> Tensor:
        """`function` of the sampler's, called with pictures of the full size."""
        basis, grid = self.plan.basis, tuple(n * self.points for n in args["denoised"].shape[-2:])
        names = ("denoised", "cond_denoised", "uncond_denoised")
        pictures = {
            name: self.packed(raised(self.spread(args[name]), self.plan.shape, basis))
            for name in names
            if isinstance(args.get(name), Tensor)
        }
        return self.packed(restrict_signal(self.spread(function({**args, **pictures})), grid, basis=basis))

    @contextmanager
    def _on(self, grid: tuple[int, ...]) -> Iterator[None]:
        held = self.guider.conds
        if grid not in self._conds:
            self._conds[grid] = self._processed(grid)
        controls = _controls(held)
        ranges = [control.timestep_range for control in controls]
        self.guider.conds = self._conds[grid]
        try:
            for control, given in zip(controls, ranges, strict=True):
                control.timestep_range = given and tuple(self.local(level, grid) for level in given)
            yield
        finally:
            self.guider.conds = held
            for control, given in zip(controls, ranges, strict=True):
                control.timestep_range = given

    def _processed(self, grid: tuple[int, ...]) -> Any:
        """The guider's conditioning as ComfyUI makes it for a latent of that size."""
        from comfy.samplers import process_conds

        full = tuple(self.noise.shape[-2:])
        noise = self.noise.new_zeros((*self.noise.shape[:-2], *grid))
        picture = None if self.latent_image is None else _resized(self.latent_image, full, grid, averaged=False)
        mask = None if self.denoise_mask is None else _resized(self.denoise_mask, full, grid, averaged=True)
        conds = {
            name: [self._restricted(cond, grid) for cond in entries] for name, entries in self.guider.conds.items()
        }
        conds = process_conds(
            self.guider.inner_model, noise, conds, noise.device, picture, mask, self._seed, latent_shapes=[noise.shape]
        )
        for cond in chain(*conds.values()):
            for name in ("timestep_start", "timestep_end"):
                if cond.get(name) is not None:
                    cond[name] = self.local(cond[name], grid)
        return conds

    def _restricted(self, cond: Mapping[str, Any], grid: tuple[int, ...]) -> dict[str, Any]:
        full = tuple(self.noise.shape[-2:])
        result = {
            name: value if name == "reference_latents" else _entry(value, name, full, grid)
            for name, value in cond.items()
        }
        # ComfyUI's own words for the size where the conditioning names none: that of the full latent stays.
        result.setdefault("width", self.noise.shape[3] * 8)
        result.setdefault("height", self.noise.shape[2] * 8)
        if "area" in cond:
            result["area"] = _area(cond["area"], full, grid)
        return result


def _entry(value: Any, name: str, full: tuple[int, ...], grid: tuple[int, ...]) -> Any:
    """An entry of a conditioning, its pictures and masks of the full size on a stage's grid."""
    if isinstance(value, (list, tuple)) and value and all(isinstance(v, Tensor) for v in value):
        return type(value)(_entry(v, name, full, grid) for v in value)
    if not isinstance(value, Tensor) or value.ndim < (3 if name == "mask" else 4):
        return value
    cells = [n // m for n, m in zip(value.shape[-2:], full, strict=True)]
    if tuple(value.shape[-2:]) != tuple(c * m for c, m in zip(cells, full, strict=True)) or min(cells) < 1:
        return value
    sizes = tuple(c * n for c, n in zip(cells, grid, strict=True))
    return _resized(value, tuple(value.shape[-2:]), sizes, averaged="mask" in name or max(cells) > 1)


def _resized(value: Tensor, full: tuple[int, ...], grid: tuple[int, ...], *, averaged: bool) -> Tensor:
    """A picture keeps its values, its high band goes; a mask, and what lies in pixels, is averaged over areas."""
    if tuple(value.shape[-2:]) != full:
        return value
    if not averaged:
        return restrict_signal(value, grid)
    flat = functional.adaptive_avg_pool2d(value.reshape(1, -1, *full).float(), (grid[0], grid[1]))
    return flat.reshape(*value.shape[:-2], *grid).to(value.dtype)


def _area(area: Sequence[int], full: tuple[int, ...], grid: tuple[int, ...]) -> tuple[int, ...]:
    """ComfyUI's (sizes..., offsets...) of a part of the latent, its last two axes scaled."""
    n = len(area) // 2
    sizes, offsets = list(area[:n]), list(area[n:])
    for axis, (old, new) in zip((-2, -1), zip(full, grid, strict=True), strict=True):
        offsets[axis] = min(round(offsets[axis] * new / old), new - 1)
        sizes[axis] = max(1, min(round(sizes[axis] * new / old), new - offsets[axis]))
    return (*sizes, *offsets)


def _controls(conds: Mapping[str, Any]) -> list[Any]:
    """Every ControlNet of a guider's conditioning, each once."""
    found: dict[int, Any] = {}
    for cond in chain(*conds.values()):
        control = cond.get("control")
        while control is not None:
            found[id(control)], control = control, control.previous_controlnet
    return list(found.values())


def _check(conds: Mapping[str, Any]) -> None:
    """Refuse, before the first call, what cannot be put on a smaller grid."""
    for cond in chain(*conds.values()):
        if "gligen" in cond:
            raise ValueError("GLIGEN boxes are placed on the full latent: use a stock sampler with them")
        if cond.get("keyframe_idxs") is not None:
            raise ValueError("LTX guides hold positions of the full latent: use a stock sampler with them")
        hooks = getattr(cond.get("hooks"), "hooks", [])
        if any(len(getattr(getattr(hook, "hook_keyframe", None), "keyframes", [])) > 1 for hook in hooks):
            raise ValueError(
                "hooks with several keyframes follow the sampler's noise levels step by step: use a stock sampler"
            )
