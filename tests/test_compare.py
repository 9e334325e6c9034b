"""Comparisons end to end: tiny pipelines through their real classes, killed runs, several processes, every refusal."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers", reason="diffusers is not installed: pip install 'spectral_pd[diffusers]'")
pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install 'spectral_pd[compare]'")
pytest.importorskip("skimage", reason="scikit-image is not installed: pip install 'spectral_pd[compare]'")

from tiny_pipelines import FLUX, WAN, Z_IMAGE, Family, generator

from spectral_pd.__main__ import main
from spectral_pd.adapters import progressive
from spectral_pd.comparing import PipelineSampler, compare, load_table, make_setting
from spectral_pd.comparing.command import find_sampler
from spectral_pd.comparing.flops import Flops, count
from spectral_pd.comparing.layouts import lay_out
from spectral_pd.comparing.report import Comparison
from spectral_pd.comparing.samplers import NetworkSampler
from spectral_pd.comparing.settings import PAPER, SHIPPED
from spectral_pd.comparing.storage import Appended, Folder, read_picture, save_picture
from spectral_pd.inputs import comparisons
from spectral_pd.passthrough import passthrough
from spectral_pd.power import PRESETS
from spectral_pd.schedule import make_plan, shift_times

PROMPTS = ["a lighthouse at dusk", "two cats"]
SETTINGS = [
    make_setting({"scales": [1], "steps": 4, "name": "full"}),
    make_setting({"scales": [1], "steps": 2}),
    make_setting({"scales": ["1/2", 1], "steps": 4, "delta": 0.05}),
]


def tiny(family: Family) -> PipelineSampler:
    """A tiny random pipeline; what a prompt says becomes numbers by its hash."""

    def encode(prompt: str) -> dict[str, object]:
        g = torch.Generator().manual_seed(int(hashlib.sha256(prompt.encode()).hexdigest()[:6], 16))

        def drawn(value):
            if isinstance(value, torch.Tensor):
                return torch.randn(value.shape, generator=g)
            return [drawn(v) for v in value] if isinstance(value, list) else value

        return {key: drawn(value) for key, value in family.prompt(1, True).items()}

    return PipelineSampler(family.pipe, {"height": 64, "width": 96, **dict(family.size)}, encode=encode)


def flux() -> PipelineSampler:
    """What the commands below name as their MODEL."""
    return tiny(FLUX)


def files(folder: Path) -> dict[str, bytes]:
    """Pictures, features and the table, which time does not change."""
    kept = {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.suffix in (".png", ".npy")
    }
    del kept["figure.png"]
    values = sorted(Folder(folder).values().items())
    return {**kept, "values": repr(values).encode()}


def said(folder: Path) -> list[str]:
    """The report; who tests while the tree changes sees its commit change, and nothing else."""
    return [line for line in (folder / "report.md").read_text().splitlines() if not line.startswith("- commit: ")]


@pytest.mark.parametrize("family", [FLUX, Z_IMAGE, WAN], ids=str)
def test_a_tiny_pipeline_from_settings_to_report(family, tmp_path):
    sampler = tiny(family)
    found = compare(
        sampler,
        PROMPTS,
        SETTINGS,
        out=tmp_path,
        metrics=["psnr", "ssim", "spectrum"],
        seeds=2,
        rounds=2,
        about={"model": "tiny"},
    )
    assert found is not None
    header, body = found.table
    assert [row[0] for row in body] == [s.name for s in SETTINGS]
    for name in ("report.md", "report.html", "figure.png", "sheet.jpg", "comparison.json", "prompts.jsonl"):
        assert (tmp_path / name).stat().st_size > 50
    page = (tmp_path / "report.html").read_text()
    assert page.count("<img") == 1 + len(PROMPTS) * len(SETTINGS)
    for source in {part.split('"')[0] for part in page.split('src="')[1:]}:
        assert (tmp_path / source).exists(), source
    assert "http" not in page
    # The full run is the stock pipeline's, to eight bits; its prompt and seed are what the report says they are.
    call = {**sampler.arguments, **sampler._encode(PROMPTS[1]), "num_inference_steps": 4, "output_type": "pt"}
    stock = getattr(family.pipe(generator=generator(10_001), **call), family.output)[0]
    kept = read_picture(found.folder.picture("full", 1, 1))
    assert (kept - (stock if family is WAN else stock[None]).clamp(0, 1)).abs().max() < 0.51 / 255
    # FLOPs: half the steps cost half; coarse steps cost less.
    (_, whole), (_, few), (_, grown) = (found.flops[s.name] for s in SETTINGS)
    assert few == pytest.approx(whole / 2)
    assert grown < whole or family is Z_IMAGE  # whose tokens are filled up to 32
    assert all(len(seconds) == 2 and min(seconds) > 0 for seconds in found.seconds.values())
    assert found.speedup("full").value == 1
    for metric in found.metrics:
        estimate = found.estimates[SETTINGS[1].name, metric]
        assert estimate.low <= estimate.value <= estimate.high
        assert found.estimates["full", metric] is None
    assert f"{found.estimates[SETTINGS[1].name, 'psnr']}" in str(found)
    assert len(set(header)) == len(header)


def test_a_folder_goes_on_and_what_is_there_is_not_made_again(tmp_path, monkeypatch):
    """More seeds, prompts, settings, metrics; and metrics alone, without the model."""
    sampler, calls = flux(), []
    make = PipelineSampler.picture
    monkeypatch.setattr(PipelineSampler, "picture", lambda *a: calls.append(a[1:]) or make(*a))
    assert compare(sampler, PROMPTS[:1], SETTINGS[:2], out=tmp_path, metrics=["psnr"], rounds=1) is not None
    assert len(calls) == 2
    before = files(tmp_path)
    again = compare(sampler, PROMPTS[:1], SETTINGS[:2], out=tmp_path, metrics=["psnr"], rounds=1)
    assert len(calls) == 2
    assert files(tmp_path) == before
    compare(sampler, PROMPTS, SETTINGS, out=tmp_path, metrics=["psnr"], seeds=2, rounds=1)
    assert len(calls) == 2 * 2 * 3
    compare(None, PROMPTS, SETTINGS, out=tmp_path, metrics=["ssim"], seeds=2)
    assert len(calls) == 2 * 2 * 3
    everything = files(tmp_path)
    fewer = compare(sampler, PROMPTS[:1], SETTINGS, out=tmp_path, metrics=["psnr"], rounds=1)
    assert fewer.pairs == [(0, 0)]
    compare(sampler, PROMPTS, SETTINGS, out=tmp_path, seeds=2, rounds=1)
    assert len(calls) == 2 * 2 * 3
    assert {key: everything[key] for key in before if key != "values"} == {
        k: v for k, v in before.items() if k != "values"
    }
    direct = compare(sampler, PROMPTS, SETTINGS, out=tmp_path / "at once", metrics=["psnr", "ssim"], seeds=2, rounds=1)
    assert files(tmp_path / "at once") == {k: v for k, v in everything.items() if not k.startswith("at once")}
    assert again.record["settings"].keys() == {s.name for s in SETTINGS[:2]}
    with pytest.raises(ValueError, match="begun with setting 'full', steps = 4, and it is now 3"):
        compare(sampler, PROMPTS, [make_setting({"scales": [1], "steps": 3, "name": "full"})], out=tmp_path)
    with pytest.raises(ValueError, match="prompt 0 = 'a lighthouse at dusk', and it is now 'another'"):
        compare(sampler, ["another"], SETTINGS, out=tmp_path)
    with pytest.raises(ValueError, match="there is no model to make it; give MODEL"):
        compare(None, [*PROMPTS, "a third"], SETTINGS, out=tmp_path)
    with pytest.raises(ValueError, match="the reference = 'full', and it is now 'longer'"):
        compare(sampler, PROMPTS, [make_setting({"scales": [1], "steps": 9, "name": "longer"})], out=tmp_path)
    assert str(direct).splitlines()[0] == str(Comparison(Folder(tmp_path))).splitlines()[0]


COMMAND = [
    sys.executable,
    "-m",
    "spectral_pd",
    "compare",
    f"{__file__}:flux",
    "--metrics",
    "psnr",
    "spectrum",
    "--seeds",
    "3",
]
COMMAND += [f"--prompt={prompt}" for prompt in PROMPTS]
COMMAND += [
    "--plan",
    "scales=1 steps=4",
    "--plan",
    "scales=1/2,1 steps=4 delta=0.05",
    "--rounds",
    "0",
    "--device",
    "cpu",
]
ROOT = Path(__file__).parent.parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]), "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def at_once(tmp_path_factory):
    """The command's folder from one process that nobody disturbed."""
    folder = tmp_path_factory.mktemp("at once")
    done = subprocess.run([*COMMAND, "--out", folder], env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "report.html" in done.stdout
    return folder


def test_a_killed_run_goes_on_to_the_same_files(at_once, tmp_path):
    process = subprocess.Popen(
        [*COMMAND, "--out", tmp_path], env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    for _ in range(3000):
        if len(list(tmp_path.rglob("*.png"))) >= 3 or process.poll() is not None:
            break
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    made = len(list((tmp_path / "pictures").rglob("*-*.png")))
    assert 3 <= made < 12, "killed in the middle"
    assert not (tmp_path / "report.html").exists()
    with (tmp_path / "values-0.csv").open("a") as file:
        file.write("scales=1/2,1 steps=4 delta=0.05,1,1,psnr,9")  # a line that the kill cut off
    done = subprocess.run([*COMMAND, "--out", tmp_path], env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert files(tmp_path) == files(at_once)
    assert said(tmp_path) == said(at_once)


def test_two_processes_make_what_one_makes(at_once, tmp_path):
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--master_port=0", *COMMAND[1:]]
    done = subprocess.run([*launch, "--out", tmp_path], env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert {p.name for p in tmp_path.glob("values-*.csv")} == {"values-0.csv", "values-1.csv"}
    assert all(len(path.read_text().splitlines()) > 1 for path in tmp_path.glob("values-*.csv"))
    assert files(tmp_path) == files(at_once)
    assert said(tmp_path) == said(at_once)


# -- settings ---------------------------------------------------------------------------------------------------------


def test_words_json_and_toml_say_the_same(tmp_path):
    words = make_setting(comparisons.words("scales=1/2,1 delta=0.05 steps=20 clock=stage guidance_scale=3.5", "--plan"))
    row = {"scales": ["1/2", 1], "delta": 0.05, "steps": 20, "clock": "stage", "guidance_scale": 3.5}
    (tmp_path / "t.json").write_text(json.dumps({"settings": [row]}))
    toml = (
        '[every]\nclock = "stage"\n[[settings]]\nscales = ["1/2", 1]\ndelta = 0.05\nsteps = 20\nguidance_scale = 3.5\n'
    )
    (tmp_path / "t.toml").write_text(toml)
    tables = [load_table(tmp_path / "t.json")]
    if sys.version_info >= (3, 11):
        tables.append(load_table(tmp_path / "t.toml"))
    for table in tables:
        assert table.settings[0].facts() == words.facts()
    assert words.arguments == {"guidance_scale": 3.5}
    assert words.family == "stages 1/2 1, clock stage"
    assert load_table(tmp_path / "t.json", every={"clock": "full"}).settings[0].clock == "full"


@pytest.mark.parametrize("name", [*PAPER, *SHIPPED])
def test_the_papers_tables_are_the_papers(name):
    """Its own variant; on the model's grid the splits are those that its printed totals follow from (tests/test_cost.py)."""
    table = load_table(name)
    assert "paper" in table.title
    assert all(
        (s.clock, s.coupling, s.solver, s.rescaled) == ("stage", "fresh", "euler", False) for s in table.settings
    )
    assert max((s for s in table.settings if s.is_full), key=lambda s: s.steps).name == table.settings[0].name
    shift, grid, preset, multiple = {
        "fluxtable5": (np.exp(1.15), (128, 128), "flux", 2),
        "ablation8": (np.exp(1.15), (128, 128), "flux", 2),
        "zimage6": (6.0, (128, 128), "z-image", 2),
        "wan3": (5.0, (90, 156), "wan", 2),
        "pixelgen7": (3.0, (512, 512), "pixels", 16),
    }[PAPER.get(name, name)]
    splits = []
    for s in table.settings:
        law = s.law(PRESETS[preset])
        plan = make_plan(shift_times(s.steps, shift=float(shift)), law, grid, multiple_of=multiple, **s.plan_options)
        splits.append(plan.split)
        if "split" in s.printed and s.steps != 40:
            assert list(plan.split) == s.printed["split"]
    if PAPER.get(name, name) == "wan3":
        assert splits == [(50,), (25,), (34, 16), (23, 11, 16)]


def z_image() -> PipelineSampler:
    """What the command below names as its MODEL."""
    return tiny(Z_IMAGE)


def test_a_table_of_the_paper_runs_on_a_tiny_pipeline(tmp_path, capsys):
    """Table 6 without its fine-tuned rows; of another size, so that what the paper prints is not beside it."""
    call = ["compare", f"{__file__}:z_image", "--table", "6", "--only", "free", "--only", "full-size", "--rounds", "0"]
    call += ["--call", "height=64 width=64", "--prompt", "a cat", "--metrics", "psnr", "--out", str(tmp_path)]
    assert main(call) == 0
    assert "printed" not in capsys.readouterr().out
    assert (tmp_path / "report.html").exists()


def test_what_the_paper_prints_stands_beside(tmp_path):
    table = load_table("6")
    chosen = tuple(replace(s, steps=3) for s in table.settings if "tuned" not in s.family)
    out = str(compare(tiny(Z_IMAGE), ["a cat"], replace(table, settings=chosen), out=tmp_path, rounds=0))
    header, _, *body = out.splitlines()
    cells = [dict(zip(*(text.strip("| ").split(" | ") for text in (header, line)), strict=True)) for line in body]
    assert [row["TFLOP, printed"] for row in cells] == ["4941.23", "997.68", "701.92", "3132.03", "2871.09", "2436.19"]
    assert [row["speedup, printed"] for row in cells] == ["-", "-", "-", "1.65", "1.74", "2.01"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"scales": ["1/2", 0.4]}, "strictly increasing"),
        ({"scales": "half"}, "no number"),
        ({"delta": 2}, "delta = 2"),
        ({"steps": 0}, "steps = 0 must be a positive int"),
        ({"basis": "dwt"}, "basis = 'dwt' must be 'dct', 'haar' or 'fourier'"),
        ({"rescaled": 1}, "rescaled is 1; pass true or false"),
        ({"printed": {"tflop": "many"}}, "no number"),
    ],
)
def test_a_bad_setting_is_refused_by_name(given, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make_setting(given)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no settings; give at least one"),
        (["--plan", "steps"], "--plan holds 'steps'; write key=value pairs"),
        (["--plan", "steps=2 scales=1", "--plan", "steps=2 scales=1"], "two settings are called 'steps=2 scales=1'"),
        (
            ["--plan", "steps=2", "--metrics", "psnr"],
            "'psnr'] compare with the same seed's full run, and no setting is one",
        ),
        (["--plan", "steps=2 scales=1", "--metrics", "beauty"], "metric 'beauty' is unknown; known are psnr, ssim"),
        (["--plan", "steps=2 scales=1", "--seeds", "0"], "seeds = 0 must be an int from 1 to 10000"),
        (["--plan", "steps=2 lora=none.safetensors"], "wants the adapter none.safetensors, which is not there"),
        (["--plan", "steps=2 sharpness=3"], "unknown argument sharpness"),
        (["--table", "6", "--only", "beautiful"], "fits none of the settings: ['50 steps', '10 steps'"),
        (["--table", "no.json"], "no.json"),
        (["--plan", "steps=2 scales=1", "--prompts", "no.txt"], "no.txt"),
        (["--plan", "steps=2 scales=1", "--call", "height"], "--call holds 'height'"),
    ],
)
def test_a_comparison_that_cannot_be_is_one_sentence_before_the_first_picture(
    arguments, message, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(PipelineSampler, "picture", lambda *a: pytest.fail("made a picture"))
    prompts = [] if "--prompts" in arguments else ["--prompt", "a cat"]
    assert main(["compare", f"{__file__}:flux", *prompts, *arguments, "--out", str(tmp_path / "out")]) == 1
    err = capsys.readouterr().err
    assert message in err
    assert len([line for line in err.splitlines() if line.startswith("spectral-pd")]) == 1


@pytest.mark.parametrize(
    ("model", "message"),
    [("nothing.py:flux", "there is no file nothing.py"), (f"{__file__}:nobody", "the file has no nobody")],
)
def test_a_model_that_is_not_there(model, message, tmp_path, capsys):
    assert main(["compare", model, "--prompt", "a", "--plan", "scales=1", "--out", str(tmp_path)]) == 1
    assert message in capsys.readouterr().err


def test_a_device_that_is_not_there_is_named(tmp_path, capsys):
    call = ["compare", f"{__file__}:flux", "--prompt", "a", "--plan", "scales=1 steps=2", "--device", "nowhere"]
    assert main([*call, "--out", str(tmp_path)]) == 1
    assert "--device = 'nowhere' cannot be used here" in capsys.readouterr().err


def test_a_model_is_what_diffusers_opens(monkeypatch):
    """A folder or a name, in the type and on the device asked for."""
    import diffusers

    seen = []
    monkeypatch.setattr(
        diffusers.DiffusionPipeline, "from_pretrained", lambda *a, **k: seen.append((*a, k)) or FLUX.build()
    )
    sampler = find_sampler("a/folder", device="cpu", dtype=torch.bfloat16)
    assert isinstance(sampler, PipelineSampler)
    assert type(sampler.pipe).__name__ == "FluxPipeline"
    assert seen == [("a/folder", {"torch_dtype": torch.bfloat16})]


# -- parts ------------------------------------------------------------------------------------------------------------


def test_passthrough_is_the_librarys():
    """Of a network as :func:`spectral_pd.passthrough.passthrough`; of a pipeline, a tiny delta is the stock call."""

    def velocity(x, t):
        return x - torch.tanh(2 * x)

    law = PRESETS["flux"]
    sampler = NetworkSampler(velocity, (3, 16, 16), times=shift_times, spectrum=law, steps=6)
    setting = make_setting({"passthrough": 0.3})
    noise = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(5))
    plan = make_plan(shift_times(6), law, (16, 16), scales=(1,))
    wanted = passthrough(velocity, noise, plan, law, 0.3)[0].add(1).div(2).clamp(0, 1)
    torch.testing.assert_close(sampler.picture(setting, "", 5), wanted, rtol=0, atol=1e-5)
    assert (sampler.picture(make_setting({"scales": [1]}), "", 5) - wanted).abs().max() > 1e-3
    pipe = flux()
    plain, nothing, held = (
        pipe.picture(make_setting({"steps": 4, **kind}), "a", 1)
        for kind in ({"scales": [1]}, {"passthrough": 1e-9}, {"passthrough": 0.3})
    )
    torch.testing.assert_close(plain, nothing, rtol=0, atol=1e-5)
    assert (plain - held).abs().max() > 1e-2


