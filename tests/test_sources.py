"""Reading data: pictures, stored latents, videos, data sets, loaders, an autoencoder; and everything that can be wrong."""

import itertools
import pickle
import re
from fractions import Fraction

import numpy as np
import pytest
import torch
from strategies import randn

from spectral_pd import PowerLaw, fit_spectrum
from spectral_pd.__main__ import main
from spectral_pd.measuring import measure
from spectral_pd.measuring.encoder import Encoder
from spectral_pd.measuring.sources import (
    Arrays,
    Batch,
    Chain,
    Images,
    Items,
    Source,
    Videos,
    find_files,
    iterate,
    open_source,
    picture_tensor,
)

Image = pytest.importorskip("PIL.Image")


def picture(height, width, seed=0, mode="RGB"):
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values).convert(mode)


def everything(source):
    """All values and numbers of a source, in order."""
    batches = [source[i] for i in range(len(source))] if isinstance(source, Source) else list(source)
    values = [b.values for b in batches if b.values is not None]
    return torch.cat(values), torch.cat([b.index for b in batches]), [line for b in batches for line in b.skipped]


# -- pictures ---------------------------------------------------------------------------------------------------------


def test_picture_values():
    image = picture(5, 7)
    x = picture_tensor(image)
    assert x.shape == (3, 5, 7)
    np.testing.assert_allclose(x.permute(1, 2, 0), np.asarray(image) / 127.5 - 1, atol=1e-6)
    grey = picture_tensor(picture(5, 7, mode="L"))
    assert grey.shape == (3, 5, 7)
    assert torch.equal(grey[0], grey[2])
    assert picture_tensor(picture(5, 7, mode="RGBA")).shape == (3, 5, 7)
    deep = picture_tensor(Image.fromarray(np.full((4, 4), 65535, dtype=np.uint16)))
    assert deep.shape == (3, 4, 4)
    assert deep.max() == 1.0


def test_resize_and_crop():
    image = picture(60, 100)
    crop = picture_tensor(image, (40, 40), fit="crop")
    np.testing.assert_allclose(crop, picture_tensor(image)[:, 10:50, 30:70])
    expected = image.crop((20, 0, 80, 60)).resize((30, 30), Image.Resampling.LANCZOS)
    assert torch.equal(picture_tensor(image, (30, 30)), picture_tensor(expected))
    assert picture_tensor(image, (30, 60), fit="resize").shape == (3, 30, 60)
    same = picture_tensor(image, (60, 60))
    assert torch.equal(same, picture_tensor(image)[:, :, 20:80])


def test_nothing_is_enlarged_or_guessed():
    with pytest.raises(ValueError, match="30x50 is smaller than the wanted 40x40; pictures are never enlarged"):
        picture_tensor(picture(30, 50), (40, 40))
    with pytest.raises(ValueError, match="fit = 'stretch' must be 'resize' or 'crop'"):
        picture_tensor(picture(30, 50), (10, 10), fit="stretch")
    with pytest.raises(ValueError, match="mode F: 32-bit pictures have no known range"):
        picture_tensor(Image.fromarray(np.zeros((4, 4), dtype=np.float32)))


@pytest.fixture
def folder(tmp_path):
    for i in range(5):
        (tmp_path / "deep").mkdir(exist_ok=True)
        picture(20 + i, 24, seed=i).save(tmp_path / ("deep" if i % 2 else ".") / f"{i}.png")
    (tmp_path / "notes.txt").write_text("not a picture")
    return tmp_path


def test_folder_of_any_sizes(folder):
    source = open_source(folder, size=(16, 16), batch_size=2)
    assert len(source) == 3
    x, index, skipped = everything(source)
    assert x.shape == (5, 3, 16, 16)
    assert index.tolist() == list(range(5))
    assert skipped == []
    assert torch.equal(source[1].values, everything(source)[0][2:4])  # any batch, any time


def test_mixed_sizes_are_refused_with_the_reason(folder):
    with pytest.raises(ValueError, match="power belongs to a grid: give a size"):
        everything(open_source(folder))


