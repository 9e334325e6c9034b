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