def test_a_setting_runs_as_progressive_runs_it():
    sampler = flux()
    setting = make_setting({"scales": ["1/2", 1], "steps": 4, "delta": 0.05, "clock": "stage", "coupling": "fresh"})
    call = {**sampler.arguments, **sampler._encode("a"), "num_inference_steps": 4, "output_type": "pt"}
    options = {"scales": (1 / 2, 1), "delta": 0.05, "clock": "stage", "coupling": "fresh"}
    wanted = progressive(FLUX.pipe, generator=generator(7), **options, **call).images[0]
    torch.testing.assert_close(sampler.picture(setting, "a", 7), wanted.clamp(0, 1), rtol=0, atol=1e-6)


def test_a_sampler_may_make_several_pictures_at_once(tmp_path, monkeypatch):
    """The same pictures as one by one, at most `batch` a call, and only those that are missing."""

    def velocity(x, t):
        return 0.5 * x

    times = {"times": lambda steps: shift_times(steps, shift=2.0), "spectrum": PRESETS["flux"]}
    times["cost"] = lambda grid: Flops(float(grid[0] * grid[1]))
    single, asked = NetworkSampler(velocity, (3, 32, 32), **times), []

    class Several(NetworkSampler):
        batch = 4

        def pictures(self, setting, prompts, seeds):
            asked.append((setting.name, list(prompts), list(seeds)))
            return [self.picture(setting, *which) for which in zip(prompts, seeds, strict=True)]

    several = Several(velocity, (3, 32, 32), **times)
    options = {"metrics": ["psnr"], "seeds": 3, "rounds": 0}
    assert compare(single, PROMPTS, SETTINGS, out=tmp_path / "single", **options) is not None
    found = compare(several, PROMPTS, SETTINGS, out=tmp_path / "several", **options)
    assert files(tmp_path / "several") == files(tmp_path / "single")
    a, b = PROMPTS
    for setting in SETTINGS:
        first, second = [call[1:] for call in asked if call[0] == setting.name]
        assert first == ([a, b, a, b], [0, 10_000, 1, 10_001])
        assert second == ([a, b], [2, 10_002])
    found.folder.picture("full", 1, 0).unlink()
    asked.clear()
    compare(several, PROMPTS, SETTINGS, out=tmp_path / "several", **options)
    assert asked == [("full", [b], [10_000])]
    assert files(tmp_path / "several") == files(tmp_path / "single")
    # Two processes share whole batches.
    asked.clear()
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, seeds in (("1", [2, 10_002]), ("0", [0, 10_000, 1, 10_001])):
        monkeypatch.setenv("RANK", rank)
        compare(several, PROMPTS, SETTINGS[:1], out=tmp_path / "shared", **options)
        assert asked[-1][2] == seeds
    # One that has no batch is not asked for any.
    monkeypatch.undo()
    monkeypatch.delattr(Several, "batch")
    asked.clear()
    compare(several, PROMPTS, SETTINGS, out=tmp_path / "without", **options)
    assert not asked
    assert files(tmp_path / "without") == files(tmp_path / "single")


