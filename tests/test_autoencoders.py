"""Autoencoders between pictures and latents: each family's normalisation both ways, loading, the real ones on a photograph.

The distilled autoencoders of FLUX.1, FLUX.2, SD3, SDXL and SD (madebyollin/taesd) are not part of the repository: the tests of
them run where the folders are, ``SPECTRAL_PD_AUTOENCODERS`` or shared/data/autoencoders beside the checkout.
"""

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from strategies import randn

from spectral_pd import PowerLaw, fit_spectrum
from spectral_pd.__main__ import main
from spectral_pd.autoencoders import Autoencoder, TinyAutoencoder, denormalise, load, normalise
from spectral_pd.measuring.sources import open_source, picture_tensor
from spectral_pd.measuring.stream import encoder_identity

Image = pytest.importorskip("PIL.Image")
diffusers = pytest.importorskip("diffusers")

FOLDER = Path(os.environ.get("SPECTRAL_PD_AUTOENCODERS", Path(__file__).parents[2] / "shared/data/autoencoders"))
REAL = {
    # folder: channels, PSNR of a round trip of scikit-image's coffee at 256 pixels
    "taef1": (16, 28.0),
    "taesd3": (16, 30.5),
    "taesdxl": (4, 25.7),
    "taesd": (4, 25.8),
    "taef2": (32, 31.3),
}


def small(kind, *, blocks=2, seed=0, **options):
    """A diffusers image autoencoder with random weights."""
    torch.manual_seed(seed)
    sizes = {"block_out_channels": (8,) * blocks, "norm_num_groups": 4}
    types = {"down_block_types": ("DownEncoderBlock2D",) * blocks, "up_block_types": ("UpDecoderBlock2D",) * blocks}
    return getattr(diffusers, kind)(**sizes, **types, **options).eval()


def kl():
    return small("AutoencoderKL", latent_channels=4, scaling_factor=0.3611, shift_factor=0.1159)


def kl_statistics():
    model = kl()
    model.register_to_config(latents_mean=[0.1, 0.2, 0.3, 0.4], latents_std=[1.0, 2.0, 3.0, 4.0])
    return model


def buffers():
    model = kl()
    model._buffers.update(
        latents_mean=torch.tensor([0.1, 0.2, 0.3, 0.4]), latents_std=torch.tensor([1.0, 2.0, 3.0, 4.0])
    )
    return model


def flux2():
    model = small("AutoencoderKLFlux2", latent_channels=8, layers_per_block=1)
    model.bn.running_mean.normal_()
    model.bn.running_var.uniform_(0.5, 2)
    return model


def wan():
    torch.manual_seed(1)
    return diffusers.AutoencoderKLWan(base_dim=4, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1).eval()


def tiny():
    torch.manual_seed(2)
    return diffusers.AutoencoderTiny(latent_channels=16, encoder_block_out_channels=(64,) * 4).eval()


def dc():
    torch.manual_seed(3)
    channels = {"encoder_block_out_channels": (16, 32), "decoder_block_out_channels": (16, 32)}
    layers = {"encoder_layers_per_block": (1, 1), "decoder_layers_per_block": (1, 1)}
    kinds = {"encoder_block_types": "ResBlock", "decoder_block_types": "ResBlock"}
    scales = {"encoder_qkv_multiscales": ((), ()), "decoder_qkv_multiscales": ((), ())}
    options = {"latent_channels": 4, "attention_head_dim": 8, "scaling_factor": 0.41407}
    return diffusers.AutoencoderDC(**options, **channels, **layers, **kinds, **scales).eval()


FAMILIES = {
    "AutoencoderKL": kl,
    "statistics in the configuration": kl_statistics,
    "statistics in buffers": buffers,
    "FLUX.2": flux2,
    "WAN": wan,
    "AutoencoderTiny": tiny,
    "AutoencoderDC": dc,
    "two files": lambda: TinyAutoencoder(32, pooled=True).eval(),
}


def raw(model, x):
    """What the autoencoder itself gives: the mode, or the latents."""
    with torch.no_grad():
        given = model.encode(x)
    return given.latent_dist.mode() if hasattr(given, "latent_dist") else next(iter([*vars(given).values()] or [given]))


# -- normalisation ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_denormalise_inverts_normalise(family):
    model = FAMILIES[family]()
    channels = getattr(model.config, "latent_channels", None) or dict(model.config).get("z_dim") or 32
    z = randn(2, channels, *((3,) if family == "WAN" else ()), 8, 6, seed=1).float()
    x = normalise(model, z)
    assert x.shape == z.shape
    assert x.dtype == z.dtype
    torch.testing.assert_close(denormalise(model, x), z)
    torch.testing.assert_close(normalise(model, denormalise(model, z)), z)
    trivial = family in ("AutoencoderTiny", "two files")
    assert torch.equal(x, z) == trivial  # negative control: every other family has something to undo


