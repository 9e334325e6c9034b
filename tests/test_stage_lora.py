"""An adapter for coarse stages: switched at boundaries, zero changes nothing, agree -> repair -> progressive end to end."""

from __future__ import annotations

import gc
import json
import sys
import weakref
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

pytest.importorskip("peft", reason="peft is not installed: pip install 'spectral_pd[diffusers]'")
pytest.importorskip("accelerate", reason="accelerate is not installed: pip install 'spectral_pd[diffusers]'")
sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

import finetune
import tiny_pipelines
from accelerate.state import AcceleratorState, GradientState
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_pipelines import FLUX, WAN, Z_IMAGE, generator

from spectral_pd.__main__ import main
from spectral_pd.adapters import adapt, progressive
from spectral_pd.agreement import SizeAgreement, size_agreement
from spectral_pd.stage_lora import InformedInput, StageLora, features, loaded
from spectral_pd.training import schedule_metadata

DELTA = 0.03
FAMILIES = {"flux": FLUX, "z_image": Z_IMAGE, "wan": WAN}
READING = (
    "FLUX FLUX2 KLEIN_REF KONTEXT CHROMA QWEN QWEN_EDIT Z_IMAGE WAN WAN_I2V "
    "SD3 SD SDXL HUNYUAN LTX LTX_I2V AURA_FLOW LUMINA2 SANA"
)


