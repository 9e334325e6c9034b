"""Where data come from: folders of pictures, stored latents, videos, data sets, loaders, and a VAE on the way.

Everything becomes a stream of :class:`Batch`, samples with their global numbers. Sources with a known length
(:class:`Images`, :class:`Arrays`, :class:`Videos`, :class:`Items`) are cut into batches once, by number, so that any process
can read any batch: that is what workers, ``torchrun`` and resuming need. Iterables are read in order.

Pictures are scaled to [-1, 1]. Their grid is a policy, never a guess: ``fit="resize"`` centre-crops to the wanted aspect and
shrinks by Lanczos; ``fit="crop"`` cuts the centre at the stored resolution; without a size all must agree. Nothing is
enlarged: an enlarged picture has an empty high band, which would be measured as if it were data. Stored latents are
never resized.
"""

from __future__ import annotations

import bisect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from spectral_pd.theory import check_shape

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm"})
ARRAY_SUFFIXES = frozenset({".npy", ".npz", ".pt", ".pth", ".safetensors"})
VIDEO_SUFFIXES = frozenset({".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v"})

Fit = Literal["resize", "crop"]
Errors = Literal["skip", "raise"]


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
    """Data that any process can read by batch number. Subclass it to bring a format of your own."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of batches."""

    @abstractmethod
    def __getitem__(self, number: int) -> Batch:
        """Batch `number`, the same whenever and wherever it is read."""


def _named(error: Exception, name: str) -> Exception:
    """`error` with what it is about. Decoders raise anything up to SyntaxError: what is no TypeError or OSError, and so
    nothing a caller expects from bad data, becomes ValueError."""
    kind = next((kind for kind in (TypeError, OSError) if isinstance(error, kind)), ValueError)
    return kind(f"{name}: {error}")


def _finite(batch: Batch, name: Callable[[int], str], errors: Errors) -> Batch:
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


def find_files(paths: Sequence[str | Path]) -> list[Path]:
    """The files named, folders replaced by every known file in and below them, in name order.

    Raises
    ------
    FileNotFoundError
        A path that does not exist.
    ValueError
        A file of unknown kind was named, or nothing known was found.
    """
    known = IMAGE_SUFFIXES | ARRAY_SUFFIXES | VIDEO_SUFFIXES
    files: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            files += sorted(p for p in path.rglob("*") if p.is_file() and p.suffix.lower() in known)
        elif not path.is_file():
            raise FileNotFoundError(f"no such file or folder: {path}")
        elif path.suffix.lower() not in known:
            raise ValueError(f"{path}: unknown kind {path.suffix!r}; known: {' '.join(sorted(known))}")
        else:
            files.append(path)
    if not files:
        raise ValueError(f"no files of a known kind in {', '.join(map(str, paths))}; known: {' '.join(sorted(known))}")
    return files