def test_broken_picture_is_skipped_with_a_line_or_refused(folder, capsys):
    whole = (folder / "2.png").read_bytes()
    (folder / "2.png").write_bytes(whole[: len(whole) // 2])
    (folder / "4.png").write_bytes(b"not a picture at all")
    x, index, skipped = everything(open_source(folder, size=(16, 16), errors="skip"))
    assert x.shape[0] == 3
    assert len(skipped) == 2
    assert all(name in " ".join(skipped) for name in ("2.png", "4.png"))
    # numbers stay with the files, so bootstrap weights do too
    order = [p.name for p in find_files([folder])[0]]
    assert index.tolist() == [i for i, name in enumerate(order) if name not in ("2.png", "4.png")]
    command = ["fit", str(folder), "--size", "16", "--bootstrap", "0"]
    assert main(command) == 0
    shown = capsys.readouterr()
    assert "3 samples, 9 planes of 16x16, 3 channels, basis dct, 2 skipped" in shown.out
    assert [re.search(r"^skipped .*/(\d)\.png: .+$", line)[1] for line in shown.err.splitlines()] == ["2", "4"]
    with pytest.raises((ValueError, OSError), match=r"[24]\.png: "):
        everything(open_source(folder, size=(16, 16), errors="raise"))
    assert main([*command, "--on-error", "raise"]) == 1
    assert re.match(r"spectral-pd fit: error: .*[24]\.png: .+\n$", capsys.readouterr().err)


def test_whatever_a_decoder_raises_is_an_error_of_the_data():
    """PIL raises SyntaxError for a broken PNG, zlib and struct their own: callers expect ValueError, TypeError, OSError."""

    class Rows(Column):
        def __getitem__(self, i):
            if i == 1:
                raise self.rows[1]
            return self.rows[i]

    good = randn(3, 8, 8)
    for error, kind in (
        (SyntaxError("broken PNG file"), ValueError),
        (UnicodeDecodeError("utf-8", b"x", 0, 1, "what"), ValueError),
        (KeyError("image"), ValueError),
        (PermissionError("not yours"), OSError),
    ):
        rows = Rows([good, error, good])
        with pytest.raises(kind, match=r"^sample 1: "):
            open_source(rows)[0]
        batch = open_source(rows, errors="skip")[0]
        assert batch.index.tolist() == [0, 2]
        assert batch.skipped[0].startswith("sample 1: ")
    with pytest.raises(ModuleNotFoundError, match="needs pillow"):  # true of every sample: not one to skip
        open_source(Rows([good, ModuleNotFoundError("needs pillow")]), errors="skip")[0]


def test_finding_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        find_files([tmp_path / "nowhere"])
    with pytest.raises(ValueError, match="no files of a known kind"):
        find_files([tmp_path])
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(ValueError, match=r"unknown kind '.txt'"):
        find_files([tmp_path / "a.txt"])


# -- stored latents ---------------------------------------------------------------------------------------------------


def save(path, x):
    if path.suffix == ".npy":
        np.save(path, x.numpy())
    elif path.suffix == ".npz":
        np.savez(path, latents=x.numpy())
    elif path.suffix == ".pt":
        torch.save(x, path)
    else:
        pytest.importorskip("safetensors.torch").save_file({"latents": x}, path)


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".pt", ".safetensors"])
def test_stored_batches(tmp_path, suffix):
    x = randn(7, 4, 8, 6, seed=1).float()
    save(tmp_path / f"a{suffix}", x[:5])
    save(tmp_path / f"b{suffix}", x[5:])
    source = open_source(tmp_path, batch_size=3)
    assert [source[i].values.shape[0] for i in range(len(source))] == [3, 2, 2]
    values, index, _ = everything(source)
    assert torch.equal(values, x)
    assert index.tolist() == list(range(7))


def test_files_of_one_sample_share_batches(tmp_path):
    x = randn(7, 4, 8, 6, seed=2)
    for i in range(7):
        save(tmp_path / f"{i}.npy", x[i])
    source = open_source(tmp_path, batch_size=4)
    assert len(source) == 2
    assert torch.equal(everything(source)[0], x)
    save(tmp_path / "plane.npy", x[0, 0])
    values = open_source(tmp_path / "plane.npy")[0].values
    assert values.shape == (1, 1, 8, 6)


def test_clips_of_rank_four(tmp_path):
    clip = randn(4, 5, 8, 6, seed=3)
    save(tmp_path / "clip.npy", clip)
    assert open_source(tmp_path, frames=True)[0].values.shape == (1, 4, 5, 8, 6)
    assert open_source(tmp_path)[0].values.shape == (4, 5, 8, 6)


