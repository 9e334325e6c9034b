"""The ComfyUI nodes against a stand-in for the few names they import; the real program is tried by build_tools/comfyui.py."""

from __future__ import annotations

import csv
import importlib
import json
import subprocess
import sys
import types
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional

from spectral_pd import DCT, PRESETS, GaussianField, restrict_noise, restrict_signal, shift_times
from spectral_pd.__main__ import main
from spectral_pd.comfyui.command import NODE, install, uninstall
from spectral_pd.comfyui.sampler import (
    Settings,
    SpectralSampler,
    multiples_of,
    path_of,
    preset_of,
)

ROOT = Path(__file__).parent.parent
GRID, LOW = (32, 48), (16, 24)
FIELD = GaussianField(lambda k: 100.0 * k**-2.5, GRID)
SIGMAS = torch.tensor(shift_times(12, shift=3.0), dtype=torch.float64)
LEVELS = torch.tensor([14.6, 9.0, 5.0, 3.0, 1.5, 0.7, 0.3, 0.1, 0.0], dtype=torch.float64)


# -- what ComfyUI hands to a sampler ----------------------------------------------------------------------------------


class CONST:
    def inverse_noise_scaling(self, sigma, latent):
        return latent / (1 - sigma)


class EPS:
    def inverse_noise_scaling(self, sigma, latent):
        return latent


class IMG_TO_IMG(EPS):
    pass


def named(name, **fields):
    """An object whose class has that name."""
    return type(name, (), fields)()


def model_of(latent="Flux", sampling=CONST, network=None, name="BaseModel", dimensions=2):
    return named(
        name,
        latent_format=named(latent, latent_dimensions=dimensions),
        model_sampling=sampling(),
        diffusion_model=network or SimpleNamespace(patch_size=2),
        process_latent_in=lambda self, x: 2 * x,
    )


class Guider:
    """Answers with a field's ideal denoiser and records its calls; `cut` to the band of the coarse grid, all sizes agree."""

    def __init__(self, model=None, conds=None, cut=True):
        self.cut = cut
        self.inner_model = model or model_of()
        self.conds = conds if conds is not None else {"positive": [{"uuid": 1}]}
        self.calls = []

    def __call__(self, x, sigma, model_options={}, seed=None):  # noqa: B006 - ComfyUI's signature
        self.calls.append((tuple(x.shape[-2:]), float(sigma[0]), self.conds, model_options, seed))
        denoised = self.denoised(x, float(sigma[0]))
        for fn in model_options.get("sampler_post_cfg_function", []):
            denoised = fn({"denoised": denoised, "uncond_denoised": 0.5 * denoised, "input": x})
        return denoised

    def denoised(self, x, s):
        flow = isinstance(self.inner_model.model_sampling, CONST)
        state, t = (x, s) if flow else (x / (1 + s), s / (1 + s))
        said = state - t * FIELD.velocity(state, t)
        return DCT.embed(DCT.restrict(said, LOW), GRID) if self.cut and x.shape[-2:] == GRID else said


class KSampler:
    """Euler as a SAMPLER: ComfyUI's object in its own words."""

    def __init__(self, steps=None):
        self.steps, self.extra_options = steps, {}
        self.sampler_function = self.function

    def function(self, model, x, sigmas, extra_args, callback, disable):
        for i, sigma in enumerate(sigmas[:-1]):
            denoised = model(x, sigma * x.new_ones(len(x)), **extra_args)
            callback and callback({"i": i, "denoised": denoised, "x": x})
            x = x + (sigmas[i + 1] - sigma) * (x - denoised) / sigma
        return x

    def sample(
        self, guider, sigmas, extra_args, callback, noise, latent_image=None, denoise_mask=None, disable_pbar=False
    ):
        picture = torch.zeros_like(noise) if latent_image is None else latent_image
        flow = isinstance(guider.inner_model.model_sampling, CONST)
        x = sigmas[0] * noise + (1 - sigmas[0] if flow else 1) * picture

        def model(x, sigma, **arguments):
            if denoise_mask is None:
                return guider(x, sigma, **arguments)
            known = sigma[0] * noise + (1 - sigma[0] if flow else 1) * picture
            said = guider(x * denoise_mask + known * (1 - denoise_mask), sigma, **arguments)
            return said * denoise_mask + picture * (1 - denoise_mask)

        shown = callback and (lambda info: callback(info["i"], info["denoised"], info["x"], len(sigmas) - 1))
        return self.function(model, x, sigmas, extra_args, shown, disable_pbar)


