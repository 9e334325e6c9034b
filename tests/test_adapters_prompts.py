"""Prompts as text, through tiny random encoders of the real classes: what ``progressive(pipe, "a cat")`` does.

Elsewhere the tests pass embeddings. Here every pipeline gets a byte tokenizer and text encoders that fit its transformer, and
its own ``encode_prompt`` runs.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("diffusers", reason="diffusers is not installed: pip install 'spectral_pd[diffusers]'")

import tokenizers
import transformers
from tiny_pipelines import FLUX, FLUX2, KLEIN, QWEN, SD3, WAN, Z_IMAGE, Family, generator, seeded

from spectral_pd.adapters import adapt, progressive

PAD, END = 0, 1
CHAT = """{% for message in messages %}<{{ message.role }}>
{%- if message.content is string %}{{ message.content }}
{%- else %}{% for part in message.content %}{{ part.text }}{% endfor %}{% endif %}{% endfor %}"""


def byte_tokenizer(length: int) -> Any:
    """One token a byte and an end token: any text, no vocabulary to download."""
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate(["<pad>", "<end>", *alphabet])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="$A <end>", special_tokens=[("<end>", END)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<end>",
        model_max_length=length,
        chat_template=CHAT,
    )


VOCABULARY = len(byte_tokenizer(8))


def clip(width: int, *, projected: bool) -> Any:
    config = transformers.CLIPTextConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=width,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=48,
        pad_token_id=PAD,
        bos_token_id=PAD,
        eos_token_id=END,
    )
    cls = transformers.CLIPTextModelWithProjection if projected else transformers.CLIPTextModel
    return seeded(lambda: cls(config))


def t5(width: int, *, multilingual: bool = False) -> Any:
    kind = "UMT5" if multilingual else "T5"
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=VOCABULARY, d_model=width, d_kv=8, d_ff=2 * width, num_layers=1, num_heads=2
    )
    return seeded(lambda: getattr(transformers, f"{kind}EncoderModel")(config))


def qwen(width: int) -> Any:
    config = transformers.Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
    )
    return seeded(lambda: transformers.Qwen3Model(config))


def _two_encoders() -> dict[str, Any]:
    return {"tokenizer": byte_tokenizer(48), "tokenizer_2": byte_tokenizer(64)}


COMPONENTS: dict[str, Callable[[], dict[str, Any]]] = {
    FLUX.name: lambda: {**_two_encoders(), "text_encoder": clip(20, projected=False), "text_encoder_2": t5(24)},
    FLUX2.name: lambda: {"tokenizer": byte_tokenizer(512), "text_encoder": qwen(8)},
    KLEIN.name: lambda: {"tokenizer": byte_tokenizer(512), "text_encoder": qwen(8)},
    Z_IMAGE.name: lambda: {"tokenizer": byte_tokenizer(512), "text_encoder": qwen(24)},
    WAN.name: lambda: {"tokenizer": byte_tokenizer(512), "text_encoder": t5(24, multilingual=True)},
    QWEN.name: lambda: {"tokenizer": byte_tokenizer(512), "text_encoder": qwen(24)},
    SD3.name: lambda: {
        **_two_encoders(),
        "tokenizer_3": byte_tokenizer(64),
        "text_encoder": clip(12, projected=True),
        "text_encoder_2": clip(12, projected=True),
        "text_encoder_3": t5(32),
    },
}
"""Family -> tokenizers and encoders whose widths the family's tiny transformer takes."""

CALL: dict[str, dict[str, Any]] = {
    FLUX.name: {"true_cfg_scale": 2.0, "negative_prompt": "fog", "max_sequence_length": 48},
    FLUX2.name: {"max_sequence_length": 384, "text_encoder_out_layers": (1, 2, 3)},
    KLEIN.name: {"guidance_scale": 4.0, "max_sequence_length": 64, "text_encoder_out_layers": (1, 2, 3)},
    Z_IMAGE.name: {"guidance_scale": 3.0, "negative_prompt": "fog", "max_sequence_length": 64},
    WAN.name: {"guidance_scale": 4.0, "negative_prompt": "fog", "max_sequence_length": 48, "num_frames": 5},
    QWEN.name: {"true_cfg_scale": 3.0, "negative_prompt": "fog"},
    SD3.name: {"guidance_scale": 4.0, "negative_prompt": "fog", "max_sequence_length": 48},
}
"""Guidance with a negative prompt where the family has one, and short prompts."""


