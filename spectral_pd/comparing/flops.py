r"""FLOPs of a network's calls, 2 a multiply-accumulate, counted on the meta device in two parts.

    linear     matrix products with weights, and convolutions: grows with the tokens N
    attention  products between activations: grows with N^2

On the meta device attention reaches the counter as batched matrix products, so it IS counted; on the CPU the same counter
misses it (the flash kernel there is not registered). A network that lives elsewhere is counted on its twin: the same
class from the same configuration, without weights, given what the network was given.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.flop_counter import FlopCounterMode

from spectral_pd.inputs import comparisons


@dataclass(frozen=True)
class Flops:
    """FLOPs of one call: products with weights, and products between activations."""

    linear: float = 0.0
    attention: float = 0.0

    @property
    def total(self) -> float:
        """Everything counted."""
        return self.linear + self.attention

    def __add__(self, other: Flops) -> Flops:
        return Flops(self.linear + other.linear, self.attention + other.attention)

    def __rmul__(self, times: int) -> Flops:
        return Flops(times * self.linear, times * self.attention)


def count(module: nn.Module, inputs: dict[str, Any], *args: Any) -> Flops:
    """Count one forward pass of a module that lives on the meta device.

    Parameters
    ----------
    module
        On the meta device, or attention would be missed.
    inputs, args
        Keyword arguments of its forward, and positional ones, tensors on the meta device.

    Examples
    --------
    >>> with torch.device("meta"):
    ...     count(nn.Linear(8, 4), {"input": torch.empty(3, 8)}).linear
    192.0
    """
    for name, parameter in module.named_parameters():
        comparisons.on_meta(name, parameter.device.type)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(*args, **inputs)
    counts = counter.get_flop_counts()["Global"]
    attention = sum(n for op, n in counts.items() if any(part in str(op) for part in ("bmm", "attention")))
    return Flops(float(sum(counts.values()) - attention), float(attention))


def twin(module: Any) -> nn.Module:
    """The same network without weights: from the configuration that diffusers and transformers keep with theirs."""
    module = getattr(module, "_orig_mod", module)  # a compiled one
    make = getattr(type(module), "from_config", None)
    with torch.device("meta"):
        made = type(module)(module.config) if make is None else make(dict(module.config))
    return nn.Module.to(made, next(module.parameters()).dtype).eval()


class Calls:
    """Calls of networks as they are made, each kind of them counted once."""

    def __init__(self) -> None:
        self._made: Counter[tuple[Any, ...]] = Counter()
        self._inputs: dict[tuple[Any, ...], tuple[nn.Module, Any, Any]] = {}
        self._counted: dict[tuple[Any, ...], Flops] = {}
        self._twins: dict[int, nn.Module] = {}

    @contextmanager
    def of(self, networks: Sequence[nn.Module], *, parts: Mapping[str, nn.Module] | None = None) -> Iterator[None]:
        """Note what networks are called with, and parts of networks, by their names in the whole that has a configuration."""
        self._made.clear()
        for name, whole in (parts or {}).items():
            part = whole.get_submodule(name)
            self._twins.setdefault(id(part), twin(whole).get_submodule(name))
            networks = [*networks, part]
        handles = [n.register_forward_pre_hook(self._note, with_kwargs=True) for n in networks]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _note(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        # A mask does not change a count, and encoders look into theirs, which holds nothing on the meta device.
        given = tree_map(_to_meta, (args, {k: v for k, v in kwargs.items() if k != "attention_mask"}))
        key = (id(module), *map(_kind, tree_flatten(given)[0]), *sorted(kwargs))
        self._made[key] += 1
        self._inputs.setdefault(key, (module, *given))

    def flops(self) -> Flops:
        """Of all calls noted last."""
        for key in set(self._made) - set(self._counted):
            module, args, kwargs = self._inputs[key]
            if id(module) not in self._twins:
                self._twins[id(module)] = twin(module)
            self._counted[key] = count(self._twins[id(module)], kwargs, *args)
        return sum((times * self._counted[key] for key, times in self._made.items()), Flops())


def _to_meta(value: Any) -> Any:
    return value.detach().to("meta") if isinstance(value, Tensor) else value


def _kind(value: Any) -> Any:
    """What of an argument its cost can depend on."""
    if isinstance(value, Tensor):
        return (tuple(value.shape), value.dtype)
    return type(value) if isinstance(value, float) or not isinstance(value, (int, str)) else value


synchronise = partial(torch.accelerator.synchronize) if torch.accelerator.is_available() else (lambda: None)
"""Wait until the device has done what it was given; nothing to wait for without one."""