def white(*shape, seed=0):
    return torch.randn(*(shape or (1, 3, *GRID)), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


SETTINGS = Settings(transition_sigmas=(0.7,))
ONE = Settings(scales=(1.0,))


@pytest.fixture
def comfy(monkeypatch):
    """The names that the nodes import from ComfyUI, and conditioning processed as it would be."""
    made = []

    def process_conds(model, noise, conds, device, latent_image=None, denoise_mask=None, seed=None, latent_shapes=None):
        made.append({"noise": noise, "conds": conds, "latent_image": latent_image, "denoise_mask": denoise_mask})
        percent = {0.0: 1.0, 0.5: 0.75, 1.0: 0.0}
        for cond in conds["positive"]:
            for name in ("start", "end"):
                if f"{name}_percent" in cond:
                    cond[f"timestep_{name}"] = percent[cond[f"{name}_percent"]]
        return conds

    modules = {name: types.ModuleType(name) for name in ("comfy", "comfy.samplers", "folder_paths")}
    modules["comfy.samplers"].process_conds = process_conds
    modules["comfy.samplers"].SAMPLER_NAMES = ["euler", "dpmpp_2m"]
    modules["comfy.samplers"].sampler_object = lambda name: KSampler()
    modules["comfy"].samplers = modules["comfy.samplers"]
    for name, module in {**modules, **node_api()}.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, "spectral_pd.comfyui.nodes", raising=False)
    return made


def node_api():
    """comfy_api.latest, as far as the nodes use it: every part remembers what it was made with."""

    class Part(SimpleNamespace):
        def __init__(self, id=None, **fields):
            super().__init__(id=id, **fields)

    class Kinds:
        def __getattr__(self, kind):
            return SimpleNamespace(
                Input=lambda id, **f: Part(id, kind=kind, **f), Output=lambda **f: Part(kind=kind, **f)
            )

    io = Kinds()
    io.ComfyNode, io.Schema = object, SimpleNamespace
    io.NodeOutput = lambda *args, ui=None: SimpleNamespace(args=args, ui=ui)
    latest = types.ModuleType("comfy_api.latest")
    latest.io, latest.ComfyExtension = io, object
    latest.ui = SimpleNamespace(PreviewImage=lambda image, cls=None: SimpleNamespace(as_dict=lambda: {"images": [1]}))
    package = types.ModuleType("comfy_api")
    package.latest = latest
    return {"comfy_api": package, "comfy_api.latest": latest}


def run(settings, guider, sigmas=SIGMAS, noise=None, **arguments):
    options = {"model_options": {"transformer_options": {"sample_sigmas": sigmas}}, "seed": 5}
    callback = arguments.pop("callback", None)
    noise = white() if noise is None else noise
    return SpectralSampler(KSampler(), settings).sample(guider, sigmas, options, callback, noise, **arguments)


# -- the sampler ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("sampling", "sigmas"), [(CONST, SIGMAS), (EPS, LEVELS)])
def test_one_scale_is_the_stock_sampler_and_two_agree_where_sizes_do(comfy, sampling, sigmas):
    stock, one, two = (Guider(model_of(sampling=sampling)) for _ in range(3))
    full = KSampler().sample(stock, sigmas, {}, None, white())
    assert torch.equal(run(ONE, one, sigmas), full)
    settings = Settings(transition_sigmas=(0.7 if sampling is CONST else 2.0,))
    torch.testing.assert_close(run(settings, two, sigmas), full, rtol=1e-6, atol=1e-8)
    assert {size for size, *_ in one.calls} == {GRID}
    sizes = [size for size, *_ in two.calls]
    assert sizes == sorted(sizes)
    assert set(sizes) == {LOW, GRID}
    level = two.calls[1][1]  # the stage's own noise level
    assert level == pytest.approx(float(sigmas[1] / 2 if sampling is EPS else sigmas[1] / (2 - sigmas[1])))


