"""The small transformer's repair: it learns from the library's own pair; untrained maps and the full size change nothing."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from tolerances import assert_close

pytest.importorskip("safetensors")
pytest.importorskip("sklearn")
pytest.importorskip("skimage")
sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

from tiny_dit import repair
from tiny_dit.model import load

from spectral_pd import restrict_signal
from spectral_pd.restriction import folded_noise
from spectral_pd.training import agreement_sample


@pytest.fixture(scope="module")
def buffer():
    torch.manual_seed(0)
    made = repair.Buffer(repair.Repaired(), seed=5, size=64)
    made.lead(count=2, kept=3)
    made.noise_anew(count=4)
    return made


def test_untrained_it_is_the_network_and_files_give_it_back(tmp_path):
    noise = torch.randn(1, 3, 64, 64)
    model, network = repair.Repaired(), load()
    model.save(tmp_path / "coarse.safetensors", {})
    for one in (model, repair.Repaired.load(tmp_path / "coarse.safetensors")):
        velocity = one.velocity(noise)
        assert torch.equal(velocity(noise, 0.7), network.velocity(noise, 0.7))
        for side in (32, 16):
            assert_close(velocity(noise[..., :side, :side], 0.7), network.velocity(noise[..., :side, :side], 0.7))
    # Negative control: maps that are not zero say something.
    with torch.no_grad():
        for value in model.informed.parameters():
            value.normal_(std=0.1)  # the same everywhere would be lost in the layer norms
    small = noise[..., :32, :32]
    assert float((model.velocity(noise)(small, 0.7) - network.velocity(small, 0.7)).abs().max()) > 1e-3
    assert torch.equal(model.velocity(noise)(noise, 0.7), network.velocity(noise, 0.7))


def test_weights_of_a_blind_copy_are_refused_by_one_that_reads_the_high_band(tmp_path):
    blind, informed = repair.Repaired(informed=False), repair.Repaired()
    with pytest.raises(SystemExit, match=r"init\.safetensors holds no maps that read the high band; pass --blind"):
        repair.take(informed.parameters(), blind.parameters(), tmp_path / "init.safetensors")
    with torch.no_grad():
        for p in informed.coarse.parameters():
            p.add_(1.0)
    repair.take(blind.parameters(), informed.parameters(), tmp_path / "init.safetensors")
    assert all(torch.equal(p, informed.parameters()[name]) for name, p in blind.parameters().items())


def test_a_batch_is_the_librarys_pair(buffer, monkeypatch):
    """States, times, planes and targets against `agreement_sample` and `folded_noise`, to the precision they are kept in."""
    monkeypatch.setattr(repair, "BATCH", {32: 6, 16: 2})
    assert buffer.count == 3 * 2 + 4
    y, tau, planes, target, steps = buffer.batch(32, torch.Generator().manual_seed(0))
    (plan,) = [plan for plan in repair.plans() if plan.split == (18, 2)]
    network = load()
    index = 0
    chosen = [i for i in range(buffer.count) if torch.equal(buffer.steps[i], steps[index])]
    step = int(steps[index])
    found = []
    for i in chosen:
        x = buffer.states[i].float()[None]
        # Its high band is T times the field's: the field is known beyond the coarse grid, which is all that is asked of it.
        pair = agreement_sample(network.velocity, x, x / plan.times[step], step, plan)
        found.append(
            max(float((pair.x[0] - y[index]).abs().max()), float((pair.denoised[0] - target[index]).abs().max()))
        )
        if found[-1] < 0.05:
            assert abs(float(pair.t[0]) - float(tau[index])) < 1e-6
            assert_close(planes[index], folded_noise(x / plan.times[step], (32, 32))[0], factor=10.0)
    assert min(found) < 0.05  # bfloat16 answers, kept as float16
    assert target.shape == restrict_signal(buffer.states[:6].float(), (32, 32)).shape
