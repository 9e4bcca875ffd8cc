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
from echo.model.autoencoder.config import QuantizerConfig, SourceConfig, SpectralDecoderConfig, TransformerConfig
from echo.model.autoencoder.history import History
from echo.model.autoencoder.pca import Pca
from echo.model.autoencoder.spectral import SpectralDecoder
from echo.model.autoencoder.streaming import StreamingDecoder
from tests.closeness import assert_close

LATENT = 16
SOURCE = SourceConfig(voicing=(0, 1), pitch=(2, 3), phase=(4, 5, 6, 7, 8, 9, 10, 11))
SPECTRAL = SpectralDecoderConfig(
    dim=32, layers=2, context_layers=1, frames_per_latent=4, fft=1024, oversampling=2, source=SOURCE
)
TRANSFORMER = TransformerConfig(
    input_dim=LATENT, dim=LATENT, n_layer=1, n_head=1, intermediate_size=16, window_size=4, block_size=64, head_dim=16
)
CONFIG = AutoencoderConfig(
    encoder_dim=4,
    encoder_rates=(16, 32),
    encoder_transformers=(None, None),
    latent_dim=LATENT,
    decoder_dim=0,
    decoder_rates=(),
    quantizer=QuantizerConfig(
        codebook_size=8,
        n_codebooks=1,
        semantic_codebook_size=8,
        codebook_dim=4,
        downsample_factor=(2, 2),
        pre_module=TRANSFORMER,
        post_module=None,
    ),
    spectral=SPECTRAL,
)


@pytest.fixture
def autoencoder() -> Autoencoder:
    torch.manual_seed(0)
    return Autoencoder(CONFIG).requires_grad_(False).eval()


def tone(hertz: float, latents: int) -> Tensor:
    """Latents [latents, 16] of a steady voiced sound, its phase zero at the start."""
    rate, hop = 22_050, 256
    rows = torch.zeros(latents, LATENT)
    rows[:, 0:2] = 1.0
    rows[:, 2:4] = 1.5 * math.log2(hertz / 130.0)
    ends = torch.arange(1, 4 * latents + 1).double() * hop / rate
    phase = (2 * math.pi * hertz * ends).float().reshape(latents, 4)
    rows[:, 4:12] = torch.stack((phase.cos(), phase.sin()), 2).flatten(1)
    return rows


def test_config_survives_json() -> None:
    assert AutoencoderConfig.from_dict(json.loads(json.dumps(asdict(CONFIG)))) == CONFIG


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fft": 512}, "decodes 1024"),
        ({"dim": None}, "wrong type"),
        ({"source": {"voicing": [0], "pitch": [2, 3], "phase": list(range(8))}}, "does not fit"),
        ({"source": {"voicing": [0, 1], "pitch": [2, 3], "phase": [4, 5]}}, "does not fit"),
        ({"source": {"voicing": [0, 99], "pitch": [2, 3], "phase": list(range(8))}}, "does not fit"),
    ],
)
def test_a_wrong_config_is_named(change: dict[str, Any], message: str) -> None:
    raw = json.loads(json.dumps(asdict(CONFIG)))
    raw["spectral"] |= change
    with pytest.raises(LoadError, match=message):
        AutoencoderConfig.from_dict(raw)


def test_a_missing_field_is_named() -> None:
    raw = json.loads(json.dumps(asdict(CONFIG)))
    del raw["spectral"]["layers"]
    with pytest.raises(LoadError, match="lacks the field 'layers'"):
        AutoencoderConfig.from_dict(raw)