def picture_tensor(image: Any, size: tuple[int, int] | None = None, *, fit: Fit = "resize") -> Tensor:
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
        The picture is smaller than `size`, holds 32-bit numbers (whose range is unknown), or `fit` is unknown.
    """
    from PIL import Image, ImageOps

    if fit not in ("resize", "crop"):
        raise ValueError(f"fit = {fit!r} must be 'resize' or 'crop'")
    image = ImageOps.exif_transpose(image)
    if image.mode in ("I", "F"):
        raise ValueError(
            f"mode {image.mode}: 32-bit pictures have no known range; store them scaled to [-1, 1] as .npy"
        )
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


def _stack(tensors: Sequence[Tensor], numbers: Sequence[int], names: Sequence[str], skipped: Sequence[str]) -> Batch:
    """One batch of equal tensors; ValueError naming the first that differs."""
    for tensor, name in zip(tensors, names, strict=True):
        if tensor.shape != tensors[0].shape:
            raise ValueError(
                f"{name} is {tuple(tensor.shape)} but {names[0]} is {tuple(tensors[0].shape)} (channels, height, width); "
                f"power belongs to a grid: give a size to bring pictures to one, or measure each size by itself"
            )
    return Batch(torch.stack(list(tensors)) if tensors else None, torch.tensor(numbers), tuple(skipped))


@dataclass(frozen=True)
class Items(Source):
    """A map-style data set: anything with ``len`` and ``[]`` that gives one sample at a time.

    A torch or Hugging Face data set, for instance. A sample is a tensor or array (C, H, W) or (H, W), a PIL image, a tuple
    or list that begins with one, or a dict with it under `column`.

    Parameters
    ----------
    data
        The data set.
    batch_size
        Samples a batch, at least 1.
    column
        Key of the sample in a dict; None takes ``image``, ``pixel_values``, ``latents``, ``latent`` or ``img``.
    size, fit
        For PIL images, as :func:`picture_tensor`.
    errors
        ``"skip"`` leaves out samples that cannot be read or hold NaN or infinity, with a line for each; ``"raise"`` stops.
    name
        What one sample is called in messages, a function of its number.
    """

    data: Any
    batch_size: int = 16
    column: str | None = None
    size: tuple[int, int] | None = None
    fit: Fit = "resize"
    errors: Errors = "raise"
    name: Callable[[int], str] = "sample {}".format

    def __post_init__(self) -> None:
        _check_options(self.batch_size, self.size, self.fit, self.errors)

    def __len__(self) -> int:
        return -(-len(self.data) // self.batch_size)

    def __getitem__(self, number: int) -> Batch:
        if not 0 <= number < len(self):
            raise IndexError(f"batch {number} of {len(self)}")
        numbers = range(number * self.batch_size, min((number + 1) * self.batch_size, len(self.data)))
        tensors, kept, skipped = [], [], []
        for i in numbers:
            try:
                tensors.append(self._sample(i))
                kept.append(i)
            except (ModuleNotFoundError, MemoryError):  # true of every sample: nothing to skip
                raise
            except Exception as error:
                if self.errors == "raise":
                    raise _named(error, self.name(i)) from error
                skipped.append(f"{self.name(i)}: {error}")
        batch = _stack(tensors, kept, [self.name(i) for i in kept], skipped)
        return _finite(batch, lambda place: self.name(kept[place]), self.errors)

    def _sample(self, i: int) -> Tensor:
        return sample_tensor(self.data[i], column=self.column, size=self.size, fit=self.fit)


def sample_tensor(
    value: Any, *, column: str | None = None, size: tuple[int, int] | None = None, fit: Fit = "resize"
) -> Tensor:
    """One sample of a data set as (C, H, W), whatever it was wrapped in. Parameters as :class:`Items`.

    Raises
    ------
    TypeError
        Nothing in it is a tensor, an array or an image, or it has whole numbers.
    ValueError
        A rank below 2; as :func:`picture_tensor`.
    """
    if isinstance(value, dict):
        names = [column] if column else ["image", "pixel_values", "latents", "latent", "img"]
        found = next((n for n in names if n in value), None)
        if found is None:
            raise TypeError(f"no {' or '.join(names)} among the columns {sorted(value)}; pass column=")
        value = value[found]
    elif isinstance(value, (tuple, list)) and value and not isinstance(value[0], (int, float, list)):
        value = value[0]
    if hasattr(value, "getexif"):
        return picture_tensor(value, size, fit=fit)
    tensor = value if isinstance(value, Tensor) else _from_numpy(value)
    _check_float(tensor, "a sample")
    if tensor.ndim < 2:
        raise ValueError(f"a sample has shape {tuple(tensor.shape)}; spectra need at least (height, width)")
    return tensor[None] if tensor.ndim == 2 else tensor


def _from_numpy(value: Any) -> Tensor:
    try:
        return torch.from_numpy(np.ascontiguousarray(value))
    except TypeError as error:
        raise TypeError(f"a sample is {type(value).__name__}: {error}; pass tensors, arrays or images") from None


def _check_float(tensor: Tensor, name: str) -> None:
    if not tensor.is_floating_point():
        hint = "pictures: x.float() / 127.5 - 1" if tensor.dtype == torch.uint8 else "convert, e.g. x.float()"
        raise TypeError(f"{name} is of {tensor.dtype}; spectra need real floating point ({hint})")


def _check_options(
    number: int, size: tuple[int, int] | None, fit: str, errors: str, *, count: str = "batch_size"
) -> None:
    if not isinstance(number, int) or number < 1:
        raise ValueError(f"{count} = {number!r} must be an int of at least 1")
    if size is not None and len(check_shape(size, "size")) != 2:
        raise ValueError(f"size = {size} must be (height, width)")
    for name, value, allowed in (("fit", fit, ("resize", "crop")), ("errors", errors, ("skip", "raise"))):
        if value not in allowed:
            raise ValueError(f"{name} = {value!r} must be {allowed[0]!r} or {allowed[1]!r}")


class _Pictures(Sequence[Any]):
    """Image files as a sequence of opened PIL images."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: Any) -> Any:
        try:
            from PIL import Image
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError("reading pictures needs pillow: pip install 'spectral_pd[demo]'") from error
        with Image.open(self.files[i]) as image:
            image.load()
            return image


