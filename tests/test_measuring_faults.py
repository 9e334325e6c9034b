"""What people feed a measurement: files that lie, copies, masks, workers, terminals. Each case gave a wrong number or died."""

import json
import os
import pickle
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from strategies import randn
from test_sources import everything, picture, write_film

from spectral_pd import (
    DCT,
    FOURIER,
    GaussianField,
    PowerLaw,
    Spectrum,
    SpectrumMeter,
    fit_spectrum,
    power_spectrum,
    snr,
)
from spectral_pd.__main__ import main
from spectral_pd.measuring import measure
from spectral_pd.measuring.sources import Batch, Images, Source, Videos, find_files, open_source
from spectral_pd.power import load_spectrum
from spectral_pd.spacetime import SpaceTimeSpectrum

Image = pytest.importorskip("PIL.Image")
FIELD = GaussianField(PowerLaw(50.0, 2.0, shape=(32, 32)), (32, 32)).sample(
    (64, 4), generator=torch.Generator().manual_seed(0)
)
"""64 samples of 4 channels: A = 50, beta = 2."""


# -- video by counting ------------------------------------------------------------------------------------------------


def frames_of(count, seed=0):
    return list(np.random.default_rng(seed).integers(0, 256, (count, 16, 16, 3), dtype=np.uint8))


def test_a_clip_of_variable_frame_rate_is_its_stored_frames(tmp_path):
    """A gap in the times of frames makes none of them count twice, none of them less."""
    frames = frames_of(20)
    steady = write_film(tmp_path / "steady.mkv", frames)
    gaps = write_film(tmp_path / "gaps.mkv", frames, times=[*range(5), *range(9, 24)])
    for path in (steady, gaps):
        source = Videos([path], clip=6)
        seen = torch.cat([source[i].values[0].transpose(0, 1) for i in range(len(source))])
        assert seen.shape == (20, 3, 16, 16), path
        assert len({frame.numpy().tobytes() for frame in seen}) == 20
        assert abs((seen.permute(0, 2, 3, 1) + 1) * 127.5 - torch.from_numpy(np.stack(frames))).max() < 1.5
    assert np.array_equal(measure(gaps, replicates=0).spectrum.power, measure(steady, replicates=0).spectrum.power)


def test_counts_of_frames_are_verified(tmp_path, monkeypatch):
    """Whatever an index promises, more or less: nothing is measured as if it had kept it."""
    from spectral_pd.measuring import sources

    path = write_film(tmp_path / "film.mkv", frames_of(9))
    real = sources.count_frames
    for wrong, words in ((+2, "9 frames can be decoded, but 11 are stored"), (-2, "more frames can be decoded")):
        monkeypatch.setattr(sources, "count_frames", lambda p, wrong=wrong: real(p) + wrong)
        with pytest.raises(ValueError, match=words):
            everything(Videos([path], clip=4))
        source = Videos([path], clip=4, errors="skip")
        lines = [line for i in range(len(source)) for line in source[i].skipped]
        assert len(lines) == 1
        assert words in lines[0]
    monkeypatch.undo()
    assert [b.values.shape[2] for b in map(Videos([path], clip=4).__getitem__, range(3))] == [4, 4, 1]


def test_a_turned_video_is_turned_upright(monkeypatch):
    """Phones store frames lying down and the turn, counterclockwise, beside them; horizontal is then the wrong axis."""
    from contextlib import nullcontext
    from types import SimpleNamespace

    from spectral_pd.measuring import sources

    stored = frames_of(1)[0][:, :8]
    for rotation, turns in ((0, 0), (90, 1), (-90, 3), (180, 2)):
        frame = SimpleNamespace(rotation=rotation, to_ndarray=lambda format: stored)
        container = nullcontext()
        container.decode = lambda stream, frame=frame: iter([frame])
        monkeypatch.setattr(sources, "_video", lambda path, c=container: (c, SimpleNamespace()))
        assert np.array_equal(next(sources.decode("film")), np.rot90(stored, turns))


# -- --resume answers for its own data only ---------------------------------------------------------------------------


def resumed(data, tmp_path, **options):
    return measure(data, resume=tmp_path / "state.pt", replicates=0, **options)


def same_stat(path, place):
    os.utime(path, ns=(place.st_atime_ns, place.st_mtime_ns))