@pytest.mark.parametrize("family", FAMILIES)
def test_encode_and_decode_take_the_denoisers_latents(family):
    model = FAMILIES[family]()
    vae = Autoencoder(model)
    x = randn(2, 3, 64, 32, seed=2).float().tanh()
    latents = vae.encode(x)
    if family != "two files":
        given = raw(model, x[:, :, None] if vae.video else x)
        torch.testing.assert_close(latents, normalise(model, given))
        with torch.no_grad():
            torch.testing.assert_close(vae.decode(latents), model.decode(denormalise(model, latents)).sample)
    pictures = vae.decode(latents)
    assert (pictures[:, :, 0] if vae.video else pictures).shape == x.shape


def test_the_factors_of_an_autoencoder():
    model = kl()
    x = randn(2, 3, 32, 32, seed=9).float()
    z = Autoencoder(model).encode(x)
    assert z.shape == (2, 4, 16, 16)
    torch.testing.assert_close(z, (raw(model, x) - 0.1159) * 0.3611)
    encode = Autoencoder(model).encode
    torch.testing.assert_close(encode(x[:, :1]), encode(x[:, :1].expand(-1, 3, -1, -1)))


@pytest.mark.parametrize("make", [kl_statistics, buffers])
def test_statistics_a_channel(make):
    """As pipelines decode: z std / scaling + mean. SDXL's derivatives keep them in the configuration, LTX in buffers."""
    model = make()
    x = randn(1, 3, 32, 32, seed=10).float()
    mean, deviation = (torch.tensor(v).reshape(1, 4, 1, 1) for v in ([0.1, 0.2, 0.3, 0.4], [1.0, 2.0, 3.0, 4.0]))
    torch.testing.assert_close(Autoencoder(model).encode(x), (raw(model, x) - mean) / deviation * 0.3611)


def test_flux2_latents_are_normalised_in_patches_and_laid_out_in_space():
    model = flux2()
    x = randn(1, 3, 32, 32, seed=13).float()
    z = Autoencoder(model).encode(x)
    assert z.shape == (1, 8, 16, 16)
    pipeline = diffusers.Flux2Pipeline
    patches = pipeline._patchify_latents(raw(model, x))
    mean, deviation = model.bn.running_mean, (model.bn.running_var + model.config.batch_norm_eps).sqrt()
    expected = (patches - mean.reshape(1, -1, 1, 1)) / deviation.reshape(1, -1, 1, 1)
    torch.testing.assert_close(pipeline._patchify_latents(z), expected)


# -- clips ------------------------------------------------------------------------------------------------------------


def test_an_image_model_takes_every_frame_of_a_clip():
    vae = Autoencoder(kl())
    clip = randn(2, 3, 5, 32, 32, seed=11).float()
    z = vae.encode(clip)
    assert z.shape == (2, 4, 5, 16, 16)
    torch.testing.assert_close(z[1, :, 3], vae.encode(clip[1:, :, 3])[0])
    torch.testing.assert_close(vae.decode(z)[1, :, 3], vae.decode(z[1:, :, 3])[0])
    assert not vae.video
    with pytest.raises(ValueError, match=r"pictures have shape \(3, 32, 32\); pass"):
        vae.encode(clip[0, :, 0])
    with pytest.raises(ValueError, match=r"latents have shape \(4, 16, 16\); pass"):
        vae.decode(z[0, :, 0])


def test_a_video_model_takes_clips_and_pictures():
    model = wan()
    vae = Autoencoder(model)
    assert vae.video
    clip = randn(2, 3, 5, 32, 32, seed=12).float()
    mean, deviation = (
        torch.tensor(v).reshape(1, 16, 1, 1, 1) for v in (model.config.latents_mean, model.config.latents_std)
    )
    z = vae.encode(clip)
    assert z.shape == (2, 16, 2, 4, 4)  # 5 frames: the first, and four in one
    torch.testing.assert_close(z, (raw(model, clip) - mean) / deviation)
    torch.testing.assert_close(vae.encode(clip[:, :, 0]), z[:, :, :1])  # a picture is a clip of one frame
    assert vae.decode(z).shape == clip.shape


# -- loading ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["AutoencoderKL", "WAN", "AutoencoderTiny", "AutoencoderDC"])
def test_every_family_is_read_from_its_folder(family, tmp_path):
    model = FAMILIES[family]()
    model.save_pretrained(tmp_path / "vae")
    x = randn(1, 3, 64, 64, seed=3).float()
    expected = Autoencoder(model).encode(x)
    for folder in (tmp_path / "vae", tmp_path):  # its own folder, and a pipeline's
        vae = load(folder)
        assert type(vae.model) is type(model)
        torch.testing.assert_close(vae.encode(x), expected)
    assert load(tmp_path, dtype=torch.bfloat16).model.dtype == torch.bfloat16


def test_other_folders_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"has no config\.json; pass the folder of an autoencoder"):
        load(tmp_path)
    (tmp_path / "config.json").write_text('{"_class_name": "UNet2DModel"}')
    with pytest.raises(ValueError, match="describes a 'UNet2DModel'; an autoencoder of diffusers is needed"):
        load(tmp_path)
    (tmp_path / "config.json").write_text('{"_class_name": "os"}')
    with pytest.raises(ValueError, match="describes a 'os'"):
        load(tmp_path)