class Images(Items):
    """Picture files, one sample each; parameters as :class:`Items`, with the list of files first."""

    def __init__(
        self,
        files: Sequence[Path],
        batch_size: int = 16,
        *,
        size: tuple[int, int] | None = None,
        fit: Fit = "resize",
        errors: Errors = "raise",
    ) -> None:
        files = list(files)
        super().__init__(_Pictures(files), batch_size, size=size, fit=fit, errors=errors, name=lambda i: str(files[i]))

    def __reduce__(self) -> Any:  # workers get it by pickle, which cannot carry the name function
        return _rebuild_images, (self.data.files, self.batch_size, self.size, self.fit, self.errors)


def _rebuild_images(files: Any, batch_size: Any, size: Any, fit: Any, errors: Any) -> Images:
    return Images(files, batch_size, size=size, fit=fit, errors=errors)


def open_array(path: Path) -> Any:
    """One stored array with ``shape`` and ``[a:b]``, read from disk as it is sliced where the format allows.

    ``.npy`` is memory-mapped; ``.safetensors`` is read by slices; ``.pt`` is memory-mapped (tensors only, nothing is
    unpickled); ``.npz`` is read whole.

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
                return stored[_only(stored.files)]
        if suffix == ".safetensors":
            try:
                from safetensors import safe_open
            except ModuleNotFoundError as error:
                raise ModuleNotFoundError(f"reading {path} needs safetensors: pip install safetensors") from error
            handle = safe_open(path, framework="pt")
            return _Slice(handle.get_slice(_only(list(handle.keys()))))
        value = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        if isinstance(value, dict):
            tensors = {name: v for name, v in value.items() if isinstance(v, Tensor)}
            value = tensors[_only(list(tensors))]
    except (ModuleNotFoundError, MemoryError):
        raise
    except Exception as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    if not isinstance(value, Tensor):
        raise TypeError(f"{path} holds a {type(value).__name__}; save one tensor")
    return value


class _Slice:
    """A tensor inside a safetensors file; only the rows asked for are read."""

    def __init__(self, stored: Any) -> None:
        self.stored = stored
        self.shape = tuple(stored.get_shape())

    def __getitem__(self, rows: Any) -> Tensor:
        return self.stored[rows]


def _only(names: Sequence[str]) -> str:
    if len(names) != 1:
        raise ValueError(f"holds {len(names)} arrays {sorted(names)[:6]}, not one; save the latents alone")
    return names[0]


class Arrays(Source):
    """Stored latents: each file holds samples (N, C, ..., H, W), one sample (C, H, W), or one plane (H, W).

    Parameters
    ----------
    files
        ``.npy``, ``.npz``, ``.pt`` and ``.safetensors`` files with one array each; all of one grid.
    batch_size
        Samples a batch; files of one sample share batches.
    errors
        ``"skip"`` or ``"raise"`` for files that cannot be read, and for samples with NaN or infinity.
    frames
        Files of rank 4 are clips (C, T, H, W), one sample each, not batches of pictures.

    Raises
    ------
    ValueError, TypeError
        A file that cannot be read (unless skipped), of whole numbers, or of a rank below 2.
    """

    def __init__(
        self,
        files: Sequence[Path],
        batch_size: int = 16,
        *,
        errors: Errors = "raise",
        frames: bool = False,
    ) -> None:
        _check_options(batch_size, None, "crop", errors)
        self.errors = errors
        self.samples = 0
        self.broken: list[str] = []
        # Each batch: parts (file, first row, last row; no rows for a file that is one sample) and its first sample's number.
        self._batches: list[tuple[list[tuple[Path, int | None, int]], int]] = []
        shared: tuple[int, ...] | None = None  # shape of the single samples the last batch collects
        for path in files:
            try:
                shape = tuple(open_array(path).shape)
                if len(shape) < 2:
                    raise ValueError(f"{path} has shape {shape}; spectra need at least (height, width)")
            except (ValueError, TypeError) as error:
                if errors == "raise":
                    raise
                self.broken.append(str(error))
                continue
            if len(shape) <= 3 or (frames and len(shape) == 4):
                if shape == shared and len(self._batches[-1][0]) < batch_size:
                    self._batches[-1][0].append((path, None, 1))
                else:
                    self._batches.append(([(path, None, 1)], self.samples))
                shared = shape
                self.samples += 1
                continue
            shared = None
            for start in range(0, shape[0], batch_size):
                stop = min(start + batch_size, shape[0])
                self._batches.append(([(path, start, stop)], self.samples + start))
            self.samples += shape[0]
        self._open: tuple[Path, Any] | None = None

    def __len__(self) -> int:
        return len(self._batches)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": None}  # open files do not travel to workers

    def __getitem__(self, number: int) -> Batch:
        if not 0 <= number < len(self):
            raise IndexError(f"batch {number} of {len(self)}")
        parts, first = self._batches[number]
        tensor = torch.cat([self._read(*part) for part in parts])
        index = torch.arange(first, first + tensor.shape[0])

        def name(place: int) -> str:
            path, start, _ = parts[0 if parts[0][1] is not None else place]
            return str(path) if start is None else f"{path}: sample {start + place}"

        return _finite(Batch(tensor, index, tuple(self.broken) if number == 0 else ()), name, self.errors)

    def _read(self, path: Path, start: int | None, stop: int) -> Tensor:
        """Rows of a file, or the whole of it as one sample: (N, C, ..., H, W)."""
        if self._open is None or self._open[0] != path:
            self._open = (path, open_array(path))
        value = self._open[1][:] if start is None else self._open[1][start:stop]
        tensor = value if isinstance(value, Tensor) else _from_numpy(np.array(value))
        _check_float(tensor, str(path))
        if start is not None:
            return tensor
        return tensor[None] if tensor.ndim > 2 else tensor[None, None]


class Videos(Source):
    """Clips of video files through ffmpeg (``pip install imageio-ffmpeg`` brings one along).

    A batch is one clip of consecutive frames, (1, 3, frames, H, W): one sample, so that the bootstrap resamples clips.
    Neighbouring frames repeat each other, and counting them as independent would make intervals far too narrow.

    Parameters
    ----------
    files
        Video files.
    clip
        Frames a clip; the last one of a file may have fewer.
    size, fit
        As :func:`picture_tensor`.
    errors
        ``"skip"`` or ``"raise"`` for files and clips that cannot be decoded.

    Raises
    ------
    ModuleNotFoundError
        imageio-ffmpeg is missing.
    ValueError
        A file without frames (unless skipped).
    """

    def __init__(
        self,
        files: Sequence[Path],
        clip: int = 16,
        *,
        size: tuple[int, int] | None = None,
        fit: Fit = "resize",
        errors: Errors = "raise",
    ) -> None:
        _check_options(clip, size, fit, errors, count="clip")
        self.clip, self.size, self.fit, self.errors = clip, size, fit, errors
        self.files: list[Path] = []
        self.broken: list[str] = []
        clips = []
        for path in files:
            try:
                frames = count_frames(path)
            except ValueError as error:
                if errors == "raise":
                    raise
                self.broken.append(str(error))
                continue
            self.files.append(path)
            clips.append(-(-frames // clip))
        self._first = [0, *accumulate(clips)]
        self._decoder: tuple[int, int, Iterator[np.ndarray]] | None = None

    def __len__(self) -> int:
        return self._first[-1]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_decoder": None}  # a running decoder does not travel to workers

    def __getitem__(self, number: int) -> Batch:
        if not 0 <= number < len(self):
            raise IndexError(f"batch {number} of {len(self)}")
        skipped = tuple(self.broken) if number == 0 else ()
        f = bisect.bisect_right(self._first, number) - 1
        start = (number - self._first[f]) * self.clip
        name = f"{self.files[f]}: frames {start} to {start + self.clip - 1}"
        try:
            frames = self._frames(f, start)
            if not frames:  # the index promised more than there is
                raise ValueError("the file ends before them")
        except (ModuleNotFoundError, MemoryError):
            raise
        except Exception as error:
            self._decoder = None
            if self.errors == "raise":
                raise _named(error, name) from error
            return Batch(None, torch.tensor([], dtype=torch.int64), (*skipped, f"{name}: {error}"))
        return Batch(torch.stack(frames, 1)[None], torch.tensor([number]), skipped)

    def _frames(self, f: int, start: int) -> list[Tensor]:
        """Up to `clip` frames of file `f` from frame `start` on, each (3, H, W)."""
        from PIL import Image

        # Frames come in order: go on with the running decoder, or begin again when asked for an earlier clip.
        if self._decoder is None or self._decoder[0] != f or self._decoder[1] > start:
            self._decoder = (f, 0, decode(self.files[f]))
        _, reached, frames = self._decoder
        pictures = []
        for place in range(reached, start + self.clip):
            frame = next(frames, None)
            if frame is None:
                break
            if place >= start:
                pictures.append(picture_tensor(Image.fromarray(frame), self.size, fit=self.fit))
        self._decoder = (f, start + self.clip, frames)
        return pictures


def _ffmpeg() -> Any:
    try:
        import imageio_ffmpeg
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("reading videos needs imageio-ffmpeg: pip install imageio-ffmpeg") from error
    return imageio_ffmpeg


def count_frames(path: Path) -> int:
    """Number of frames of a video, by decoding its index. ValueError when there are none."""
    try:
        frames = int(_ffmpeg().count_frames_and_secs(str(path))[0])
    except (RuntimeError, OSError) as error:
        raise ValueError(f"{path} cannot be decoded: {str(error).strip().splitlines()[-1]}") from None
    if frames < 1:
        raise ValueError(f"{path} has no frames")
    return frames


def decode(path: Path) -> Iterator[np.ndarray]:
    """The frames of a video in order, uint8 (H, W, 3)."""
    reader = _ffmpeg().read_frames(str(path), pix_fmt="rgb24")
    width, height = next(reader)["size"]
    for frame in reader:
        yield np.frombuffer(frame, dtype=np.uint8).reshape(height, width, 3)


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
    """

    def __init__(self, sources: Sequence[Source], samples: Sequence[int], *, skipped: Sequence[str] = ()) -> None:
        self.sources = list(sources)
        self.skipped = tuple(skipped)
        self._first = [0, *accumulate(len(source) for source in sources)]
        self._offset = [0, *accumulate(samples)]

    def __len__(self) -> int:
        return self._first[-1]

    def __getitem__(self, number: int) -> Batch:
        if not 0 <= number < len(self):
            raise IndexError(f"batch {number} of {len(self)}")
        s = bisect.bisect_right(self._first, number) - 1
        batch = self.sources[s][number - self._first[s]]
        early = self.skipped if number == 0 else ()
        return replace(batch, index=batch.index + self._offset[s], skipped=early + batch.skipped)