def test_grids_at_once_are_a_setting():
    """Of a pipeline as :func:`progressive`, of a network as its plan; cheaper than the full run."""
    sampler, setting = flux(), make_setting({"scales": ["1/2", 1], "steps": 6, "anchors": [0, 2]})
    call = {**sampler.arguments, **sampler._encode("a"), "num_inference_steps": 6, "output_type": "pt"}
    wanted = progressive(FLUX.pipe, generator=generator(7), scales=(1 / 2, 1), anchors=(0, 2), **call).images[0]
    torch.testing.assert_close(sampler.picture(setting, "a", 7), wanted.clamp(0, 1), rtol=0, atol=1e-6)
    assert sampler.flops(setting, "a").total < sampler.flops(make_setting({"scales": [1], "steps": 6}), "a").total
    assert (setting.is_full, setting.family) == (False, "grids at once 1/2 1")
    network = NetworkSampler(lambda x, t: x - torch.tanh(x), (3, 16, 16), times=shift_times, spectrum=PRESETS["flux"])
    plan = network.plan(replace(setting, steps=8), "")
    assert plan.shape == (16, 16)
    assert network.picture(replace(setting, steps=8), "", 0).shape == (3, 16, 16)
    with pytest.raises(ValueError, match="anchors = -1 must be"):
        make_setting({"anchors": -1})


