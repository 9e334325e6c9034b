"""The three nodes, in ComfyUI's node API: a sampler, the plan it will follow, and a spectrum measured from latents."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import comfy.samplers
import folder_paths
import numpy as np
import torch
from comfy_api.latest import ComfyExtension, io, ui

from spectral_pd.bases import BASES
from spectral_pd.comfyui.sampler import Settings, SpectralSampler, points_of
from spectral_pd.fit import fit_spectrum
from spectral_pd.inputs import one_delta, plans
from spectral_pd.power import PRESETS, AnySpectrum, Spectrum, load_spectrum

CATEGORY = "sampling/spectral progressive"
AUTO, FILE = "auto", "file"
EXAMPLE = "1/2, 1"


def numbers(text: str, name: str) -> tuple[float, ...]:
    """Numbers of a text such as ``1/4, 1/2, 1``."""
    try:
        return tuple(float(Fraction(part.strip())) for part in text.replace(";", ",").split(",") if part.strip())
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"{name} = {text!r} must be numbers with commas between them, such as {EXAMPLE}") from None


def spectra_folder() -> Path:
    """Where measured spectra are kept."""
    return Path(folder_paths.get_output_directory()) / "spectra"


def chosen_spectrum(name: str, file: str) -> AnySpectrum | None:
    """A preset, a file, or None: what the model's own autoencoder has."""
    if name != FILE:
        return None if name == AUTO else PRESETS[name]
    path = Path(file.strip()).expanduser()
    path = path if path.is_absolute() else spectra_folder() / path
    if not file.strip() or not path.is_file():
        raise ValueError(f"spectrum_file = {file!r}: there is no file {path}; pass what Measure Spectrum saved")
    spectrum = load_spectrum(path)
    return spectrum.envelope() if isinstance(spectrum, Spectrum) else spectrum


class SpectralProgressiveSampler(io.ComfyNode):
    """A SAMPLER for SamplerCustom and SamplerCustomAdvanced."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs, as ComfyUI asks for them."""
        return io.Schema(
            node_id="SpectralProgressiveSampler",
            display_name="Spectral Progressive Sampler",
            category=CATEGORY,
            description="Runs the early, noisy steps of any sampler on small latents: the same picture for the same seed, "
            "sooner. Connect it to SamplerCustom or SamplerCustomAdvanced; all inputs can be left as they are.",
            inputs=[
                io.Combo.Input(
                    "sampler_name",
                    options=comfy.samplers.SAMPLER_NAMES,
                    default="euler",
                    tooltip="The sampler that makes the steps, as in KSampler.",
                ),
                io.String.Input(
                    "scales",
                    default=EXAMPLE,
                    tooltip="Sides of the stages over the full side, growing to 1. '1/2, 1' begins at half the side; "
                    "'1/4, 1/2, 1' saves more; '1' is the stock sampler.",
                ),
                io.Float.Input(
                    "delta",
                    default=0.01,
                    min=0.0001,
                    max=0.5,
                    step=0.001,
                    round=0.0001,
                    tooltip="Tolerated error of the detail that a small latent cannot hold. Smaller: leaves the small latent "
                    "earlier, slower, closer to the full result. Larger: later, faster. Spectral Plan shows what it does.",
                ),
                io.Combo.Input(
                    "spectrum",
                    options=[AUTO, *PRESETS, FILE],
                    default=AUTO,
                    tooltip="Power of the latents by frequency. 'auto' takes the preset of the model's autoencoder, 'file' "
                    "what Measure Spectrum saved.",
                ),
                io.String.Input(
                    "spectrum_file",
                    default="",
                    tooltip="With spectrum 'file': a JSON file, by its whole path or in output/spectra.",
                ),
                io.String.Input(
                    "transition_sigmas",
                    default="",
                    tooltip="Empty: from spectrum and delta. Else the sigma at which each stage but the last ends, e.g. "
                    "'0.85', in the model's own sigmas.",
                ),
                io.Combo.Input(
                    "clock",
                    options=["full", "stage"],
                    default="full",
                    tooltip="'full' follows the full-size run step by step. 'stage' is the paper's, for comparison; from "
                    "noise only.",
                ),
                io.Combo.Input(
                    "coupling",
                    options=["coupled", "fresh"],
                    default="coupled",
                    tooltip="'coupled': all sizes see one noise, the same seed gives the same picture. 'fresh': new noise "
                    "where a stage begins, as in the paper; from noise only.",
                ),
                io.Combo.Input(
                    "basis",
                    options=list(BASES),
                    default="dct",
                    tooltip="Transform that cuts low from high frequencies.",
                ),
                io.Sampler.Input(
                    "sampler",
                    optional=True,
                    tooltip="Instead of sampler_name: any other SAMPLER, with its own settings.",
                ),
            ],
            outputs=[io.Sampler.Output(tooltip="For SamplerCustom, SamplerCustomAdvanced and Spectral Plan.")],
        )

    @classmethod
    def execute(
        cls,
        sampler_name: str,
        scales: str,
        delta: float,
        spectrum: str,
        spectrum_file: str,
        transition_sigmas: str,
        clock: Any,
        coupling: Any,
        basis: str,
        sampler: Any = None,
    ) -> io.NodeOutput:
        """Check what can be checked without a model, and wrap the sampler."""
        settings = Settings(
            scales=plans.stage_scales(numbers(scales, "scales"), 2),  # type: ignore[arg-type]
            delta=one_delta(delta, "delta"),
            clock=clock,
            coupling=coupling,
            basis=basis,
            spectrum=chosen_spectrum(spectrum, spectrum_file),
            transition_sigmas=numbers(transition_sigmas, "transition_sigmas"),
        )
        inner = comfy.samplers.sampler_object(sampler_name) if sampler is None else sampler
        return io.NodeOutput(SpectralSampler(inner, settings))


