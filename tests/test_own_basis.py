"""docs/bases.md: its wavelet basis is a full member of the family, from noise to samples; what breaks the contract shows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from strategies import within
from tolerances import assert_close

from spectral_pd import GaussianField, NoiseField, PowerLaw, SpectrumMeter, plan_at, predict, sample, shift_times

pywt = pytest.importorskip("pywt", reason="PyWavelets is not installed: pip install PyWavelets")

BLOCKS = re.findall(r"```python\n(.*?)```", (Path(__file__).parent.parent / "docs" / "bases.md").read_text(), re.DOTALL)
SCOPE: dict = {}
exec(compile(BLOCKS[0], "docs/bases.md", "exec"), SCOPE)
WaveletBasis = SCOPE["WaveletBasis"]
WAVELETS = ("haar", "db2", "db4", "sym4", "coif1")
LAW = PowerLaw(60.0, 2.4, shape=(32, 32))


def randn(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_the_page_checks_its_own_basis():
    exec(compile(BLOCKS[1], "docs/bases.md", "exec"), dict(SCOPE))


@pytest.mark.parametrize("wavelet", WAVELETS)
@pytest.mark.parametrize("n", [1, 2, 3, 4, 12, 64])
def test_matrices_are_orthogonal_and_nested(wavelet, n):
    basis = WaveletBasis(wavelet)
    c = basis.matrix(n)
    assert_close(c @ c.T, torch.eye(n, dtype=torch.float64))
    u = basis.isometry(n, 4 * n)
    assert_close(u.T @ u, torch.eye(n, dtype=torch.float64))
    assert_close(basis.matrix(4 * n) @ u, torch.cat([c, torch.zeros(3 * n, n, dtype=torch.float64)]))


@pytest.mark.parametrize("wavelet", WAVELETS)
def test_levels_are_those_of_pywavelets(wavelet):
    """Up to the place where the periodic filter starts, which PyWavelets counts from another sample."""
    x = randn(32)
    ours = WaveletBasis(wavelet).restrict(x, (16,))

    def theirs(start):
        return torch.from_numpy(pywt.dwt(x.roll(start).numpy(), wavelet, mode="periodization")[0])

    assert min(float((theirs(start) - ours).abs().max()) for start in range(-8, 9)) < 1e-10


def test_noise_is_white_and_the_same_on_every_grid():
    basis = WaveletBasis("db2")
    noise = NoiseField(7, basis=basis)
    fine = noise.on((3, 16, 16), dtype=torch.float64)
    assert_close(basis.restrict(fine, (8, 8)), noise.on((3, 8, 8), dtype=torch.float64))


def test_spectrum_of_white_noise_is_one():
    meter = SpectrumMeter((32, 32), basis=WaveletBasis("db4"))
    power = meter.update(randn(64, 1, 32, 32)).result().power
    assert abs(power - 1).max() < 0.1


@pytest.mark.parametrize("wavelet", ["db2", "sym4"])
def test_sampler_does_what_the_prediction_says(wavelet):
    basis = WaveletBasis(wavelet)
    field = GaussianField(LAW, (32, 32), basis=basis)
    plan = plan_at(shift_times(12, shift=3.0), (0.9,), (32, 32), scales=(1 / 2, 1), basis=basis)
    noise = randn(2, 1, 32, 32)
    result = sample(field.velocity, noise, plan)
    gain = predict(plan, field).gain
    assert_close(basis.forward(result), gain * basis.forward(noise))


def test_same_picture_only_in_the_basis_of_the_stages():
    """The equivalence needs the stages and the denoiser to agree on what the low band is: another basis is told apart."""
    basis = WaveletBasis("db4")
    field = GaussianField(LAW, (32, 32), basis=basis)
    times = shift_times(20, shift=3.0)
    full = plan_at(times, (), (32, 32), scales=(1,), basis=basis)
    plan = plan_at(times, (0.97,), (32, 32), scales=(1 / 2, 1))
    noise = randn(2, 1, 32, 32)
    reference = sample(field.velocity, noise, full)

    def error(basis):
        return float((sample(field.velocity, noise, within(plan, basis)) - reference).square().mean().sqrt())

    assert error(basis) < 0.02
    assert error(WaveletBasis("db2")) > 5 * error(basis)


def test_what_is_not_orthonormal_or_not_nested_is_caught():
    with pytest.raises(ValueError, match="not orthogonal"):
        WaveletBasis("bior2.2")
    with pytest.raises(ValueError, match="power of 2"):
        WaveletBasis("db2").embed(randn(8, 8), (12, 12))

    class Truncated(WaveletBasis):
        """Filters cut off at the border instead of wrapped: the usual mistake."""

        def level(self, n):
            rows = super().level(n)
            rows[n // 2 - 1, 0 : max(0, len(self.low) - 2)] = 0
            return rows

    basis = Truncated("db4")
    x = randn(8, 8)
    assert (basis.restrict(basis.embed(x, (16, 16)), (8, 8)) - x).abs().max() > 1e-3