def two_files(folder, model):
    """AutoencoderTiny's weights in the layout of its author: the decoder's clamp is layer 0 there."""
    from safetensors.torch import save_file

    def renamed(part, shift):
        names = {name: name.removeprefix("layers.").split(".", 1) for name in part.state_dict()}
        return {f"{int(n) + shift}.{rest}": part.state_dict()[name] for name, (n, rest) in names.items()}

    save_file(renamed(model.encoder, 0), folder / "encoder.safetensors")
    save_file(renamed(model.decoder, 1), folder / "decoder.safetensors")


def test_two_files_are_the_same_network(tmp_path):
    """The layers of TinyAutoencoder against diffusers' of the same weights, bit for bit; random ones do not agree."""
    model = tiny()
    two_files(tmp_path, model)
    vae, oracle = load(tmp_path), Autoencoder(model)
    assert isinstance(vae.model, TinyAutoencoder)
    x = randn(2, 3, 32, 64, seed=4).float().tanh()
    z = oracle.encode(x)
    assert torch.equal(vae.encode(x), z)
    assert torch.equal(vae.decode(3 * z), oracle.decode(3 * z))
    assert not torch.allclose(Autoencoder(TinyAutoencoder(16, pooled=False)).encode(x), z)


def test_other_layers_in_two_files_are_refused(tmp_path):
    from safetensors.torch import save_file

    for name in ("encoder", "decoder"):
        save_file({"0.weight": torch.zeros(1)}, tmp_path / f"{name}.safetensors")
    with pytest.raises(ValueError, match="does not hold the layers of a distilled autoencoder"):
        load(tmp_path)


# -- on the way of a measurement --------------------------------------------------------------------------------------


def pictures_in(folder, count, height, width):
    for i in range(count):
        values = np.random.default_rng(i).integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(values).save(folder / f"{i}.png")


@pytest.mark.parametrize("family", ["AutoencoderKL", "AutoencoderTiny", "two files"])
def test_fit_command_encodes_on_the_way(family, tmp_path, capsys):
    photos, path = tmp_path / "photos", tmp_path / "model"
    photos.mkdir()
    path.mkdir()
    pictures_in(photos, 5, 40, 50)
    if family == "two files":
        two_files(path, tiny())
    else:
        FAMILIES[family]().save_pretrained(path)
    law = tmp_path / "law.json"
    command = ["fit", photos, "--size", 32, "--batch-size", 2, "--vae", path, "--json", law]
    assert main([str(a) for a in command]) == 0
    side, channels = (16, 4) if family == "AutoencoderKL" else (4, 16)
    assert f"5 samples, {5 * channels} planes of {side}x{side}, {channels} channels" in capsys.readouterr().out
    fitted = PowerLaw.load(law)
    assert fitted.data == f"5 samples, grid {side}x{side}, of {photos} through {path}"
    source = open_source(photos, size=(32, 32), batch_size=8)
    expected = fit_spectrum(load(path).encode(source[0].values))
    assert fitted.amplitude == pytest.approx(expected.amplitude, rel=1e-4)
    assert fitted.exponent == pytest.approx(expected.exponent, rel=1e-4)


def test_checkpoints_tell_autoencoders_apart():
    names = [encoder_identity(Autoencoder(FAMILIES[f]()).encode) for f in ("AutoencoderKL", "FLUX.2", "two files")]
    assert [name.split()[0] for name in names] == ["AutoencoderKL", "AutoencoderKLFlux2", "TinyAutoencoder"]
    other = Autoencoder(small("AutoencoderKL", latent_channels=4, scaling_factor=0.3611, shift_factor=0.1159, seed=5))
    assert encoder_identity(other.encode) not in names


# -- the real ones ----------------------------------------------------------------------------------------------------


@pytest.fixture(params=REAL)
def real(request):
    folder = FOLDER / request.param
    if not folder.is_dir():
        pytest.skip(f"{request.param} is not in {FOLDER}; set SPECTRAL_PD_AUTOENCODERS to where it is")
    return request.param, load(folder)


def psnr(a, b):
    return -10 * torch.log10((a - b).square().mean() / 4)


def test_a_photograph_survives_the_round_trip(real):
    skimage = pytest.importorskip("skimage.data")
    name, vae = real
    channels, expected = REAL[name]
    x = picture_tensor(Image.fromarray(skimage.coffee()), (256, 256))[None]
    z = vae.encode(x)
    assert z.shape == (1, channels, 32, 32)
    assert 0.5 < z.std() < 1.5  # in the space the transformers are trained in
    assert psnr(vae.decode(z), x) == pytest.approx(expected, abs=0.2)
    assert psnr(vae.decode(z.flip(1)), x) < expected - 5  # negative control: channels the wrong way round


def test_real_weights_are_the_ones_of_the_presets(real):
    from csv import DictReader

    name, _ = real
    rows = Path(__file__).parents[1] / "benchmarks/results/latent_spectra.csv"
    digests = {row["encoder"]: row["sha256"] for row in DictReader(rows.open())}
    if name in digests:
        files = sorted((FOLDER / name).glob("*.safetensors"))
        assert hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest() == digests[name]