def test_a_finished_checkpoint_does_not_answer_for_other_files(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    np.save(folder / "x.npy", FIELD.numpy())
    place = (folder / "x.npy").stat()
    law = resumed(folder, tmp_path).law
    assert resumed(folder, tmp_path).law == law  # the same data: it answers
    np.save(folder / "x.npy", torch.randn(FIELD.shape, dtype=FIELD.dtype).numpy())
    assert (folder / "x.npy").stat().st_size == place.st_size
    for restored in (False, True):  # also with the old time of change: contents are sampled
        if restored:
            same_stat(folder / "x.npy", place)
        with pytest.raises(ValueError, match="belongs to another run: files was"):
            resumed(folder, tmp_path)


def test_a_touched_file_is_another_file(tmp_path):
    np.save(tmp_path / "x.npy", FIELD.numpy())
    resumed([tmp_path / "x.npy"], tmp_path)
    place = (tmp_path / "x.npy").stat()
    os.utime(tmp_path / "x.npy", ns=(place.st_atime_ns, place.st_mtime_ns + 1))
    with pytest.raises(ValueError, match="belongs to another run: files was"):
        resumed([tmp_path / "x.npy"], tmp_path)


class Rows:
    """A data set with len and []."""

    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        return self.rows[i]


@pytest.mark.parametrize("wrap", [lambda x: x, list, Rows, lambda x: x.split(16), lambda x: iter(x.split(16))])
def test_a_checkpoint_knows_data_that_are_no_files(tmp_path, wrap):
    """Tensors, lists, data sets, generators: another content is another run, the same content is the same one."""
    law = resumed(wrap(FIELD), tmp_path).law
    assert resumed(wrap(FIELD.clone()), tmp_path).law == law
    with pytest.raises(ValueError, match=r"belongs to another run: (data|batches) was"):
        resumed(wrap(torch.randn(FIELD.shape, dtype=FIELD.dtype)), tmp_path)
    with pytest.raises(ValueError, match=r"belongs to another run: (data|batches) was"):
        resumed(wrap(FIELD[:32]), tmp_path)


def test_options_and_autoencoder_belong_to_the_run(tmp_path):
    for i in range(3):
        picture(40, 40, seed=i).save(tmp_path / f"{i}.png")
    files = sorted(tmp_path.glob("*.png"))
    resumed(files, tmp_path, size=(16, 16))
    for options in ({"size": (8, 8)}, {"size": (16, 16), "fit": "crop"}, {"size": (16, 16), "batch_size": 2}):
        with pytest.raises(ValueError, match=r"belongs to another run: (size|fit|batch_size|batches) was"):
            resumed(files, tmp_path, **options)
    (tmp_path / "state.pt").unlink()

    def halves(weight):
        torch.manual_seed(weight)
        return torch.nn.Conv2d(3, 4, 2, stride=2)

    with torch.no_grad():
        first = resumed(files, tmp_path, encoder=halves(0))
        assert resumed(files, tmp_path, encoder=halves(0)).law == first.law
        for other in (halves(1), None, torch.nn.AvgPool2d(2)):
            with pytest.raises(ValueError, match="belongs to another run: encoder was"):
                resumed(files, tmp_path, encoder=other)


def test_a_checkpoint_of_another_measurement_does_not_answer(tmp_path, monkeypatch):
    from spectral_pd.measuring import stream

    resumed(FIELD, tmp_path)
    monkeypatch.setattr(stream, "VERSION", stream.VERSION + 1)
    with pytest.raises(ValueError, match="belongs to another run: version was"):
        resumed(FIELD, tmp_path)


# -- masks ------------------------------------------------------------------------------------------------------------


def test_masked_arrays_are_refused_everywhere(tmp_path):
    """A mask that is dropped measures what it hides: A = 6.5e7 for 50."""
    hidden = FIELD.numpy().copy()
    mask = np.zeros(hidden.shape, dtype=bool)
    mask[0, 0, 3, 3] = True
    hidden[mask] = 1e6
    masked = np.ma.array(hidden, mask=mask)
    bins = np.ma.array([1.0, 2.0, 3.0], mask=[0, 1, 0])
    law = PowerLaw(1.0, 2.0)
    for call in (
        lambda: measure(masked),
        lambda: measure([masked]),
        lambda: measure(Rows([masked[0], masked[1]])),
        lambda: Spectrum(bins, np.ones(3), np.ones(3), (8, 8)),
        lambda: Spectrum(np.arange(1.0, 4), bins, np.ones(3), (8, 8)),
        lambda: SpaceTimeSpectrum(np.arange(3.0), np.arange(1.0), bins[:, None], (8, 8, 8)),
        lambda: law(bins),
    ):
        with pytest.raises(TypeError, match=r"is a masked array.*pass x\.compressed\(\)"):
            call()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        holes = torch.masked.masked_tensor(FIELD, torch.ones_like(FIELD, dtype=torch.bool))
        with pytest.raises(TypeError):
            measure(holes)
    assert measure(np.asarray(FIELD)).law.amplitude == pytest.approx(50, rel=0.1)


# -- one sample -------------------------------------------------------------------------------------------------------


def test_a_batch_that_is_a_list_is_not_taken_for_a_pair():
    """collate_fn=list: 32 of 256 planes were measured."""
    pairs = list(zip(FIELD, FIELD, strict=True))
    lists = torch.utils.data.DataLoader(list(FIELD), batch_size=8, collate_fn=list)
    images = [[picture(16, 16, seed=i) for i in range(2)]]
    for data in (lists, pairs, torch.utils.data.DataLoader(pairs, batch_size=8), images):
        with pytest.raises(ValueError, match=r"entries 0 and 1 could both be meant.*stack samples"):
            measure(data)
    for data in (lists, pairs):
        with pytest.raises(ValueError, match=r"entries 0 and 1 could both be meant.*stack samples"):
            fit_spectrum(data)
    # What belongs to a sample is of another kind or rank: labels, masks of one channel, embeddings.
    labelled = [(x, 3, torch.tensor([1.0, 2.0]), torch.zeros(7, 5), "a text") for x in FIELD]
    assert measure(labelled).samples == 64
    assert measure(torch.utils.data.DataLoader(labelled, batch_size=8)).planes == 256


def test_one_reading_of_lists_of_samples():
    """Rank 3 in a list is one sample of C channels, for `measure` and for `fit_spectrum`."""
    x = FIELD * torch.tensor([1.0, 2.0, 3.0, 4.0]).double().reshape(4, 1, 1)
    assert (measure(list(x)).samples, len(measure(list(x)).channels)) == (64, 4)
    strongest = fit_spectrum(x, channels="max")
    assert fit_spectrum(list(x), channels="max").amplitude == pytest.approx(strongest.amplitude, rel=1e-12)
    assert strongest.amplitude > 1.5 * fit_spectrum(x).amplitude  # the control: channels differ
    assert measure(x[0]).samples == measure([x[0]]).samples == 1
    planes = torch.utils.data.DataLoader(list(x[:, 0]), batch_size=8)
    assert (measure(planes).samples, measure(planes).planes) == (64, 64)
    assert fit_spectrum(planes).amplitude == pytest.approx(fit_spectrum(x[:, :1]).amplitude, rel=1e-12)
    clips = list(randn(5, 3, 6, 8, 8))
    assert (measure(clips, frames=True).samples, measure(clips).samples) == (5, 15)


# -- counted twice ----------------------------------------------------------------------------------------------------


def test_no_file_is_counted_twice(tmp_path):
    folder = tmp_path / "photos"
    (folder / ".thumbs").mkdir(parents=True)
    for i in range(3):
        picture(16, 16, seed=i).save(folder / f"{i}.png")
        picture(16, 16, seed=i).save(folder / ".thumbs" / f"{i}.png")
    (folder / "._0.png").write_bytes(b"resource fork")
    (folder / "notes.txt").write_text("")
    (tmp_path / "link").symlink_to(folder)
    (tmp_path / "one.png").symlink_to(folder / "1.png")
    os.link(folder / "2.png", tmp_path / "hard.png")
    once = measure(folder)
    assert once.samples == 3
    assert once.notes == ("4 files left out: hidden", "1 file left out: of kind '.txt'")
    assert "note: 4 files left out: hidden" in str(once)
    for more in (
        [folder, folder],
        [folder, folder / "1.png"],
        [folder, tmp_path / "link"],
        [folder, tmp_path / "one.png"],
    ):
        again = measure(more)
        assert again.samples == 3, more
        assert any("left out: named twice" in note for note in again.notes), more
        assert again.confidence == once.confidence
    assert measure([folder, tmp_path / "hard.png"]).samples == 3
    assert measure(folder / ".thumbs").samples == 3  # a hidden folder that was named itself is wanted
    again.save(tmp_path / "law.json")
    assert json.loads((tmp_path / "law.json").read_text())["measurement"]["notes"] == list(again.notes)


# -- what is open belongs to a process --------------------------------------------------------------------------------


def test_a_look_at_a_video_does_not_share_its_decoder_with_workers(tmp_path):
    path = write_film(tmp_path / "film.mkv", frames_of(60))
    source = open_source(path, clip=4)
    source[0]
    looked = measure(source, clip=4, workers=3, replicates=0)
    assert (looked.samples, looked.planes, looked.skipped) == (15, 180, 0)
    assert np.array_equal(looked.spectrum.power, measure(path, clip=4, replicates=0).spectrum.power)


@pytest.mark.parametrize("suffix", [".npy", ".safetensors", ".pt"])
def test_a_look_at_an_array_does_not_share_it_either(tmp_path, suffix):
    from test_sources import save

    save(tmp_path / f"x{suffix}", FIELD.float())
    source = open_source(tmp_path, batch_size=4)
    first = source[0].values
    assert torch.equal(pickle.loads(pickle.dumps(source))[0].values, first)
    looked = measure(source, workers=2, replicates=0)
    assert np.array_equal(looked.spectrum.power, measure(tmp_path, batch_size=4, replicates=0).spectrum.power)


def test_a_skipped_line_is_a_line(tmp_path):
    class Loud(Rows):
        def __getitem__(self, i):
            raise OSError("\n".join(f"line {i} of a decoder's log" for i in range(40)))

    (line, _) = open_source(Loud([0, 1]), errors="skip")[0].skipped
    assert "\n" not in line
    assert len(line) < 400


# -- inference mode ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("replicates", [0, 4])
def test_a_meter_crosses_inference_mode(replicates):
    x, index = FIELD.float(), torch.arange(64)
    expected = SpectrumMeter((32, 32), replicates=replicates).update(x, index=index)
    with torch.inference_mode():
        made = SpectrumMeter((32, 32), replicates=replicates)
        inside = x.clone()  # an inference tensor
        made.update(inside[:20], index=index[:20])
        state = made.state_dict()
        other = SpectrumMeter((32, 32), replicates=replicates).update(inside[40:], index=index[40:])
    made.update(x[20:40], index=index[20:40])
    with torch.inference_mode():
        whole = made.sync().merge(other)
    whole.update(inside[:1], index=index[:1])  # an inference tensor outside
    whole = made.merge(other)
    np.testing.assert_allclose(whole.result().power, expected.result().power, rtol=1e-12)
    again = SpectrumMeter((32, 32), replicates=replicates)
    again.load_state_dict(state)
    again.update(x[20:], index=index[20:])
    np.testing.assert_allclose(again.result().power, expected.result().power, rtol=1e-12)
    assert not again.result().power.flags.writeable


# -- file names and terminals -----------------------------------------------------------------------------------------


def odd_names(folder):
    """Files whose names are no UTF-8, one of each kind."""
    safetensors = pytest.importorskip("safetensors.torch")
    names = [os.fsdecode(b"caf\xe9" + suffix) for suffix in (b".npy", b".npz", b".pt", b".safetensors")]
    try:
        np.save(folder / names[0], FIELD[:10].numpy())
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    np.savez(folder / names[1], x=FIELD[10:20].numpy())
    with (folder / names[2]).open("wb") as file:
        torch.save(FIELD[20:30], file)
    (folder / names[3]).write_bytes(safetensors.save({"x": FIELD[30:40].contiguous()}))


def test_a_name_of_other_bytes_is_a_name(tmp_path, capsys):
    odd_names(tmp_path)
    assert measure(tmp_path).samples == 40
    state = tmp_path / "state.pt.run"
    assert main(["fit", str(tmp_path), "--resume", str(state), "--bootstrap", "0"]) == 0
    assert "40 samples" in capsys.readouterr().out
    film = tmp_path / "film.mkv"
    write_film(film, frames_of(4))
    odd = tmp_path / os.fsdecode(b"fil\xe9.mkv")
    film.rename(odd)
    assert measure(odd, replicates=0).planes == 12


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_a_terminal_that_cannot_show_a_name_gets_the_table_all_the_same(tmp_path, encoding):
    folder = tmp_path / "grün"
    folder.mkdir()
    np.save(folder / "x.npy", FIELD.numpy())
    odd_names(folder)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "spectral_pd",
            "fit",
            str(folder),
            "--json",
            str(folder / "law.json"),
            "--bootstrap",
            "0",
        ],
        env={
            **os.environ,
            "PYTHONIOENCODING": encoding,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join(sys.path),
        },
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert b"104 samples" in done.stdout
    assert b"power law and measurement written to" in done.stdout
    assert PowerLaw.load(folder / "law.json").amplitude == pytest.approx(50, rel=0.1)