def open_files(
    paths: Sequence[str | Path],
    *,
    batch_size: int = 16,
    size: tuple[int, int] | None = None,
    fit: Fit = "resize",
    errors: Errors = "raise",
    clip: int = 16,
    frames: bool = False,
) -> Source:
    """Files and folders of pictures, stored latents and videos as one source.

    Parameters
    ----------
    paths
        Files and folders; folders are searched to the bottom.
    batch_size, size, fit, errors, clip, frames
        As :class:`Images`, :class:`Arrays` and :class:`Videos`.

    Raises
    ------
    ValueError, TypeError, FileNotFoundError, ModuleNotFoundError
        As those, and :func:`find_files`.
    """
    files = find_files(paths)
    kinds = [
        [f for f in files if f.suffix.lower() in suffixes]
        for suffixes in (IMAGE_SUFFIXES, ARRAY_SUFFIXES, VIDEO_SUFFIXES)
    ]
    pictures, arrays, videos = kinds
    if arrays and size is not None:
        raise ValueError(
            f"size = {size} is for pictures and videos, but {arrays[0]} holds an array: resized latents have another "
            f"spectrum; leave size out"
        )
    parts: list[tuple[Source, int]] = []
    if pictures:
        parts.append((Images(pictures, batch_size, size=size, fit=fit, errors=errors), len(pictures)))
    if arrays:
        stored = Arrays(arrays, batch_size, errors=errors, frames=frames)
        parts.append((stored, stored.samples))
    if videos:
        footage = Videos(videos, clip, size=size, fit=fit, errors=errors)
        parts.append((footage, len(footage)))
    # A source whose every file is broken has no batch that could bring the lines.
    lines = [line for source, _ in parts if not len(source) for line in getattr(source, "broken", ())]
    parts = [(source, samples) for source, samples in parts if len(source)]
    if not parts:
        raise ValueError("nothing could be read: " + "; ".join(lines))
    return Chain([source for source, _ in parts], [samples for _, samples in parts], skipped=lines)


