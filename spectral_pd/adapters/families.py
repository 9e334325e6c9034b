"""Which pipelines are taken, by the layout of their family, and why the others are not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from spectral_pd.adapters import layouts
from spectral_pd.adapters.layouts import Layout

LAYOUTS: Mapping[str, Layout] = {
    "FluxPipeline": layouts.FLUX,
    "FluxKontextPipeline": layouts.FLUX,
    "FluxImg2ImgPipeline": layouts.FLUX,
    "FluxInpaintPipeline": layouts.FLUX,
    "FluxFillPipeline": layouts.FLUX,
    **dict.fromkeys(("ZImageControlNetPipeline","ZImageControlNetInpaintPipeline","ZImageOmniPipeline"), layouts.Z_IMAGE),
    **dict.fromkeys(("ChromaPipeline","ChromaImg2ImgPipeline","ChromaInpaintPipeline"), layouts.CHROMA),
    **dict.fromkeys(("LongCatImagePipeline","LongCatImageEditPipeline","OvisImagePipeline"), layouts.FLUX),
    "Krea2Pipeline": layouts.KREA2, "Ideogram4Pipeline": layouts.IDEOGRAM4, "QwenImage21Pipeline": layouts.QWEN_IMAGE21,
    **dict.fromkeys(("HunyuanVideoPipeline","HunyuanSkyreelsImageToVideoPipeline","HunyuanVideoImageToVideoPipeline"), layouts.HUNYUAN_VIDEO),
    **dict.fromkeys(("HunyuanVideo15Pipeline","HunyuanVideo15ImageToVideoPipeline"), layouts.HUNYUAN_VIDEO15),
    "HunyuanImagePipeline": layouts.HUNYUAN_IMAGE, "LTXPipeline": layouts.LTX, "LTXImageToVideoPipeline": layouts.LTX, "LTX2Pipeline": layouts.LTX2,
    "Lumina2Pipeline": layouts.LUMINA2, "CogView4Pipeline": layouts.COGVIEW4, "CogView4ControlPipeline": layouts.COGVIEW4, "AuraFlowPipeline": layouts.AURA_FLOW,
    "SanaPipeline": layouts.SANA, "HiDreamImagePipeline": layouts.HIDREAM, "PRXPipeline": layouts.PRX, "PRXPixelPipeline": layouts.PRX_PIXEL,
    "Kandinsky5T2IPipeline": layouts.KANDINSKY5, "Kandinsky5T2VPipeline": layouts.KANDINSKY5,
    **dict.fromkeys(("QwenImageEditPipeline","QwenImageEditPlusPipeline","QwenImageImg2ImgPipeline","QwenImageInpaintPipeline","QwenImageEditInpaintPipeline","QwenImageLayeredPipeline","QwenImageControlNetPipeline"), layouts.QWEN_IMAGE),
    **dict.fromkeys(("WanVideoToVideoPipeline","WanVACEPipeline"), layouts.WAN), "StableDiffusion3ControlNetPipeline": layouts.SD3,
    **dict.fromkeys(("FluxControlImg2ImgPipeline","FluxControlInpaintPipeline","FluxControlNetImg2ImgPipeline","FluxControlNetInpaintPipeline","FluxKontextInpaintPipeline"), layouts.FLUX),
    "Flux2KleinInpaintPipeline": layouts.FLUX2,"Flux2KleinKVPipeline": layouts.FLUX2_KV, "ZImageImg2ImgPipeline": layouts.Z_IMAGE, "ZImageInpaintPipeline": layouts.Z_IMAGE,
    "StableDiffusion3Img2ImgPipeline": layouts.SD3, "StableDiffusion3InpaintPipeline": layouts.SD3,
    "FluxControlPipeline": layouts.FLUX,
    "FluxControlNetPipeline": layouts.FLUX,
    "Flux2Pipeline": layouts.FLUX2,
    "Flux2KleinPipeline": layouts.FLUX2,
    "ZImagePipeline": layouts.Z_IMAGE,
    "WanPipeline": layouts.WAN,
    "WanImageToVideoPipeline": layouts.WAN,
    "QwenImagePipeline": layouts.QWEN_IMAGE,
    "StableDiffusion3Pipeline": layouts.SD3,
}
"""Pipeline class -> layout."""


def find_layout(pipe: Any) -> Layout:
    for cls in type(pipe).__mro__:
        if cls.__name__ in LAYOUTS:
            return LAYOUTS[cls.__name__]
        if "__call__" in vars(cls):
            break
    raise ValueError(type(pipe).__name__)