def test_another_answer_of_the_small_size_is_seen(comfy):
    """Negative control of the test above."""
    guider = Guider()
    guider.denoised = lambda x, s: (1.1 if x.shape[-1] == LOW[1] else 1.0) * Guider.denoised(guider, x, s)
    assert (run(SETTINGS, guider) - run(SETTINGS, Guider())).abs().max() > 0.01


def test_progress_and_previews_are_of_the_full_size(comfy):
    seen = []
    run(SETTINGS, Guider(), callback=lambda *info: seen.append(info))
    assert [(i, total) for i, _, _, total in seen] == [(i, 12) for i in range(12)]
    assert {tuple(x.shape[-2:]) for _, x0, x, _ in seen for x in (x0, x)} == {GRID}


def test_masks_and_pictures_work_at_full_size(comfy):
    picture, mask = white(seed=7), (white(1, 1, *GRID, seed=8) > 0).double()
    results = [run(s, Guider(), latent_image=picture, denoise_mask=mask) for s in (ONE, SETTINGS)]
    torch.testing.assert_close(*results, rtol=1e-6, atol=1e-8)
    inside = (picture - results[1]).abs() * (1 - mask)
    assert inside.max() < 1e-9  # where the mask is 0 the picture stays
    assert comfy[0]["denoise_mask"].shape[-2:] == LOW
    torch.testing.assert_close(comfy[0]["latent_image"], restrict_signal(picture, LOW))
    torch.testing.assert_close(comfy[0]["denoise_mask"].mean(), mask.mean())


def test_split_sigmas_are_one_run(comfy):
    whole, guider = run(SETTINGS, Guider()), Guider()
    between = run(SETTINGS, guider, SIGMAS[:4])
    assert {size for size, *_ in guider.calls} == {LOW}
    assert between.shape == whole.shape

    class GoesOn(KSampler):
        def sample(
            self, guider, sigmas, extra_args, callback, noise, latent_image=None, denoise_mask=None, disable_pbar=False
        ):
            return self.function(guider, noise, sigmas, extra_args, callback, disable_pbar)

    rest = SpectralSampler(GoesOn(), SETTINGS).sample(Guider(), SIGMAS[3:], {}, None, between)
    torch.testing.assert_close(rest, whole, rtol=1e-6, atol=1e-8)


def test_conditioning_of_a_stage(comfy):
    """Pictures and masks of the full size restricted, areas and ranges put on the stage's grid and clock, sizes kept."""
    picture, mask, reference = white(1, 4, *GRID), white(1, *GRID).abs(), white(1, 3, *GRID)
    pixels = white(1, 3, GRID[0] * 8, GRID[1] * 8)
    control = SimpleNamespace(timestep_range=(1.0, 0.75), previous_controlnet=None)
    cond = {
        "concat_latent_image": picture,
        "vace_frames": [picture, 2 * picture],
        "concat_mask": picture.abs(),
        "mask": mask,
        "pixels": pixels,
        "cross_attn": white(1, *GRID),
        "reference_latents": [reference],
        "area": (8, 12, 16, 24),
        "start_percent": 0.5,
        "end_percent": 1.0,
        "control": control,
        "pooled_output": white(1, 16),
    }
    guider = Guider(conds={"positive": [cond]})
    held = []
    said = guider.denoised
    guider.denoised = lambda x, s: (held.append((x.shape[-1], control.timestep_range)), said(x, s))[1]
    run(SETTINGS, guider)
    (made,) = comfy
    (small,) = made["conds"]["positive"]
    assert made["noise"].shape == (1, 3, *LOW)
    torch.testing.assert_close(small["concat_latent_image"], restrict_signal(picture, LOW))
    torch.testing.assert_close(small["vace_frames"][1], 2 * restrict_signal(picture, LOW))
    torch.testing.assert_close(
        small["concat_mask"], functional.avg_pool2d(picture.abs(), 2).to(picture), rtol=1e-5, atol=1e-6
    )
    torch.testing.assert_close(small["mask"], functional.avg_pool2d(mask, 2), rtol=1e-5, atol=1e-6)
    assert small["pixels"].shape[-2:] == (LOW[0] * 8, LOW[1] * 8)
    assert small["cross_attn"] is cond["cross_attn"]  # words, whatever their number is
    assert small["reference_latents"] == [reference]
    assert small["area"] == (4, 6, 8, 12)
    assert (small["height"], small["width"]) == (GRID[0] * 8, GRID[1] * 8)
    assert small["timestep_start"] == pytest.approx(0.75 / (0.75 + 2 * 0.25))
    assert cond["area"] == (8, 12, 16, 24)  # the full size's stays
    assert guider.conds["positive"][0] is cond
    assert {(n, round(r[1], 6)) for n, r in held} == {(LOW[1], 0.6), (GRID[1], 0.75)}
    assert control.timestep_range == (1.0, 0.75)
    options = {size: call for size, _, _, call, _ in guider.calls}
    torch.testing.assert_close(options[LOW]["transformer_options"]["sample_sigmas"], SIGMAS / (2 - SIGMAS))
    assert options[GRID]["transformer_options"]["sample_sigmas"] is SIGMAS
    assert {seed for *_, seed in guider.calls} == {5}