def test_half_precision_dictionaries_and_damage(tmp_path):
    torch.save({"latents": randn(2, 4, 8, 8, seed=4).half(), "step": 3}, tmp_path / "a.pt")
    assert open_source(tmp_path)[0].values.dtype == torch.float16
    torch.save({"a": torch.zeros(1, 2, 4, 4), "b": torch.zeros(1)}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"holds 2 arrays \['a', 'b'\]"):
        open_source(tmp_path)
    (tmp_path / "a.pt").write_bytes(b"rubbish")
    with pytest.raises(ValueError, match="cannot be read"):
        open_source(tmp_path)
    save(tmp_path / "good.npy", randn(3, 1, 8, 8, seed=5))
    values, _, skipped = everything(open_source(tmp_path, errors="skip"))
    assert values.shape[0] == 3
    assert "a.pt" in skipped[0]
    (tmp_path / "good.npy").unlink()
    picture(8, 8).save(tmp_path / "good.png")  # no array is left that could report the broken one
    values, _, skipped = everything(open_source(tmp_path, errors="skip"))
    assert values.shape[0] == 1
    assert len(skipped) == 1
    assert "a.pt" in skipped[0]


def test_bad_arrays(tmp_path):
    save(tmp_path / "a.npy", torch.zeros(2, 3, 8, 8, dtype=torch.uint8))
    with pytest.raises(TypeError, match=r"is of torch.uint8.*pictures: x.float\(\) / 127.5 - 1"):
        everything(open_source(tmp_path))
    save(tmp_path / "a.npy", torch.zeros(8))
    with pytest.raises(ValueError, match=r"has shape \(8,\); spectra need at least"):
        open_source(tmp_path)
    x = randn(4, 1, 8, 8, seed=6)
    x[2, 0, 3, 3] = float("nan")
    save(tmp_path / "a.npy", x)
    with pytest.raises(ValueError, match=r"a.npy: sample 2: NaN or infinity; clean the data"):
        everything(open_source(tmp_path))
    values, index, skipped = everything(open_source(tmp_path, errors="skip"))
    assert index.tolist() == [0, 1, 3]
    assert values.shape[0] == 3
    assert len(skipped) == 1
    with pytest.raises(ValueError, match="resized latents have another spectrum; leave size out"):
        open_source(tmp_path, size=(4, 4))
    with pytest.raises(ValueError, match="batch_size = 0 must be"):
        open_source(tmp_path, batch_size=0)


# -- data sets and iterables ------------------------------------------------------------------------------------------


class Column:
    """The part of a Hugging Face data set that is used: len, [] and dicts."""

    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        return self.rows[i]


def test_data_sets_of_dicts_and_pairs():
    rows = Column([{"image": picture(20, 30, seed=i), "label": i} for i in range(5)])
    source = open_source(rows, size=(16, 16), batch_size=2)
    assert isinstance(source, Items)
    assert everything(source)[0].shape == (5, 3, 16, 16)
    latents = torch.utils.data.TensorDataset(randn(5, 4, 8, 8, seed=7), torch.arange(5))
    values, index, _ = everything(open_source(latents, batch_size=2))
    assert torch.equal(values, latents.tensors[0])
    assert index.tolist() == list(range(5))
    named = Column([{"z": randn(4, 8, 8, seed=i)} for i in range(3)])
    assert everything(open_source(named, column="z"))[0].shape == (3, 4, 8, 8)
    with pytest.raises(TypeError, match=r"no image or .* among the columns \['z'\]; pass column="):
        everything(open_source(named))


def test_nan_in_a_data_set_or_an_iterable_is_skipped_or_refused():
    x = randn(5, 3, 8, 8, seed=11)
    x[3, 1, 2, 2] = float("inf")
    for data in (Column(list(x)), [x[:2], x[2:]], x.half()):
        values, index, skipped = everything(open_source(data, errors="skip"))
        assert torch.equal(values, x[[0, 1, 2, 4]].to(values.dtype))
        assert index.tolist() == [0, 1, 2, 4]
        assert skipped == ["sample 3: NaN or infinity"]
        with pytest.raises(ValueError, match=r"^sample 3: NaN or infinity; clean the data"):
            everything(open_source(data))
    loud = torch.full((2, 3, 64, 64), 3e4, dtype=torch.float16)  # their sum overflows half precision, they do not
    assert everything(open_source(loud))[0].shape == loud.shape