# -- found before the first sample ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--json", "no/folder/law.json"], "--json = 'no/folder/law.json': its folder does not exist; make it first"),
        (["--table", "no/folder/t.json"], "--table = 'no/folder/t.json': its folder does not exist"),
        (["--figure", "no/folder/f.png"], "--figure = 'no/folder/f.png': its folder does not exist"),
        (["--resume", "no/folder/s.pt"], "resume = 'no/folder/s.pt': its folder does not exist"),
        (["--json", "a.json", "--table", "./a.json"], "--json and --table are both 'a.json'; name two files"),
        (["--json", "."], "--json = '.' is a folder; name a file in it"),
        (["--figure", "f.gif87"], "unknown picture format; known:"),
        (["--device", "cuda:9"], "device = 'cuda:9' cannot be used here"),
        (["--device", "rubbish"], "device = 'rubbish' cannot be used here"),
        (["--device", "meta"], "device = 'meta' holds no numbers"),
        (["--delta", "2"], "delta = 2.0 is out of range"),
        (["--scales", "1", "1/2"], "strictly increasing"),
        (["--band", "5", "2"], "band = (5.0, 2.0) must be"),
        (["--checkpoint-every", "-1"], "every = -1.0 must not be negative"),
    ],
)
def test_what_cannot_work_fails_before_anything_is_read(tmp_path, monkeypatch, capsys, options, message):
    np.save(tmp_path / "x.npy", FIELD.numpy())
    monkeypatch.setattr("spectral_pd.measuring.report.open_source", lambda *_, **__: pytest.fail("data were opened"))
    assert main(["fit", str(tmp_path / "x.npy"), *options]) == 1
    err = capsys.readouterr().err
    assert message in err
    assert len(err.strip().splitlines()) == 1