def test_functions_of_the_sampler_see_the_full_size(comfy):
    """CFG++ samplers take the unconditional picture by such a function; those of the workflow see what they always see."""
    shapes = {"workflow": [], "sampler": []}

    def recorder(name):
        def fn(args):
            shapes[name].append(tuple(args["uncond_denoised"].shape[-2:]))
            return args["denoised"]

        return fn

    class Plus(KSampler):
        def sample(self, guider, sigmas, extra_args, *rest, **more):
            options = dict(extra_args["model_options"])
            options["sampler_post_cfg_function"] = [*options["sampler_post_cfg_function"], recorder("sampler")]
            return super().sample(guider, sigmas, {**extra_args, "model_options": options}, *rest, **more)

    arguments = {"model_options": {"sampler_post_cfg_function": [recorder("workflow")]}}
    result = SpectralSampler(Plus(), SETTINGS).sample(Guider(), SIGMAS, arguments, None, white())
    torch.testing.assert_close(result, run(SETTINGS, Guider()), rtol=1e-6, atol=1e-8)
    assert set(shapes["sampler"]) == {GRID}
    assert set(shapes["workflow"]) == {LOW, GRID}


def test_a_run_that_stops_leaves_the_guider_as_it_was(comfy):
    control = SimpleNamespace(timestep_range=(1.0, 0.0), previous_controlnet=None)
    conds = {"positive": [{"control": control}]}
    guider = Guider(conds=conds)

    def interrupted(x, s):
        raise KeyboardInterrupt

    guider.denoised = interrupted
    with pytest.raises(KeyboardInterrupt):
        run(SETTINGS, guider)
    assert guider.conds is conds
    assert control.timestep_range == (1.0, 0.0)


def test_latents_that_hold_patches_as_channels_grow_in_space(comfy):
    """FLUX.2: the network sees packed latents of a stage's grid, and the low band of the points is kept."""
    full = Guider()
    packed = Guider(model_of("Flux2", network=SimpleNamespace(patch_size=1)))
    said = packed.denoised
    packed.denoised = lambda x, s: functional.pixel_unshuffle(said(functional.pixel_shuffle(x, 2), s), 2)
    noise = functional.pixel_unshuffle(white(), 2)
    result = run(SETTINGS, packed, noise=noise)
    torch.testing.assert_close(functional.pixel_shuffle(result, 2), run(SETTINGS, full), rtol=1e-6, atol=1e-8)
    assert {size for size, *_ in packed.calls} == {(8, 12), (16, 24)}


