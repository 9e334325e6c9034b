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
IDEOGRAM4: Ideogram4 Ideogram4Modular
QWEN_IMAGE: QwenImage QwenImageImg2Img QwenImageInpaint QwenImageEdit QwenImageEditPlus QwenImageEditInpaint
    NucleusMoEImage QwenImageLayered QwenImageControlNet QwenImageControlNetInpaint QwenImageModular
    QwenImageEditModular QwenImageEditPlusModular
QWEN_IMAGE21: QwenImage21 QwenImage21Modular QwenImage21TurboModular
Z_IMAGE: ZImage ZImageImg2Img ZImageInpaint ZImageControlNet ZImageControlNetInpaint ZImageOmni ZImageModular
WAN: Wan WanImageToVideo WanVideoToVideo WanVACE SkyReelsV2 SkyReelsV2ImageToVideo LucyEdit
    WanModular Wan22Modular WanImage2VideoModular Wan22Image2VideoModular Wan22VaceModular
SD3: StableDiffusion3 StableDiffusion3Img2Img StableDiffusion3Inpaint StableDiffusion3ControlNet
    StableDiffusion3PAG StableDiffusion3PAGImg2Img StableDiffusion3ControlNetInpainting StableDiffusion3Modular
ANIMATED: AnimateDiff AnimateDiffPAG AnimateDiffVideoToVideo
ANIMATED_XL: AnimateDiffSDXL
SD: StableDiffusion StableDiffusionImg2Img StableDiffusionInpaint StableDiffusionPAG StableDiffusionInstructPix2Pix
    StableDiffusionControlNet StableDiffusionControlNetImg2Img StableDiffusionControlNetInpaint
    StableDiffusionDepth2Img StableDiffusionImageVariation StableDiffusionPAGImg2Img StableDiffusionPAGInpaint
    StableDiffusionControlNetPAG StableDiffusionControlNetPAGInpaint
SDXL: StableDiffusionXL StableDiffusionXLImg2Img StableDiffusionXLInpaint StableDiffusionXLPAG
    StableDiffusionXLControlNet StableDiffusionXLControlNetImg2Img StableDiffusionXLControlNetInpaint
    StableDiffusionXLControlNetUnion StableDiffusionXLControlNetUnionImg2Img StableDiffusionXLControlNetUnionInpaint
    StableDiffusionXLPAGImg2Img StableDiffusionXLPAGInpaint StableDiffusionXLControlNetPAG
    StableDiffusionXLControlNetPAGImg2Img StableDiffusionXLInstructPix2Pix StableDiffusionXLModular
PIXART_ALPHA: PixArtAlpha Latte
PIXART_SIGMA: PixArtSigma PixArtSigmaPAG
HUNYUAN_VIDEO: HunyuanVideo HunyuanVideoImageToVideo HunyuanSkyreelsImageToVideo
HUNYUAN_VIDEO15: HunyuanVideo15 HunyuanVideo15ImageToVideo HunyuanVideo15Modular
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
MOTIF_VIDEO: MotifVideo
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
*Onnx*: its networks run in ONNX Runtime, where no hook reaches their inputs; use StableDiffusionPipeline
Kolors*: its tokenizer wants sentencepiece, without which it could not be tried; its network and loop are Stable
    Diffusion XL's: layout=LAYOUTS["StableDiffusionXLPipeline"]
QwenImageLayered: how many of the pictures in one sequence are its layers, its blocks do not tell the network; use
    QwenImageLayeredPipeline
Cosmos2_5_Transfer: it denoises a long video in chunks, one after another; use Cosmos2_5_PredictBasePipeline
Cosmos3*: picture, sound and action are rows of one sequence, at places that indices of the full size name{by_hand}
OmniGen*: latents and text share one sequence, with a mask and positions made for the full size{by_hand}
BriaFibo BriaFiboEdit: its joint_attention_kwargs hold a mask over all pairs of tokens, of the full size{by_hand}
BriaFibo2: pictures to edit, and the text drawn into some, go in as latents of their own sizes{by_hand}
ErnieImage*: its latents hold patches of 2x2 points as channels in space, which must be unpacked to grow{by_hand}
GlmImage*: tokens of an autoregressive model lie under its latents, one a place of the full size{sample}
DreamLite*: a condition picture stands beside the latents along their width, and half of each answer is cut
    off{by_hand}
JoyImage*: its references are pictures of the state, set back before every step{by_hand}
Kandinsky6*: its sound has a scheduler of its own, and a reference is a frame at the end of the state{by_hand}
SanaImageToVideo*: the times of all places go in as a field of the full size, 0 at the first frame{by_hand}
EasyAnimate* LDMTextToImage* Allegro*: no spectrum of its autoencoder's latents is known; measure one with fit_spectrum,
    write its layout (docs/adapters.md) and pass both
MotifVideoImage2Video*: its network is told the picture by an encoder of its own beside the first frame; use
    MotifVideoPipeline
StableVideoDiffusion*: its network is told log(sigma) / 4, of noise levels far above a table's (EDM), and its frames
    stand before its channels; {denoiser}
CogVideoX* ConsisID* CogView3*: its table of noise is shifted (snr_shift_scale) and ends without any signal, as only its
    own schedulers' is; {denoiser}
AnimateDiff*: its control network is called with frames as a batch of pictures, before the network that grows; use
    AnimateDiffPipeline
HunyuanDiT*: a table of rotary positions, resized from one fixed grid, goes in with each call; a coarse stage wants one
    made anew{by_hand}
Marigold*: it makes a map of a picture that it is given, in one to four steps; call the pipeline itself
ShapE*: its states are weights of a network that draws a shape, not a field on a grid: nothing has a spectrum to grow
    along
StableUnCLIP*: its network is told a picture's embedding with noise of a scheduler of its own{by_hand}
BlipDiffusion*: its steps are PNDM's, which carry four answers of one size; {denoiser}
IF* Kandinsky*: its steps are DDPM's, which draw noise, or use a variance that the network answers; {denoiser}
DDPM* DDIM* DiT*: it takes no size, for its network has one grid; {denoiser}
LDMSuperResolution*: it refines a picture that it is given, at four times the size; ride the pipeline that makes it
StableDiffusion*Adapter: its adapter's features are made before the loop, for the full size, and added inside the
    network; use StableDiffusionControlNetPipeline or StableDiffusionXLControlNetPipeline
LEdits*: it begins with noise that an inversion found, a field a step; use StableDiffusionImg2ImgPipeline
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
    reasons = (text for patterns, text in REFUSED if any(fnmatchcase(stem, pattern) for pattern in patterns.split()))
    reason, module = next(reasons, ""), type(pipe).__module__
    if not reason and ".deprecated." in module:
        reason = "diffusers has deprecated it, and its loop is not followed here; use a pipeline of docs/adapters.md"
    if not reason or not module.startswith("diffusers"):
        reason = "it is not one of diffusers that is known here" + _ADVICE["by_hand"]
    raise ValueError(f"pipeline {name} cannot be ridden: {reason}")