def iterate(
    data: Any,
    *,
    column: str | None = None,
    size: tuple[int, int] | None = None,
    fit: Fit = "resize",
    errors: Errors = "raise",
) -> Iterator[Batch]:
    """Any iterable of tensors, of (tensor, label) batches or of dicts, in order, samples numbered as they come.

    A tensor of rank 4 or more is a batch (N, C, ..., H, W); of rank 3 one sample (C, H, W), except from a
    ``torch.utils.data.DataLoader`` that batches, where it is (N, H, W); of rank 2 one plane. Parameters as :class:`Items`.

    Raises
    ------
    TypeError
        Not iterable, or elements without a tensor; whole numbers.
    ValueError
        Rank below 2; NaN or infinity (unless skipped).
    """
    if not isinstance(data, Iterable):
        raise TypeError(f"source is {type(data).__name__}; pass tensors, a loader, a data set, or paths")
    # Batches of its own or by a batch sampler; without either it hands out samples.
    batching = isinstance(data, torch.utils.data.DataLoader) and data.batch_sampler is not None
    first = 0
    for element in data:
        values = sample_tensor(element, column=column, size=size, fit=fit)
        if batching and values.ndim == 3:
            values = values[:, None]
        values = values if values.ndim > 3 else values[None]
        numbers = torch.arange(first, first + values.shape[0])
        yield _finite(Batch(values, numbers), lambda place, n=numbers: f"sample {int(n[place])}", errors)  # type: ignore[misc]
        first += values.shape[0]


