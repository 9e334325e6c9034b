"""Nodes that stand in for files of gigabytes while build_tools/comfyui.py tries the real program: tiny random networks of each
model class, conditioning and autoencoders for them, and a node that says at which sizes a network was called.

Copied into custom_nodes for the time of a trial, and run by ComfyUI.
"""

from functools import partial
from unittest.mock import patch

import torch
from comfy import ops, sd, supported_models
from comfy.cldm.cldm import ControlNet as ControlNetwork
from comfy.controlnet import ControlNet
from comfy.ldm.wan import vae
from comfy.model_patcher import ModelPatcher
from comfy.taesd.taesd import TAESD
from comfy_api.latest import ComfyExtension, io

from spectral_pd.adapters.k_diffusion import local_level
from spectral_pd.bases import DCT, size_ratio
from spectral_pd.comfyui.sampler import path_of
from spectral_pd.theory import align_scale

TEXT = 32
HEADS = {"hidden_size": 64, "num_heads": 2, "mlp_ratio": 2.0, "depth": 1, "depth_single_blocks": 1, "theta": 1000}
FLUX = {
    **HEADS,
    "image_model": "flux",
    "in_channels": 16,
    "out_channels": 16,
    "vec_in_dim": 16,
    "context_in_dim": TEXT,
    "axes_dim": [8, 12, 12],
    "patch_size": 2,
    "qkv_bias": True,
    "guidance_embed": True,
}
UNET = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 64,
    "num_res_blocks": [1, 1],
    "channel_mult": [1, 2],
    "transformer_depth": [1, 1],
    "transformer_depth_output": [1, 1, 1, 1],
    "transformer_depth_middle": 1,
    "use_spatial_transformer": True,
    "context_dim": TEXT,
    "use_linear_in_transformer": False,
    "adm_in_channels": None,
    "use_temporal_attention": False,
    "use_temporal_resblock": False,
    "use_checkpoint": False,
    "legacy": False,
}
LUMINA = {
    "image_model": "lumina2",
    "patch_size": 2,
    "in_channels": 16,
    "dim": 64,
    "cap_feat_dim": TEXT,
    "n_layers": 1,
    "n_refiner_layers": 1,
    "n_heads": 2,
    "n_kv_heads": 2,
    "multiple_of": 32,
    "qk_norm": True,
    "axes_dims": [8, 12, 12],
    "axes_lens": [300, 512, 512],
}
WAN = {
    "image_model": "wan2.1",
    "dim": 96,
    "out_dim": 16,
    "num_heads": 2,
    "ffn_dim": 64,
    "num_layers": 1,
    "text_dim": TEXT,
    "in_dim": 16,
}
NETWORKS = {
    "FLUX.1": ("Flux", FLUX, 16),
    "FLUX.2": (
        "Flux2",
        {
            **FLUX,
            "image_model": "flux2",
            "in_channels": 128,
            "out_channels": 128,
            "vec_in_dim": None,
            "axes_dim": [8, 8, 8, 8],
            "patch_size": 1,
            "qkv_bias": False,
            "ops_bias": False,
            "global_modulation": True,
            "mlp_silu_act": True,
        },
        16,
    ),
    "Chroma": (
        "Chroma",
        {
            **{k: v for k, v in FLUX.items() if k not in ("vec_in_dim", "guidance_embed")},
            "image_model": "chroma",
            "in_channels": 64,
            "out_channels": 64,
            "in_dim": 64,
            "out_dim": 64,
            "hidden_dim": 64,
            "n_layers": 1,
        },
        16,
    ),
    "SD3": (
        "SD3",
        {
            "in_channels": 16,
            "out_channels": 16,
            "patch_size": 2,
            "depth": 2,
            "input_size": None,
            "adm_in_channels": 16,
            "pos_embed_max_size": 64,
            "num_patches": 4096,
            "qk_norm": "rms",
            "context_embedder_config": {
                "target": "torch.nn.Linear",
                "params": {"in_features": TEXT, "out_features": 128},
            },
        },
        16,
    ),
    "Qwen-Image": (
        "QwenImage",
        {
            "image_model": "qwen_image",
            "num_layers": 1,
            "attention_head_dim": 32,
            "num_attention_heads": 2,
            "joint_attention_dim": TEXT,
            "axes_dims_rope": (8, 12, 12),
        },
        16,
    ),
    "Z-Image": (
        "ZImage",
        {
            **LUMINA,
            "dim": 256,
            "n_heads": 8,
            "n_kv_heads": 8,
            "z_image_modulation": True,
            "time_scale": 1000.0,
            "pad_tokens_multiple": 32,
        },
        16,
    ),
    "Lumina 2": ("Lumina2", LUMINA, 16),
    "WAN 2.1": ("WAN21_T2V", {**WAN, "model_type": "t2v"}, 16),
    "WAN 2.1 i2v": ("WAN21_FunControl2V", {**WAN, "model_type": "t2v", "in_dim": 36}, 16),
    "LTX-Video": (
        "LTXV",
        {
            "image_model": "ltxv",
            "num_layers": 1,
            "attention_head_dim": 32,
            "num_attention_heads": 2,
            "cross_attention_dim": 64,
            "caption_channels": TEXT,
        },
        16,
    ),
    "HunyuanVideo": (
        "HunyuanVideo",
        {
            **{**FLUX, "image_model": "hunyuan_video", "patch_size": [1, 2, 2]},
            "byt5": False,
            "meanflow": False,
            "use_cond_type_embedding": False,
            "vision_in_dim": None,
        },
        16,
    ),
    "SD1": ("SD15", UNET, 16),
    "SD2": ("SD20", {**UNET, "use_linear_in_transformer": True}, 16),
    "SDXL": ("SDXL", {**UNET, "adm_in_channels": 2816, "num_classes": "sequential"}, 1280),
}
"""Name, class of ComfyUI's supported models, its configuration, width of the pooled text."""
VIDEO = ("WAN 2.1", "WAN 2.1 i2v", "LTX-Video", "HunyuanVideo")
CALLS: list = []
"""(height, width, sigma) of every network call since the last report."""
CONTROLS: list = []
"""The same of every call of a ControlNet's network."""


