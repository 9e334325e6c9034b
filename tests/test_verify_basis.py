"""verify_basis: the built-in bases and the wavelets of docs/bases.md keep every promise; broken ones are told apart."""

import re
from pathlib import Path

import pytest

from spectral_pd.bases import BASES, SeparableBasis, verify_basis

pytest.importorskip("pywt")

PAGE = Path(__file__).parent.parent / "docs" / "bases.md"
SCOPE: dict = {}
exec(compile(re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)[0], str(PAGE), "exec"), SCOPE)
Wavelet = SCOPE["WaveletBasis"]

GRIDS = [((8, 8), (32, 32)), ((6, 8), (12, 16)), ((5,), (20,)), ((2, 4, 4), (4, 8, 8))]


@pytest.mark.parametrize("basis", [*map(Wavelet, ("db1", "db2", "db4", "sym8")), *BASES.values()], ids=repr)
@pytest.mark.parametrize("grids", GRIDS)
def test_every_promise_is_kept(basis, grids):
    verify_basis(basis, *grids)


class Unscaled(Wavelet):
    def level(self, n):
        return 2**0.5 * super().level(n)


class HighFirst(Wavelet):
    """High band in the corner."""

    def level(self, n):
        return super().level(n).roll(n // 2, 0)


class OtherFilter(Wavelet):
    """Grows with another filter than it transforms with."""

    def isometry(self, n_low, n_high, **options):
        return Wavelet("db2").isometry(n_low, n_high, **options)


class NotTransposed(Wavelet):
    def inverse(self, c, *, dims=2):
        return self.forward(c, dims=dims)


class NegativeFrequency(Wavelet):
    def frequency(self, shape):
        return super().frequency(shape) - 10


class Reversed(SeparableBasis):
    """Orthogonal and nested by rows, but the corner holds the highest frequencies: a constant does not survive."""

    name = "reversed"

    def matrix(self, n):
        return BASES["dct"].matrix(n).flip(0)

    def axis_frequency(self, n):
        return BASES["dct"].axis_frequency(n).flip(0)


@pytest.mark.parametrize(
    ("basis", "message"),
    [
        (Unscaled("db4"), "energy|must be x"),
        (HighFirst("db4"), "constant picture|low corner"),
        (OtherFilter("db4"), "low corner"),
        (NotTransposed("db4"), r"inverse\(forward\(x\)\) must be x"),
        (NegativeFrequency("db4"), "frequency must give one number"),
        (Reversed(), "constant picture"),
    ],
    ids=lambda v: type(v).__name__,
)
def test_a_broken_promise_is_named(basis, message):
    with pytest.raises(ValueError, match=message):
        verify_basis(basis, (8, 8), (32, 32))


def test_grids_that_cannot_grow():
    with pytest.raises(ValueError, match="cannot grow"):
        verify_basis(Wavelet("db4"), (8, 8), (24, 24))
    with pytest.raises(TypeError, match="basis"):
        verify_basis("db4", (8, 8), (16, 16))