def test_streams_arrays_and_sources_of_ones_own():
    x = randn(6, 4, 8, 8, seed=12)

    class Stream(torch.utils.data.IterableDataset):  # has a [] by inheritance, which only raises
        def __iter__(self):
            return iter(x)

    class Halves(Source):
        def __len__(self):
            return 2

        def __getitem__(self, number):
            return Batch(x[3 * number :][:3], torch.arange(3) + 3 * number)

    own = Halves()
    assert open_source(own) is own
    loader = torch.utils.data.DataLoader(Stream(), batch_size=4)
    for data in (Stream(), own, loader, x.numpy()):
        values, index, _ = everything(open_source(data))
        assert torch.equal(values, x)
        assert index.tolist() == list(range(6))
    assert [b.values.shape[0] for b in open_source(x, batch_size=4)] == [4, 2]
    assert everything(open_source(x[0].numpy()))[0].shape == (1, 4, 8, 8)  # one sample, as a tensor would be
    with pytest.raises(TypeError, match=r"source is a dict with keys \['latents'\]; pass the tensor in it"):
        open_source({"latents": x})
    with pytest.raises(ValueError, match="batch_size = 0"):
        open_source(x, batch_size=0)


def test_iterables():
    x = randn(6, 4, 8, 8, seed=8)
    labels = torch.arange(6)
    for data in (x, [x[:4], x[4:]], iter([(x[:4], labels[:4]), (x[4:], labels[4:])]), list(x), (p for p in x)):
        values, index, _ = everything(open_source(data))
        assert torch.equal(values, x)
        assert index.tolist() == list(range(6))
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, labels), batch_size=4)
    assert torch.equal(everything(open_source(loader))[0], x)
    planes = torch.utils.data.DataLoader(list(x[:, 0]), batch_size=4)
    assert everything(open_source(planes))[0].shape == (6, 1, 8, 8)
    planes = torch.utils.data.DataLoader(list(x[:, 0]), batch_sampler=[[0, 1, 2], [3, 4, 5]])
    assert everything(open_source(planes))[0].shape == (6, 1, 8, 8)
    samples = torch.utils.data.DataLoader(list(x), batch_size=None)
    assert torch.equal(everything(open_source(samples))[0], x)
    for bad, message in ((3, "source is int"), ([object()], "a sample is object"), ([torch.zeros(3)], "at least")):
        with pytest.raises((TypeError, ValueError), match=message):
            list(iterate(bad))


# -- video ------------------------------------------------------------------------------------------------------------


def write_film(path, frames, times=None):
    """A lossless video (FFV1) of uint8 frames (H, W, 3), shown at `times` (eighths of a second)."""
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=8)
        stream.width, stream.height, stream.pix_fmt = frames[0].shape[1], frames[0].shape[0], "bgr0"
        for i, values in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(values), format="rgb24").reformat(format="bgr0")
            frame.pts, frame.time_base = i if times is None else times[i], Fraction(1, 8)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.fixture
def film(tmp_path):
    frames = [np.full((32, 48, 3), 10 * i, dtype=np.uint8) for i in range(11)]
    for i, frame in enumerate(frames):
        frame[4:19, 16 : 24 + i] += np.uint8(20)  # off the corner that tells the frame's number
    return write_film(tmp_path / "film.mkv", frames)


def test_video_frames_come_as_clips_in_any_order(film):
    source = Videos([film], clip=4, size=(16, 16))
    assert len(source) == 3
    levels = [10 * i / 127.5 - 1 for i in range(11)]
    for number in (0, 1, 2, 1, 0, 2):  # forward, backward, with a jump
        batch = source[number]
        np.testing.assert_allclose(batch.values[0, 0, :, 0, 0], levels[4 * number : 4 * number + 4], atol=1.5 / 127.5)
        assert batch.index.tolist() == [number]
    assert source[0].values.shape == (1, 3, 4, 16, 16)
    assert source[2].values.shape == (1, 3, 3, 16, 16)
    assert len(open_source(film, clip=16)) == 1
    with pytest.raises(ValueError, match="clip = 0 must be a positive int"):
        Videos([film], clip=0)


