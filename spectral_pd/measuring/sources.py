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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spectral_pd import inputs
from spectral_pd.fit import as_batch, batching
from spectral_pd.measuring.options import Options, chosen

IMAGES = frozenset(
    {
        ".apng",
        ".avif",
        ".bmp",
        ".gif",
        ".heic",
        ".heif",
        ".jfif",
        ".jp2",
        ".jpe",
        ".jpeg",
        ".jpg",
        ".pgm",
        ".png",
        ".ppm",
    }
    | {".tif", ".tiff", ".webp"}
)
ARRAYS = frozenset({".npy", ".npz", ".pt", ".pth", ".safetensors"})
VIDEOS = frozenset({".avi", ".m4v", ".mkv", ".mov", ".mp4", ".webm"})
NOT_TO_SKIP = (ModuleNotFoundError, MemoryError)
"""True of every sample."""


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


def content(batch: Batch) -> bytes:
    """A sample of a batch's numbers: other data have another one."""
    if batch.values is None:
        return b"empty"
    flat = batch.values.detach().flatten()
    taken = flat[:: max(1, flat.numel() // 4096)].to(device="cpu", dtype=torch.float64)
    return f"{tuple(batch.values.shape)} {batch.index.tolist()}".encode() + taken.numpy().tobytes()


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


def _finite(batch: Batch, name: Callable[[int], str], errors: str) -> Batch:
    """`batch` without the samples that hold NaN or infinity, or a ValueError that names the first, as `errors` says."""
    values = batch.values
    if values is None:
        return batch
    # NaN and infinity reach the sum, so that one pass over sound data is enough (half precision would overflow).
    if bool(torch.isfinite(values.sum(dtype=torch.float32 if values.dtype.itemsize < 4 else None))):
        return batch
    finite = torch.isfinite(values).flatten(1).all(1)
    lines = tuple(f"{name(place)}: NaN or infinity" for place in (~finite).nonzero().flatten().tolist())
    if lines and errors == "raise":
        raise ValueError(f"{lines[0]}; clean the data, or skip such samples (errors='skip')")
    kept = values[finite]
    return Batch(kept if len(kept) else None, batch.index[finite.cpu()], batch.skipped + lines)


# -- files ------------------------------------------------------------------------------------------------------------


def find_files(paths: Sequence[str | Path]) -> tuple[list[Path], tuple[str, ...]]:
    """The files named, folders replaced by every known file in and below them, in name order, and what was left out.

    In folders hidden names (``.thumbs``, ``._photo.jpg``) are left out, and other kinds of files; everywhere a file that was
    found before under another name: by its path, a folder, a link.

    Raises
    ------
    FileNotFoundError
        A path that does not exist.
    ValueError
        A file of unknown kind was named, or nothing known was found.
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
    notes = tuple(
        f"{count} {'file' if count == 1 else 'files'} left out: {what}" for what, count in sorted(left.items())
    )
    if not files:
        found = "".join(f"; {note}" for note in notes)
        raise ValueError(
            f"no files of a known kind in {', '.join(map(str, paths))}; known: {' '.join(sorted(known))}{found}"
        )
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


class _Open:
    """The one thing a source keeps open. It belongs to a process: a fork shares a file's position, a pickle has no file."""

    def __init__(self) -> None:
        self.held: tuple[Any, Any] = (None, None)

    def get(self, key: Any, make: Callable[[], Any]) -> Any:
        if self.held[0] != (os.getpid(), key):
            self.held = ((os.getpid(), key), make())
        return self.held[1]

    def __getstate__(self) -> dict[str, Any]:
        return {"held": (None, None)}


# -- samples ----------------------------------------------------------------------------------------------------------


def picture_tensor(image: Any, size: tuple[int, int] | None = None, *, fit: str = "resize") -> Tensor:
    """A PIL image as (3, H, W) float32 in [-1, 1]; greyscale fills all three channels, transparency is dropped.

    Parameters
    ----------
    image
        ``PIL.Image.Image``; 16-bit greyscale keeps its depth.
    size
        Wanted (height, width); None keeps the stored one.
    fit
        ``"resize"`` or ``"crop"``, see the module's text.

    Raises
    ------
    ValueError
        The picture is smaller than `size`, one of several in its file, or holds 32-bit numbers (whose range is unknown).
    """
    from PIL import Image, ImageOps

    inputs.choice("resize", "crop")(fit, "fit")
    inputs.picture(image)
    image = ImageOps.exif_transpose(image)
    deep = image.mode.startswith("I;16")
    image = image.convert("F" if deep else "RGB")
    if size is not None:
        height, width = size
        if image.height < height or image.width < width:
            raise ValueError(
                f"{image.height}x{image.width} is smaller than the wanted {height}x{width}; pictures are never enlarged"
            )
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

    Raises
    ------
    TypeError
        Whole or complex numbers, a mask, nested or no numbers at all.
    """
    if isinstance(inputs.unmasked(value, name), Tensor):
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
    inputs.real(tensor, name)
    return tensor.float() if tensor.dtype.itemsize == 1 else tensor


def sample_tensor(value: Any, options: Options) -> Tensor:
    """One element of a data set, whatever it was wrapped in: a tensor, an array or a picture, a pair that begins with one, a
    dict with one under `column`.

    Raises
    ------
    TypeError
        Nothing in it is a tensor, an array or an image, or it has whole numbers.
    ValueError
        Two of its entries could be meant, a rank below 2; as :func:`picture_tensor`.
    """
    if isinstance(value, dict):
        names = [options.column] if options.column else ["image", "pixel_values", "latents", "latent", "img"]
        value = inputs.first_field(value, names)
    value = inputs.measured_entry(value, "a sample")
    if hasattr(value, "getexif"):
        return picture_tensor(value, options.size, fit=options.fit)
    tensor = real_tensor(value, "a sample")
    inputs.at_least_planes(tuple(tensor.shape), "a sample")
    return tensor


class Items(Source):
    """A map-style data set: anything with ``len`` and ``[]`` that gives one sample at a time.

    A torch or Hugging Face data set, for instance. A sample is a tensor or array (C, ..., H, W) or (H, W), a PIL image, a tuple
    or list that begins with one, or a dict with it under `column`.

    Parameters
    ----------
    data
        The data set.
    options
        Fields of :class:`~spectral_pd.measuring.options.Options`, as keywords.
    """

    @chosen
    def __init__(self, data: Any, *, options: Options) -> None:
        self.data, self.options = data, options

    def __len__(self) -> int:
        return -(-len(self.data) // self.options.batch_size)

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
        skipped = []
        for i in range(inputs.place(number, len(self)) * size, min((number + 1) * size, len(self.data))):
            try:
                tensors[i] = self.sample(i)
            except NOT_TO_SKIP:
                raise
            except Exception as error:
                if errors == "raise":
                    raise plain(error, self.name(i)) from error
                skipped.append(f"{self.name(i)}: {reason(error)}")
        kept = list(tensors)
        inputs.one_shape({self.name(i): tuple(x.shape) for i, x in tensors.items()})
        values = torch.stack(list(tensors.values())) if tensors else None
        batch = Batch(values, torch.tensor(kept, dtype=torch.int64), tuple(skipped))
        return _finite(batch, lambda place: self.name(kept[place]), errors)


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
    unpickled), in its legacy format read whole; ``.npz`` is read whole.

    Raises
    ------
    ValueError, TypeError
        More than one array in the file, no array, or a damaged file.
    """
    suffix = path.suffix.lower()
    try:
        if suffix == ".npy":
            return np.load(path, mmap_mode="r", allow_pickle=False)
        if suffix == ".npz":
            with np.load(path, allow_pickle=False) as stored:
                return stored[inputs.only(stored.files)]
        if suffix == ".safetensors":
            return _open_safetensors(path)
        # A name that is no text in this system's encoding has to be opened by Python.
        mapped = zipfile.is_zipfile(path) and _is_text(path)
        value = torch.load(path if mapped else path.open("rb"), map_location="cpu", weights_only=True, mmap=mapped)
        if isinstance(value, dict):
            tensors = {name: v for name, v in value.items() if isinstance(v, Tensor)}
            value = tensors[inputs.only(list(tensors))]
        if not isinstance(value, Tensor):
            raise TypeError(f"holds a {type(value).__name__}; save one tensor")
        return real_tensor(value, "the tensor")
    except NOT_TO_SKIP:
        raise
    except TypeError as error:
        raise TypeError(f"{path} cannot be read: {reason(error)}") from None
    except Exception as error:
        raise ValueError(f"{path} cannot be read: {reason(error)}") from None


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
        return tensors[inputs.only(list(tensors))]
    handle = safe_open(path, framework="pt")
    return _Slice(handle.get_slice(inputs.only(list(handle.keys()))))


class _Slice:
    """A tensor inside a safetensors file; only the rows asked for are read."""

    def __init__(self, stored: Any) -> None:
        self.stored = stored
        self.shape = tuple(stored.get_shape())

    def __getitem__(self, rows: Any) -> Tensor:
        return self.stored[rows]


class Arrays(Source):
    """Stored latents: each file holds samples (N, C, ..., H, W), one sample (C, H, W), or one plane (H, W).

    Parameters
    ----------
    files
        ``.npy``, ``.npz``, ``.pt`` and ``.safetensors`` files with one array each; all of one grid.
    options
        Fields of :class:`~spectral_pd.measuring.options.Options`, as keywords. Files of one sample share batches.

    Raises
    ------
    ValueError, TypeError
        A file that cannot be read (unless skipped), of whole numbers, of no sample, or of a rank below 2.
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
                inputs.at_least_planes(shape, str(path))
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
                stop = min(start + options.batch_size, shape[0])
                self._batches.append(([(path, start, stop)], self.samples + start))
            self.samples += shape[0]

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, number: int) -> Batch:
        parts, first = self._batches[inputs.place(number, len(self))]
        tensor = torch.cat([self._read(*part) for part in parts])
        index = torch.arange(first, first + tensor.shape[0])

        def name(place: int) -> str:
            path, start, _ = parts[0 if parts[0][1] is not None else place]
            return str(path) if start is None else f"{path}: sample {start + place}"

        return _finite(Batch(tensor, index, tuple(self.broken) if number == 0 else ()), name, self.options.errors)

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
    Neighbouring frames repeat each other, and counting them as independent would make intervals far too narrow.

    Parameters
    ----------
    files
        Video files.
    options
        Fields of :class:`~spectral_pd.measuring.options.Options`, as keywords: `clip` frames a clip, the last one of a file may
        have fewer.

    Raises
    ------
    ModuleNotFoundError
        PyAV is missing.
    ValueError
        A file without frames (unless skipped).
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

    def __len__(self) -> int:
        return self._first[-1]

    def __getitem__(self, number: int) -> Batch:
        skipped = tuple(self.broken) if inputs.place(number, len(self)) == 0 else ()
        f = bisect.bisect_right(self._first, number) - 1
        start = (number - self._first[f]) * self.options.clip
        stop = min(start + self.options.clip, self._counts[f])
        name = f"{self.files[f]}: frames {start} to {start + self.options.clip - 1}"
        try:
            frames = self._frames(f, start, stop)
        except NOT_TO_SKIP:
            raise
        except Exception as error:
            self._open = _Open()
            if self.options.errors == "raise":
                raise plain(error, name) from error
            return Batch(None, torch.tensor([], dtype=torch.int64), (*skipped, f"{name}: {reason(error)}"))
        return Batch(torch.stack(frames, 1)[None], torch.tensor([number]), skipped)

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
            raise ValueError(
                f"{'more' if over else running.reached} frames can be decoded, but {self._counts[f]} are stored"
            )
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
    with container, inputs.naming(f"{path} cannot be decoded"):
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
            yield np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))


# -- any of these -----------------------------------------------------------------------------------------------------


class Chain(Source):
    """Several sources one after the other, with samples numbered through.

    Parameters
    ----------
    sources
        One or more sources.
    samples
        Numbers each of them takes.
    skipped
        Lines for what was left out before there were batches; the first batch brings them.
    notes
        What was left out before there were samples.
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
        s = bisect.bisect_right(self._first, inputs.place(number, len(self))) - 1
        batch = self.sources[s][number - self._first[s]]
        early = self.skipped if number == 0 else ()
        return replace(batch, index=batch.index + self._offset[s], skipped=early + batch.skipped)

    def identity(self) -> dict[str, str]:
        parts = [source.identity() for source in self.sources]
        return {
            name: " ".join(part[name] for part in parts if name in part) for name in {n for part in parts for n in part}
        }


@chosen
def open_files(paths: Sequence[str | Path], *, options: Options) -> Source:
    """Files and folders (searched to the bottom) of pictures, stored latents and videos as one source.

    Parameters
    ----------
    paths
        Files and folders.
    options
        Fields of :class:`~spectral_pd.measuring.options.Options`, as keywords.

    Raises
    ------
    ValueError, TypeError, FileNotFoundError, ModuleNotFoundError
        As :class:`Images`, :class:`Arrays`, :class:`Videos` and :func:`find_files`; `size` for stored arrays.
    """
    files, notes = find_files(paths)
    pictures, arrays, videos = ([f for f in files if f.suffix.lower() in kind] for kind in (IMAGES, ARRAYS, VIDEOS))
    inputs.no_size_for_arrays(options.size, arrays)
    parts: list[tuple[Source, int]] = []
    if pictures:
        parts.append((Images(pictures, options=options), len(pictures)))
    if arrays:
        stored = Arrays(arrays, options=options)
        parts.append((stored, stored.samples))
    if videos:
        footage = Videos(videos, options=options)
        parts.append((footage, len(footage)))
    # A source whose every file is broken has no batch that could bring the lines.
    lines = [line for source, _ in parts if not len(source) for line in getattr(source, "broken", ())]
    parts = [(source, samples) for source, samples in parts if len(source)]
    if not parts:
        raise ValueError("nothing could be read: " + "; ".join(lines))
    return Chain([source for source, _ in parts], [samples for _, samples in parts], skipped=lines, notes=notes)


@chosen
def iterate(data: Any, *, options: Options) -> Iterator[Batch]:
    """Any iterable of tensors, of (tensor, label) batches or of dicts, in order, samples numbered as they come.

    A tensor of rank 4 or more is a batch (N, C, ..., H, W), or with ``frames=True`` one clip (C, T, H, W); of rank 3 one sample
    (C, H, W), except from a ``torch.utils.data.DataLoader`` that batches, where it is (N, H, W); of rank 2 one plane.

    Raises
    ------
    TypeError
        Not iterable, or elements without a tensor; whole numbers.
    ValueError
        Rank below 2; an element of which two entries could be meant; NaN or infinity (unless skipped).
    """
    first = 0
    for element in inputs.iterable(data, "source"):
        x = sample_tensor(element, options)
        values = x[None] if options.frames and x.ndim == 4 else as_batch(x, batched=batching(data))
        numbers = torch.arange(first, first + values.shape[0])
        yield _finite(Batch(values, numbers), lambda place, n=numbers: f"sample {int(n[place])}", options.errors)  # type: ignore[misc]
        first += values.shape[0]


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

    Raises
    ------
    ValueError, TypeError, FileNotFoundError, ModuleNotFoundError
        As :func:`open_files`, :class:`Items` and :func:`iterate`.
    """
    if isinstance(data, (str, Path)):
        data = [data]
    if isinstance(data, (list, tuple)) and data and all(isinstance(d, (str, Path)) for d in data):
        return open_files(data, options=options)
    if isinstance(data, Source):
        return data
    inputs.no_mapping(data, "source")
    if isinstance(data, (Tensor, np.ndarray)):
        x = real_tensor(data, "source")
        data = x.split(options.batch_size) if x.ndim > 3 and not (options.frames and x.ndim == 4) else [x]
    # IterableDataset inherits a [] that only raises.
    ordered = isinstance(data, (list, tuple, torch.utils.data.DataLoader, torch.utils.data.IterableDataset))
    if ordered or not (hasattr(data, "__getitem__") and hasattr(data, "__len__")):
        return iterate(data, options=options)
    return Items(data, options=options)