def test_an_adapter_is_on_for_its_setting_alone(tmp_path):
    """LoRA weights that do something, saved by diffusers: the setting that names them differs, the others do not."""
    peft = pytest.importorskip("peft")
    pipe = FLUX.build()
    pipe.transformer.add_adapter(peft.LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
    from peft.utils import get_peft_model_state_dict

    pipe.save_lora_weights(tmp_path, transformer_lora_layers=get_peft_model_state_dict(pipe.transformer))
    (file,) = tmp_path.glob("*.safetensors")
    sampler = PipelineSampler(FLUX.build(), flux().arguments, encode=flux()._encode)
    plain = make_setting({"scales": [1], "steps": 3})
    tuned = make_setting({"scales": [1], "steps": 3, "lora": str(file)})
    before, with_it, after = (sampler.picture(s, "a", 0) for s in (plain, tuned, plain))
    assert torch.equal(before, after)
    assert (before - with_it).abs().max() > 1e-3
    assert not tuned.is_full


def test_the_loop_is_timed_alone(monkeypatch):
    """Encoding and decoding are slow here, the loop is not."""
    sampler = flux()
    setting = make_setting({"scales": [1], "steps": 2})
    sampler.seconds(setting, "a")
    monkeypatch.setattr(sampler, "_encode", lambda prompt, encode=sampler._encode: time.sleep(1.0) or encode(prompt))
    began = time.perf_counter()
    seconds = sampler.seconds(setting, "a")
    assert time.perf_counter() - began > 1.0
    assert 0 < seconds < time.perf_counter() - began - 1.0
    assert "progress_bar" not in vars(sampler.pipe)


def test_encoders_and_decoder_are_counted_once():
    """A tiny text encoder beside the tiny FLUX: its own count and the decoder's, on top of the network's."""
    transformers = pytest.importorskip("transformers")
    config = transformers.T5Config(d_model=24, d_kv=8, d_ff=32, num_layers=2, num_heads=3, vocab_size=50)
    pipe = FLUX.build()
    pipe.register_modules(text_encoder_2=transformers.T5EncoderModel(config).eval())
    tokens = torch.arange(12)[None]

    def encode(prompt):
        pipe.text_encoder_2(input_ids=tokens, attention_mask=torch.ones_like(tokens))
        return flux()._encode(prompt)

    sampler, setting = PipelineSampler(pipe, flux().arguments, encode=encode), SETTINGS[1]
    with torch.device("meta"):
        encoder = count(transformers.T5EncoderModel(config), {"input_ids": torch.zeros(1, 12, dtype=torch.int64)})
        decoder = count(type(pipe.vae).from_config(pipe.vae.config).decoder, {"sample": torch.zeros(1, 4, 8, 12)})
    assert sampler.once(setting, "a").linear == encoder.linear + decoder.linear > 0
    assert sampler.flops(setting, "a") == flux().flops(setting, "a"), "the network's own are what they were"
    assert tiny(WAN).once(setting, "a").linear == 0


def test_a_network_that_cannot_be_counted_is_compared_all_the_same(tmp_path, monkeypatch):
    def refused(*arguments):
        raise NotImplementedError("Cannot copy out of meta tensor; no data!\nand more")

    monkeypatch.setattr("spectral_pd.comparing.samplers.Calls.flops", refused)
    found = compare(flux(), PROMPTS[:1], SETTINGS[:2], out=tmp_path, rounds=1)
    assert found.flops == {}
    assert not any("FLOP" in column for column in found.table[0])
    (said,) = (fact for fact in found.facts if fact.startswith("full: "))
    assert said.endswith("FLOPs not counted, NotImplementedError: Cannot copy out of meta tensor; no data!")


def test_what_is_kept_is_what_was_made(tmp_path):
    """Eight bits, and nothing lost besides, of pictures and of videos."""
    for shape in ((3, 10, 14), (5, 3, 32, 48)):
        picture = torch.rand(shape, generator=torch.Generator().manual_seed(0))
        save_picture(tmp_path / str(len(shape)), picture)
        (path,) = tmp_path.glob(f"{len(shape)}.*")
        kept = read_picture(path)
        assert torch.equal(kept, (picture if picture.ndim == 4 else picture[None]).mul(255).round() / 255)


def test_a_cut_line_is_taken_away(tmp_path):
    path = tmp_path / "values-0.csv"
    table = Appended(path, ("a", "b"))
    table.add(1, "x,y")
    table.close()
    path.write_text(path.read_text() + "2,ha")
    assert len(Folder(tmp_path).rows("values-*.csv")) == 1
    table = Appended(path, ("a", "b"))
    table.add(3, "z")
    table.close()
    assert path.read_text() == 'a,b\n1,"x,y"\n3,z\n'


@pytest.mark.parametrize(
    ("evaluator", "family"), [("geneval", FLUX), ("t2i-compbench", FLUX), ("vbench", WAN)], ids=str
)
def test_pictures_are_laid_out_for_evaluators(evaluator, family, tmp_path):
    entries = [{"prompt": "a red bench", "tag": "color"}, {"prompt": "two cats", "tag": "counting"}]
    found = compare(tiny(family), entries, SETTINGS[:1], out=tmp_path, seeds=2, rounds=0)
    (command,) = lay_out(tmp_path, evaluator)
    place = tmp_path / evaluator / "full"
    assert str(place) in command
    wanted = {
        "geneval": ["00001/samples/0001.png", "00001/metadata.jsonl"],
        "t2i-compbench": ["samples/two cats_000001.png"],
        "vbench": ["two cats-1.mp4"],
    }[evaluator]
    assert all((place / name).exists() for name in wanted)
    assert (place / wanted[0]).read_bytes() == found.folder.picture("full", 1, 1).read_bytes()
    if evaluator == "geneval":
        assert json.loads((place / wanted[1]).read_text()) == entries[1]
    assert len([p for p in place.rglob("*") if p.suffix in (".png", ".mp4")]) == 4
    lay_out(tmp_path, evaluator)  # once more is no fault
    other = "geneval" if family is WAN else "vbench"
    with pytest.raises(ValueError, match=r"this evaluator reads .* files"):
        lay_out(tmp_path, other)


def test_prompts_come_from_every_kind_of_file(tmp_path):
    (tmp_path / "p.txt").write_text("one\n\ntwo \n")
    (tmp_path / "p.jsonl").write_text('{"prompt": "one", "tag": "counting"}\n{"prompt": "two"}\n')
    (tmp_path / "p.csv").write_text("prompt,tag\none,counting\ntwo,\n")
    found = [comparisons.prompt_entries(tmp_path / f"p.{end}") for end in ("txt", "jsonl", "csv")]
    assert [[entry["prompt"] for entry in entries] for entries in found] == [["one", "two"]] * 3
    assert found[1][0]["tag"] == found[2][0]["tag"] == "counting"
    (tmp_path / "bad.jsonl").write_text('{"text": "one"}\n')
    with pytest.raises(ValueError, match='without "prompt"'):
        comparisons.prompt_entries(tmp_path / "bad.jsonl")
