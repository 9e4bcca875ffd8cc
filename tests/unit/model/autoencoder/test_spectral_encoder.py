from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from echo.errors import LoadError
from echo.model.autoencoder import Autoencoder, AutoencoderConfig
from echo.model.autoencoder.config import QuantizerConfig, SpectralEncoderConfig
from echo.model.autoencoder.history import History
from echo.model.autoencoder.mel import log_mel, mel_filters
from echo.model.autoencoder.pca import Pca
from echo.model.autoencoder.speaker import speaker_latents
from echo.model.autoencoder.spectral_encoder import SpectralEncoder
from echo.types import SAMPLE_RATE
from tests.closeness import assert_close

from .test_spectral_decoder import LATENT, SPECTRAL, TRANSFORMER

ENCODER = SpectralEncoderConfig(dim=16, layers=2, frames_per_latent=4, hop=512, bands=20, highest_hz=11_000.0)
CONFIG = AutoencoderConfig(
    encoder_dim=0,
    encoder_rates=(),
    encoder_transformers=(),
    latent_dim=LATENT,
    decoder_dim=0,
    decoder_rates=(),
    quantizer=QuantizerConfig(
        codebook_size=8,
        n_codebooks=1,
        semantic_codebook_size=8,
        codebook_dim=4,
        downsample_factor=(),
        pre_module=None,
        post_module=None,
    ),
    spectral=SPECTRAL,
    spectral_encoder=ENCODER,
)


@pytest.fixture
def autoencoder() -> Autoencoder:
    torch.manual_seed(0)
    return Autoencoder(CONFIG).requires_grad_(False).eval()


@pytest.fixture
def encoder() -> SpectralEncoder:
    torch.manual_seed(0)
    return SpectralEncoder(ENCODER, LATENT).requires_grad_(False).eval()


def voice(hertz: float, latents: int) -> Tensor:
    """Audio [1, 1, samples] of a steady voice."""
    time = torch.arange(latents * 2048) / SAMPLE_RATE
    return 0.05 * torch.stack([torch.cos(math.tau * n * hertz * time) / n for n in range(1, 12)]).sum(0)[None, None]


def test_config_survives_json() -> None:
    assert AutoencoderConfig.from_dict(json.loads(json.dumps(asdict(CONFIG)))) == CONFIG
    assert CONFIG.samples_per_latent == 2048
    assert CONFIG.max_encode_latents > 100_000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hop": 256}, "encodes 1024"),
        ({"dim": None}, "wrong type"),
        ({"bands": 0}, "0 bands"),
        ({"highest_hz": 23_000}, "at most 22050 Hz"),
    ],
)
def test_a_wrong_config_is_named(change: dict[str, Any], message: str) -> None:
    raw = json.loads(json.dumps(asdict(CONFIG)))
    raw["spectral_encoder"] |= change
    with pytest.raises(LoadError, match=message):
        AutoencoderConfig.from_dict(raw)


def test_a_missing_field_is_named() -> None:
    raw = json.loads(json.dumps(asdict(CONFIG)))
    del raw["spectral_encoder"]["layers"]
    with pytest.raises(LoadError, match="lacks the field 'layers'"):
        AutoencoderConfig.from_dict(raw)


def test_it_goes_with_the_convolutions_that_decode() -> None:
    quantizer = replace(CONFIG.quantizer, downsample_factor=(2, 2), post_module=TRANSFORMER)
    config = replace(CONFIG, decoder_dim=16, decoder_rates=(16, 32), quantizer=quantizer, spectral=None)
    assert AutoencoderConfig.from_dict(json.loads(json.dumps(asdict(config)))) == config
    model = Autoencoder(config).requires_grad_(False).eval()
    assert model.decode_zq(model.encode_zq(voice(120.0, 3))).shape == (1, 1, 3 * 2048)