class SpectralPlan(io.ComfyNode):
    """The plan of a run as text and as a picture."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs, as ComfyUI asks for them."""
        return io.Schema(
            node_id="SpectralPlan",
            display_name="Spectral Plan",
            category=CATEGORY,
            description="Shows, before anything runs, which latent sizes the steps will be made at, and why.",
            inputs=[
                io.Model.Input("model"),
                io.Sampler.Input("sampler", tooltip="From Spectral Progressive Sampler."),
                io.Sigmas.Input("sigmas", tooltip="The sigmas of the run, from its scheduler."),
                io.Latent.Input("latent_image", tooltip="The latent of the run, for its size."),
            ],
            outputs=[
                io.String.Output(display_name="plan", tooltip="The table of stages, with warnings."),
                io.Image.Output(
                    display_name="picture", tooltip="Stages against the time at which each frequency appears."
                ),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, model: Any, sampler: Any, sigmas: Any, latent_image: Any) -> io.NodeOutput:
        """Plan without a model call."""
        if not isinstance(sampler, SpectralSampler):
            raise ValueError("sampler is a stock one, which has no plan: connect the Spectral Progressive Sampler")
        base = model.model
        plan = sampler.plan(base, model.get_model_object("model_sampling"), sigmas, latent_image["samples"].shape)
        text, picture = str(plan), plan_picture(plan, sampler.spectrum(base))
        return io.NodeOutput(text, picture, ui={**ui.PreviewImage(picture, cls=cls).as_dict(), "text": (text,)})


def plan_picture(plan: Any, spectrum: AnySpectrum) -> torch.Tensor:
    """An IMAGE (1, H, W, 3) of a plan against its spectrum."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise ModuleNotFoundError("the plan's picture needs matplotlib: pip install matplotlib") from None
    from spectral_pd.plotting import plot_activation

    figure = Figure(figsize=(6, 4.5), dpi=120, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    plot_activation(spectrum, plan, ax=figure.subplots())
    canvas.draw()
    return torch.tensor(np.asarray(canvas.buffer_rgba()), dtype=torch.float32)[None, ..., :3] / 255


class MeasureSpectrum(io.ComfyNode):
    """A power law measured on latents of a model's autoencoder."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs, as ComfyUI asks for them."""
        return io.Schema(
            node_id="MeasureSpectrum",
            display_name="Measure Spectrum",
            category=CATEGORY,
            description="Measures the power of latents by frequency and saves a JSON file for Spectral Progressive Sampler. "
            "Give a batch of latents, or pictures and a VAE; some dozens of varied pictures are enough.",
            inputs=[
                io.Model.Input("model", tooltip="The model whose latents they are: it says how they are scaled."),
                io.String.Input("name", default="mine", tooltip="The file will be output/spectra/NAME.json."),
                io.Latent.Input("latents", optional=True, tooltip="A batch of latents."),
                io.Image.Input("images", optional=True, tooltip="Instead of latents: a batch of pictures, with a VAE."),
                io.Vae.Input("vae", optional=True, tooltip="Encodes the pictures."),
            ],
            outputs=[
                io.String.Output(display_name="spectrum_file", tooltip="For spectrum_file of the sampler."),
                io.String.Output(display_name="law", tooltip="What was found."),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, model: Any, name: str, latents: Any = None, images: Any = None, vae: Any = None) -> io.NodeOutput:
        """Measure, fit, save."""
        if (latents is None) == (images is None) or (images is not None and vae is None):
            raise ValueError("connect either latents, or images together with a vae")
        if not name or Path(name).name != name:
            raise ValueError(f"name = {name!r} must be the name of a file, without folders")
        samples = vae.encode(images[..., :3]) if latents is None else latents["samples"]
        samples = model.model.process_latent_in(samples.float())
        if (points := points_of(model.model)) > 1:
            samples = torch.nn.functional.pixel_shuffle(samples, points)
        law = fit_spectrum(samples)
        spectra_folder().mkdir(parents=True, exist_ok=True)
        path = spectra_folder() / f"{name.removesuffix('.json')}.json"
        law.save(path)
        text = (
            f"P = {law.amplitude:.6g} omega^-{law.exponent:.4g} on {law.shape}, R2 {law.r2:.4f}, {len(samples)} samples"
        )
        return io.NodeOutput(str(path), text, ui={"text": (f"{text}\n{path}",)})


class Extension(ComfyExtension):
    """What ComfyUI loads."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """The three nodes."""
        return [SpectralProgressiveSampler, SpectralPlan, MeasureSpectrum]


async def comfy_entrypoint() -> Extension:
    """ComfyUI's entry point, found through the folder in ``custom_nodes``."""
    return Extension()