def test_frames_are_averaged_and_clips_counted(film, capsys):
    assert main(["fit", str(film), "--clip", "4", "--on-error", "raise", "--bootstrap", "0"]) == 0
    assert "3 samples, 33 planes of 32x48, 3 channels" in capsys.readouterr().out
    clips = [clip for batch in map(Videos([film], clip=4).__getitem__, range(3)) for clip in batch.values]
    frames = torch.cat([clip.transpose(0, 1) for clip in clips])
    assert measure(film, clip=4).law.exponent == pytest.approx(fit_spectrum(frames).exponent, rel=1e-9)


def test_clips_that_cannot_be_used_are_skipped_or_refused(film):
    small = Videos([film], clip=8, size=(64, 64), errors="skip")
    batch = small[1]
    assert (batch.values, batch.index.tolist()) == (None, [])
    assert "film.mkv: frames 8 to 15: 32x48 is smaller than the wanted 64x64" in batch.skipped[0]
    with pytest.raises(ValueError, match=r"film\.mkv: frames 0 to 7: 32x48 is smaller"):
        Videos([film], clip=8, size=(64, 64))[0]


def test_broken_video(tmp_path):
    pytest.importorskip("av")
    (tmp_path / "a.mp4").write_bytes(b"no film")
    with pytest.raises(ValueError, match=r"a.mp4 cannot be decoded"):
        open_source(tmp_path)
    with pytest.raises(ValueError, match="nothing could be read"):
        open_source(tmp_path, errors="skip")


# -- the autoencoder on the way ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def vae(tmp_path_factory):
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    model = diffusers.AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        latent_channels=4,
        scaling_factor=0.3611,
        shift_factor=0.1159,
    )
    path = tmp_path_factory.mktemp("vae")
    model.save_pretrained(path)
    return model.eval(), path


def test_encoder_gives_the_denoisers_latents(vae):
    model, path = vae
    encoder = Encoder.load(path)
    x = randn(2, 3, 32, 32, seed=9).float()
    with torch.no_grad():
        mode = model.encode(x).latent_dist.mode()
    z = encoder(x)
    assert z.shape == (2, 4, 16, 16)
    torch.testing.assert_close(z, (mode - 0.1159) * 0.3611)
    assert not torch.allclose(z, mode)  # negative control: without the factors
    torch.testing.assert_close(encoder(x[:, :1]), encoder(x[:, :1].expand(-1, 3, -1, -1)))


def test_an_image_model_encodes_every_frame_of_a_clip(vae):
    encoder = Encoder.load(vae[1])
    clip = randn(2, 3, 5, 32, 32, seed=11).float()
    z = encoder(clip)
    assert z.shape == (2, 4, 5, 16, 16)
    torch.testing.assert_close(z[1, :, 3], encoder(clip[1:, :, 3])[0])
    assert not encoder.video
    with pytest.raises(ValueError, match=r"pictures have shape \(3, 32, 32\); pass"):
        encoder(clip[0, :, 0])


def test_encoder_with_statistics_per_channel(vae):
    """As pipelines decode: z std / scaling + mean. SDXL's derivatives keep them in the configuration, LTX in buffers."""
    model, _ = vae
    x = randn(1, 3, 32, 32, seed=10).float()
    with torch.no_grad():
        mode = model.encode(x).latent_dist.mode()
    mean, deviation = (torch.tensor(v) for v in ([0.1, 0.2, 0.3, 0.4], [1.0, 2.0, 3.0, 4.0]))
    expected = (mode - mean.reshape(1, 4, 1, 1)) / deviation.reshape(1, 4, 1, 1) * 0.3611
    model.register_to_config(latents_mean=mean.tolist(), latents_std=deviation.tolist())
    torch.testing.assert_close(Encoder(model)(x), expected)
    model.register_to_config(latents_mean=None, latents_std=None)
    model._buffers.update(latents_mean=mean, latents_std=deviation)
    torch.testing.assert_close(Encoder(model)(x), expected)
    model._buffers.clear()


def test_video_model_takes_clips_and_pictures():
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(1)
    model = diffusers.AutoencoderKLWan(base_dim=4, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1).eval()
    encoder = Encoder(model)
    assert encoder.video
    clip = randn(2, 3, 5, 32, 32, seed=12).float()
    with torch.no_grad():
        mode = model.encode(clip).latent_dist.mode()
    mean, deviation = (
        torch.tensor(v).reshape(1, 16, 1, 1, 1) for v in (model.config.latents_mean, model.config.latents_std)
    )
    z = encoder(clip)
    assert z.shape == (2, 16, 2, 4, 4)  # 5 frames: the first, and four in one
    torch.testing.assert_close(z, (mode - mean) / deviation)
    torch.testing.assert_close(encoder(clip[:, :, 0]), z[:, :, :1])  # a picture is a clip of one frame


