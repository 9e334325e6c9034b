r"""An adapter for coarse stages only: a LoRA, and what the input layer makes of the seed's own high band.

A network that was repaired to agree with itself (docs/agreement.md) is the untouched one at full size: its last stage, and
a plain run, are the pipeline's own, bit for bit. So the adapter is switched on when a stage is coarse and off when it is
not.

*Informed.* Beside its state y a coarse call may be given ``tau`` times :func:`~spectral_pd.restriction.folded_noise` of the
run's white field: what the full-size state holds beyond y as long as ``T >= t*``. The planes go through linear maps of their
own, one a ratio of sizes, into the network's first layer; these maps start at zero, and no token is added.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from spectral_pd.bases import Basis, size_ratio
from spectral_pd.inputs import refuse
from spectral_pd.restriction import folded_noise

NAME, PREFIX, INFORMED = "coarse_stages", "transformer.", "informed."
"""The adapter's name on a network, what diffusers puts before a transformer's weights, and what we put before the planes'."""


class InformedInput(nn.Module):
    """Adds to a network's first layer what maps of their own make of a run's folded high band; zero until trained.

    Parameters
    ----------
    layer
        The network's first layer: linear over tokens, or a convolution over patches.
    channels
        Channels of the folded noise for each ratio of sizes, ``C r^2``.
    """

    def __init__(self, layer: nn.Module, channels: Mapping[int, int]) -> None:
        super().__init__()
        weight: Tensor = layer.weight  # type: ignore[assignment]
        self.maps = nn.ParameterDict(
            {
                str(r): torch.zeros(weight.shape[0], n, *weight.shape[2:], device=weight.device)
                for r, n in channels.items()
            }
        )
        self.planes: Tensor | None = None
        self.ratio, self.last = 1, False
        self.handle = layer.register_forward_hook(self._add)

    def tell(self, planes: Tensor | None, ratio: int = 1, *, last: bool = False) -> None:
        """What the next calls know: tokens (batch, tokens, features) or planes in space, times tau; None: nothing.

        Fewer tokens than the layer reads are its first ones, or with `last` its last.
        """
        if planes is not None and str(ratio) not in self.maps:
            trained = ", ".join(f"1/{r}" for r in self.maps)
            raise ValueError(
                f"the adapter reads the high band at {trained} of the size, not at 1/{ratio}; change scales"
            )
        self.planes, self.ratio, self.last = planes, ratio, last

    def _add(self, layer: Any, args: Any, output: Tensor) -> Tensor:
        if self.planes is None:
            return output
        weight = self.maps[str(self.ratio)]
        planes = self.planes.to(weight.dtype)
        if weight.ndim == 2 and output.ndim == 2:  # the tokens of all pictures in one row
            return self._add(layer, args, output.unflatten(0, (-1, planes.shape[1]))).flatten(0, 1)
        planes = planes.repeat(output.shape[0] // planes.shape[0], *[1] * (planes.ndim - 1))
        if weight.ndim == 2:
            added = functional.linear(planes, weight).to(output.dtype)
            others = output.shape[1] - added.shape[1]
            return output + functional.pad(added, (0, 0, others, 0) if self.last else (0, 0, 0, others))
        convolve: Callable[..., Tensor] = functional.conv3d if weight.ndim == 5 else functional.conv2d
        return output + convolve(planes, weight, stride=layer.stride, padding=layer.padding).to(output.dtype)


def features(layer: nn.Module, channels: int, ratio: int, patch: int) -> int:
    """Inputs that the folded noise of a ratio has at a first layer: patches of channels, or channels."""
    return channels * ratio**2 * (patch**2 if isinstance(layer, nn.Linear) else 1)


class StageLora:
    """A LoRA on a network, by name, that is on in coarse stages only; made by :meth:`add`, read by :meth:`load`.

    Attributes
    ----------
    network, informed
        What it lies on, and its :class:`InformedInput`, if it has one.
    metadata
        Of the file: the schedule it was trained for, rank and layers.
    """

    def __init__(self, network: nn.Module, record: Mapping[str, Any], metadata: Mapping[str, str]) -> None:
        from peft import LoraConfig, inject_adapter_in_model

        self.network, self.record, self.metadata = network, dict(record), dict(metadata)
        rank = record["rank"]
        config = LoraConfig(r=rank, lora_alpha=rank, target_modules=list(record["targets"]))
        active = {layer: list(layer.active_adapters) for layer in _layers(network)}  # which injecting may change
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Already found a `peft_config`")  # another adapter is no mistake
            inject_adapter_in_model(config, network, adapter_name=NAME)
        for layer in _layers(network):
            layer.set_adapter([*active.get(layer, []), NAME])
        self.informed: InformedInput | None = None
        if read := record.get("reads"):
            channels = {int(r): n for r, n in record["planes"].items()}
            self.informed = InformedInput(network.get_submodule(read), channels)
        for parameter in self.parameters():
            parameter.data = parameter.data.float()

    @classmethod
    def add(
        cls,
        network: nn.Module,
        targets: Sequence[str],
        *,
        rank: int,
        reads: str = "",
        planes: Mapping[int, int] | None = None,
    ) -> StageLora:
        """A new one that changes nothing yet; everything else is frozen.

        Parameters
        ----------
        targets
            Full names of the linear layers.
        rank
            Of the LoRA.
        reads, planes
            Name of the first layer and its :func:`features` for each ratio: an informed adapter.
        """
        network.requires_grad_(False)
        record = {"rank": rank, "targets": sorted(targets), "reads": reads, "planes": dict(planes or {})}
        return cls(network, record, {})

    @classmethod
    def load(cls, network: nn.Module, path: str | Path) -> StageLora:
        """What :meth:`save` wrote, on a network of the same layers; switched off.

        Raises
        ------
        ValueError
            A file that is no adapter for coarse stages, or does not fit.
        """
        from safetensors import SafetensorError, safe_open
        from safetensors.torch import load_file

        metadata: dict[str, str] = {}
        with suppress(SafetensorError), safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
        if "spectral_pd.stage_lora" not in metadata:
            raise ValueError(
                f"{path} is no adapter for coarse stages; train one with benchmarks/finetune.py --objective agree"
            )
        lora = cls(network, json.loads(metadata["spectral_pd.stage_lora"]), metadata)
        try:
            lora.restore({name.removeprefix(PREFIX): value.float() for name, value in load_file(path).items()})
        except (RuntimeError, ValueError) as error:
            lora.remove()
            raise ValueError(f"{path} does not fit {type(network).__name__}: {error}") from None
        lora.switch(False)
        return lora

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take weights that :meth:`tensors` gave. ValueError where they do not fit."""
        from peft import set_peft_model_state_dict

        maps = {
            f"maps.{name.removeprefix(INFORMED)}": value for name, value in tensors.items() if name.startswith(INFORMED)
        }
        low_rank = {name: value for name, value in tensors.items() if not name.startswith(INFORMED)}
        found: Any = set_peft_model_state_dict(self.network, low_rank, adapter_name=NAME)
        unknown = found.unexpected_keys
        if unknown or (self.informed is None) != (not maps):
            raise ValueError(
                f"the adapter holds weights that the network has no place for: {[*unknown, *maps][:3]} ..."
            )
        if self.informed is not None:
            self.informed.load_state_dict(maps)

    def tensors(self) -> dict[str, Tensor]:
        """Weights under the names they have in a file, without the prefix."""
        from peft import get_peft_model_state_dict

        maps = {} if self.informed is None else {INFORMED + name: value for name, value in self.informed.maps.items()}
        return {**get_peft_model_state_dict(self.network, adapter_name=NAME), **maps}

    def save(self, path: Path, metadata: Mapping[str, str]) -> None:
        """Write float16 weights in diffusers' layout; `metadata` say schedule and recipe."""
        from safetensors.torch import save_file

        path.parent.mkdir(parents=True, exist_ok=True)
        tensors = {PREFIX + name: value.detach().cpu().half().contiguous() for name, value in self.tensors().items()}
        save_file(tensors, path, {"format": "pt", "spectral_pd.stage_lora": json.dumps(self.record), **metadata})

    def parameters(self) -> Iterator[nn.Parameter]:
        """What is trained."""
        yield from (p for name, p in self.network.named_parameters() if f".{NAME}." in name)
        yield from () if self.informed is None else self.informed.parameters()

    def switch(self, on: bool) -> None:
        """On beside the adapters that were active before, or off: then they are what they were, and the network with them."""
        for layer in _layers(self.network):
            others = [name for name in layer.active_adapters if name != NAME]
            layer.set_adapter([*others, NAME] if on else others)
        if not on and self.informed is not None:
            self.informed.tell(None)

    def remove(self) -> None:
        """Take it off the network again."""
        self.switch(False)
        for layer in _layers(self.network):
            layer.delete_adapter(NAME)
        if self.informed is not None:
            self.informed.handle.remove()

    def enter(
        self,
        noise: Tensor,
        stage: tuple[int, ...],
        tau: float,
        *,
        basis: Basis,
        pack: Callable[[Tensor], Tensor],
        last: bool = False,
    ) -> None:
        """Before a call on the grid `stage` at local time `tau`, in a run that began with the white field `noise`.

        `pack` makes of planes (batch, channels, ..., *stage) what the first layer reads, the last of it where `last`.
        """
        full = tuple(noise.shape[-len(stage) :])
        self.switch(stage != full)
        if stage != full and self.informed is not None:
            planes = pack(tau * folded_noise(noise, stage, basis=basis))
            self.informed.tell(planes, round(size_ratio(stage, full)), last=last)


def _layers(network: nn.Module) -> list[Any]:
    from peft.tuners.tuners_utils import BaseTunerLayer

    return [module for module in network.modules() if isinstance(module, BaseTunerLayer)]


def loaded(network: nn.Module, path: str | Path) -> StageLora:
    """The adapter of a file on a network, read once; it is kept there, switched off, and goes with it.

    Raises
    ------
    ValueError
        Adapters that are disabled: this one on would mean the others on, too. Whatever :meth:`StageLora.load` refuses.
    """
    network = getattr(network, "_orig_mod", network)  # of a compiled one, whose weights have other names
    off = any(layer.disable_adapters for layer in _layers(network))
    refuse(off, "adapters are disabled, and stage_lora is one; call pipe.enable_lora(), or pipe.unload_lora_weights()")
    key, held = (str(path), Path(path).stat().st_mtime_ns), vars(network).pop("_stage_lora", None)
    there = any(f".{NAME}." in name for name, _ in network.named_parameters())  # pipe.unload_lora_weights() takes all
    if held is None or held[0] != key or not there:
        if held is not None:
            held[1].remove()
        held = key, StageLora.load(network, path)
    vars(network)["_stage_lora"] = held
    return held[1]