def open_source(
    data: Any,
    *,
    batch_size: int = 16,
    column: str | None = None,
    size: tuple[int, int] | None = None,
    fit: Fit = "resize",
    errors: Errors = "raise",
    clip: int = 16,
    frames: bool = False,
) -> Source | Iterator[Batch]:
    """Whatever holds data as a source: paths, a map-style data set, a tensor, a loader, any iterable.

    Parameters
    ----------
    data
        A path or a list of paths; a :class:`Source`; a data set with ``len`` and ``[]`` (torch, Hugging Face); a tensor or
        numpy array (N, C, ..., H, W), (C, H, W) or (H, W); a ``DataLoader``; an iterable as for :func:`iterate`.
    batch_size, column, size, fit, errors, clip, frames
        As :class:`Items`, :class:`Arrays` and :class:`Videos`.

    Raises
    ------
    ValueError, TypeError, FileNotFoundError, ModuleNotFoundError
        As those.
    """
    if isinstance(data, (str, Path)):
        data = [data]
    if isinstance(data, (list, tuple)) and data and all(isinstance(d, (str, Path)) for d in data):
        return open_files(data, batch_size=batch_size, size=size, fit=fit, errors=errors, clip=clip, frames=frames)
    if isinstance(data, Source):
        return data
    if isinstance(data, Mapping):
        raise TypeError(f"source is a {type(data).__name__} with keys {list(data)[:6]}; pass the tensor in it")
    _check_options(batch_size, size, fit, errors)
    if isinstance(data, np.ndarray):
        data = _from_numpy(data)
    if isinstance(data, Tensor):
        data = data.split(batch_size) if data.ndim > 3 else [data]
    # IterableDataset inherits a [] that only raises.
    ordered = isinstance(data, (list, tuple, torch.utils.data.DataLoader, torch.utils.data.IterableDataset))
    if ordered or not (hasattr(data, "__getitem__") and hasattr(data, "__len__")):
        return iterate(data, column=column, size=size, fit=fit, errors=errors)
    return Items(data, batch_size, column=column, size=size, fit=fit, errors=errors)