def test_the_papers_clock_and_noise(comfy):
    """From noise alone; another picture for the same seed, with the same low band where only the noise is fresh."""
    full, seen = run(SETTINGS, Guider(cut=False)), []
    settings = Settings(transition_sigmas=(0.7,), coupling="fresh")
    fresh = run(settings, Guider(cut=False), callback=lambda *info: seen.append(info[0]))
    assert seen == list(range(12))
    torch.testing.assert_close(restrict_noise(fresh, LOW), restrict_noise(full, LOW), rtol=1e-6, atol=1e-8)
    assert (fresh - full).abs().max() > 1e-3
    stage = run(Settings(transition_sigmas=(0.7,), clock="stage"), Guider(cut=False))
    assert (restrict_noise(stage, LOW) - restrict_noise(full, LOW)).abs().max() > 1e-3
    for arguments, match in (
        ({"latent_image": white()}, "starts from noise alone"),
        ({"sigmas": SIGMAS[:5]}, "let it end at 0"),
    ):
        with pytest.raises(ValueError, match=match):
            run(Settings(transition_sigmas=(0.7,), clock="stage"), Guider(), **arguments)


@pytest.mark.parametrize(
    ("cond", "match"),
    [
        ({"gligen": 1}, "GLIGEN"),
        ({"keyframe_idxs": white(1, 3, 4)}, "LTX guides"),
        (
            {"hooks": SimpleNamespace(hooks=[SimpleNamespace(hook_keyframe=SimpleNamespace(keyframes=[1, 2]))])},
            "several keyframes",
        ),
    ],
)
def test_what_does_not_fit_a_small_latent_is_refused_before_the_first_call(comfy, cond, match):
    guider = Guider(conds={"positive": [cond]})
    with pytest.raises(ValueError, match=f"{match}.*use a stock sampler"):
        run(SETTINGS, guider)
    assert not guider.calls
    run(ONE, guider)  # the stock sampler's own run


def test_models_are_known_by_their_classes():
    assert path_of(CONST()) == "flow"
    assert path_of(EPS()) == "edm"
    for sampling in (IMG_TO_IMG(), object()):
        with pytest.raises(ValueError, match="use a stock sampler"):
            path_of(sampling)
    assert preset_of(model_of("SDXL")) is PRESETS["sdxl"]
    assert preset_of(model_of("Wan21", name="QwenImage")) is PRESETS["qwen-image"]
    borrowed = preset_of(model_of("HunyuanVideo", dimensions=3))
    assert borrowed.kind == "borrowed"
    assert borrowed.exponent == PRESETS["wan"].exponent
    assert "HunyuanVideo" in borrowed.source
    unet = SimpleNamespace(channel_mult=(1, 2, 4, 4))
    assert multiples_of(model_of(network=unet), (64, 96)) == (8, 8)
    assert multiples_of(model_of(network=unet), (125, 96)) == (1, 8)  # ComfyUI pads
    assert multiples_of(model_of(network=SimpleNamespace(patch_size=(1, 2, 2))), (60, 104)) == (2, 2)
    assert multiples_of(model_of("Flux2", network=SimpleNamespace(patch_size=1)), (64, 64)) == (2, 2)


def test_errors_are_in_the_words_of_the_nodes():
    sampler = SpectralSampler(KSampler(), Settings(delta=0.5, spectrum=PRESETS["flux"]))
    with pytest.raises(ValueError, match="never reached") as caught:
        sampler.plan(model_of(), CONST(), torch.tensor([1.0, 0.9, 0.0]), (1, 16, 64, 64))
    assert "unreached" not in str(caught.value)
    with pytest.raises(ValueError, match="no picture or video"):
        sampler.plan(model_of(), CONST(), SIGMAS, (1, 64, 3072))


# -- the nodes --------------------------------------------------------------------------------------------------------


@pytest.fixture
def nodes(comfy, tmp_path):
    sys.modules["folder_paths"].get_output_directory = lambda: str(tmp_path)
    return importlib.import_module("spectral_pd.comfyui.nodes")


def defaults(node):
    return {part.id: part.default for part in node.define_schema().inputs if hasattr(part, "default")}


