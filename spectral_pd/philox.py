"""Philox4x32-10, the counter-based random generator (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011).

A number is a function of its address (counter) and key alone, so it does not matter in which order, batch, chunk or process
numbers are made. Noise fields (:mod:`spectral_pd.noise`) and bootstrap weights (:mod:`spectral_pd.meter`) are made of it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

WORD = 0xFFFFFFFF
"""Mask of a 32-bit word."""


def philox4x32(counter: Sequence[Tensor | int], key: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Philox4x32-10: ten bijective rounds on a 128-bit counter.

    Parameters
    ----------
    counter
        Four int64 tensors (or ints) of 32-bit words that broadcast against each other.
    key
        Low and high 32-bit word as int64 tensors.

    Returns
    -------
    Four int64 tensors of 32-bit words.

    Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011; the example is Random123's known answer.

    Examples
    --------
    >>> zero = torch.zeros((), dtype=torch.int64)
    >>> [f"{int(word):08x}" for word in philox4x32((zero, zero, zero, zero), (zero, zero))]
    ['6627e8d5', 'e169c58d', 'bc57ac4c', '9b00dbd8']
    """
    c0, c1, c2, c3 = torch.broadcast_tensors(*(torch.as_tensor(c, device=key[0].device) for c in counter))
    k0, k1 = key
    for _ in range(10):
        # int64 products wrap modulo 2^64, so their bits are those of the unsigned product.
        p0, p1 = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1, c2, c3 = (
            ((p1 >> 32) & WORD) ^ c1 ^ k0,
            p1 & WORD,
            ((p0 >> 32) & WORD) ^ c3 ^ k1,
            p0 & WORD,
        )
        k0, k1 = (k0 + 0x9E3779B9) & WORD, (k1 + 0xBB67AE85) & WORD
    return c0, c1, c2, c3
