"""Where data come from: folders of pictures, stored latents, videos, data sets, loaders.

Everything becomes a stream of :class:`Batch`, samples with their global numbers. Sources with a known length
(:class:`Images`, :class:`Arrays`, :class:`Videos`, :class:`Items`) are cut into batches once, by number, so that any process
can read any batch: that is what workers, ``torchrun`` and resuming need. Iterables are read in order.

Pictures are scaled to [-1, 1]. Their grid is a policy, never a guess: ``fit="resize"`` centre-crops to the wanted aspect and
shrinks by Lanczos; ``fit="crop"`` cuts the centre at the stored resolution; without a size all must agree. Nothing is
enlarged: an enlarged picture has an empty high band, which would be measured as if it were data. Stored latents are
never resized. One file is one picture, one video, or the samples of one array; each is counted once.
"""

from __future__ import annotations

import bisect
import hashlib
import os
import zipfile
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spectral_pd import inputs
from spectral_pd.fit import as_batch, batching
from spectral_pd.inputs import spectra, storage
from spectral_pd.measuring.options import Options, chosen

IMAGES = frozenset(
    {".avif", ".heic", ".heif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".webp"}
    | {".apng", ".bmp", ".gif", ".pgm", ".png", ".ppm", ".tif", ".tiff"}
)
ARRAYS = frozenset({".npy", ".npz", ".pt", ".pth", ".safetensors"})
VIDEOS = frozenset({".avi", ".m4v", ".mkv", ".mov", ".mp4", ".webm"})
NOT_TO_SKIP = (ModuleNotFoundError, MemoryError)  # true of every sample


@dataclass(frozen=True)
class Batch:
    """Samples and their places in the whole data set.

    Attributes
    ----------
    values
        (samples, channels, ..., *grid); None when nothing in the batch could be read.
    index
        int64 (samples,): global numbers, equal for samples that are not independent.
    skipped
        One line for each sample left out, with the reason.
    """

    values: Tensor | None
    index: Tensor
    skipped: tuple[str, ...] = ()


class Source(ABC):
    """Data that any process can read by batch number. Subclass it to bring a format of your own.

    Attributes
    ----------
    notes
        What was left out before there were samples, for the report.
    """

    notes: tuple[str, ...] = ()

    @abstractmethod
    def __len__(self) -> int:
        """Number of batches."""

    @abstractmethod
    def __getitem__(self, number: int) -> Batch:
        """Batch `number`, the same whenever and wherever it is read."""

    def identity(self) -> dict[str, str]:
        """What a checkpoint keeps to know its data again: here the contents of the first, the middle and the last batch."""
        seen = hashlib.sha256(str(len(self)).encode())
        for number in sorted({0, len(self) // 2, len(self) - 1} & set(range(len(self)))):
            seen.update(content(self[number]))
        return {"data": seen.hexdigest()[:16]}


def some_numbers(x: Tensor, count: int) -> bytes:
    """At least `count` numbers of a tensor (all, where it has fewer), evenly taken: other data have others."""
    flat = x.detach().flatten()
    return flat[:: max(1, flat.numel() // count)].to(device="cpu", dtype=torch.float64).numpy().tobytes()


def content(batch: Batch) -> bytes:
    """A batch's shape, sample numbers and some of what it holds."""
    if batch.values is None:
        return b"empty"
    return f"{tuple(batch.values.shape)} {batch.index.tolist()}".encode() + some_numbers(batch.values, 4096)


def reason(error: BaseException) -> str:
    """An exception in one line: decoders bring their logs along."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:297] + "..."


def plain(error: Exception, name: str = "") -> Exception:
    """`error` with what it is about, in one line. Decoders raise anything up to SyntaxError: what is no TypeError or OSError,
    and so nothing a caller expects from bad data, becomes ValueError."""
    kind = next((kind for kind in (TypeError, OSError) if isinstance(error, kind)), ValueError)
    text = reason(error)
    return kind(text if not name or text.startswith(name) else f"{name}: {text}")


@contextmanager
def _skipping(name: str, errors: str, lines: list[str]) -> Iterator[None]:
    """What cannot be read inside gets a line in `lines`, or is raised with its name, as `errors` says."""
    try:
        yield
    except NOT_TO_SKIP:
        raise
    except Exception as error:
        if errors == "raise":
            raise plain(error, name) from error
        lines.append(f"{name}: {reason(error)}")


def _batch(values: Tensor | None, names: Mapping[int, str], errors: str, skipped: Sequence[str] = ()) -> Batch:
    """Samples by number, with their names; those that hold NaN or infinity are left out or refused, as `errors` says."""
    index = torch.tensor(list(names), dtype=torch.int64, device="cpu")
    # NaN and infinity reach the sum, so that one pass over sound data is enough (half precision would overflow).
    if values is None or torch.isfinite(values.sum(dtype=torch.float32 if values.dtype.itemsize < 4 else None)):
        return Batch(values, index, tuple(skipped))
    finite = torch.isfinite(values).flatten(1).all(1).cpu()
    lines = [f"{name}: NaN or infinity" for name, good in zip(names.values(), finite, strict=True) if not good]
    if lines and errors == "raise":
        raise ValueError(f"{lines[0]}; clean the data, or skip such samples (errors='skip')")
    kept = values[finite.to(values.device)]
    return Batch(kept if len(kept) else None, index[finite], (*skipped, *lines))


# -- files ------------------------------------------------------------------------------------------------------------


def find_files(paths: Sequence[str | Path]) -> tuple[list[Path], tuple[str, ...]]:
    """The files named, folders replaced by every known file in and below them, in name order, and what was left out.

    In folders hidden names (``.thumbs``, ``._photo.jpg``) are left out, and other kinds of files; everywhere a file that was
    found before under another name: by its path, a folder, a link. FileNotFoundError for a path that does not exist,
    ValueError where a file of unknown kind is named, or nothing known found.
    """
    known = IMAGES | ARRAYS | VIDEOS
    files: dict[tuple[int, int], Path] = {}
    left: Counter[str] = Counter()
    for path in map(Path, paths):
        if not path.exists():
            raise FileNotFoundError(f"no such file or folder: {path}")
        for file in sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]:
            if file != path and any(part.startswith(".") for part in file.relative_to(path).parts):
                left["hidden"] += 1
            elif file.suffix.lower() not in known:
                if file == path:
                    raise ValueError(f"{path}: unknown kind {path.suffix!r}; known: {' '.join(sorted(known))}")
                left[f"of kind {file.suffix!r}"] += 1
            else:
                place = file.stat()
                if files.setdefault((place.st_dev, place.st_ino), file) is not file:
                    left["named twice"] += 1
    notes = tuple(f"{n} {'file' if n == 1 else 'files'} left out: {what}" for what, n in sorted(left.items()))
    if not files:
        looked = f"no files of a known kind in {', '.join(map(str, paths))}; known: {' '.join(sorted(known))}"
        raise ValueError("; ".join((looked, *notes)))
    return list(files.values()), notes


def files_identity(files: Sequence[Path]) -> dict[str, str]:
    """Names, sizes, times of change, and a sample of the contents of files."""
    seen = hashlib.sha256()
    for path in files:
        place = path.stat()
        seen.update(os.fsencode(path) + f" {place.st_size} {place.st_mtime_ns}".encode())
        with path.open("rb") as file:
            for start in sorted({0, place.st_size // 2, max(0, place.st_size - 4096)}):
                file.seek(start)
                seen.update(file.read(4096))
    return {"files": seen.hexdigest()[:16]}


INHERITED: list[Any] = []
"""What a forked process never closes: closing a decoder waits for its threads, which a fork does not have."""


class _Open:
    """The one thing a source keeps open. It belongs to a process: a fork shares a file's position, a pickle has no file."""

    def __init__(self) -> None:
        self.held: tuple[Any, Any] = (None, None)

    def get(self, key: Any, make: Callable[[], Any]) -> Any:
        if self.held[0] != (os.getpid(), key):
            if self.held[0] is not None and self.held[0][0] != os.getpid():
                INHERITED.append(self.held)
            self.held = ((os.getpid(), key), make())
        return self.held[1]

    def __getstate__(self) -> dict[str, Any]:
        return {"held": (None, None)}


# -- samples ----------------------------------------------------------------------------------------------------------


def picture_tensor(image: Any, size: tuple[int, int] | None = None, *, fit: str = "resize") -> Tensor:
    """A PIL image as (3, H, W) float32 in [-1, 1]; greyscale fills all three channels, transparency is dropped.

    16-bit greyscale keeps its depth. `size` is the wanted (height, width), None the stored one; `fit` is ``"resize"`` or
    ``"crop"``, see the module's text. ValueError where the picture is smaller.
    """
    from PIL import Image, ImageOps

    inputs.choice("resize", "crop")(fit, "fit")
    storage.picture(image)
    image = ImageOps.exif_transpose(image)
    deep = image.mode.startswith("I;16")
    image = image.convert("F" if deep else "RGB")
    if size is not None:
        height, width = size
        if image.height < height or image.width < width:
            small = f"{image.height}x{image.width} is smaller than the wanted {height}x{width}"
            raise ValueError(f"{small}; pictures are never enlarged")
        factor = min(image.height / height, image.width / width) if fit == "resize" else 1.0
        crop_h, crop_w = (min(n, round(factor * m)) for n, m in ((image.height, height), (image.width, width)))
        top, left = (image.height - crop_h) // 2, (image.width - crop_w) // 2
        image = image.crop((left, top, left + crop_w, top + crop_h))
        if image.size != (width, height):
            image = image.resize((width, height), Image.Resampling.LANCZOS)
    values = torch.from_numpy(np.array(image, dtype=np.float32)) / (32767.5 if deep else 127.5) - 1
    return values.expand(3, -1, -1).clone() if values.ndim == 2 else values.permute(2, 0, 1).contiguous()


def real_tensor(value: Any, name: str) -> Tensor:
    """Stored numbers as a real floating tensor one can calculate with: dense, in the machine's byte order, not 8 bits short.
    TypeError for what is no numbers at all."""
    if isinstance(spectra.unmasked(value, name), Tensor):
        tensor = value.dequantize() if value.is_quantized else value
        tensor = tensor if tensor.layout is torch.strided else tensor.to_dense()
    else:
        try:
            array = np.asarray(value)
            longer = array.dtype.kind == "f" and array.dtype.itemsize > 8
            native = np.dtype(np.float64) if longer else array.dtype.newbyteorder("=")
            tensor = torch.from_numpy(np.ascontiguousarray(array, dtype=native))
        except TypeError as error:
            raise TypeError(f"{name} is {type(value).__name__}: {error}; pass tensors, arrays or images") from None
    storage.real(tensor, name)
    return tensor.float() if tensor.dtype.itemsize == 1 else tensor


def sample_tensor(value: Any, options: Options) -> Tensor:
    """One element of a data set, whatever it was wrapped in: a tensor, an array or a picture, a pair that begins with one, a
    dict with one under `column`."""
    if isinstance(value, dict):
        names = [options.column] if options.column else ["image", "pixel_values", "latents", "latent", "img"]
        value = storage.first_field(value, names)
    value = storage.entry(value, "a sample")
    if hasattr(value, "getexif"):
        return picture_tensor(value, options.size, fit=options.fit)
    tensor = real_tensor(value, "a sample")
    storage.at_least_planes(tuple(tensor.shape), "a sample")
    return tensor


class Items(Source):
    """A map-style data set: anything with ``len`` and ``[]`` that gives one sample at a time.

    A torch or Hugging Face data set, for instance. A sample is a tensor or array (C, ..., H, W) or (H, W), a PIL image, a tuple
    or list that begins with one, or a dict with it under `column`. Options here and below are the fields of
    :class:`~spectral_pd.measuring.options.Options`, as keywords.
    """

    @chosen
    def __init__(self, data: Any, *, options: Options) -> None:
        self.data, self.options = data, options

    @property
    def samples(self) -> int:
        """How many numbers its samples take."""
        return len(self.data)

    def __len__(self) -> int:
        return -(-self.samples // self.options.batch_size)

    def name(self, i: int) -> str:
        """What sample `i` is called in messages."""
        return f"sample {i}"

    def sample(self, i: int) -> Tensor:
        """Sample `i`, (C, ..., H, W)."""
        x = sample_tensor(self.data[i], self.options)
        return x[None] if x.ndim == 2 else x

    def __getitem__(self, number: int) -> Batch:
        size, errors = self.options.batch_size, self.options.errors
        tensors: dict[int, Tensor] = {}
        skipped: list[str] = []
        for i in range(storage.place(number, len(self)) * size, min((number + 1) * size, self.samples)):
            with _skipping(self.name(i), errors, skipped):
                tensors[i] = self.sample(i)
        storage.one_shape({self.name(i): tuple(x.shape) for i, x in tensors.items()})
        values = torch.stack(list(tensors.values())) if tensors else None
        return _batch(values, {i: self.name(i) for i in tensors}, errors, skipped)


class Images(Items):
    """Picture files, one sample each; `files` and options as :class:`Items`."""

    def name(self, i: int) -> str:
        return str(self.data[i])

    def sample(self, i: int) -> Tensor:
        try:
            from PIL import Image, UnidentifiedImageError
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError("reading pictures needs pillow: pip install 'spectral_pd[data]'") from error
        path = self.data[i]
        if path.suffix.lower() in (".heic", ".heif"):
            try:
                import pillow_heif
            except ModuleNotFoundError as error:  # of this file, not of every one: others may be JPEG
                raise ValueError("reading HEIC needs pillow-heif: pip install pillow-heif") from error
            pillow_heif.register_heif_opener()
        try:
            with Image.open(path) as image:
                return picture_tensor(image, self.options.size, fit=self.options.fit)
        except UnidentifiedImageError:
            raise ValueError("no picture that pillow knows") from None

    def identity(self) -> dict[str, str]:
        return files_identity(self.data)


# -- stored latents ---------------------------------------------------------------------------------------------------


def open_array(path: Path) -> Any:
    """One stored array with ``shape`` and ``[a:b]``, read from disk as it is sliced where the format allows.

    ``.npy`` is memory-mapped; ``.safetensors`` is read by slices; ``.pt`` is memory-mapped (tensors only, nothing is
    unpickled), in its legacy format read whole; ``.npz`` is read whole. ValueError or TypeError for a file without or with
    more than one array, or a damaged one.
    """
    suffix = path.suffix.lower()
    try:
        if suffix == ".npy":
            return np.load(path, mmap_mode="r", allow_pickle=False)
        if suffix == ".npz":
            with np.load(path, allow_pickle=False) as stored:
                return stored[storage.only(stored.files)]
        if suffix == ".safetensors":
            return _open_safetensors(path)
        # A name that is no text in this system's encoding has to be opened by Python.
        mapped = zipfile.is_zipfile(path) and _is_text(path)
        value = torch.load(path if mapped else path.open("rb"), map_location="cpu", weights_only=True, mmap=mapped)
        if isinstance(value, dict):
            tensors = {name: v for name, v in value.items() if isinstance(v, Tensor)}
            value = tensors[storage.only(list(tensors))]
        if not isinstance(value, Tensor):
            raise TypeError(f"holds a {type(value).__name__}; save one tensor")
        return real_tensor(value, "the tensor")
    except NOT_TO_SKIP:
        raise
    except Exception as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"{path} cannot be read: {reason(error)}") from None


def _is_text(path: Path) -> bool:
    return not any("\udc80" <= character <= "\udcff" for character in str(path))


def _open_safetensors(path: Path) -> Any:
    try:
        from safetensors import safe_open
        from safetensors.torch import load
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"reading {path} needs safetensors: pip install safetensors") from error
    if not _is_text(path):
        tensors = load(path.read_bytes())
        return tensors[storage.only(list(tensors))]
    handle = safe_open(path, framework="pt")
    return _Slice(handle.get_slice(storage.only(list(handle.keys()))))


class _Slice:
    """A tensor inside a safetensors file; only the rows asked for are read."""

    def __init__(self, stored: Any) -> None:
        self.stored = stored
        self.shape = tuple(stored.get_shape())

    def __getitem__(self, rows: Any) -> Tensor:
        return self.stored[rows]


class Arrays(Source):
    """Stored latents: each file holds samples (N, C, ..., H, W), one sample (C, H, W), or one plane (H, W).

    `files` are ``.npy``, ``.npz``, ``.pt`` and ``.safetensors`` files with one array each, all of one grid. Those of one sample
    share batches.
    """

    @chosen
    def __init__(self, files: Sequence[Path], *, options: Options) -> None:
        self.files, self.options = files, options
        self.samples = 0
        self.broken: list[str] = []
        # Each batch: parts (file, first row, last row; no rows for a file that is one sample) and its first sample's number.
        self._batches: list[tuple[list[tuple[Path, int | None, int]], int]] = []
        self._open = _Open()
        shared: tuple[int, ...] | None = None  # shape of the single samples the last batch collects
        for path in files:
            try:
                stored = open_array(path)
                shape = tuple(stored.shape)
                storage.at_least_planes(shape, str(path))
                real_tensor(np.array(stored[:0]) if isinstance(stored, np.ndarray) else stored[:0], str(path))
            except (ValueError, TypeError) as error:
                if options.errors == "raise":
                    raise
                self.broken.append(reason(error))
                continue
            if len(shape) <= 3 or (options.frames and len(shape) == 4):
                if shape == shared and len(self._batches[-1][0]) < options.batch_size:
                    self._batches[-1][0].append((path, None, 1))
                else:
                    self._batches.append(([(path, None, 1)], self.samples))
                shared = shape
                self.samples += 1
                continue
            shared = None
            for start in range(0, shape[0], options.batch_size):
                part = (path, start, min(start + options.batch_size, shape[0]))
                self._batches.append(([part], self.samples + start))
            self.samples += shape[0]

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, number: int) -> Batch:
        parts, first = self._batches[storage.place(number, len(self))]
        tensors: list[Tensor] = []
        names: dict[int, str] = {}
        skipped = self.broken[:] if number == 0 else []
        for path, start, stop in parts:
            called = [str(path)] if start is None else [f"{path}: sample {row}" for row in range(start, stop)]
            with _skipping(str(path), self.options.errors, skipped):
                tensors.append(self._read(path, start, stop))
                names |= enumerate(called, first)
            first += len(called)
        return _batch(torch.cat(tensors) if tensors else None, names, self.options.errors, skipped)

    def _read(self, path: Path, start: int | None, stop: int) -> Tensor:
        """Rows of a file, or the whole of it as one sample: (N, C, ..., H, W)."""
        stored = self._open.get(path, lambda: open_array(path))
        value = stored[:] if start is None else stored[start:stop]
        tensor = real_tensor(np.array(value) if isinstance(value, np.ndarray) else value, str(path))
        if start is not None:
            return tensor
        return tensor[None] if tensor.ndim > 2 else tensor[None, None]

    def identity(self) -> dict[str, str]:
        return files_identity(self.files)


# -- video ------------------------------------------------------------------------------------------------------------


class Videos(Source):
    """Clips of video files: every stored frame once, whatever times they are shown at (PyAV, ``pip install av``).

    A batch is one clip of consecutive frames, (1, 3, frames, H, W): one sample, so that the bootstrap resamples clips.
    Neighbouring frames repeat each other, and counting them as independent would make intervals far too narrow. `clip` is
    the frames a clip has; the last one of a file may have fewer.
    """

    @chosen
    def __init__(self, files: Sequence[Path], *, options: Options) -> None:
        self.options = options
        self.files: list[Path] = []
        self.broken: list[str] = []
        self._counts: list[int] = []
        self._open = _Open()
        for path in files:
            try:
                self._counts.append(count_frames(path))
                self.files.append(path)
            except ValueError as error:
                if options.errors == "raise":
                    raise
                self.broken.append(reason(error))
        self._first = [0, *accumulate(-(-frames // options.clip) for frames in self._counts)]
        self.samples = self._first[-1]

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, number: int) -> Batch:
        skipped = self.broken[:] if storage.place(number, len(self)) == 0 else []
        f = bisect.bisect_right(self._first, number) - 1
        start = (number - self._first[f]) * self.options.clip
        stop = min(start + self.options.clip, self._counts[f])
        name = f"{self.files[f]}: frames {start} to {start + self.options.clip - 1}"
        frames: list[Tensor] = []
        with _skipping(name, self.options.errors, skipped):
            try:
                frames = self._frames(f, start, stop)
            except Exception:
                self._open = _Open()  # a decoder that failed is not asked again
                raise
        clip = torch.stack(frames, 1)[None] if frames else None
        return _batch(clip, {number: name} if frames else {}, self.options.errors, skipped)

    def _frames(self, f: int, start: int, stop: int) -> list[Tensor]:
        """Frames `start` to `stop` of file `f`, each (3, H, W)."""
        from PIL import Image

        # Frames come in order: go on with the running decoder, or begin again when asked for an earlier clip.
        running = self._open.get(f, lambda: _Decoder(self.files[f]))
        if running.reached > start:
            self._open = _Open()
            running = self._open.get(f, lambda: _Decoder(self.files[f]))
        pictures = []
        for frame in running.frames:
            running.reached += 1
            if running.reached > start:
                pictures.append(picture_tensor(Image.fromarray(frame), self.options.size, fit=self.options.fit))
            if running.reached == stop:
                break
        over = stop == self._counts[f] and next(running.frames, None) is not None
        if over or running.reached < stop:
            found = "more" if over else running.reached
            raise ValueError(f"{found} frames can be decoded, but {self._counts[f]} are stored")
        return pictures

    def identity(self) -> dict[str, str]:
        return files_identity(self.files)


class _Decoder:
    def __init__(self, path: Path) -> None:
        self.frames, self.reached = decode(path), 0


def _video(path: Path) -> Any:
    """The container of a video, opened."""
    try:
        import av
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("reading videos needs PyAV: pip install av") from error
    try:
        container = av.open(str(path) if _is_text(path) else path.open("rb"))
        return container, container.streams.video[0]
    except (av.error.FFmpegError, OSError, IndexError) as error:
        raise ValueError(f"{path} cannot be decoded: {reason(error)}") from None


def count_frames(path: Path) -> int:
    """Number of frames a video stores, from its packets. ValueError when there are none."""
    container, stream = _video(path)
    with container, spectra.naming(f"{path} cannot be decoded"):
        frames = sum(bool(packet.size) and not packet.is_discard for packet in container.demux(stream))
    if frames < 1:
        raise ValueError(f"{path} has no frames")
    return frames


def decode(path: Path) -> Iterator[np.ndarray]:
    """The frames of a video as they are stored, each once and in order, turned upright, uint8 (H, W, 3)."""
    container, stream = _video(path)
    stream.thread_type = "AUTO"
    with container:
        for frame in container.decode(stream):
            yield np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90)))


# -- any of these -----------------------------------------------------------------------------------------------------


class Chain(Source):
    """Several sources one after the other, with samples numbered through: `samples` are the numbers each of them takes.

    `skipped` has lines for what was left out before there were batches, which the first batch brings; `notes` is as in
    :class:`Source`.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        samples: Sequence[int],
        *,
        skipped: Sequence[str] = (),
        notes: Sequence[str] = (),
    ) -> None:
        self.sources, self.skipped, self.notes = list(sources), tuple(skipped), tuple(notes)
        self._first = [0, *accumulate(len(source) for source in sources)]
        self._offset = [0, *accumulate(samples)]

    def __len__(self) -> int:
        return self._first[-1]

    def __getitem__(self, number: int) -> Batch:
        s = bisect.bisect_right(self._first, storage.place(number, len(self))) - 1
        batch = self.sources[s][number - self._first[s]]
        early = self.skipped if number == 0 else ()
        return replace(batch, index=batch.index + self._offset[s], skipped=early + batch.skipped)

    def identity(self) -> dict[str, str]:
        parts = [source.identity() for source in self.sources]
        return {name: " ".join(part[name] for part in parts if name in part) for name in set().union(*parts)}


@chosen
def open_files(paths: Sequence[str | Path], *, options: Options) -> Source:
    """Files and folders (searched to the bottom) of pictures, stored latents and videos as one source; ValueError where none
    of them can be read."""
    files, notes = find_files(paths)
    kinds: dict[type[Images | Arrays | Videos], frozenset[str]] = {Images: IMAGES, Arrays: ARRAYS, Videos: VIDEOS}
    named = {kind: [f for f in files if f.suffix.lower() in suffixes] for kind, suffixes in kinds.items()}
    storage.no_size_for_arrays(options.size, named[Arrays])
    opened = [kind(own, options=options) for kind, own in named.items() if own]
    # A source whose every file is broken has no batch that could bring the lines.
    lines = [line for source in opened if not len(source) for line in getattr(source, "broken", ())]
    sources = [source for source in opened if len(source)]
    if not sources:
        raise ValueError("nothing could be read: " + "; ".join(lines))
    return Chain(sources, [source.samples for source in sources], skipped=lines, notes=notes)


@chosen
def iterate(data: Any, *, options: Options) -> Iterator[Batch]:
    """Any iterable of tensors, of (tensor, label) batches or of dicts, in order, samples numbered as they come.

    A tensor of rank 4 or more is a batch (N, C, ..., H, W), or with ``frames=True`` one clip (C, T, H, W); of rank 3 one sample
    (C, H, W), except from a ``torch.utils.data.DataLoader`` that batches, where it is (N, H, W); of rank 2 one plane.
    """
    first = 0
    for element in storage.source(data, "source"):
        x = sample_tensor(element, options)
        values = x[None] if options.frames and x.ndim == 4 else as_batch(x, batched=batching(data))
        yield _batch(values, {i: f"sample {i}" for i in range(first, first + len(values))}, options.errors)
        first += len(values)


@chosen
def open_source(data: Any, *, options: Options) -> Source | Iterator[Batch]:
    """Whatever holds data as a source: paths, a map-style data set, a tensor, a loader, any iterable.

    Parameters
    ----------
    data
        A path or a list of paths; a :class:`Source`; a data set with ``len`` and ``[]`` (torch, Hugging Face); a tensor or
        numpy array (N, C, ..., H, W), (C, H, W) or (H, W); a ``DataLoader``; an iterable as for :func:`iterate`.
    options
        Fields of :class:`~spectral_pd.measuring.options.Options`, as keywords.
    """
    if isinstance(data, (str, Path)):
        data = [data]
    if isinstance(data, (list, tuple)) and data and all(isinstance(d, (str, Path)) for d in data):
        return open_files(data, options=options)
    if isinstance(data, Source):
        return data
    storage.no_mapping(data, "source")
    if isinstance(data, (Tensor, np.ndarray)):
        x = real_tensor(data, "source")
        data = x.split(options.batch_size) if x.ndim > 3 and not (options.frames and x.ndim == 4) else [x]
    # IterableDataset inherits a [] that only raises.
    ordered = isinstance(data, (list, tuple, torch.utils.data.DataLoader, torch.utils.data.IterableDataset))
    if ordered or not (hasattr(data, "__getitem__") and hasattr(data, "__len__")):
        return iterate(data, options=options)
    return Items(data, options=options)