def randomised(module, seed):
    """Every weight of a module, which ComfyUI leaves as memory was, from a seed: sums keep their size."""
    generator = torch.Generator().manual_seed(seed)
    for name, weight in sorted(module.named_parameters()):
        scale = weight[0].numel() ** -0.5 if weight.ndim > 1 else 0.1
        base = 1.0 if weight.ndim == 1 and name.endswith(("scale", "weight")) else 0.0
        weight.data = base + scale * torch.randn(weight.shape, generator=generator)
    for name, buffer in module.named_buffers():
        if name.endswith("pos_embed"):  # loaded with the weights, as well
            buffer.copy_(0.1 * torch.randn(buffer.shape, generator=generator))
    return module


def consistent(model_sampling):
    """A denoiser whose answers of all sizes agree: it looks at the lowest eighth of the full latent alone, and not linearly."""
    path = path_of(model_sampling)

    def call(apply, arguments):
        x, sigma = arguments["input"].float(), arguments["timestep"]
        grid, level = tuple(x.shape[-2:]), float(sigma.flatten()[0])
        base = (4, 6)
        ratio = size_ratio(base, grid)
        low = local_level(level, ratio, path)
        kappa = ratio if path == "edm" else align_scale.bare(low, ratio)
        y = DCT.restrict(x, base) / kappa
        noise = low if path == "flow" else low / (1 + low)
        said = torch.tanh(2 * y / (1 + low)) * (1 - noise) + 0.3 * torch.cos(3 * y) * noise
        chunks = said.chunk(len(arguments["cond_or_uncond"]))
        said = torch.cat([c * (1.0 + 0.2 * flag) for c, flag in zip(chunks, arguments["cond_or_uncond"], strict=True)])
        return ratio * DCT.embed(said, grid)

    return call