@pytest.mark.parametrize("follow", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("sizes", [(1, 1, 1, 9), (5, 7), (3, 3, 3, 3)])
def test_pieces_are_the_whole(follow: float, sizes: tuple[int, ...]) -> None:
    torch.manual_seed(1)
    spectral = replace(SPECTRAL, source=replace(SOURCE, follow=follow))
    model = Autoencoder(replace(CONFIG, spectral=spectral)).requires_grad_(False).eval()
    decoder = StreamingDecoder(model, Pca(torch.eye(LATENT), torch.zeros(LATENT), 1.0))
    latents = torch.randn(12, LATENT)
    whole, _ = decoder.decode(None, latents)
    state, pieces = None, []
    for piece in latents.split(list(sizes)):
        audio, state = decoder.decode(state, piece)
        assert audio.shape == (len(piece) * 2048,)
        pieces.append(torch.from_numpy(audio))
    assert_close(torch.cat(pieces), torch.from_numpy(whole), atol=2e-6, rtol=0)


def test_streams_of_different_age_share_a_batch(autoencoder: Autoencoder) -> None:
    decoder = StreamingDecoder(autoencoder, Pca(torch.eye(LATENT), torch.zeros(LATENT), 1.0))
    latents = torch.randn(8, LATENT)
    _, old = decoder.decode(None, latents[:4])
    alone = [decoder.decode(old, latents[4:])[0], decoder.decode(None, latents[:4])[0]]
    together = [audio for audio, _ in decoder.decode_batch([old, None], [latents[4:], latents[:4]])]
    for one, other in zip(together, alone, strict=True):
        assert_close(torch.from_numpy(one), torch.from_numpy(other), atol=2e-6, rtol=0)


def test_later_latents_change_nothing_before(autoencoder: Autoencoder) -> None:
    z_q = torch.randn(1, LATENT, 8)
    other = z_q.clone()
    other[..., 5:] += 1.0
    a, b = autoencoder.decode_zq(z_q), autoencoder.decode_zq(other)
    assert torch.equal(a[..., : 5 * 2048], b[..., : 5 * 2048])
    assert not torch.equal(a, b)


@pytest.mark.parametrize("follow", [0.0, 1.0])
def test_pulses_have_the_pitch_and_the_phase_that_the_latents_tell(follow: float) -> None:
    torch.manual_seed(0)
    decoder = SpectralDecoder(replace(SPECTRAL, source=replace(SOURCE, follow=follow)), LATENT).eval()
    hertz, rate = 220.5, 22_050
    pulses = decoder._pulses(tone(hertz, 12).T[None], decoder.config.source, History())[0]
    period = int(rate / hertz)
    heard = pulses[4 * 1024 :]
    places = (heard > 0.5 * heard.max()).nonzero().flatten()
    peaks = places[torch.cat((torch.tensor([True]), places.diff() > 2))]
    assert set(peaks.diff().tolist()) <= {period - 1, period, period + 1}
    # The fundamental, not the pulse: its phase at the end of the signal is the one told.
    end = torch.arange(-1024, 0) * (2 * math.pi * hertz / rate)
    window = torch.hann_window(1024)
    found = torch.atan2(-(window * heard[-1024:] * end.sin()).sum(), (window * heard[-1024:] * end.cos()).sum())
    told = 2 * math.pi * hertz * 12 * 1024 / rate
    if follow:
        assert abs(math.remainder(float(found) - told, math.tau)) < 0.1


def test_a_flat_filter_gives_the_source_back_three_frames_later() -> None:
    decoder = SpectralDecoder(SPECTRAL, LATENT).requires_grad_(False).eval()
    for parameter in (*decoder.head.parameters(), *decoder.direct.parameters()):
        parameter.zero_()
    decoder.head.bias[:512] = 5.0  # the pulses' filter is 1, for its level before training is exp(-5)
    decoder.head.bias[3 * 512 :] = -20.0
    z_q = tone(150.0, 10).T[None]
    pulses = decoder._pulses(z_q, SOURCE, History()) * 0.01
    history = History()
    spectra = decoder.spectra(z_q, z_q, history) * 0.01
    made = decoder.sound(spectra, history, oversampling=1)
    delay = SPECTRAL.delay // SPECTRAL.oversampling
    assert delay == 768
    assert_close(made[0, delay + 1024 :], pulses[0, 1024:-delay], atol=2e-3, rtol=0)


def test_twice_the_rate_is_the_same_sound(autoencoder: Autoencoder) -> None:
    decoder = autoencoder.decoder
    assert isinstance(decoder, SpectralDecoder)
    spectra = decoder.spectra(tone(120.0, 8).T[None], tone(120.0, 8).T[None], History())
    once, twice = (decoder.sound(spectra, History(), oversampling=factor) for factor in (1, 2))
    assert twice.shape[1] == 2 * once.shape[1]
    assert_close(twice[:, ::2], once, atol=1e-5, rtol=0)


def test_noise_is_white_and_depends_on_the_place_only(autoencoder: Autoencoder) -> None:
    decoder = autoencoder.decoder
    assert isinstance(decoder, SpectralDecoder)
    history = History()
    first = decoder._noise(torch.zeros(1, LATENT, 20), 80, history)
    again = decoder._noise(torch.zeros(1, LATENT, 20), 80, History(history.next_tails()))
    both = decoder._noise(torch.zeros(1, LATENT, 40), 160, History())
    assert torch.equal(torch.cat((first, again), 1), both)
    assert abs(float(both.std()) - 1.0) < 0.02
    assert abs(float((both[:, 1:] * both[:, :-1]).mean())) < 0.02
