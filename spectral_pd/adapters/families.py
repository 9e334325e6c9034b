"""Which pipelines are ridden, by the layout of their family, and what stands in the way of the others."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from spectral_pd.adapters import layouts
from spectral_pd.adapters.layouts import Layout

_FAMILIES = """
FLUX: Flux FluxKontext FluxImg2Img FluxInpaint FluxFill FluxControl FluxControlImg2Img FluxControlInpaint
    FluxControlNet FluxControlNetImg2Img FluxControlNetInpaint FluxKontextInpaint LongCatImage LongCatImageEdit
    OvisImage FluxModular FluxKontextModular
FLUX2: Flux2 Flux2Klein Flux2KleinInpaint Flux2Modular Flux2KleinModular Flux2KleinBaseModular
FLUX2_KV: Flux2KleinKV
FLUX3: Flux3Modular Flux3DistilledModular
BRIA: Bria
CHROMA: Chroma ChromaImg2Img ChromaInpaint
KREA2: Krea2 Krea2Modular Krea2TurboModular
IDEOGRAM4: Ideogram4
QWEN_IMAGE: QwenImage QwenImageImg2Img QwenImageInpaint QwenImageEdit QwenImageEditPlus QwenImageEditInpaint
    NucleusMoEImage QwenImageLayered QwenImageControlNet QwenImageControlNetInpaint QwenImageModular
QWEN_IMAGE21: QwenImage21
Z_IMAGE: ZImage ZImageImg2Img ZImageInpaint ZImageControlNet ZImageControlNetInpaint ZImageOmni ZImageModular
WAN: Wan WanImageToVideo WanVideoToVideo WanVACE SkyReelsV2 SkyReelsV2ImageToVideo
    WanModular Wan22Modular
SD3: StableDiffusion3 StableDiffusion3Img2Img StableDiffusion3Inpaint StableDiffusion3ControlNet
    StableDiffusion3PAG StableDiffusion3PAGImg2Img StableDiffusion3ControlNetInpainting StableDiffusion3Modular
SD: StableDiffusion StableDiffusionImg2Img StableDiffusionInpaint StableDiffusionPAG StableDiffusionInstructPix2Pix
    StableDiffusionControlNet StableDiffusionControlNetImg2Img StableDiffusionControlNetInpaint
    StableDiffusionPAGImg2Img StableDiffusionPAGInpaint StableDiffusionControlNetPAG StableDiffusionControlNetPAGInpaint
SDXL: StableDiffusionXL StableDiffusionXLImg2Img StableDiffusionXLInpaint StableDiffusionXLPAG
    StableDiffusionXLControlNet StableDiffusionXLControlNetImg2Img StableDiffusionXLControlNetInpaint
    StableDiffusionXLControlNetUnion StableDiffusionXLControlNetUnionImg2Img StableDiffusionXLControlNetUnionInpaint
    StableDiffusionXLPAGImg2Img StableDiffusionXLPAGInpaint StableDiffusionXLControlNetPAG
    StableDiffusionXLControlNetPAGImg2Img StableDiffusionXLInstructPix2Pix StableDiffusionXLModular
    Kolors KolorsImg2Img KolorsPAG
PIXART_ALPHA: PixArtAlpha
PIXART_SIGMA: PixArtSigma PixArtSigmaPAG
HUNYUAN_VIDEO: HunyuanVideo HunyuanVideoImageToVideo HunyuanSkyreelsImageToVideo
HUNYUAN_VIDEO15: HunyuanVideo15 HunyuanVideo15ImageToVideo
HUNYUAN_IMAGE: HunyuanImage
LTX: LTX LTXImageToVideo LTXModular
LTX2: LTX2 LTX2ImageToVideo LTX2Modular LTX25Modular
COSMOS: Cosmos2_5_PredictBase
ANIMA: AnimaModular
MINIMAX_H3: MiniMaxH3Modular
LUMINA: Lumina
LUMINA2: Lumina2
COGVIEW4: CogView4 CogView4Control
AURA_FLOW: AuraFlow
SANA_VIDEO: SanaVideo
SANA: Sana SanaControlNet SanaPAG
KANDINSKY5: Kandinsky5T2I Kandinsky5I2I
KANDINSKY5_VIDEO: Kandinsky5T2V Kandinsky5I2V
HIDREAM: HiDreamImage
PRX: PRX
PRX_PIXEL: PRXPixel
"""

_REFUSED = """
*Prior* *PriorRedux* StableCascade* Wuerstchen*: it denoises embeddings, which have no frequencies; ride the pipeline
    it feeds