def test_a_band_that_holds_no_line_is_found_at_the_first_batch():
    def stream():
        yield FIELD[:8]
        pytest.fail("read on")

    with pytest.raises(ValueError, match=r"only 1 bins to fit on grid \(32, 32\) in band \(3.0, 3.5\)"):
        measure(stream(), band=(3, 3.5))
    for level in (0, 1.5):
        with pytest.raises(ValueError, match=r"level = .* must lie inside \(0, 1\)"):
            measure(stream(), level=level)


def test_the_demo_knows_its_picture_format_before_it_samples(monkeypatch, capsys):
    from spectral_pd.measuring import demo

    pytest.importorskip("matplotlib")
    monkeypatch.setattr(demo, "photographs", lambda: pytest.fail("began"))
    assert main(["demo", "--figure", "picture.xyz"]) == 1
    assert "unknown picture format" in capsys.readouterr().err


# -- bad files among good ones ----------------------------------------------------------------------------------------


def test_what_can_be_converted_is_and_the_rest_costs_a_line_each(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    x = FIELD.float()
    np.save(tmp_path / "a_good.npy", x[:8].numpy())
    np.save(tmp_path / "b_big_endian.npy", x[8:16].numpy().astype(">f4"))
    np.save(tmp_path / "c_long.npy", x[16:24].numpy().astype(np.longdouble))
    torch.save(x[24:32], tmp_path / "d_legacy.pt", _use_new_zipfile_serialization=False)
    torch.save(x[32:40].to_sparse(), tmp_path / "e_sparse.pt")
    safetensors.save_file({"x": x[40:48].to(torch.float8_e5m2)}, tmp_path / "f_float8.safetensors")
    torch.save(x[48, 0].to_sparse_csr(), tmp_path / "g_csr.pt")
    good = {p.name for p in tmp_path.iterdir()}
    bad = {
        "int16.npy": lambda p: np.save(p, np.zeros((2, 4, 32, 32), dtype=np.int16)),
        "empty.npy": lambda p: np.save(p, np.zeros((0, 4, 32, 32), dtype=np.float32)),
        "nothing.npy": lambda p: p.write_bytes(b""),
        "objects.npy": lambda p: np.save(p, np.array([{}], dtype=object), allow_pickle=True),
        "nested.pt": lambda p: torch.save(torch.nested.nested_tensor([torch.ones(2, 3), torch.ones(3, 3)]), p),
        "complex.pt": lambda p: torch.save(torch.zeros(2, 4, 32, 32, dtype=torch.complex64), p),
        "code.pt": lambda p: torch.save(Path("a"), p),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, write in bad.items():
            write(tmp_path / name)
    values, _, skipped = everything_of_one_grid(open_source(tmp_path, errors="skip"))
    expected = x[:49].clone()
    expected[40:48] = x[40:48].to(torch.float8_e5m2).float()
    assert values.shape[0] == 48 + 1
    assert torch.equal(values[:48], expected[:48])
    assert sorted(
        Path(line.split(":")[0].split(" cannot")[0].split(" has")[0].split(" is")[0]).name for line in skipped
    ) == (sorted(bad))
    assert all("\n" not in line for line in skipped)
    for name in bad:
        with pytest.raises((ValueError, TypeError), match=name):
            open_source(tmp_path / name)
    for name in good - {"g_csr.pt"}:
        assert measure(tmp_path / name, replicates=0).skipped == 0


def everything_of_one_grid(source):
    """As `everything`, planes widened to the channels of the first batch."""
    batches = [source[i] for i in range(len(source))]
    width = batches[0].values.shape[1]
    values = torch.cat([b.values.float().expand(-1, width, -1, -1) for b in batches if b.values is not None])
    return values, None, [line for b in batches for line in b.skipped]


def test_a_file_that_breaks_while_it_is_read_costs_a_line(tmp_path):
    for name in "abc":
        np.save(tmp_path / f"{name}.npy", FIELD[0].numpy())
    source = open_source(tmp_path, batch_size=3, errors="skip")
    whole = (tmp_path / "b.npy").read_bytes()
    (tmp_path / "b.npy").write_bytes(whole[:200])
    values, index, skipped = everything(source)
    assert (len(values), index.tolist(), len(skipped)) == (2, [0, 2], 1)
    assert "b.npy" in skipped[0]
    with pytest.raises(ValueError, match=r"b\.npy"):
        open_source(tmp_path, errors="raise")


@pytest.mark.parametrize(
    ("hostile", "message"),
    [
        (lambda x: x.to_sparse(), "layout torch.sparse_coo"),
        (lambda x: torch.nested.nested_tensor(list(x)), "nested"),
        (lambda x: x.to(torch.float8_e5m2), "float8"),
        (lambda x: x.to("meta"), "meta"),
    ],
)
def test_tensors_that_hold_no_plain_numbers_are_refused(hostile, message):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        x = hostile(FIELD[:4].float())
    for call in (power_spectrum, fit_spectrum, SpectrumMeter((32, 32)).update):
        with pytest.raises((TypeError, ValueError), match=message):
            call(x)


def test_a_default_device_is_no_device_of_the_data():
    with torch.device("meta"):
        law = measure(FIELD, replicates=4).law
    assert law == measure(FIELD, replicates=4).law


# -- workers ----------------------------------------------------------------------------------------------------------


class TwoArguments(Exception):
    def __init__(self, what, where):
        super().__init__(f"{what} at {where}")


class Sources(Source):
    """One batch, which is whatever `make` makes."""

    def __init__(self, make):
        self.make = make

    def __len__(self):
        return 2

    def __getitem__(self, number):
        return self.make(number)

    def identity(self):
        return {}


def fails(number):
    raise TwoArguments("no data", number)


def fails_with_a_lock(number):
    error = RuntimeError("locked")
    error.lock = __import__("threading").Lock()
    raise error


def sparse(number):
    return Batch(FIELD[:2].to_sparse(), torch.arange(2))


def with_graph(number):
    return Batch(FIELD[:2].float().requires_grad_() * 2, torch.arange(2) + 2 * number)


@pytest.mark.parametrize(
    ("make", "message"),
    [(fails, "TwoArguments: no data at 0"), (fails_with_a_lock, "locked"), (sparse, "that no worker can send")],
)
def test_workers_say_what_is_wrong(make, message):
    with pytest.raises((ValueError, TypeError, RuntimeError), match=message):
        measure(Sources(make), workers=1)


def dies(number):
    os.kill(os.getpid(), 9)


def test_a_worker_that_is_killed_ends_the_run_with_one_line(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("spectral_pd.measuring.report.open_source", lambda *_, **__: Sources(dies))
    assert main(["fit", str(tmp_path), "--workers", "1"]) == 1
    err = capsys.readouterr().err.strip().splitlines()
    assert "DataLoader worker" in err[-1]
    assert err[-1].startswith("spectral-pd fit: error:")


def test_an_encoder_with_an_error_of_its_own_says_it():
    def encoder(x):
        raise UnicodeDecodeError("utf-8", b"x", 0, 1, "no picture")

    with pytest.raises(ValueError, match=r"batch 0: .*no picture"):
        measure(FIELD, encoder=encoder)


def test_workers_send_what_has_a_graph():
    assert measure(Sources(with_graph), workers=1, replicates=0).samples == 4


# -- long axes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("basis", [DCT, FOURIER], ids=repr)
def test_long_axes_take_a_fast_transform(basis):
    """A second of sound: its matrix would have 15.6 GB."""
    import scipy.fft

    x = randn(2, 44_100, seed=1).cumsum(-1)
    c = basis.forward(x, dims=1)
    assert torch.allclose(basis.inverse(c, dims=1), x, rtol=0, atol=1e-9 * float(x.abs().max()))
    assert float(c.square().sum()) == pytest.approx(float(x.square().sum()), rel=1e-12)
    if basis is DCT:
        np.testing.assert_allclose(c, scipy.fft.dct(x.numpy(), norm="ortho"), atol=1e-8)
    table = power_spectrum(x, basis=basis, dims=1)
    assert table.frequency[-1] == 22_050
    grown = basis.embed(x[:, :11_025], (44_100,))
    assert torch.allclose(basis.forward(grown, dims=1)[:, :11_025], basis.forward(x[:, :11_025], dims=1), atol=1e-8)
    assert torch.allclose(basis.restrict(grown, (11_025,)), x[:, :11_025], atol=1e-9 * float(x.abs().max()))


@pytest.mark.parametrize("basis", [DCT, FOURIER], ids=repr)
@pytest.mark.parametrize("n", [2049, 2050, 4099])
def test_the_fast_transform_is_the_matrix(basis, n):
    x = randn(3, n, seed=2)
    c = x @ basis.matrix(n).T
    np.testing.assert_allclose(basis.forward(x, dims=1), c, atol=1e-10)
    np.testing.assert_allclose(basis.inverse(c, dims=1), x, atol=1e-10)
    short = x.float()
    error = (basis.forward(short, dims=1).double() - c).abs().max()
    assert error < 1e-5
    alone = basis.fast(short, transpose=False).double() - c  # as on a device without float64
    assert alone.abs().max() < 2e-5


# -- JSON, messages ---------------------------------------------------------------------------------------------------


def spectrum_file(path, **changes):
    power_spectrum(FIELD[:2]).save(path)
    data = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({k: v for k, v in data.items() if v != "absent"}))
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"binning": {}}, "binning = {} has no 'basis'"),
        ({"binning": [1]}, r"binning = \[1\] has no 'basis'"),
        ({"binning": {"basis": "dct", "shape": "5"}}, "binning's shape is '5'"),
        ({"shape": 5.0}, "shape is 5.0"),
        ({"shape": None}, "shape is None"),
        ({"frequency": None}, "frequency, power and count have shapes"),
        ({"power": ["a"]}, "could not convert"),
        ({"colour": "red"}, r"holds \['colour'\], which no Spectrum has"),
        ({"count": "absent"}, r"does not hold a whole Spectrum, \['count'\] missing"),
    ],
)
def test_a_bad_table_is_one_error_that_names_the_file(tmp_path, changes, message):
    path = spectrum_file(tmp_path / "table.json", **changes)
    with pytest.raises(ValueError, match=message) as caught:
        load_spectrum(path)
    assert str(path) in str(caught.value)