def test_nodes_can_be_left_alone_and_explain_themselves(nodes):
    import asyncio

    found = asyncio.run(asyncio.run(nodes.comfy_entrypoint()).get_node_list())
    assert [node.define_schema().node_id for node in found] == [
        "SpectralProgressiveSampler",
        "SpectralPlan",
        "MeasureSpectrum",
    ]
    for node in found:
        schema = node.define_schema()
        assert schema.description
        assert schema.category == "sampling/spectral progressive"
        assert all(part.tooltip for part in schema.outputs)
        for part in schema.inputs:
            assert getattr(part, "tooltip", None) or part.kind == "Model", part.id
            sockets = ("Model", "Sampler", "Sigmas", "Latent", "Image", "Vae")
            assert hasattr(part, "default") or part.kind in sockets, part.id
    (made,) = nodes.SpectralProgressiveSampler.execute(**defaults(nodes.SpectralProgressiveSampler)).args
    assert made.settings == Settings()
    inner = KSampler()
    (made,) = nodes.SpectralProgressiveSampler.execute(**defaults(nodes.SpectralProgressiveSampler), sampler=inner).args
    assert made.inner is inner
    assert made.extra_options is inner.extra_options


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"scales": "1/2, x"}, "scales = '1/2, x' must be numbers"),
        ({"scales": "1, 1/2"}, "scales"),
        ({"scales": ""}, "scales"),
        ({"delta": 1.5}, "delta = 1.5"),
        ({"transition_sigmas": "soon"}, "transition_sigmas = 'soon'"),
        ({"spectrum": "file"}, "spectrum_file = ''"),
        ({"spectrum": "file", "spectrum_file": "none.json"}, "there is no file"),
    ],
)
def test_wrong_inputs_turn_the_node_red_with_a_sentence(nodes, wrong, match):
    node = nodes.SpectralProgressiveSampler
    with pytest.raises(ValueError, match=match):
        node.execute(**{**defaults(node), **wrong})


def patcher(model):
    return SimpleNamespace(model=model, get_model_object=lambda name: getattr(model, name))


def test_plan_node(nodes):
    pytest.importorskip("matplotlib")
    node, plan = nodes.SpectralProgressiveSampler, nodes.SpectralPlan
    (sampler,) = node.execute(**defaults(node)).args
    latent = {"samples": torch.zeros(1, 16, 128, 128)}
    sigmas = torch.tensor(shift_times(28, shift=3.16))
    out = plan.execute(patcher(model_of()), sampler, sigmas, latent)
    text, picture = out.args
    assert "64x64" in text
    assert out.ui["text"] == (text,)
    assert picture.shape[0] == 1
    assert picture.shape[-1] == 3
    assert 0 <= picture.min() < picture.max() <= 1
    with pytest.raises(ValueError, match="connect the Spectral Progressive Sampler"):
        plan.execute(patcher(model_of()), KSampler(), sigmas, latent)


def test_measured_spectrum_is_saved_and_read(nodes, tmp_path):
    """Of latents as the model scales them: power four times that of what came in."""
    latents = FIELD.sample((8, 3), generator=torch.Generator().manual_seed(1))
    model = patcher(model_of())
    path, _ = nodes.MeasureSpectrum.execute(model, "mine", latents={"samples": latents}).args
    assert Path(path) == tmp_path / "spectra" / "mine.json"
    node = nodes.SpectralProgressiveSampler
    for file in (path, "mine.json"):
        (sampler,) = node.execute(**{**defaults(node), "spectrum": "file", "spectrum_file": file}).args
        assert sampler.settings.spectrum.exponent == pytest.approx(2.5, abs=0.1)
        assert sampler.settings.spectrum.amplitude == pytest.approx(400, rel=0.1)
    vae = SimpleNamespace(encode=lambda images: images.movedim(-1, 1))
    images = latents.movedim(1, -1)
    again, _ = nodes.MeasureSpectrum.execute(model, "other", images=images, vae=vae).args
    assert json.loads(Path(again).read_text())["amplitude"] == json.loads(Path(path).read_text())["amplitude"]
    for arguments, match in (
        ({"name": "mine"}, "either latents"),
        ({"name": "mine", "images": images}, "together with a vae"),
        ({"name": "../mine", "latents": {"samples": latents}}, "without folders"),
    ):
        with pytest.raises(ValueError, match=match):
            nodes.MeasureSpectrum.execute(model, **arguments)


