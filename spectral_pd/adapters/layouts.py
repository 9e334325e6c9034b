r"""How each model family's latents lie: one :class:`Layout` a family, and the few exchanges they are made of.

A pipeline calls its network with everything of the full size. A layout names the inputs that depend on the size and what
to exchange each for, as functions ``exchange(value, seat)`` of what the pipeline passed and of the present :class:`Seat`.
Everything else (prompts, guidance, reference images) goes through as it is.

Position ids are cropped to the stage's rows and columns: absolute grid indices, as an ordinary call of that size has them.
Condition images keep their values (:func:`spectral_pd.restrict_signal`), masks are averaged over areas, frames are kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import groupby, pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spectral_pd.plan import Plan
from spectral_pd.power import PRESETS, PowerLaw
from spectral_pd.restriction import restrict_signal
from spectral_pd.theory import align_time

MEASURED = {"flux": "FLUX.1", "flux2": "FLUX.2", "sd3": "Stable Diffusion 3", "wan": "WAN 2.1"}
"""Whose latents a preset that others borrow was measured on."""
Grid = tuple[int, ...]
Inputs = Mapping[str, Any]


@dataclass(frozen=True)
class Seat:
    """Where a run is: sizes, state and times of the network call about to be made.

    Attributes
    ----------
    layout
        The family's layout.
    full, stage
        Latent (height, width) of the pipeline and of the present stage.
    batch, channels, frames
        Of the pipeline's latents; guidance in one batch calls a network with a multiple of them. Pictures that a token
        sequence holds one after the other count as frames.
    given
        Frames at the start that are a condition: part of the network's input, not of the state.
    packed
        Whether the pipeline's latents are tokens.
    flat
        Whether they are pictures in space, without an axis of frames.
    state
        The stage's state, (batch, channels, [frames,] height, width), float32.
    time, until
        Its local time and that of the step's end; `time` is None at a time of the pipeline's own grid at full size, where
        the pipeline's own numbers are the right ones.
    clock
        The full-size clock's time, which the pipeline believes it is.
    """

    layout: Layout
    full: Grid
    batch: int
    channels: int
    frames: int
    given: int
    packed: bool
    flat: bool = False
    stage: Grid = ()
    state: Tensor = field(default_factory=lambda: torch.empty(0))
    time: float | None = None
    until: float = 0.0
    clock: float = 1.0

    def cells(self, size: Grid) -> Grid:
        """(rows, columns) of patches on a latent grid."""
        return tuple(n // self.layout.patch for n in size)

    @property
    def video(self) -> bool:
        """Whether states have an axis of frames."""
        return self.frames > 1 or not (self.packed or self.flat)

    @property
    def lead(self) -> tuple[int, ...]:
        """Sizes of a state before its grid: (batch, channels[, frames])."""
        return (self.batch, self.channels, *(self.frames - self.given,) * self.video)

    def tokens(self, size: Grid) -> int:
        """Tokens of the latents on a latent grid."""
        return self.frames * math.prod(self.cells(size))


Exchange = Callable[[Any, Seat], Any]


@dataclass(frozen=True)
class Layout:
    """What a family's latents look like, in the pipeline's hands and in the network's input.

    Attributes
    ----------
    preset
        Name of the family's spectrum in :data:`spectral_pd.PRESETS`, which says whether it was measured or borrowed.
    borrowed
        Which latents the preset was not measured on, where it is that of another autoencoder; plans made with it say so.
    size
        ``size(inputs)``: latent (height, width) of a network's call.
    inputs
        Input of the networks -> exchange; the first one holds the latents.
    output
        ``output(value, seat, inputs)``: a network's answer on the stage's grid as the pipeline expects it, for pipelines that
        compute with it and their own latents before they step; `inputs` are those the pipeline gave.
    extra
        ``extra(inputs)``: inputs the pipeline leaves to their defaults and an exchange needs.
    patch, multiple
        Latent points a token along each axis, and what sizes are multiples of (0: the same).
    preserving
        Whether the networks were trained on variance-preserving noise.
    last
        Whether the latents' tokens come after those of other pictures and of the text.
    patch_first
        Whether a token has its patch's points before its channels.
    channels_last
        Whether spatial latents are (batch, frames, height, width, channels).
    channels
        Field of the network's configuration that holds the latents' channels, where the pipeline keeps conditions beside them.
    moving
        Whether the tokens of a network's call are frames of one video, where only the call says how many: a modular pipeline
        has no latents of its own to count. Of pictures the further ones are references.
    trained
        Pixels of the smallest side the family's networks were trained at, or their makers name; 0 where no source says.
    reads
        Name of the first layer of the networks where it is one map from the latents' patches, for informed coarse stages.
    padded
        What that layer fills up a picture's tokens to a multiple of.
    networks
        Attributes of the pipeline that hold networks called with the latents.
    begin
        ``begin(plan, pipe, scheduler)`` before the first call of a network.
    note
        ``note(plan, pipe)``: further warnings.
    """

    preset: str
    size: Callable[[Inputs], Grid]
    inputs: Mapping[str, Exchange]
    borrowed: str = field(default="", kw_only=True)
    output: Callable[[Tensor, Seat, Inputs], Tensor] | None = None
    extra: Callable[[Inputs], Inputs] = field(default=lambda inputs: {})
    patch: int = 2
    multiple: int = 0
    preserving: bool = False
    last: bool = False
    patch_first: bool = False
    channels_last: bool = False
    channels: str = ""
    moving: bool = False
    trained: int = 0
    reads: str = ""
    padded: int = 1
    networks: tuple[str, ...] = ("transformer", "transformer_2", "controlnet")
    begin: Callable[[Plan, Any, Any], None] = field(default=lambda plan, pipe, scheduler: None)
    note: Callable[[Plan, Any], tuple[str, ...]] = field(default=lambda plan, pipe: ())

    @property
    def spectrum(self) -> PowerLaw:
        """The preset, without what is known of its errors where it is another autoencoder's."""
        law = PRESETS[self.preset]
        if not self.borrowed:
            return law
        source = f"{MEASURED.get(self.preset, self.preset)}'s fit, not measured on {self.borrowed}"
        return replace(law, kind="borrowed", source=source, r2=None, covariance=None)

    @property
    def tile(self) -> int:
        """What the sides of every stage are multiples of."""
        return self.multiple or self.patch

    def pack(self, x: Tensor) -> Tensor:
        """Patches to tokens: (batch, C, [F,] H, W) -> (batch, [F] H/p W/p, C p p)."""
        p, x = self.patch, x.unsqueeze(2) if x.ndim == 4 else x
        batch, channels, frames, height, width = x.shape
        x = x.reshape(batch, channels, frames, height // p, p, width // p, p)
        order = (0, 2, 3, 5, 4, 6, 1) if self.patch_first else (0, 2, 3, 5, 1, 4, 6)
        return x.permute(order).reshape(batch, -1, channels * p * p)

    def read(self, planes: Tensor, seat: Seat, network: nn.Module) -> Tensor:
        """Planes (batch, channels, [frames,] height, width) as `network`'s first layer reads latents; 0 in given frames."""
        if seat.given:
            planes = F.pad(planes, (0, 0, 0, 0, seat.given, 0))
        weight: Any = network.get_submodule(self.reads).weight
        if weight.ndim > 2:  # a convolution
            return planes
        tokens = self.pack(planes)
        return F.pad(tokens, (0, 0, 0, -tokens.shape[1] % self.padded))

    def unpack(self, tokens: Tensor, frames: int, size: Grid) -> Tensor:
        """Inverse of :meth:`pack` on a latent grid; one frame has no axis of its own."""
        p, (height, width) = self.patch, size
        if tokens.shape[1] * p * p != frames * height * width:
            raise ValueError(f"{tokens.shape[1]} tokens do not make {frames} latents of {height}x{width}")
        split = (-1, frames, height // p, width // p)
        if self.patch_first:
            x = tokens.reshape(*split, p, p, tokens.shape[-1] // p**2).permute(0, 6, 1, 2, 4, 3, 5)
        else:
            x = tokens.reshape(*split, tokens.shape[-1] // p**2, p, p).permute(0, 4, 1, 2, 5, 3, 6)
        x = x.reshape(tokens.shape[0], -1, frames, height, width)
        return x.squeeze(2) if frames == 1 else x

    def spatial(self, latents: Tensor, seat: Seat, size: Grid) -> Tensor:
        """(batch, channels, [frames,] height, width) of latents, noise or a network's answer on a grid; given frames left out.

        Further tokens and channels are left out. Noise that becomes tokens later comes in space, with an axis of one frame, or
        with its patches as channels.
        """
        if latents.ndim < 4:
            latents, n = latents if latents.ndim == 3 else latents[None], seat.tokens(size)
            x = self.unpack(latents[:, -n:] if self.last else latents[:, :n], seat.frames, size)
        elif seat.packed and latents.shape[-2:] != size and latents.shape[1] != seat.channels:
            x = F.pixel_shuffle(latents, self.patch)
        elif seat.packed and latents.ndim == 5 and seat.frames == 1:
            x = latents.reshape(seat.batch, seat.channels, *size)
        else:
            x = latents.movedim(-1, 1) if self.channels_last else latents
        x = x[:, : seat.channels]
        return x[:, :, seat.given :] if seat.given and x.shape[2] == seat.frames else x

    def handed(self, x: Tensor, like: Tensor, seat: Seat, inputs: Inputs) -> Tensor:
        """A full-size state as the pipeline holds its latents, `like`, with the given frames of the network's `inputs`."""
        frames = like.shape[1 if self.channels_last else 2] if like.ndim > 3 else seat.frames
        if seat.given and frames == seat.frames:
            kept = self.spatial(self.latents(inputs, seat), replace(seat, given=0), seat.full)[:, :, : seat.given]
            x = torch.cat([kept.to(x.dtype), x], 2)
        if like.ndim < 4:
            x = self.pack(x).reshape(like.shape)
        elif self.channels_last:
            x = x.movedim(1, -1)
        return x.to(like.dtype)

    def latents(self, inputs: Inputs, seat: Seat | None = None) -> Tensor:
        """What a network's input of the full size holds in the latents' place, as the pipeline holds its latents."""
        value = inputs[next(iter(self.inputs))]
        if isinstance(value, list):
            items = [item[-1] if isinstance(item, list) else item for item in value]
            value = torch.stack(items).squeeze(2)
        if seat is None:
            return value
        value = value[: seat.batch]
        if not seat.packed:
            return value[..., : seat.channels] if self.channels_last else value[:, : seat.channels]
        n = seat.tokens(seat.full)
        return (value[:, -n:] if self.last else value[:, :n])[..., : seat.channels * self.patch**2]

    def warnings(self, plan: Plan, pipe: Any, arguments: Inputs) -> tuple[str, ...]:
        """What a careful reader should know of `plan` with this family's networks, and of what the call makes of its size."""
        texts = list(self.note(plan, pipe))
        asked, cell = tuple(arguments.get(name) for name in ("height", "width")), pixels_of_a_point(pipe)
        given = tuple(cell * n for n in plan.shape)
        if all(isinstance(n, int) for n in asked) and asked != given:
            texts.append(f"{asked[0]}x{asked[1]} becomes {given[0]}x{given[1]}, as in the stock call")
        small = cell * min(plan.shapes[0])
        if small < self.trained <= cell * min(plan.shape):
            texts.append(
                f"the first stage has a side of {small} pixels; the family's networks were trained at {self.trained} and more: "
                f"use larger scales, or see what its pictures look like"
            )
        return tuple(texts)


def pixels_of_a_point(pipe: Any) -> int:
    """Pixels of a latent point along an axis, as the pipelines name them; 1 where there is no autoencoder."""
    names = ("vae_scale_factor_spatial", "vae_spatial_compression_ratio", "vae_scale_factor")
    return next((int(getattr(pipe, name)) for name in names if hasattr(pipe, name)), 1)


def seated(layout: Layout, inputs: Inputs, own: Tensor | None, network: Any) -> Seat:
    """The seat of a call, from its network's first inputs and the pipeline's latents where it has them, before any stage."""
    latents = layout.latents(inputs) if own is None else own
    full, packed = layout.size(inputs), latents.ndim == 3
    cells = math.prod(n // layout.patch for n in full)
    if packed:
        counted = layout.moving or own is not None
        channels, frames = latents.shape[-1] // layout.patch**2, latents.shape[1] // cells if counted else 1
    elif layout.channels_last:
        channels, frames = latents.shape[-1], latents.shape[1]
    else:
        channels, frames = latents.shape[1], latents.shape[2] if latents.ndim == 5 else 1
    if layout.channels:
        channels = getattr(network.config, layout.channels)
    seat = Seat(layout, full, latents.shape[0], channels, frames, given=0, packed=packed, flat=latents.ndim == 4)
    return replace(seat, given=_given(layout, inputs, latents, seat)) if frames > 1 else seat


def _given(layout: Layout, inputs: Inputs, latents: Tensor, seat: Seat) -> int:
    """Leading frames that are a condition: by a mask beside the latents, at time 0, or not what the pipeline's latents hold."""
    if layout.channels_last and latents.shape[-1] > seat.channels:
        return int(latents[0, :, 0, 0, -1].sum())
    times = next((inputs[name] for name in ("timestep", "t") if isinstance(inputs.get(name), Tensor)), None)
    if times is not None and times.ndim == 2 and times.shape[1] % seat.frames == 0:
        at_zero = (times[0].unflatten(0, (seat.frames, -1)) == 0).all(1).tolist()
        if any(at_zero):
            return at_zero.index(False)
    shown, held = (
        layout.spatial(x, seat, seat.full).to(torch.float32)
        for x in (layout.latents(inputs, seat), latents.to(layout.latents(inputs, seat).dtype))
    )
    same = [torch.equal(a, b) for a, b in zip(shown.unbind(2), held.unbind(2), strict=True)]
    return same.index(True) if True in same else 0


# Exchanges


def latents(*, masks_last: bool = False, cell: int = 1) -> Exchange:
    """The stage's state in the place of the latents; condition channels beside it on the stage's grid, further tokens left.

    Parameters
    ----------
    masks_last, cell
        As :func:`conditions`.
    """

    def exchange(value: Tensor, seat: Seat) -> Tensor:
        layout, others = seat.layout, value[:, :0]
        if layout.channels_last:
            value = value.movedim(-1, 1)
        elif seat.packed:
            n = seat.tokens(seat.full)
            ours, others = (value[:, -n:], value[:, :-n]) if layout.last else (value[:, :n], value[:, n:])
            value = layout.unpack(ours, seat.frames, seat.full)
        x = seat.state.to(value.dtype)
        x = x.repeat(value.shape[0] // x.shape[0], *[1] * (x.ndim - 1))
        if seat.given:
            x = torch.cat([picture(value[:, : seat.channels, : seat.given], seat), x], 2)
        if value.shape[1] > seat.channels:
            x = torch.cat([x, conditions(value[:, seat.channels :], seat, masks_last=masks_last, cell=cell)], 1)
        if layout.channels_last:
            return x.movedim(1, -1)
        if seat.packed:
            x = layout.pack(x)
        return torch.cat([others, x] if layout.last else [x, others], 1) if seat.packed and others.shape[1] else x

    return exchange


def items(value: list[Any], seat: Seat) -> list[Any]:
    """The stage's state in a list of pictures (channels, 1, height, width), or of lists that end with one."""
    states = [x.unsqueeze(1) for x in seat.state]

    def ours(i: int, item: Tensor) -> Tensor:
        return states[i % seat.batch].to(item.dtype)

    return [
        [*item[:-1], ours(i, item[-1])] if isinstance(item, list) else ours(i, item) for i, item in enumerate(value)
    ]


def conditions(value: Tensor, seat: Seat, *, masks_last: bool = False, cell: int = 1) -> Tensor:
    """Condition channels (batch, channels, [frames,] height, width) on the stage's grid.

    Parameters
    ----------
    masks_last
        As many channels as the latents have are a picture's: the last ones, or with `masks_last` the first. The others are
        masks.
    cell
        Pixels of a latent point along an axis, where a mask's channels hold them one by one.
    """
    if value.shape[-2:] == seat.stage:
        return value
    c = seat.channels
    if masks_last:
        return torch.cat([picture(value[:, :c], seat), mask(value[:, c:], seat, cell)], 1)
    return torch.cat([mask(value[:, :-c], seat, cell), picture(value[:, -c:], seat)], 1)


def picture(value: Tensor, seat: Seat) -> Tensor:
    """A condition picture's latents (..., height, width) on the stage's grid: its values are kept."""
    return value if value.shape[-2:] == seat.stage else restrict_signal(value, seat.stage)


def mask(value: Tensor, seat: Seat, cell: int = 1) -> Tensor:
    """A mask (batch, channels, [frames,] height, width) on the stage's grid: means over areas."""
    if not value.shape[1]:
        return value.new_empty((*value.shape[:-2], *seat.stage))
    planes = value.transpose(1, 2).flatten(0, 1) if value.ndim == 5 else value
    pixels = F.pixel_shuffle(planes, cell)
    planes = F.pixel_unshuffle(F.interpolate(pixels, size=[n * cell for n in seat.stage], mode="area"), cell)
    return planes.unflatten(0, (value.shape[0], -1)).transpose(1, 2) if value.ndim == 5 else planes


def control(value: Any, seat: Seat) -> Any:
    """A control picture, its latents or its pixels, as tokens or in space; masks after it; one or a list of them."""
    if isinstance(value, list):
        return [control(one, seat) for one in value]
    if value.ndim == 3:
        space = seat.layout.unpack(value, 1, seat.full)
        return seat.layout.pack(conditions(space, seat, masks_last=True))
    side = value.shape[-1] // seat.full[-1]  # pixels of a latent point, where the network encodes the picture itself
    at_stage = replace(seat, stage=tuple(side * n for n in seat.stage))
    return picture(value, at_stage) if side > 1 else conditions(value, seat, masks_last=True)


def picture_mask_picture(value: Tensor, seat: Seat) -> Tensor:
    """Z-Image: a control picture's latents; to inpaint, a mask and the picture's latents after them."""
    if value.shape[1] <= seat.channels:
        return picture(value, seat)
    first, rest = value[:, : seat.channels], value[:, seat.channels :]
    return torch.cat([picture(first, seat), conditions(rest, seat)], 1)


def frames_control(value: Tensor, seat: Seat) -> Tensor:
    """VACE: two pictures of every frame, what to keep and what to make, and a mask of all pixels."""
    c = 2 * seat.channels
    return torch.cat([picture(value[:, :c], seat), mask(value[:, c:], seat, math.isqrt(value.shape[1] - c))], 1)


def time(unit: Callable[[Tensor], Tensor] | None = lambda timestep: timestep) -> Exchange:
    """The local time; tokens at an earlier one, as those of a given frame, stay.

    Parameters
    ----------
    unit
        From ``1000 t``, in the timesteps' type, to the network's unit; None: a multiple of t, whichever the network wants.
    """

    def exchange(value: Tensor, seat: Seat) -> Tensor:
        if value.ndim == 2 and value.shape[1] > 1:  # a time a token
            value = positions(-1)(value, seat)
        if seat.time is None:
            return value
        if unit is None:
            return value * (seat.time / seat.clock)
        local = torch.full(value.shape, seat.time, dtype=torch.float32, device=value.device) * 1000
        local = unit(local.to(value.dtype) if value.is_floating_point() else local)
        return torch.where(value < value.max(), value, local) if value.ndim > 1 else local

    return exchange


def positions(axis: int = -2) -> Exchange:
    """Values a token along `axis`, those of the latents cropped to the stage's rows and columns."""

    def exchange(value: Tensor, seat: Seat) -> Tensor:
        if seat.stage == seat.full:
            return value
        (rows, columns), (r, c) = seat.cells(seat.full), seat.cells(seat.stage)
        value = value.movedim(axis, 0)
        n, last = seat.tokens(seat.full), seat.layout.last
        ours, others = (value[-n:], value[:-n]) if last else (value[:n], value[n:])
        ours = ours.unflatten(0, (seat.frames, rows, columns))[:, :r, :c].flatten(0, 2)
        return torch.cat([others, ours] if last else [ours, others]).movedim(0, axis)

    return exchange


def shapes(value: list[Any], seat: Seat) -> list[Any]:
    """``[(frames, rows, columns), ...]`` of the pictures of each item, or of its only one, those of the latents exchanged."""
    ours = [(1, *seat.cells(seat.stage))] * seat.frames
    if isinstance(value[0], tuple):
        return ours * len(value)
    return [[*item[: -seat.frames], *ours] if seat.layout.last else [*ours, *item[seat.frames :]] for item in value]


def time_of_the_end(unit: Callable[[Tensor], Tensor] = lambda timestep: timestep) -> Exchange:
    """The local time at the end of the step, in the `unit` of :func:`time`."""
    return lambda value, seat: value if seat.time is None else unit(torch.full_like(value, 1000 * seat.until))


def after_text(points: int = 1) -> Exchange:
    """A mask (batch, slots) of text tokens and then of one slot for so many of the latents' tokens."""

    def exchange(value: Tensor, seat: Seat) -> Tensor:
        n, m = (seat.tokens(size) // points for size in (seat.full, seat.stage))
        return torch.cat([value[:, :-n], value[:, -n:][:, :m]], 1)

    return exchange


def own_row(value: Tensor, seat: Seat) -> Tensor:
    """For a table of the times of all rows: the latents' is a new first one, in time from noise to data."""
    return value if seat.time is None else torch.cat([value.new_tensor([1 - seat.time]), value])


def row_times(value: Tensor, seat: Seat) -> Tensor:
    """Where in that table the time of each row of the sequence stands."""
    value, m = positions(0)(value, seat), seat.tokens(seat.stage)
    return value if seat.time is None else torch.cat([value[:-m] + 1, torch.zeros_like(value[-m:])])


def spread(value: Tensor, seat: Seat) -> Tensor:
    """Positions (rows, [frame, row, column]) that span the same range on every grid."""
    if seat.stage == seat.full:
        return value
    value, m = positions(0)(value, seat), seat.tokens(seat.stage)
    wider = value.new_tensor([n / k for n, k in zip(seat.full, seat.stage, strict=True)])
    first, ours = value[-m, 1:], value[-m:, 1:]
    value[-m:, 1:] = first + (ours - first) * wider
    return value


def own_rows(value: Tensor, seat: Seat) -> Tensor:
    """The latents' places in the sequence, where they are its last rows."""
    if len(value) != int(value[-1] - value[0]) + 1:
        raise ValueError("keyframes are rows beside the latents' with a time of their own; a ride is from text alone")
    return value[: seat.tokens(seat.stage)]


def number(axis: int) -> Exchange:
    """Rows (0) or columns (1) of patches, as a number."""
    return lambda value, seat: seat.cells(seat.stage)[axis]


def axes(value: list[Tensor], seat: Seat) -> list[Tensor]:
    """Positions along (frames, rows, columns)."""
    rows, columns = seat.cells(seat.stage)
    return [value[0], value[1][:rows], value[2][:columns]]


def refused(reason: str) -> Exchange:
    """An input that no stage but the full one can have."""

    def exchange(value: Any, seat: Seat) -> Any:
        if seat.stage != seat.full:
            raise ValueError(reason)
        return value

    return exchange


def cornered(value: Tensor, seat: Seat, inputs: Inputs) -> Tensor:
    """A network's answer on the full grid: its rows and columns first, zeros elsewhere."""
    layout, margins = seat.layout, (0, seat.full[1] - seat.stage[1], 0, seat.full[0] - seat.stage[0])
    return (
        layout.pack(F.pad(layout.unpack(value, seat.frames, seat.stage), margins))
        if seat.packed
        else F.pad(value, margins)
    )


def velocity_of_denoised(value: Tensor, seat: Seat, inputs: Inputs) -> Tensor:
    """The picture from which a pipeline that computes ``(latents - picture) / max(t, 0.05)`` gets the stage's velocity."""
    latents, t = inputs["hidden_states"], max(seat.clock, 0.05)
    x = seat.state.to(value.dtype).repeat(value.shape[0] // seat.batch, 1, 1, 1)
    velocity = (x - value) / max(seat.time or seat.clock, 0.05)
    return latents - t * F.pad(velocity, (0, seat.full[1] - seat.stage[1], 0, seat.full[0] - seat.stage[0]))


# Sizes


def spatial(name: str) -> Callable[[Inputs], Grid]:
    """The size of an input in space, or of the pictures of a list."""

    def size(inputs: Inputs) -> Grid:
        value = inputs[name]
        while isinstance(value, list):
            value = value[-1]
        return tuple(value.shape[-2:])

    return size


def by_ids(name: str = "img_ids", patch: int = 2, *, last: bool = False) -> Callable[[Inputs], Grid]:
    """The size from ids (..., picture, row, column, ...): the latents' are those of the first picture, or the last."""

    def size(inputs: Inputs) -> Grid:
        ids = inputs[name]
        ids = ids[0] if ids.ndim == 3 else ids
        same = (ids[:, 0] == ids[-1 if last else 0, 0]).long()
        n = int((same.flip(0) if last else same).cumprod(0).sum())
        ours = ids[-n:] if last else ids[:n]
        return tuple(patch * len(ours[:, axis].unique()) for axis in (1, 2))

    return size


def by_shapes(patch: int = 2, *, last: bool = False) -> Callable[[Inputs], Grid]:
    """The size from ``img_shapes``."""

    def size(inputs: Inputs) -> Grid:
        first = inputs["img_shapes"][0]
        return tuple(patch * n for n in (first if isinstance(first, tuple) else first[-1 if last else 0])[1:])

    return size


def thousandth(timestep: Tensor) -> Tensor:
    return timestep / 1000


def from_data(timestep: Tensor) -> Tensor:
    return (1000 - timestep) / 1000


# Families


def local_experts(plan: Plan, pipe: Any, scheduler: Any) -> None:
    """The loop itself runs on local times, by which two experts share the work: each was trained on its side of a boundary
    in the noise of its own input. Written in place, for the loop holds the tensor already."""
    if getattr(pipe.config, "boundary_ratio", None) is not None:
        local = [1000 * t for stage in plan.stages for t in stage.local_times[:-1]]
        scheduler.timesteps[-len(local) :] = torch.tensor(local).to(scheduler.timesteps)


def expert_order(plan: Plan, pipe: Any) -> tuple[str, ...]:
    """WAN 2.2: a coarse stage's local times may cross the boundary before the next stage begins above it again."""
    boundary = getattr(pipe.config, "boundary_ratio", None)
    if boundary is None or getattr(pipe, "transformer_2", None) is None:
        return ()
    split = [[t >= boundary for t in stage.local_times[:-1]] for stage in plan.stages]
    order = [high for stage in split for high in stage]
    if all(before or not after for before, after in pairwise(order)):
        return ()
    runs = " then ".join(f"{len(list(run))} {'high' if high else 'low'}" for high, run in groupby(order))
    early = [align_time(boundary, stage.ratio) for stage in plan.stages[:-1]]
    return (
        f"the high-noise expert is called again after the low-noise one ({runs}): a coarse stage crosses the boundary "
        f"{boundary:g} of its own clock; transition_times={tuple(round(t, 4) for t in early)} leave each stage before it does",
    )


PACKED: Mapping[str, Exchange] = {
    "hidden_states": latents(masks_last=True, cell=8),
    "timestep": time(thousandth),
    "img_ids": positions(),
    "controlnet_cond": control,
}
SPATIAL: Mapping[str, Exchange] = {"hidden_states": latents(), "timestep": time(), "controlnet_cond": control}
VIDEO: Mapping[str, Exchange] = {
    "hidden_states": latents(masks_last=True),
    "timestep": time(),
    "timestep_r": time_of_the_end(),
}
in_space = spatial("hidden_states")

FLUX = Layout("flux", by_ids(), PACKED, reads="x_embedder")
FLUX2 = Layout("flux2", by_ids(), PACKED, reads="x_embedder", trained=256)  # Black Forest Labs' help page
FLUX3 = replace(
    FLUX2, inputs={**PACKED, "target_timestep": time_of_the_end(thousandth)}, borrowed="FLUX.3's latents", trained=0
)
FLUX2_KV = Layout("flux2", by_ids(last=True), PACKED, last=True)
CHROMA = Layout("flux", by_ids(), {**PACKED, "attention_mask": after_text()}, reads="x_embedder")
BRIA = replace(FLUX, inputs={**PACKED, "timestep": time()}, borrowed="Bria's latents")
KREA2 = Layout("qwen-image", by_ids("position_ids", last=True), {**PACKED, "position_ids": positions()}, last=True)
IDEOGRAM4 = Layout(
    "flux2",
    by_ids("position_ids", last=True),
    {
        "hidden_states": latents(),
        "timestep": time(from_data),
        "position_ids": positions(),
        "encoder_hidden_states": positions(),
        "segment_ids": positions(-1),
        "indicator": positions(-1),
    },
    last=True,
    patch_first=True,
    networks=("transformer", "unconditional_transformer"),
    borrowed="Ideogram 4's latents",
)
QWEN_IMAGE = Layout("qwen-image", by_shapes(), {**PACKED, "img_shapes": shapes}, reads="img_in")
QWEN_IMAGE21 = Layout(
    "qwen-image",
    by_shapes(patch=1, last=True),
    {**PACKED, "img_shapes": shapes, "img_mask": after_text(4)},
    patch=1,
    multiple=2,
    last=True,
)
Z_IMAGE = Layout(
    "z-image",
    spatial("x"),
    {"x": items, "t": time(from_data), "control_context": picture_mask_picture},
    reads="all_x_embedder.2-1",
    padded=32,
)
WAN = Layout(
    "wan",
    in_space,
    {**SPATIAL, "control_hidden_states": frames_control},
    channels="out_channels",
    reads="patch_embedding",
    trained=480,  # the smallest size its authors give, 832x480
    begin=local_experts,
    note=expert_order,
)
SD3 = Layout("sd3", in_space, SPATIAL, reads="pos_embed.proj")
SD = Layout(
    "sd",
    spatial("sample"),
    {"sample": latents(), "timestep": time(), "controlnet_cond": control},
    patch=1,
    multiple=2,
    reads="conv_in",
    preserving=True,
    networks=("unet", "controlnet"),
    trained=512,  # of XL says diffusers: "anything below 512 pixels won't work well"
)
SDXL = replace(SD, preset="sdxl")
ANIMATED, ANIMATED_XL = replace(SD, reads=""), replace(SDXL, reads="")  # whose first layer sees frames as a batch
PIXART_SIGMA = Layout("sdxl", in_space, SPATIAL, preserving=True)
PIXART_ALPHA = replace(PIXART_SIGMA, preset="sd")
HUNYUAN_VIDEO = Layout(  # the smaller side of 544x960, its model card's other size is 720p
    "wan", in_space, VIDEO, reads="x_embedder.proj", borrowed="HunyuanVideo's latents", trained=544
)
HUNYUAN_VIDEO15 = replace(
    HUNYUAN_VIDEO, patch=1, channels="out_channels", borrowed="HunyuanVideo 1.5's latents", trained=480
)
HUNYUAN_IMAGE = Layout("flux", in_space, VIDEO, patch=1, borrowed="HunyuanImage's latents of 32x32 pixels a point")
LTX = Layout(
    "wan",
    lambda inputs: (inputs["height"], inputs["width"]),
    {
        "hidden_states": latents(),
        "timestep": time(),
        "sigma": time(),
        "height": number(0),
        "width": number(1),
        "video_coords": positions(),
    },
    output=cornered,
    patch=1,
    moving=True,
    reads="proj_in",
    borrowed="LTX-Video's latents of 32x32 pixels a point",
)
LTX2 = replace(LTX, extra=lambda inputs: {"audio_timestep": inputs["timestep"], "audio_sigma": inputs.get("sigma")})
COSMOS = Layout(
    "wan",
    in_space,
    {"hidden_states": latents(), "timestep": time(thousandth), "condition_mask": picture},
    output=cornered,
)
ANIMA = replace(COSMOS, preset="qwen-image", output=None)
MINIMAX_H3 = Layout(
    "wan",
    by_ids("position_ids", last=True),
    {
        "hidden_states": latents(),
        "timestep": own_row,
        "timestep_indices": row_times,
        "position_ids": spread,
        "token_tags": positions(0),
        "video_indices": own_rows,
    },
    last=True,
    moving=True,
    borrowed="MiniMax-H3's latents",
    trained=768,  # the canvas it was released for
    networks=("transformer", "transformer_ref"),
)
LUMINA2 = Layout(
    "flux",
    in_space,
    {"hidden_states": latents(), "timestep": time(lambda timestep: 1 - timestep / 1000)},
    reads="x_embedder",
)
LUMINA = replace(LUMINA2, preset="sdxl", reads="")
COGVIEW4 = Layout(  # 512 to 2048 by its model card
    "sd3", in_space, SPATIAL, borrowed="CogView4's latents", trained=512
)
AURA_FLOW = Layout("sdxl", in_space, {"hidden_states": latents(), "timestep": time(thousandth)}, reads="pos_embed.proj")
SANA = Layout("sana", in_space, {**SPATIAL, "timestep": time(None)}, patch=1, reads="patch_embed.proj")
SANA_VIDEO = Layout("wan", in_space, SPATIAL, borrowed="DC-AE's or LTX-2's latents, which some checkpoints use")
MOTIF_VIDEO = Layout("wan", in_space, VIDEO)
HIDREAM = Layout("flux", in_space, {"hidden_states": latents(), "timesteps": time()})
PRX = Layout(
    "flux",
    in_space,
    {"hidden_states": latents(), "timestep": time(thousandth)},
    borrowed="DC-AE's latents, which some checkpoints of PRX use",
)
PRX_PIXEL = replace(PRX, preset="pixels", borrowed="", output=velocity_of_denoised)
KANDINSKY5 = Layout(
    "flux",
    lambda inputs: tuple(inputs["hidden_states"].shape[2:4]),
    {
        "hidden_states": latents(masks_last=True),
        "timestep": time(),
        "visual_rope_pos": axes,
        "sparse_params": refused(
            "NABLA attention masks are made for the full size; load a checkpoint with attention_type='regular'"
        ),
    },
    channels_last=True,
    channels="out_visual_dim",
    trained=512,  # its checkpoints are for 512x768 and, of pictures, a list of sizes from 640 on
)
KANDINSKY5_VIDEO = replace(KANDINSKY5, borrowed="the latents of HunyuanVideo's autoencoder")