class TrialModel(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="TrialModel",
            inputs=[
                io.Combo.Input("kind", options=list(NETWORKS)),
                io.Boolean.Input("consistent", default=False),
            ],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(cls, kind, consistent):
        name, config, _ = NETWORKS[kind]
        config = getattr(supported_models, name)({**config})
        config.set_inference_dtype(torch.float32, None)
        device = torch.device("cpu")
        model = randomised(config.get_model({}, "", device=device), seed=len(kind)).to(device)
        patcher = ModelPatcher(model, load_device=device, offload_device=device)
        said = globals()["consistent"](model.model_sampling) if consistent else None

        def call(apply, arguments):
            x = arguments["input"]
            CALLS.append([*x.shape[-2:], float(arguments["timestep"].flatten()[0])])
            return said(apply, arguments) if consistent else apply(x, arguments["timestep"], **arguments["c"])

        patcher.set_model_unet_function_wrapper(call)
        return io.NodeOutput(patcher)


class TrialConditioning(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="TrialConditioning",
            inputs=[io.Combo.Input("kind", options=list(NETWORKS)), io.String.Input("text", default="")],
            outputs=[io.Conditioning.Output()],
        )

    @classmethod
    def execute(cls, kind, text):
        generator = torch.Generator().manual_seed(sum(text.encode()))
        words = torch.randn(1, 8, TEXT, generator=generator)
        more = {"pooled_output": torch.randn(1, NETWORKS[kind][2], generator=generator)}
        if kind == "LTX-Video":
            more["attention_mask"] = torch.ones(1, 8)
        return io.NodeOutput([[words, more]])


def narrow(network, **config):
    """A video autoencoder of a sixth of the width."""
    return network(**{**config, "dim": 16})


class TrialVAE(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="TrialVAE",
            inputs=[io.Combo.Input("kind", options=list(NETWORKS))],
            outputs=[io.Vae.Output()],
        )

    @classmethod
    def execute(cls, kind):
        if kind in VIDEO:  # whose width ComfyUI takes as given
            with patch.object(vae, "WanVAE", partial(narrow, vae.WanVAE)):
                network = vae.WanVAE(dim=16, z_dim=16, dim_mult=[1, 2, 4, 4], num_res_blocks=2, attn_scales=[])
                return io.NodeOutput(sd.VAE(sd=randomised(network, seed=1).state_dict()))
        state = dict(randomised(TAESD(latent_channels=16), seed=1).state_dict())
        state |= {"vae_scale": torch.tensor(0.3611), "vae_shift": torch.tensor(0.1159)}
        return io.NodeOutput(sd.VAE(sd=state))


class TrialControlNet(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(node_id="TrialControlNet", inputs=[], outputs=[io.ControlNet.Output()])

    @classmethod
    def execute(cls):
        config = {k: v for k, v in UNET.items() if k not in ("out_channels", "transformer_depth_output")}
        network = ControlNetwork(
            **config, hint_channels=3, num_heads=8, dtype=torch.float32, operations=ops.disable_weight_init
        )
        randomised(network, seed=2).register_forward_pre_hook(
            lambda _, args, kwargs: CONTROLS.append(list(kwargs["x"].shape[-2:])), with_kwargs=True
        )
        return io.NodeOutput(ControlNet(network, load_device=torch.device("cpu")))


class TrialReport(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="TrialReport",
            inputs=[io.Latent.Input("latent"), io.String.Input("file")],
            outputs=[],
            is_output_node=True,
            not_idempotent=True,
        )

    @classmethod
    def execute(cls, latent, file):
        torch.save(latent["samples"], file)
        calls, controls = list(CALLS), len(CONTROLS)
        CALLS.clear()
        CONTROLS.clear()
        return io.NodeOutput(ui={"calls": calls, "control": [controls]})


class Trial(ComfyExtension):
    async def get_node_list(self):
        return [TrialModel, TrialConditioning, TrialVAE, TrialControlNet, TrialReport]


async def comfy_entrypoint():
    return Trial()