*Upsample* *Upscale* *VideoDiffusionDecode* LTX2DFR* HunyuanImageRefiner* Kandinsky6SR*: it refines a picture that
    another pipeline made and keeps its coarse bands; ride the pipeline that makes it
LLaDA2* DiffusionGemma* RFD4Proteina* Amused* VQDiffusion*: its states are tokens or coordinates, not a field on a
    grid: nothing has a spectrum to grow along
AceStep* StableAudio* LongCatAudio* AudioLDM* MusicLDM* AudioDiffusion* DanceDiffusion* Spectrogram* MiniMaxMusic3*:
    its latents run along time alone, and a ride grows height and width{sample} over one axis
*Framepack* SkyReelsV2DiffusionForcing* LTXI2VLong* WanAnimate* AnyFlowFAR* SanaWM* ChronoEdit*: it denoises one
    stretch of the video after another, or drops frames on the way, and a plan is made for one run of one size; use
    the family's plain pipeline
Helios*: it runs coarse to fine by itself, with correlated noise between its own sizes
AnyFlow* SanaSprint* LatentConsistency* Consistency* Echo*: its scheduler jumps with fresh noise or by a flow map
    instead of following the flow's velocity; use the family's plain pipeline
CosmosText* CosmosVideo* Cosmos2Text* Cosmos2Video*: it scales its latents by c_in and mixes them into the prediction
    (EDM preconditioning, sigma up to 80); {denoiser}
Mochi*: its scheduler runs with inverted sigmas, from 0 to 1, for a velocity of the opposite sign{sample}
LTXCondition* LTX2Condition* LTX2HDR* LTX2InContext*: its condition frames are tokens with a strength each, kept by a
    mask after every step; use LTXPipeline, LTXImageToVideoPipeline or LTX2Pipeline
VisualCloze*: it denoises a grid of several pictures in one latent, whose sizes and masks are the full size's, with
    FLUX.1 Fill's network; use FluxFillPipeline
Bria* ErnieImage* GlmImage* JoyImage* NucleusMoE* OmniGen* EasyAnimate* Lumina* Lucy* DreamLite* MotifVideo* Cosmos*
    SanaVideo* SanaImageToVideo* Kandinsky6* StableDiffusion3ControlNetInpainting* StableDiffusion3PAG*
    SkyReelsV2ImageToVideo QwenImage* Wan* Ideogram4* HunyuanVideo15*: it follows a flow, and how its latents lie has
    not been tried{by_hand}
*: it denoises variance-preserving noise, and how its latents lie has not been tried{by_hand} with preserving=True,
    or {denoiser}
"""

_ADVICE = {
    "by_hand": "; write its layout (docs/adapters.md) and pass it as layout=",
    "denoiser": "sample_spectral(model, x, sigmas, path='edm') takes its network as a k-diffusion denoiser",
    "sample": "; call spectral_pd.sample with its network's velocity and a plan of its own",
}


def _entries(text: str) -> list[tuple[str, str]]:
    """(names, what is said of them) of each entry; its further lines are indented."""
    lines = re.sub(r"\n +", " ", text.strip()).splitlines()
    return [(names, said) for names, _, said in (line.partition(": ") for line in lines)]


LAYOUTS: Mapping[str, Layout] = {
    f"{name}Pipeline": getattr(layouts, family) for family, names in _entries(_FAMILIES) for name in names.split()
}
"""Pipeline class -> layout."""

REFUSED: Sequence[tuple[str, str]] = [(names, reason.format(**_ADVICE)) for names, reason in _entries(_REFUSED)]
"""Patterns of pipeline names, without "Pipeline" or "ModularPipeline" at their end, and what stands in the way; the first
that fits."""


def find_layout(pipe: Any) -> Layout:
    """The layout of a pipeline's family, by the name of its class or of a base class whose call it inherits.

    Raises
    ------
    ValueError
        A pipeline that cannot be ridden: by name, with what stands in the way.
    """
    for cls in type(pipe).__mro__:
        if cls.__name__ in LAYOUTS:
            return LAYOUTS[cls.__name__]
        if "__call__" in vars(cls):
            break  # its own call: whatever its bases do, this pipeline does something else
    name = type(pipe).__name__
    stem = name.removesuffix("Pipeline").removesuffix("Modular")
    known = type(pipe).__module__.startswith("diffusers")
    reason = next(text for patterns, text in REFUSED if any(fnmatchcase(stem, pattern) for pattern in patterns.split()))
    if not known:
        reason = "it is not one of diffusers" + _ADVICE["by_hand"]
    raise ValueError(f"pipeline {name} cannot be ridden: {reason}")