def test_flux2_latents_are_normalised_in_patches_and_laid_out_in_space():
    diffusers = pytest.importorskip("diffusers")
    from spectral_pd.adapters.flux2 import patchify

    torch.manual_seed(2)
    model = diffusers.AutoencoderKLFlux2(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(4, 4),
        latent_channels=8,
        norm_num_groups=2,
        layers_per_block=1,
    ).eval()
    model.bn.running_mean.normal_()
    model.bn.running_var.uniform_(0.5, 2)
    x = randn(1, 3, 32, 32, seed=13).float()
    z = Encoder(model)(x)
    assert z.shape == (1, 8, 16, 16)
    pipeline = diffusers.Flux2Pipeline
    with torch.no_grad():
        patches = pipeline._patchify_latents(model.encode(x).latent_dist.mode())
    mean, deviation = model.bn.running_mean, (model.bn.running_var + model.config.batch_norm_eps).sqrt()
    expected = (patches - mean.reshape(1, -1, 1, 1)) / deviation.reshape(1, -1, 1, 1)
    torch.testing.assert_close(patchify(z), expected)


def test_fit_command_encodes_on_the_way(vae, tmp_path, capsys):
    _, path = vae
    for i in range(5):
        picture(40, 50, seed=i).save(tmp_path / f"{i}.png")
    law = tmp_path / "law.json"
    command = ["fit", tmp_path, "--size", 32, "--batch-size", 2, "--vae", path, "--json", law]
    assert main([str(a) for a in command]) == 0
    assert "5 samples, 20 planes of 16x16, 4 channels" in capsys.readouterr().out
    fitted = PowerLaw.load(law)
    assert fitted.data == f"5 samples, grid 16x16, of {tmp_path} through {path}"
    pictures = everything(open_source(tmp_path, size=(32, 32), batch_size=8))[0]
    expected = fit_spectrum(Encoder.load(path)(pictures))
    assert fitted.amplitude == pytest.approx(expected.amplitude, rel=1e-4)
    assert fitted.exponent == pytest.approx(expected.exponent, rel=1e-4)


def test_encoder_refuses_other_folders(tmp_path):
    pytest.importorskip("diffusers")
    with pytest.raises(ValueError, match=r"has no config\.json"):
        Encoder.load(tmp_path)
    (tmp_path / "config.json").write_text('{"_class_name": "UNet2DModel"}')
    with pytest.raises(ValueError, match="describes a 'UNet2DModel'; an AutoencoderKL model is needed"):
        Encoder.load(tmp_path)


def test_sources_travel_to_workers(folder, film, tmp_path_factory):
    """Where workers are spawned, a source comes by pickle, in the middle of its reading."""
    arrays = tmp_path_factory.mktemp("arrays")
    save(arrays / "x.npy", randn(5, 3, 16, 16, seed=14))
    for source in (
        Images(find_files([folder / "deep"])[0], batch_size=1, size=(16, 16)),
        open_source(arrays, batch_size=2),
        Videos([film], clip=4),
    ):
        first = source[0].values
        copy = pickle.loads(pickle.dumps(source))
        assert torch.equal(copy[0].values, first)
        assert torch.equal(copy[1].values, source[1].values)


def test_sources_are_sources(folder):
    images = Images(find_files([folder])[0], size=(16, 16))
    assert isinstance(images, Source)
    assert isinstance(Arrays([]), Source)
    chain = Chain([images, images], [5, 5], skipped=["x.pt: broken"])
    assert chain[0].skipped == ("x.pt: broken",)
    assert chain[1].index.tolist() == [5, 6, 7, 8, 9]
    with pytest.raises(IndexError):
        images[99]
    assert isinstance(next(iter(iterate([torch.zeros(1, 1, 4, 4)]))), Batch)
    assert list(itertools.islice(iterate(torch.zeros(1, 1, 4, 4) for _ in range(3)), 2))[1].index.tolist() == [1]