@pytest.mark.parametrize("pieces", [1, 2, 5])
def test_pieces_are_the_whole(autoencoder: Autoencoder, encoder: SpectralEncoder, pieces: int) -> None:
    audio = voice(150.0, 10) + 0.01 * torch.randn(1, 1, 10 * 2048)
    history, parts = History(), []
    for piece in audio.split(pieces * 2048, -1):
        parts.append(encoder(piece, history))
        history = History(history.next_tails())
    assert_close(torch.cat(parts, -1), encoder(audio, History()), atol=2e-5, rtol=0)
    found = [codes for _, codes in autoencoder.encode_pieces(audio, pieces)]
    assert torch.equal(torch.cat(found, -1), autoencoder.encode(audio)[1])


def test_later_audio_changes_nothing_before(encoder: SpectralEncoder) -> None:
    audio, other = voice(150.0, 8), voice(150.0, 8)
    other[..., 5 * 2048 :] += 0.1 * torch.randn(3 * 2048)
    a, b = encoder(audio, History()), encoder(other, History())
    assert_close(a[..., :5], b[..., :5], atol=1e-6, rtol=0)
    assert float((a - b)[..., 5:].abs().max()) > 1e-3


@pytest.mark.parametrize("hertz", [80.0, 143.0, 330.0])
def test_the_autocorrelation_is_highest_at_the_voices_period(encoder: SpectralEncoder, hertz: float) -> None:
    _, periods = encoder.spectra(voice(hertz, 4), History())
    settled = periods[0, 8:]
    lags = torch.arange(int(SAMPLE_RATE / 400), int(SAMPLE_RATE / 67) + 1, 2)
    period = SAMPLE_RATE / hertz
    assert float(settled.amax()) == pytest.approx(1.0, abs=0.05)
    assert float(settled[:, (lags - period).abs() <= 2].amax(1).min()) > 0.95
    between = ((lags / period).frac() - 0.5).abs() < 0.2
    assert float(settled[:, between].max()) < 0.8


def test_of_silence_all_spectra_are_zero(encoder: SpectralEncoder) -> None:
    mel, periods = encoder.spectra(torch.zeros(1, 1, 3 * 2048), History())
    assert not mel.any()
    assert not periods.any()


def test_spectra_tell_how_loud_a_tone_is_and_where(encoder: SpectralEncoder) -> None:
    time = torch.arange(4 * 2048) / SAMPLE_RATE
    levels = []
    for amplitude in (0.01, 0.1):
        mel, _ = encoder.spectra(amplitude * torch.sin(math.tau * 2_000 * time)[None, None], History())
        levels.append(mel[0, 8:].mean(0))
    band = int(levels[0].argmax())
    filters = mel_filters(ENCODER.bands, ENCODER.highest_hz, SAMPLE_RATE / 2048, 1025)
    assert band == int(filters[round(2_000 / (SAMPLE_RATE / 2048))].argmax())
    assert float(levels[1][band] - levels[0][band]) == pytest.approx(math.log(10.0), abs=0.02)


def test_half_the_rate_hears_the_same_spectra() -> None:
    audio = voice(140.0, 1)[0, 0, :1024]
    whole = log_mel(audio, SAMPLE_RATE, 46, 9_000.0)
    assert_close(log_mel(audio[::2], SAMPLE_RATE // 2, 46, 9_000.0), whole, atol=0.05, rtol=0)


def test_a_reference_clip_goes_through_it(autoencoder: Autoencoder) -> None:
    found = speaker_latents(autoencoder, Pca(torch.eye(LATENT), torch.zeros(LATENT), 1.0), voice(120.0, 9)[0, 0])
    assert found.valid == 8
    assert found.latents.shape == (8, LATENT)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_of_half_precision_compute_spectra_in_full(autoencoder: Autoencoder, dtype: torch.dtype) -> None:
    exact = autoencoder.encoder(voice(120.0, 4), History())
    rounded = autoencoder.to(dtype).encoder(voice(120.0, 4), History())
    assert autoencoder.dtype is dtype
    assert rounded.dtype is dtype
    assert_close(rounded.float(), exact, atol=0.05 * float(exact.abs().max()), rtol=0)
