import math
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from train.tiny.corpus import RATE
from train.tiny.latents import HOP, LATENT_SIZE, MEL, PHASE, SUB_HOP, VOICING, Analysis, analyse, pitch_of

_SECONDS = 1.0


def _voice(hertz: float, seconds: float = _SECONDS) -> NDArray[np.float32]:
    """Some harmonics with a formant-like bump."""
    time = np.arange(int(seconds * RATE)) / RATE
    partials = [np.cos(2 * np.pi * h * hertz * time + h) / (1 + abs(h * hertz - 700) / 300) for h in range(1, 20)]
    voice = np.sum(partials, 0)
    return (0.085 * voice / np.sqrt(np.mean(voice**2))).astype(np.float32)


def _noise(seconds: float = _SECONDS) -> NDArray[np.float32]:
    return (0.085 * np.random.default_rng(3).standard_normal(int(seconds * RATE))).astype(np.float32)


@pytest.fixture(scope="module")
def analysis() -> Analysis:
    return Analysis.fit_frames([analyse(_voice(hertz)) for hertz in (90, 130, 210)] + [analyse(_noise())])


def test_there_is_one_latent_per_started_1024_samples(analysis: Analysis) -> None:
    assert analysis.latents(np.zeros(10 * HOP + 1, np.float32)).shape == (11, LATENT_SIZE)


def test_silence_is_all_zeros(analysis: Analysis) -> None:
    assert not analysis.latents(np.zeros(4 * HOP, np.float32)).any()


def test_speech_has_about_unit_size_and_noise_stays_finite(analysis: Analysis) -> None:
    latents = analysis.latents(np.concatenate((_voice(120), _noise())))
    assert 0.5 < float(latents[:, MEL].square().mean().sqrt()) < 2.0
    assert bool(latents.isfinite().all())


@pytest.mark.parametrize("hertz", [80.0, 143.0, 220.0, 330.0])
def test_latents_tell_the_pitch(analysis: Analysis, hertz: float) -> None:
    pitch, voicing = pitch_of(analysis.latents(_voice(hertz)))
    inner = slice(4, -4)
    assert float(voicing[inner].min()) > 0.95
    assert pitch[inner].sub(hertz).abs().max() < 0.01 * hertz


def test_phases_advance_with_the_pitch(analysis: Analysis) -> None:
    hertz = 150.0
    phases = analysis.latents(_voice(hertz))[:, PHASE].reshape(-1, 2)[8:-8]
    turned = torch.complex(phases[:, 0], phases[:, 1])
    step = torch.polar(torch.ones(()), torch.tensor(2 * math.pi * hertz * SUB_HOP / RATE))
    assert (turned[1:] - turned[:-1] * step).abs().max() < 0.05


def test_noise_is_not_voiced_and_its_phases_are_spread_over_the_circle(analysis: Analysis) -> None:
    latents = analysis.latents(_noise(3.0))
    phases = latents[:, PHASE].reshape(-1, 2)
    assert float(latents[:, VOICING].mean()) < 0.15
    assert float(phases.mean(0).norm()) < 0.2
    assert float(phases.square().sum(1).mean()) > 0.6


def test_a_delay_of_one_latent_shifts_the_latents_by_one(analysis: Analysis) -> None:
    voice = _voice(170)
    delayed = np.concatenate((np.zeros(HOP, np.float32), voice))
    assert torch.allclose(analysis.latents(delayed)[3:-2], analysis.latents(voice)[2:-2], atol=1e-3)


def test_the_spectrum_can_be_read_back(analysis: Analysis) -> None:
    frames = analyse(_voice(130))
    found = analysis.mel(analysis.from_frames(frames))
    assert float((found - frames.mel).square().mean().sqrt()) < 0.3


def test_saved_and_loaded_it_makes_the_same_latents(analysis: Analysis, tmp_path: Path) -> None:
    analysis.save(tmp_path / "new" / "analysis.safetensors")
    again = Analysis.load(tmp_path / "new" / "analysis.safetensors")
    assert torch.equal(again.latents(_voice(100)), analysis.latents(_voice(100)))


def test_without_phases_these_numbers_are_zero_and_the_others_as_before(analysis: Analysis, tmp_path: Path) -> None:
    without = Analysis(analysis.components, analysis.inverse, analysis.bands, phases=False)
    wanted = analysis.latents(_voice(120))
    wanted[:, PHASE] = 0.0
    assert torch.equal(without.latents(_voice(120)), wanted)
    assert not without.same_as(analysis)
    without.save(tmp_path / "analysis.safetensors")
    assert not Analysis.load(tmp_path / "analysis.safetensors").phases


def test_a_file_from_before_there_was_a_choice_has_phases(analysis: Analysis, tmp_path: Path) -> None:
    save_file({"components": analysis.components, "inverse": analysis.inverse}, tmp_path / "old.safetensors")
    assert Analysis.load(tmp_path / "old.safetensors").same_as(analysis)
