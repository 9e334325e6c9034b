r"""Pretrained models: progressive sampling of a diffusers pipeline in one call.

    from spectral_pd.adapters import progressive
    images = progressive(pipe, prompt="...", scales=(1 / 2, 1), delta=0.01, num_inference_steps=50, generator=g).images

takes the arguments of ``pipe(...)`` and returns what ``pipe(...)`` returns. One module a model family; diffusers is imported
only here, when an adapter is made, and never by the rest of the library.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any, Literal

from spectral_pd.adapters.base import Adapter as Adapter
from spectral_pd.adapters.base import bind_arguments
from spectral_pd.adapters.k_diffusion import sample_spectral as sample_spectral
from spectral_pd.adapters.scheduler import SpectralScheduler as SpectralScheduler
from spectral_pd.bases import DCT, Basis
from spectral_pd.power import PowerLaw, Spectrum
from spectral_pd.sampling import Coupling
from spectral_pd.schedule import Clock, Cost
from spectral_pd.solvers import Solver, SolverName

ADAPTERS: Mapping[str, tuple[str, str]] = {
    "FluxPipeline": ("flux", "FluxAdapter"),
    "Flux2Pipeline": ("flux2", "Flux2Adapter"),
    "Flux2KleinPipeline": ("flux2", "Flux2KleinAdapter"),
    "ZImagePipeline": ("z_image", "ZImageAdapter"),
    "WanPipeline": ("wan", "WanAdapter"),
    "QwenImagePipeline": ("qwen_image", "QwenImageAdapter"),
    "StableDiffusion3Pipeline": ("sd3", "StableDiffusion3Adapter"),
}
"""Pipeline class -> (module, adapter class)."""

NEEDED: Sequence[tuple[tuple[str, ...], str]] = (
    (
        ("Modular",),
        "its blocks own the loop; make the plain pipeline of the same components, such as FluxPipeline(**components)",
    ),
    (
        ("ControlNet", "Control"),
        "the control image's latents would have to be restricted to every stage's grid, like restrict_signal does",
    ),
    (
        (
            *("Img2Img", "Inpaint", "Fill", "Kontext", "Edit", "Redux", "ZImageOmni", "Vace", "VACE", "WanAnimate"),
            *("KleinKV", "Layered"),
        ),
        "its image latents would have to be restricted to every stage's grid, and the start would not be pure noise",
    ),
    (
        ("ImageToVideo", "VideoToVideo", "Image2Video"),
        "the conditioning frames and masks would have to be restricted to every stage's grid",
    ),
    (
        ("PAG",),
        "perturbed-attention guidance needs a third pass; use the pipeline without it",
    ),
)
"""Parts of pipeline names and what supporting them would need: mostly an extra, full-size input on every stage's grid."""


def find_adapter(pipe: Any) -> type[Adapter]:
    """The adapter class for a pipeline, by the name of its class or of a base class whose call it inherits.

    Raises
    ------
    ValueError
        A pipeline that is not supported: by name, with what would be needed.
    """
    for cls in type(pipe).__mro__:
        if cls.__name__ in ADAPTERS:
            module, name = ADAPTERS[cls.__name__]
            return getattr(import_module(f"spectral_pd.adapters.{module}"), name)
        if "__call__" in vars(cls):
            break  # its own call: whatever its bases do, this pipeline does something else
    name = type(pipe).__name__
    reason = next((text for parts, text in NEEDED if any(part in name for part in parts)), None)
    if reason is None and hasattr(pipe, "unet"):
        reason = "its UNet denoises variance-preserving noise; sample_spectral(..., path='edm') takes such a denoiser"
    raise ValueError(
        f"pipeline {name} is not supported{': ' + reason if reason else ''}; supported are {', '.join(ADAPTERS)}. "
        f"For another text-to-image or text-to-video model write an adapter (docs/adapters.md), or call "
        f"spectral_pd.sample with its velocity"
    )


def adapt(pipe: Any, prompt: Any = None, *, adapter: type[Adapter] | None = None, **arguments: Any) -> Adapter:
    """Prepare one call of a pipeline without running it: encodes the prompt, reads sizes and scheduler.

    Parameters
    ----------
    pipe
        A supported diffusers pipeline, see :data:`ADAPTERS`.
    prompt, arguments
        The arguments of ``pipe(...)``.
    adapter
        Your own adapter class, for a pipeline that is not supported.

    Returns
    -------
    An :class:`Adapter`: ``print(adapter.plan(scales=(1/2, 1)))`` shows the plan, ``adapter.run(plan)`` runs it.

    Raises
    ------
    ValueError, TypeError
        An unsupported pipeline, argument or scheduler, each by name.
    """
    kind = find_adapter(pipe) if adapter is None else adapter
    return kind(pipe, bind_arguments(pipe, {"prompt": prompt, **arguments}))


def progressive(
    pipe: Any,
    prompt: Any = None,
    *,
    scales: Sequence[float] = (1 / 2, 1),
    delta: float = 0.01,
    clock: Clock = "full",
    coupling: Coupling = "coupled",
    solver: SolverName | Solver | None = None,
    basis: Basis = DCT,
    spectrum: PowerLaw | Spectrum | Callable[[Any], Any] | None = None,
    transition_times: Sequence[float] | None = None,
    unreached: Literal["error", "force"] = "error",
    cost: Cost | None = None,
    adapter: type[Adapter] | None = None,
    **arguments: Any,
) -> Any:
    """Call a diffusers pipeline progressively: same arguments, same output, same picture for the same seed, sooner.

    Parameters
    ----------
    pipe
        A FLUX.1, FLUX.2, Z-Image, WAN, Qwen-Image or Stable Diffusion 3 text-to-image or text-to-video pipeline.
    prompt
        As for the pipeline.
    scales
        Stage sizes over the full size, increasing to 1; ``(1,)`` is the stock pipeline's own result.
    delta
        Tolerated velocity error of bands not yet represented; SMALLER is slower and closer to full resolution.
    clock, coupling, solver, basis
        As :func:`spectral_pd.make_plan` and :func:`spectral_pd.sample`; the solver defaults to that of the pipeline's
        scheduler. With the defaults the same generator gives the same picture as the stock pipeline, up to what delta
        tolerates.
    spectrum
        None is the family's preset in :data:`spectral_pd.PRESETS`; some are borrowed from another model.
    transition_times
        Explicit t* instead of delta's.
    unreached
        What to do with a transition that few steps never reach: ``"error"``, or ``"force"`` it before the last step.
    cost
        Cost of one step for the plan's table.
    adapter
        Your own adapter class, for a pipeline that is not supported.
    arguments
        Every other argument of ``pipe(...)``: sizes, steps, guidance, ``generator``, ``latents``, ``output_type``,
        ``callback_on_step_end`` (whose third argument's dict also holds ``stage`` and ``shape``, with ``latents`` spatial and
        of the stage's size).

    Returns
    -------
    What ``pipe(...)`` returns, of the full size.

    Raises
    ------
    ValueError, TypeError
        An unsupported pipeline, argument or scheduler, each by name; whatever the pipeline or the plan refuses.
    """
    call = adapt(pipe, prompt, adapter=adapter, **arguments)
    plan = call.plan(
        scales=scales,
        delta=delta,
        clock=clock,
        spectrum=spectrum,
        transition_times=transition_times,
        unreached=unreached,
        cost=cost,
    )
    return call.run(plan, solver=solver, basis=basis, coupling=coupling)