def test_bad_laws_and_other_encodings(tmp_path):
    path = tmp_path / "law.json"
    law = PowerLaw(50.0, 2.0, shape=(8, 8))
    law.save(path)
    good = json.loads(path.read_text())
    for changes, message in (
        ({"amplitude": None}, "amplitude is NoneType"),
        ({"amplitude": "50"}, "amplitude is '50'|amplitude is str"),
        ({"shape": 8.0}, "shape is 8.0"),
        ({"kind": "guessed"}, "kind = 'guessed' must be"),
        ({"unit": "dB"}, r"holds \['unit'\], which no PowerLaw has"),
    ):
        path.write_text(json.dumps({**good, **changes}))
        with pytest.raises(ValueError, match=message) as caught:
            PowerLaw.load(path)
        assert str(path) in str(caught.value)
    for encoding in ("utf-16", "utf-8-sig", "utf-32"):  # what some shells and editors write
        path.write_text(json.dumps(good), encoding=encoding)
        assert load_spectrum(path) == law
    path.write_bytes(b'\xff\xfe{"type"')
    with pytest.raises(ValueError, match="is not JSON"):
        PowerLaw.load(path)


def test_power_beyond_float64_is_called_that():
    big = FIELD.double()
    big[3] *= 1e200
    with pytest.raises(ValueError, match=r"samples \[3\].*leaves the range of float64; scale the data"):
        SpectrumMeter((32, 32)).update(big)
    with pytest.raises(ValueError, match=r"leaves the range of float64; scale the data"):
        measure(big)
    nan = FIELD.clone()
    nan[5, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"NaN or infinity in samples \[5\]"):
        SpectrumMeter((32, 32)).update(nan)