@pytest.fixture(autouse=True)
def one_run_a_test():
    """accelerate keeps one state a process; a recipe is one run of a process."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def call(family, **changes):
    """Arguments of a small call, and those of them a command line can say."""
    arguments = family.arguments(1, guided=False, num_inference_steps=4, **changes)
    return arguments, {k: v for k, v in arguments.items() if isinstance(v, (int, float))}


def embeddings(family, folder, count=2):
    folder.mkdir(parents=True, exist_ok=True)
    prompt = {
        k: v for k, v in family.prompt(count, False).items() if torch.is_tensor(v[0] if isinstance(v, list) else v)
    }
    for i in range(count):
        save_file({name: value[i].contiguous() for name, value in prompt.items()}, folder / f"{i}.safetensors")


def recipe(family, root, *options, steps=3):
    if not (root / "pipe").exists():
        family.build().save_pretrained(root / "pipe")
        embeddings(family, root / "prompts")
    said = " ".join(f"{name}={json.dumps(value)}" for name, value in call(family)[1].items())
    arguments = [
        str(root / "pipe"),
        "--latents",
        str(root / "prompts"),
        "--call",
        said,
        "--objective",
        "agree",
        "--cpu",
    ]
    arguments += ["--folder", str(root / "run"), "--out", str(root / "lora.safetensors"), "--own", "2", "--rank", "4"]
    return finetune.parse([*arguments, "--delta", str(DELTA), "--steps", str(steps), "--batch", "2", *options])


def test_flux_end_to_end_agree_repair_progressive(tmp_path):
    """What is measured falls by the repair; the adapter is on below the full size only; its files resume and load."""
    args = recipe(FLUX, tmp_path, "--informed", "--rate", "3e-3", "--warmup", "1", steps=60)
    finetune.train(args)
    assert sorted(path.name for path in (tmp_path / "run" / "own").iterdir()) == ["0.safetensors", "1.safetensors"]
    pipe = FLUX.build()
    arguments, _ = call(FLUX, generator=generator())
    ride = adapt(pipe, **arguments)
    plan = ride.plan(delta=DELTA)
    noise = torch.randn(2, *ride.shape[1:], generator=generator(5))

    def disagreement(velocity):
        options = {"scales": (1 / 2, 1), "solver": "euler", "batch": 1}
        return size_agreement(velocity, noise, ride.times, **options).miss[:, 0, : plan.split[0]].mean()

    before = disagreement(ride.velocity)
    lora = loaded(pipe.transformer, tmp_path / "lora.safetensors")

    def repaired(x, t):
        lora.enter(noise[:1], tuple(x.shape[-2:]), t, basis=plan.basis, pack=ride.read)
        return ride.velocity(x, t)

    assert float(disagreement(repaired)) < 0.9 * float(before)
    lora.switch(False)

    stock = FLUX.build()
    again, _ = call(FLUX, generator=generator())
    plain = progressive(stock, **again, delta=DELTA)[0]
    again, _ = call(FLUX, generator=generator())
    with_lora = progressive(pipe, **again, delta=DELTA, stage_lora=tmp_path / "lora.safetensors")[0]
    assert not torch.equal(torch.as_tensor(plain), torch.as_tensor(with_lora))
    # One stage is the last stage: the untouched network's own result, bit for bit; and so is the pipeline after the run.
    for scales in ((1,), None):
        again, _ = call(FLUX, generator=generator())
        expected = stock(**again)[0]
        again, _ = call(FLUX, generator=generator())
        options = {"scales": scales, "stage_lora": tmp_path / "lora.safetensors"} if scales else {}
        with pytest.warns(UserWarning, match="another schedule") if scales else nullcontext():
            got = progressive(pipe, **again, **options)[0] if scales else pipe(**again)[0]
        assert torch.equal(torch.as_tensor(expected), torch.as_tensor(got))


@pytest.mark.parametrize("informed", [False, True])
def test_zero_weights_change_nothing_and_others_stay_active(informed, tmp_path):
    pipe, stock = FLUX.build(), FLUX.build()
    ride = adapt(pipe, **call(FLUX, generator=generator())[0])
    plan = ride.plan(delta=DELTA)
    names = finetune.layers(pipe.transformer, finetune.PipelineModel.targets)
    channels = ride.shape[1]
    options = {"reads": "x_embedder", "planes": {2: channels * 16}} if informed else {}
    StageLora.add(pipe.transformer, names, rank=2, **options).save(
        tmp_path / "zero.safetensors", schedule_metadata(plan)
    )
    pipe = FLUX.build()
    zero = progressive(
        pipe, **call(FLUX, generator=generator())[0], delta=DELTA, stage_lora=tmp_path / "zero.safetensors"
    )
    plain = progressive(stock, **call(FLUX, generator=generator())[0], delta=DELTA)
    assert torch.allclose(torch.as_tensor(zero[0]), torch.as_tensor(plain[0]), atol=1e-6)
    # Negative control: weights that are not zero do change it.
    tensors = load_file(tmp_path / "zero.safetensors")
    other = {n: v + 0.1 for n, v in tensors.items()}
    with safe_open(tmp_path / "zero.safetensors", "pt") as file:
        save_file(other, tmp_path / "other.safetensors", file.metadata())
    moved = progressive(
        pipe, **call(FLUX, generator=generator())[0], delta=DELTA, stage_lora=tmp_path / "other.safetensors"
    )
    assert not torch.allclose(torch.as_tensor(moved[0]), torch.as_tensor(plain[0]), atol=1e-3)


def adapter(path, scale=0.1):
    """A file of an informed adapter for half size, its weights not zero."""
    pipe = FLUX.build()
    ride = adapt(pipe, **call(FLUX, generator=generator())[0])
    names = finetune.layers(pipe.transformer, finetune.PipelineModel.targets)
    lora = StageLora.add(pipe.transformer, names, rank=2, reads="x_embedder", planes={2: ride.shape[1] * 16})
    with torch.no_grad():
        for p in lora.parameters():
            p.add_(scale)
    lora.save(path, schedule_metadata(ride.plan(delta=DELTA)))
    return path


def test_an_adapter_that_does_not_fit_leaves_the_network_as_it_was(tmp_path):
    good, bad = adapter(tmp_path / "good.safetensors"), tmp_path / "bad.safetensors"
    with safe_open(good, "pt") as file:
        save_file({n: v[:1] for n, v in load_file(good).items()}, bad, file.metadata())
    pipe, stock = FLUX.build(), FLUX.build()

    def run(pipe, **options):
        result = progressive(pipe, **call(FLUX, generator=generator())[0], delta=DELTA, **options)[0]
        return torch.as_tensor(result)

    plain, repaired = run(stock), run(FLUX.build(), stage_lora=good)
    assert not torch.equal(plain, repaired)
    for first in (False, True):  # alone, and in the place of one that is there
        if first:
            assert torch.equal(run(pipe, stage_lora=good), repaired)
        with pytest.raises(ValueError, match=r"bad\.safetensors does not fit FluxTransformer2DModel"):
            run(pipe, stage_lora=bad)
        assert torch.equal(run(pipe), plain)
        assert not pipe.transformer.x_embedder._forward_hooks
    assert torch.equal(run(pipe, stage_lora=good), repaired)
    pipe.unload_lora_weights()  # of every adapter, this one among them
    assert torch.equal(run(pipe), plain)
    assert torch.equal(run(pipe, stage_lora=good), repaired)
    pipe.transformer = torch.compile(pipe.transformer, backend="eager")
    assert torch.equal(run(pipe, stage_lora=good), repaired)
    assert torch.equal(run(pipe), plain)
    (tmp_path / "text.safetensors").write_text("hello")
    with pytest.raises(ValueError, match="no adapter for coarse stages"):
        run(pipe, stage_lora=tmp_path / "text.safetensors")


def test_disabled_adapters_are_named_and_a_network_without_them_is_saved_as_it_was(tmp_path):
    pipe, path = FLUX.build(), adapter(tmp_path / "half.safetensors")
    stock = pipe.transformer.state_dict().keys() | set()
    progressive(pipe, **call(FLUX)[0], delta=DELTA, stage_lora=path)
    pipe.disable_lora()
    with pytest.raises(ValueError, match=r"adapters are disabled.*pipe\.enable_lora\(\)"):
        progressive(pipe, **call(FLUX)[0], delta=DELTA, stage_lora=path)
    pipe.enable_lora()
    progressive(pipe, **call(FLUX)[0], delta=DELTA, stage_lora=path)
    assert pipe.transformer.state_dict().keys() != stock
    pipe.unload_lora_weights()
    assert pipe.transformer.state_dict().keys() == stock


@pytest.mark.filterwarnings("ignore:this checkpoint was fine-tuned:UserWarning")
def test_a_size_whose_high_band_no_map_reads_is_named(tmp_path):
    path = adapter(tmp_path / "half.safetensors")
    with pytest.raises(ValueError, match="reads the high band at 1/2 of the size, not at 1/4"):
        progressive(FLUX.build(), **call(FLUX)[0], delta=DELTA, scales=(1 / 4, 1), stage_lora=path)


def test_a_network_is_let_go_with_the_adapter_read_for_it(tmp_path):
    network = FLUX.build().transformer
    lora = weakref.ref(loaded(network, adapter(tmp_path / "lora.safetensors")))
    gone = weakref.ref(network)
    del network
    gc.collect()
    assert (gone(), lora()) == (None, None)


@pytest.mark.parametrize("name", READING.split())
def test_the_high_band_is_told_where_the_state_is(name):
    """A folded plane that is not 0 at one point, and a state that differs there: the first layer sees both at one place."""
    family = getattr(tiny_pipelines, name)
    pipe = family.build()
    ride = adapt(pipe, **call(family, generator=generator())[0])
    network, full = getattr(pipe, ride.layout.networks[0]), ride.shape[-2:]
    layer = network.get_submodule(ride.layout.reads)
    channels = ride.shape[1]
    width = features(layer, channels, 2, ride.layout.patch)
    informed = InformedInput(layer, {2: width})
    torch.nn.init.normal_(informed.maps["2"], generator=generator(1))
    seen = []
    layer.register_forward_hook(lambda layer, args, output: seen.append(output.detach().clone()))
    half = (*ride.shape[:-2], *(n // 2 for n in full))
    x, there, elsewhere = (torch.zeros(half) for _ in range(3))
    there[..., 3, 4] = elsewhere[..., 1, 1] = 1.0

    def first_layer(x, planes):
        told = None if planes is None else ride.read(planes.repeat(1, 4, *[1] * (planes.ndim - 2)))
        informed.tell(told, 2, last=ride.layout.last)
        seen.clear()
        ride.velocity(x, 0.7)
        return seen[0]

    def changed(a, b):
        difference = (a - b).abs()
        return difference.amax(-1 if difference.ndim < 4 else 1) > 1e-5

    nothing = first_layer(x, None)
    assert torch.equal(nothing, first_layer(x, torch.zeros(half)))
    told = changed(first_layer(x, there), nothing)
    assert 0 < told.sum() < told.numel() / 2
    assert torch.equal(told, changed(first_layer(there, None), nothing))
    assert not torch.equal(told, changed(first_layer(elsewhere, None), nothing))


@pytest.mark.parametrize("name", ["z_image", "wan"])
def test_the_recipe_repairs_other_families(name, tmp_path):
    family = FAMILIES[name]
    finetune.train(recipe(family, tmp_path, "--informed"))
    pipe = family.build()
    stage = {"delta": DELTA, "stage_lora": tmp_path / "lora.safetensors"}
    result = progressive(pipe, **call(family, generator=generator())[0], **stage)[0]
    assert bool(torch.isfinite(torch.as_tensor(result)).all())


def test_a_stopped_repair_goes_on_exactly_and_informed_is_refused_where_it_cannot_be(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    finetune.train(recipe(FLUX, whole, "--informed", steps=4))
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    finetune.train(recipe(FLUX, parts, "--informed", "--checkpoint-every", "2", steps=2))
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    finetune.train(recipe(FLUX, parts, "--informed", steps=4))
    a, b = (load_file(root / "lora.safetensors") for root in (whole, parts))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    with pytest.raises(ValueError, match="--informed is not supported"):
        finetune.train(recipe(tiny_pipelines.COGVIEW4, tmp_path / "other", "--informed"))
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    changed = recipe(FLUX, whole, "--informed", "--call", "height=128 width=128 num_inference_steps=5")
    (whole / "run" / "checkpoint.pt").unlink()
    with pytest.raises(ValueError, match=r"own/0\.safetensors is of another run .* choose another --folder"):
        finetune.train(changed)
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    with pytest.raises(ValueError, match="--informed is of --objective agree"):
        finetune.train(recipe(FLUX, tmp_path / "whole", "--informed", "--objective", "stage"))
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="no adapter for coarse stages"):
        loaded(FLUX.build().transformer, tmp_path / "other.safetensors")


def test_the_command_measures_a_pipeline_from_its_folder(tmp_path, capsys):
    FLUX.build().save_pretrained(tmp_path / "pipe")
    embeddings(FLUX, tmp_path / "prompts", 1)
    size, outputs = ["--size", "128", "128", "--steps", "4"], [str(tmp_path / name) for name in ("a.png", "a.pt")]
    words = ["--embeddings", str(tmp_path / "prompts" / "0.safetensors"), "--seeds", "2", "--delta", str(DELTA)]
    assert main(["agree", str(tmp_path / "pipe"), *words, *size, "--figure", outputs[0], "--out", outputs[1]]) == 0
    said = capsys.readouterr().out
    assert "FluxPipeline: 2 full runs, 4 steps" in said
    assert "sizes measured on 2 runs" in said
    assert len(SizeAgreement.load(outputs[1]).miss) == 2
    assert Path(outputs[0]).stat().st_size > 1000
    assert main(["agree", str(tmp_path / "none"), *words]) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--out", "none/a.pt"], "--out = 'none/a.pt': its folder does not exist"),
        (["--figure", "a.nope"], "unknown picture format"),
        (["--out", "a.png", "--figure", "a.png"], "--out and --figure are both"),
        (["--device", "nowhere"], "--device = 'nowhere' cannot be used here"),
        (["--delta", "2"], "delta = 2.0 is out of range"),
        (["--embeddings", "0.safetensors", "1.safetensors"], "encode prompts to one length"),
        (["--embeddings", "pipe/model_index.json"], "are no safetensors files"),
        (["--call", "height"], "--call holds 'height'"),
    ],
    ids=lambda value: value[0].removeprefix("--") if isinstance(value, list) else "",
)
def test_the_command_refuses_before_it_measures(options, message, tmp_path, monkeypatch, capsys):
    def never(*args, **options):
        raise AssertionError

    monkeypatch.setattr("spectral_pd.pipeline_commands.size_agreement", never)
    monkeypatch.chdir(tmp_path)
    FLUX.build().save_pretrained("pipe")
    embeddings(FLUX, Path(), 1)
    save_file({name: value[:1] for name, value in load_file("0.safetensors").items()}, "1.safetensors")
    words = ["--embeddings", "0.safetensors", "--size", "128", "128", "--steps", "4"]
    assert main(["agree", "pipe", *words, *options]) == 1
    assert message in capsys.readouterr().err
    if options[0] == "--out":
        assert main(["calibrate", "pipe", "--prompt", "a", "--json", "none/a.json"]) == 1
        assert "--json = 'none/a.json': its folder does not exist" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["agree", "pipe", *words, "--scales", "1/0", "1"])
