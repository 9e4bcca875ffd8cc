"""The spectral decoder's training on a small material, and what is judged of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from echo.errors import ConfigError
from echo.model.autoencoder.history import History
from echo.model.autoencoder.spectral import SpectralDecoder
from echo.model.files.hub import locate
from tests.closeness import assert_close
from tests.train.small_release import released_and_loaded
from tests.train.small_speech import say
from train.evaluation.decoding import chosen, decoded, decoder_of
from train.tiny import state
from train.tiny.budget import Budget
from train.tiny.codec import (
    CodecOptions,
    CodecShape,
    SpectralEncoderShape,
    SpectralShape,
    _codebooks,
    _start,
    load_codec,
)
from train.tiny.codec_data import INT16, REACH, Material, doubled, draw
from train.tiny.codec_encoder import EncoderOptions, EncoderTask, fit_quantizer
from train.tiny.codec_model import embedded, trainable, weight_normed
from train.tiny.corpus import RATE, Recording, Split
from train.tiny.discriminator import Discriminators
from train.tiny.latents import NARROW, WIDE, Analysis, analyse, mel_filters
from train.tiny.loop import Stage
from train.tiny.spectral_training import SpectralOptions, SpectralPath, SpectralTask
from train.tiny.start import ANALYSIS

SHAPE = CodecShape(spectral=SpectralShape(dim=32, layers=1, context_layers=1), codebook_size=16, codebooks=2)
OPTIONS = SpectralOptions(batch=2, length=8, skip=2, warm_up=1, lr=5e-3, gan_windows=(256,), gan_from=2.0)


def glide(low: float, high: float, seconds: float) -> NDArray[np.float32]:
    time = np.arange(int(seconds * RATE)) / RATE
    phase = 2 * np.pi * np.cumsum(low + (high - low) * time / seconds) / RATE
    wave = np.sum([np.cos(h * phase) / h for h in range(1, 30)], 0)
    return (0.085 * wave / np.sqrt(np.mean(wave**2))).astype(np.float32)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def analysis() -> Analysis:
    return Analysis.fit_frames([analyse(glide(100, 200, 2.0), WIDE), analyse(glide(220, 130, 2.0), WIDE)], WIDE)


@pytest.fixture(scope="module")
def material(analysis: Analysis) -> Material:
    recordings = [
        Recording(str(number), "a", "one", "none", glide(low, high, 1.5), (), np.zeros(1, np.float32))
        for number, (low, high) in enumerate(((100, 180), (210, 130)))
    ]
    return Material.of(recordings, analysis)


def task(material: Material, options: SpectralOptions = OPTIONS, analysis: Analysis | None = None) -> SpectralTask:
    torch.manual_seed(0)
    return SpectralTask(trainable(SHAPE.config()), material, options, seed=1, held_out=[], analysis=analysis)


def test_a_wide_analysis_hears_what_a_narrow_one_does_not_and_says_so_in_its_file(
    analysis: Analysis, tmp_path: Path
) -> None:
    time = np.arange(RATE) / RATE
    tone = (0.1 * np.sin(2 * np.pi * 9_500 * time)).astype(np.float32)
    assert float(analyse(tone, WIDE).mel[20:60].max()) > 3.0
    assert float(analyse(tone, NARROW).mel[20:60].max()) < 1.0
    assert mel_filters(WIDE).shape == (513, 46)
    analysis.save(tmp_path / "analysis.safetensors")
    found = Analysis.load(tmp_path / "analysis.safetensors")
    assert found.bands == WIDE
    assert found.same_as(analysis)
    assert torch.equal(found.latents(tone), analysis.latents(tone))


def test_training_computes_what_the_server_decodes(material: Material) -> None:
    path = SpectralPath(trainable(SHAPE.config())).requires_grad_(False)
    latents = material.latents[4:14].float()[None]
    at_half = path(latents, latents)[0]
    served = path.decoder(embedded(latents, path.latent_dim), History())[0, 0]
    assert served.shape[0] == 2 * at_half.shape[0]
    assert_close(served[::2], at_half, atol=1e-5, rtol=0)


def test_with_the_analysis_the_first_sound_is_about_as_loud_as_it_should_be(
    material: Material, analysis: Analysis
) -> None:
    errors = [float(task(material, analysis=known).step(0, 0.0)["mel"].detach()) for known in (None, analysis)]
    assert errors[1] < 0.7 * errors[0]


def test_native_segments_are_the_recordings_own_samples(material: Material) -> None:
    generator = torch.Generator().manual_seed(3)
    native = draw(material, batch=1, length=6, generator=generator, native=True)
    start = int((material.latents.float() - native.latents[0, 0]).abs().sum(1).argmin())
    wanted = material.samples[start * 1024 : (start + 6) * 1024].float() / 32_767
    assert native.audio.shape == (1, 6 * 1024)
    assert_close(native.audio[0], wanted)


def test_the_decoder_learns_and_a_resumed_run_ends_where_an_unbroken_one_does(
    material: Material, tmp_path: Path
) -> None:
    whole = task(material)
    losses = [float(whole.step(number, number / 12)["loss"].detach()) for number in range(12)]
    assert np.mean(losses[-3:]) < 0.9 * np.mean(losses[:3])

    broken = task(material)
    stage = Stage(broken, tmp_path)
    for number in range(5):
        broken.step(number, number / 12)
    stage.number = 5
    stage.save()
    broken.step(5, 5 / 12)  # lost
    resumed = task(material)
    stage = Stage(resumed, tmp_path)
    assert stage.number == 5
    stage.train(Budget(steps=12), show_progress=False)
    for name in ("decoder", "trained"):
        expected, found = (one.parts()[name][0].state_dict() for one in (whole, resumed))
        assert all(torch.allclose(found[key], expected[key], atol=1e-4) for key in expected)


def test_the_discriminators_take_part_from_where_they_are_told_to(material: Material) -> None:
    options = SpectralOptions(batch=1, length=8, skip=2, windows=(256,), gan_windows=(256,), gan_from=0.5, gan_every=2)
    one = task(material, options)
    assert "discriminators" not in one.step(0, 0.4)
    assert "discriminators" not in one.step(1, 0.6)
    assert float(one.step(2, 0.6)["discriminators"].detach()) > 0.0


def test_discriminators_of_relative_phases_do_not_hear_where_a_voice_began() -> None:
    torch.manual_seed(0)
    time = torch.arange(8_192) / RATE
    early, late = (sum(torch.cos(2 * torch.pi * h * 150 * (time + at)) / h for h in range(1, 20)) for at in (0, 0.003))
    hiss = torch.randn(8_192)
    for relative, alike in ((True, True), (False, False)):
        one = Discriminators([512], rate=RATE, relative=relative)

        def apart(other: Tensor, one: Discriminators = one) -> float:
            return float(one.decoder_losses(one(0.05 * early[None]), 0.05 * other[None])[1].detach())

        assert (apart(late) < 0.3 * apart(hiss)) == alike


def test_networks_in_bfloat16_learn_as_they_do_in_float32(material: Material) -> None:
    full, half = (task(material, replace(OPTIONS, gan_from=0.0, bf16=bf16)) for bf16 in (False, True))
    losses = np.array([[float(one.step(n, n / 12)["loss"].detach()) for n in range(12)] for one in (full, half)])
    assert not np.array_equal(*losses)
    np.testing.assert_allclose(losses[1], losses[0], rtol=0.05)
    assert losses[1, -3:].mean() < losses[1, :3].mean()
    for module, _ in half.parts().values():
        assert {parameter.dtype for parameter in module.parameters()} == {torch.float32}


def test_the_average_follows_the_weights(material: Material) -> None:
    one = task(material)
    for number in range(3):
        one.step(number, 0.0)
    average = dict(one.parts()["decoder"][0].named_parameters())["path.decoder.head.bias"]
    trained = dict(one.parts()["trained"][0].named_parameters())["decoder.head.bias"]
    assert not torch.equal(average, trained)
    assert float((average - trained).detach().abs().max()) < 0.01


def test_a_decoder_in_training_can_be_judged_before_there_is_an_encoder(material: Material, tmp_path: Path) -> None:
    options = CodecOptions(shape=SHAPE, spectral=OPTIONS)
    assert decoder_of(tmp_path, options) is None
    Stage(task(material), tmp_path / "decoder").train(Budget(steps=1), show_progress=False)
    found = decoder_of(tmp_path, options)
    assert found is not None
    model, step = found
    assert step == 1
    assert isinstance(model.decoder, SpectralDecoder)
    assert decoded(model, material.latents[:10].float()).shape == (10 * 1024,)
    assert load_codec(tmp_path, options) is None  # not yet whole


def test_a_released_decoder_sounds_as_it_did_in_training(material: Material, tmp_path: Path) -> None:
    one = task(material)
    for number in range(3):
        one.step(number, 0.0)
    model = trainable(SHAPE.config())
    trained = one.parts()["decoder"][0].state_dict()
    weights = {key.removeprefix("path."): value for key, value in trained.items()}
    model.load_state_dict(weights, strict=False)
    released = weight_normed(model).requires_grad_(False).eval()
    loaded = released_and_loaded(released, SHAPE.latent_dim, tmp_path)
    z_q = embedded(material.latents[4:14].float()[None], SHAPE.latent_dim)
    with torch.no_grad():
        assert_close(loaded.decode_zq(z_q), model.decode_zq(z_q), atol=1e-5, rtol=0)


def test_a_model_with_the_other_decoder_cannot_be_started_from(analysis: Analysis) -> None:
    options = CodecOptions(shape=CodecShape(), start_from="tiny")
    known = Analysis.load(Path(str(locate("tiny").dit.parent / ANALYSIS)))
    with pytest.raises(ConfigError, match="the other kind of decoder"):
        _start(options, known, "decoder")


def test_judged_utterances_are_by_different_held_out_speakers() -> None:
    class Shelf:
        def __init__(self) -> None:
            names = ("ann", "ann", "bob", "ann", "cid")
            self.all = [say("some aims see me mo, is it some", name, key=f"{n}") for n, name in enumerate(names)]

        def __getitem__(self, index: int) -> Recording:
            return self.all[index]

        def split(self, name: Split) -> list[int]:
            return [0, 1, 2, 3, 4] if name == "heldout_speaker" else []

        def seconds(self, index: int) -> float:
            return len(self.all[index].samples) / RATE

        def describe(self, index: int) -> tuple[str, str, str]:
            return self.all[index].key, self.all[index].text, self.all[index].speaker

    picked = chosen(Shelf(), 4)
    assert [one.speaker for one in picked] == ["ann", "bob", "cid", "ann"]


ENCODED = replace(SHAPE, spectral_encoder=SpectralEncoderShape(dim=16, layers=1))


def encoding(material: Material, analysis: Analysis | None) -> EncoderTask:
    torch.manual_seed(0)
    options = EncoderOptions(batch=2, length=8, warm_up=1)
    samples = F.pad(material.samples.float() / INT16, (REACH // 2, REACH // 2))
    whole = material.latents.float(), doubled(samples[None])[0]
    return EncoderTask(
        trainable(ENCODED.config()), material, options, seed=1, held_out=[whole], start=None, analysis=analysis
    )


def test_a_spectral_encoder_knows_the_spectra_from_the_analysis_and_learns_the_pitch(
    material: Material, analysis: Analysis, tmp_path: Path
) -> None:
    task = encoding(material, analysis)
    first = task.measure(tmp_path)
    assert first["held_out_mel"] < 0.1
    assert encoding(material, None).measure(tmp_path)["held_out_mel"] > 0.5
    for number in range(60):
        task.step(number, number / 60)
    last = task.measure(tmp_path)
    assert last["held_out_pitch"] < 0.6 * first["held_out_pitch"]
    assert last["held_out_mel"] < 0.15


def test_a_codec_of_spectra_comes_back_from_its_checkpoints_and_from_its_release(
    material: Material, analysis: Analysis, tmp_path: Path
) -> None:
    options = CodecOptions(shape=ENCODED, spectral=OPTIONS)
    Stage(task(material), tmp_path / "codec" / "decoder").train(Budget(steps=1), show_progress=False)
    Stage(encoding(material, analysis), tmp_path / "codec" / "encoder").train(Budget(steps=1), show_progress=False)
    quantizer = trainable(ENCODED.config()).quantizer
    fit_quantizer(quantizer, material.latents.float(), seed=1)
    state.save(tmp_path / "codec" / "quantizer", _codebooks(quantizer.state_dict()), {})
    model = load_codec(tmp_path / "codec", options)
    assert model is not None
    loaded = released_and_loaded(model, SHAPE.latent_dim, tmp_path / "model")
    audio = torch.from_numpy(glide(120, 160, 0.5))[None, None]
    with torch.no_grad():
        assert torch.equal(loaded.encode(audio)[1], model.encode(audio)[1])
        assert_close(loaded.decode_zq(loaded.encode_zq(audio)), model.decode_zq(model.encode_zq(audio)), atol=1e-4)


def test_a_spectral_encoder_needs_an_analysis_of_its_bands(material: Material) -> None:
    narrow = Analysis.fit_frames([analyse(glide(100, 200, 1.0))])
    with pytest.raises(ConfigError, match="46 mel bands up to 11000 Hz, the analysis 40 up to 8000 Hz"):
        encoding(material, narrow)
