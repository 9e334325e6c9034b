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
from torch import Tensor
from torch.nn import functional as F

from spectral_pd.expansion import restrict_signal
from spectral_pd.schedule import Plan
from spectral_pd.theory import align_time

Grid = tuple[int, ...]
Inputs = Mapping[str, Any]


@dataclass(frozen=True)
class Seat:
    """Where a run is: sizes, state and time of the network call about to be made.

    Attributes
    ----------
    layout
        The family's layout.
    full, stage
        Latent (height, width) of the pipeline and of the present stage.
    batch
        Items of the pipeline's latents; guidance in one batch calls the network with a multiple of them.
    channels
        Channels of the latent in space.
    frames
        Pictures a token sequence holds one after the other; 1 but for video and layers.
    packed
        Whether the pipeline's latents are tokens.
    state
        The stage's state, (batch, channels, [frames,] height, width).
    time
        Its local time; None at a time of the pipeline's own grid at full size, where its own numbers are the right ones.
    """

    layout: Layout
    full: Grid
    batch: int
    channels: int
    frames: int = 1
    packed: bool = False
    stage: Grid | None = None
    state: Tensor | None = None
    time: float | None = None

    def cells(self, size: Grid) -> Grid:
        """(rows, columns) of patches on a latent grid."""
        return tuple(n // self.layout.patch for n in size)

    def tokens(self, size: Grid) -> int:
        return self.frames * math.prod(self.cells(size))


Exchange = Callable[[Any, Seat], Any]


@dataclass(frozen=True)
class Layout:
    """What a family's latents look like, in the pipeline's hands and in the network's input.

    Attributes
    ----------
    preset
        Name of the family's spectrum in :data:`spectral_pd.PRESETS`, which says whether it was measured or borrowed.
    size
        ``size(inputs)``: latent (height, width), or (frames, height, width) of a token sequence, of a network's call.
    inputs
        Input of the networks -> exchange; the first one holds the latents.
    patch
        Latent points a token along each axis; sizes are multiples of it.
    trained
        Pixels of the smallest side the family's networks were trained at, or None where no source says.
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
    patch: int = 2
    trained: int | None = None
    networks: tuple[str, ...] = ("transformer", "transformer_2", "controlnet")
    begin: Callable[[Plan, Any, Any], None] = field(default=lambda plan, pipe, scheduler: None)
    note: Callable[[Plan, Any], tuple[str, ...]] = field(default=lambda plan, pipe: ())

    def packed(self, x: Tensor, seat: Seat) -> Tensor:
        """A spatial tensor as the pipeline holds it: itself, or the tokens of its patches."""
        return pack(x, self.patch) if seat.packed else x

    def unpacked(self, latents: Tensor, seat: Seat, size: Grid) -> Tensor:
        """Inverse of :meth:`packed` on a latent grid, of latents or of a network's output, whose further tokens are left out.

        Noise that becomes tokens later comes in space, with an axis of one frame, or with its patches as channels.
        """
        if latents.ndim != 3:
            if not seat.packed:
                return latents
            frames = (seat.frames,) * (seat.frames > 1)
            if latents.shape[-2:] == size:
                return latents.reshape(seat.batch, seat.channels, *frames, *size)
            return F.pixel_shuffle(latents, self.patch)
        return unpack(latents[:, : seat.tokens(size)], (seat.frames, *seat.cells(size)), self.patch)

    def warnings(self, plan: Plan, pipe: Any, arguments: Inputs) -> tuple[str, ...]:
        """What a careful reader should know of `plan` with this family's networks, and of what the call makes of its size."""
        return self.note(plan, pipe)

    def latents(self, inputs: Inputs, seat: Seat) -> Tensor:
        """The pipeline's latents in a network's input of the full size, as the pipeline holds them."""
        value = inputs[next(iter(self.inputs))]
        if isinstance(value, list):
            items = [item[-1] if isinstance(item, list) else item for item in value]
            return torch.stack(items[: seat.batch]).squeeze(2)
        channels = seat.channels * (self.patch**2 if seat.packed else 1)
        return value[: seat.batch, : seat.tokens(seat.full), :channels] if seat.packed else value[: seat.batch, :channels]


def pack(x: Tensor, patch: int) -> Tensor:
    """Patches to tokens: (batch, C, [F,] H, W) -> (batch, [F] H/p W/p, C p p), channel-major inside a token."""
    x = x.unsqueeze(2) if x.ndim == 4 else x
    batch, channels, frames, height, width = x.shape
    x = x.reshape(batch, channels, frames, height // patch, patch, width // patch, patch)
    return x.permute(0, 2, 3, 5, 1, 4, 6).reshape(batch, -1, channels * patch * patch)


def unpack(tokens: Tensor, cells: Grid, patch: int) -> Tensor:
    """Inverse of :func:`pack` on (frames, rows, columns) of patches; one frame has no axis of its own."""
    batch, count, channels = tokens.shape
    frames, rows, columns = cells
    if count != math.prod(cells):
        raise ValueError(f"{count} tokens do not make {frames} latents of {rows}x{columns} patches")
    x = tokens.reshape(batch, frames, rows, columns, -1, patch, patch).permute(0, 4, 1, 2, 5, 3, 6)
    x = x.reshape(batch, -1, frames, rows * patch, columns * patch)
    return x.squeeze(2) if frames == 1 else x


def seated(layout: Layout, inputs: Inputs, latents: Tensor) -> Seat:
    """The seat of a call, from its networks' first inputs and the pipeline's latents, before any stage."""
    full, tokens = layout.size(inputs), latents.ndim == 3
    cells = math.prod(n // layout.patch for n in full)
    return Seat(
        layout,
        full=full,
        batch=latents.shape[0],
        channels=latents.shape[-1] // layout.patch**2 if tokens else latents.shape[1],
        frames=latents.shape[1] // cells if tokens else latents.shape[2] if latents.ndim == 5 else 1,
        packed=tokens,
    )


# Exchanges


def latents(*, last: bool = False, masks_last: bool = False, cell: int = 1) -> Exchange:
    """The stage's state in the place of the latents; condition channels beside it on the stage's grid, further tokens left.

    Parameters
    ----------
    last
        Whether further tokens come before the latents.
    masks_last, cell
        As :func:`conditions`.
    """

    def exchange(value: Tensor, seat: Seat) -> Tensor:
        def beside(rest: Tensor) -> Tensor:
            return conditions(rest, seat, masks_last=masks_last, cell=cell)

        x = seat.layout.packed(seat.state, seat).to(value.dtype)
        x = x.repeat(value.shape[0] // x.shape[0], *[1] * (x.ndim - 1))
        if not seat.packed:
            return torch.cat([x, beside(value[:, seat.channels :])], 1) if value.shape[1] > seat.channels else x
        n = seat.tokens(seat.full)
        ours, others = (value[:, -n:], value[:, :-n]) if last else (value[:, :n], value[:, n:])
        rest = ours[..., x.shape[-1] :]
        if rest.shape[-1]:
            rest = beside(unpack(rest, (seat.frames, *seat.cells(seat.full)), seat.layout.patch))
            x = torch.cat([x, seat.layout.packed(rest, seat)], -1)
        return torch.cat([others, x] if last else [x, others], 1) if others.shape[1] else x

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
        space = unpack(value, (1, *seat.cells(seat.full)), seat.layout.patch)
        return pack(conditions(space, seat, masks_last=True), seat.layout.patch)
    side = value.shape[-1] // seat.full[-1]  # pixels of a latent point, where the network encodes the picture itself
    at_stage = replace(seat, stage=tuple(side * n for n in seat.stage))
    return picture(value, at_stage) if side > 1 else conditions(value, seat, masks_last=True)


def frames_control(value: Tensor, seat: Seat) -> Tensor:
    """VACE: two pictures of every frame, what to keep and what to make, and a mask of all pixels."""
    c = 2 * seat.channels
    return torch.cat([picture(value[:, :c], seat), mask(value[:, c:], seat, math.isqrt(value.shape[1] - c))], 1)


def time(unit: Callable[[Tensor], Tensor] = lambda timestep: timestep) -> Exchange:
    """The local time, from the timestep ``1000 t`` in the network's unit; tokens at time 0, as those of a given frame, stay.

    Timesteps keep their type: whole ones are cut off.
    """

    def exchange(value: Tensor, seat: Seat) -> Tensor:
        if value.ndim == 2:
            value = positions(-1)(value, seat)
        if seat.time is None:
            return value
        local = unit((torch.full(value.shape, seat.time, dtype=torch.float32, device=value.device) * 1000).to(value.dtype))
        return torch.where(value == 0, value, local) if value.ndim == 2 else local

    return exchange


def positions(axis: int = -2, *, last: bool = False) -> Exchange:
    """Values a token along `axis`, those of the latents cropped to the stage's rows and columns.

    Parameters
    ----------
    last
        Whether other tokens come before the latents'.
    """

    def exchange(value: Tensor, seat: Seat) -> Tensor:
        if seat.stage == seat.full:
            return value
        (rows, columns), (r, c) = seat.cells(seat.full), seat.cells(seat.stage)
        value = value.movedim(axis, 0)
        n = seat.tokens(seat.full)
        ours, others = (value[-n:], value[:-n]) if last else (value[:n], value[n:])
        ours = ours.unflatten(0, (seat.frames, rows, columns))[:, :r, :c].flatten(0, 2)
        return torch.cat([others, ours] if last else [ours, others]).movedim(0, axis)

    return exchange


def shapes(value: list[Any], seat: Seat, *, last: bool = False) -> list[Any]:
    """``[(frames, rows, columns), ...]`` of the pictures of each item, or of its only one, those of the latents exchanged."""
    ours = [(1, *seat.cells(seat.stage))] * seat.frames
    if isinstance(value[0], tuple):
        return ours * len(value)
    return [[*item[: -seat.frames], *ours] if last else [*ours, *item[seat.frames :]] for item in value]


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
        ours = ids[ids[:, 0] == ids[-1 if last else 0, 0]]
        return tuple(patch * int(ours[:, axis].max() - ours[:, axis].min() + 1) for axis in (1, 2))

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
        local = [1000 * t for stage in plan.stages for t in stage.times[:-1]]
        scheduler.timesteps[-len(local) :] = torch.tensor(local).to(scheduler.timesteps)



def expert_order(plan: Plan, pipe: Any) -> tuple[str, ...]:
    """WAN 2.2: a coarse stage's local times may cross the boundary before the next stage begins above it again."""
    boundary = getattr(pipe.config, "boundary_ratio", None)
    if boundary is None or getattr(pipe, "transformer_2", None) is None:
        return ()
    split = [[t >= boundary for t in stage.times[:-1]] for stage in plan.stages]
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

FLUX = Layout("flux", by_ids(), PACKED)
FLUX2 = Layout("flux2", by_ids(), PACKED)  # (time, row, column, layer)
FLUX2_KV = Layout(
    "flux2",
    by_ids(last=True),
    {"hidden_states": latents(last=True), "timestep": time(thousandth), "img_ids": positions(last=True)},
)
Z_IMAGE = Layout(
    "z-image", spatial("x"), {"x": items, "t": time(from_data), "control_context": control}
)
WAN = Layout(
    "wan",
    spatial("hidden_states"),
    {**SPATIAL, "control_hidden_states": frames_control},
    begin=local_experts,
    note=expert_order,
)
QWEN_IMAGE = Layout("qwen-image", by_shapes(), {**PACKED, "img_shapes": shapes})
SD3 = Layout("sd3", spatial("hidden_states"), SPATIAL)