def test_importing_touches_neither_comfyui_nor_diffusers():
    code = (
        "import sys, spectral_pd.__main__, spectral_pd.comfyui.sampler, spectral_pd.adapters\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules} & {'comfy', 'comfy_api', 'diffusers', 'folder_paths'}))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_nodes_touch_no_diffusers(nodes):
    code = f"""
import sys, types
sys.path.insert(0, {str(Path(__file__).parent)!r})
import test_adapters_comfyui as here
for name, module in here.node_api().items(): sys.modules[name] = module
for name in ("comfy", "comfy.samplers", "folder_paths"): sys.modules[name] = types.ModuleType(name)
sys.modules["comfy"].samplers = sys.modules["comfy.samplers"]
import spectral_pd.comfyui.nodes
print("diffusers" in sys.modules)"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


# -- the command ------------------------------------------------------------------------------------------------------


def test_install_and_uninstall(tmp_path, capsys):
    with pytest.raises(ValueError, match="is no ComfyUI"):
        install(tmp_path)
    (tmp_path / "main.py").touch()
    (tmp_path / "custom_nodes").mkdir()
    folder = tmp_path / "custom_nodes" / "spectral_pd"
    assert main(["comfyui", "install", str(tmp_path)]) == 0
    older = NODE.replace("spectral_pd.comfyui", "spectral_pd.adapters.comfyui")
    assert older != NODE
    (folder / "__init__.py").write_text(older)
    assert main(["comfyui", "install", str(tmp_path)]) == 0  # again: an update
    assert str(folder) in capsys.readouterr().out
    assert (folder / "__init__.py").read_text() == NODE
    assert len([line for line in NODE.splitlines() if line.strip()]) == 2
    compile(NODE, "node", "exec")
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "__init__.cpython-311.pyc").touch()
    assert main(["comfyui", "uninstall", str(tmp_path)]) == 0
    assert not folder.exists()
    assert main(["comfyui", "uninstall", str(tmp_path)]) == 1
    assert "nothing was removed" in capsys.readouterr().err


def test_what_others_wrote_is_left_alone(tmp_path):
    (tmp_path / "main.py").touch()
    folder = tmp_path / "custom_nodes" / "spectral_pd"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("mine")
    for action in (install, uninstall):
        with pytest.raises(ValueError, match="not of spectral-pd's making"):
            action(tmp_path)
    assert (folder / "__init__.py").read_text() == "mine"
    (folder / "__init__.py").write_text(NODE)
    (folder / "notes.txt").touch()
    uninstall(tmp_path)
    assert [file.name for file in folder.iterdir()] == ["notes.txt"]


# -- what the page shows ----------------------------------------------------------------------------------------------


def test_workflow_files_fit_the_nodes(nodes):
    """Every workflow has the sampler and the plan node, with a value for each of its inputs."""
    files = sorted((ROOT / "docs" / "workflows").glob("*.json"))
    assert [file.stem for file in files] == ["image_to_image", "text_to_image", "two_passes", "video"]
    inputs = [part.id for part in nodes.SpectralProgressiveSampler.define_schema().inputs]
    for file in files:
        found = {node["type"]: node for node in json.loads(file.read_text())["nodes"]}
        assert {"SpectralProgressiveSampler", "SpectralPlan"} <= set(found)
        ours = found["SpectralProgressiveSampler"]
        assert {slot["name"] for slot in ours["inputs"]} == set(inputs)
        nodes.SpectralProgressiveSampler.execute(**dict(zip(inputs, ours["widgets_values"], strict=False)))


def test_rows_of_the_real_program_are_good():
    with (ROOT / "benchmarks" / "results" / "comfyui.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["part"] for row in rows} == {"class", "workflow", "behaviour", "refusal", "sampler"}
    assert {row["result"] for row in rows} == {"yes"}
    assert [row["case"] for row in rows if row["part"] == "workflow"] == [
        "image_to_image",
        "text_to_image",
        "two_passes",
        "video",
    ]