@pytest.fixture(scope="module", params=(FLUX, FLUX2, KLEIN, Z_IMAGE, WAN, QWEN, SD3), ids=str)
def case(request) -> tuple[Family, Any, dict[str, Any]]:
    family: Family = request.param
    pipe = family.build()
    pipe.register_modules(**COMPONENTS[family.name]())
    pipe.set_progress_bar_config(disable=True)
    if hasattr(pipe, "tokenizer_max_length"):
        pipe.tokenizer_max_length = 48 if family in (FLUX, SD3) else 512
    return family, pipe, {**CALL[family.name], "height": 128, "width": 128, "output_type": "latent"}


def latents(family: Family, result: Any) -> torch.Tensor:
    return getattr(result, family.output)


def test_text_prompts_are_encoded_as_in_the_stock_call(case):
    family, pipe, arguments = case
    arguments = {**arguments, "num_inference_steps": 4}
    several = {"num_videos_per_prompt" if family is WAN else "num_images_per_prompt": 2}
    prompt = ["a cat", "a lighthouse at dusk"]
    both = dict(arguments)
    if "negative_prompt" in both:
        both["negative_prompt"] = [both["negative_prompt"], "a crowd"]
    for call in (both, {**both, **several}):
        expected = latents(family, pipe(prompt=list(prompt), generator=generator(), **_copied(call)))
        given = _copied(call)
        result = latents(family, progressive(pipe, prompt, generator=generator(), scales=(1,), **given))
        assert torch.equal(result, expected)
        assert set(given) == set(call)


def test_a_single_prompt_and_what_it_changes(case):
    family, pipe, arguments = case

    def run(prompt: str, **changes: Any) -> torch.Tensor:
        call = {**arguments, "num_inference_steps": 6, **changes}
        return latents(family, progressive(pipe, prompt, generator=generator(), transition_times=(0.9,), **call))

    cat = run("a cat")
    assert torch.isfinite(cat).all()
    assert torch.equal(cat, run("a cat"))
    assert not torch.equal(cat, run("a lighthouse"))
    if "negative_prompt" in arguments:
        assert not torch.equal(cat, run("a cat", negative_prompt="a crowd"))


def test_a_plan_encodes_and_draws_nothing_that_is_not_drawn_again(case):
    """The call made for the plan ends before the model; the run after it is the one without a plan."""
    family, pipe, arguments = case
    call = {**arguments, "num_inference_steps": 4}
    ride = adapt(pipe, "a cat", generator=generator(), **_copied(call))
    plan = ride.plan(transition_times=(0.9,))
    expected = progressive(pipe, "a cat", generator=generator(), transition_times=(0.9,), **_copied(call))
    assert torch.equal(latents(family, ride.run(plan)), latents(family, expected))


def _copied(arguments: dict[str, Any]) -> dict[str, Any]:
    """Arguments with lists of their own: a stock pipeline may write into the list it is given."""
    return {name: list(value) if isinstance(value, list) else value for name, value in arguments.items()}


def test_snippets_with_a_pipeline_run_as_pasted():
    """README and docs/adapters.md, tiny pipelines in the place of `pipe`."""
    root = Path(__file__).parent.parent
    readme = re.search(r"((?:^ {4}.*progressive.*\n\n?)+)", (root / "README.md").read_text(), re.MULTILINE)
    page = (root / "docs" / "adapters.md").read_text()
    first, *_ = re.findall(r"^```\n(.*?)```", page, re.MULTILINE | re.DOTALL)
    pipe = FLUX.build()
    pipe.register_modules(**COMPONENTS[FLUX.name]())
    pipe.set_progress_bar_config(disable=True)
    pipe.tokenizer_max_length, pipe.default_sample_size = 48, 16
    for snippet in (textwrap.dedent(readme[1]), first):
        scope: dict[str, Any] = {"pipe": pipe, "g": generator()}
        exec(compile(snippet, "README.md or docs/adapters.md", "exec"), scope)
        (image,) = scope["images"]
        assert image.size == (16 * pipe.vae_scale_factor,) * 2