# -- pictures of many pictures ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".webp", ".png", ".tiff", ".gif", ".avif"])
def test_a_file_of_several_pictures_is_no_sample(tmp_path, suffix):
    path = tmp_path / f"many{suffix}"
    first, *more = [picture(24, 24, seed=i) for i in range(3)]
    try:
        first.save(path, save_all=True, append_images=more)
    except (KeyError, OSError, ValueError) as error:
        pytest.skip(f"pillow here does not write {suffix}: {error}")
    first.save(tmp_path / "one.png")
    with pytest.raises(ValueError, match=r"many.*one of 3 pictures in its file; store them one a file"):
        everything(Images([path]))
    values, _, skipped = everything(open_source(tmp_path, errors="skip"))
    assert values.shape[0] == 1
    assert len(skipped) == 1
    with Image.open(path) as opened, pytest.raises(ValueError, match="one of 3 pictures"):
        measure([opened])


def test_kinds_of_pictures_people_have(tmp_path):
    picture(24, 24, seed=1).save(tmp_path / "a.gif")
    picture(24, 24, seed=2).save(tmp_path / "b.jfif", format="JPEG")
    picture(24, 24, seed=3).save(tmp_path / "c.JPE", format="JPEG")
    if Image.registered_extensions().get(".avif"):
        picture(24, 24, seed=4).save(tmp_path / "d.avif")
    (tmp_path / "e.heic").write_bytes(b"....ftypheic")
    found = [p.name for p in find_files([tmp_path])[0]]
    assert found == sorted(p.name for p in tmp_path.iterdir())
    values, _, skipped = everything(open_source(tmp_path, errors="skip"))
    assert values.shape[0] == len(found) - 1
    assert "e.heic" in skipped[0]
    assert len(skipped) == 1


def test_a_phone_s_photograph_with_previews_is_a_photograph(tmp_path):
    photo = picture(24, 24)
    photo.save(tmp_path / "phone.jpg", format="MPO", save_all=True, append_images=[picture(24, 24, seed=1)])
    assert measure(tmp_path, replicates=0).samples == 1


def test_theory_keeps_masks_it_cannot_use():
    """Formulas act on every element alone, so a mask stays a mask there."""
    masked = np.ma.array([0.25, 0.5], mask=[False, True])
    assert snr(masked, 4.0).mask.tolist() == [False, True]
