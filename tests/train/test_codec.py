import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from echo.types import SAMPLE_RATE, SAMPLES_PER_LATENT
from train.tiny.budget import Budget
from train.tiny.codec import CodecOptions, CodecShape, load_codec, load_encoder, train_codec
from train.tiny.codec_data import REACH, Material, doubled, draw, keys_of, prepare
from train.tiny.codec_decoder import DecoderOptions, DecoderTask
from train.tiny.codec_encoder import EncoderOptions, EncoderTask, fit_quantizer
from train.tiny.codec_losses import SpectralLoss, log_distance, mel_bands
from train.tiny.codec_model import DecodePath, EncodePath, embedded, grow, set_first_weights, trainable, weight_normed
from train.tiny.corpus import RATE, Corpus, Recording
from train.tiny.discriminator import Discriminators
from train.tiny.latents import LATENT_SIZE, PHASE, Analysis, analyse
from train.tiny.loop import Stage
from train.tiny.pca import identity_pca
from train.tiny.plots import read_curve

from .small_release import released_and_loaded
from .small_speech import two_speakers, write_corpus

SHAPE = CodecShape(
    latent_dim=128,
    decoder_dim=16,
    decoder_rates=(16, 8, 4),
    encoder_dim=4,
    encoder_rates=(16, 8, 4),
    post_dim=64,
    post_layers=1,
    post_intermediate=64,
    pre_layers=1,
    window=8,
    codebooks=4,
    codebook_size=32,
)
DECODER = DecoderOptions(batch=2, length=6, windows=(512, 1024), hints=((1,), (1, 2)), warm_up=2)
ENCODER = EncoderOptions(batch=2, length=6, warm_up=2)


def _glide(low: float, high: float, seconds: float) -> NDArray[np.float32]:
    hertz = np.linspace(low, high, int(seconds * RATE))
    phase = 2 * np.pi * np.cumsum(hertz) / RATE
    voice = np.sum([np.cos(h * phase) / h for h in range(1, 15)], 0)
    return (0.085 * voice / np.sqrt(np.mean(voice**2))).astype(np.float32)


def _recording(key: str, samples: NDArray[np.float32]) -> Recording:
    return Recording(key, "ah", "someone", "flite", samples, (), np.zeros(2, np.float32))


@pytest.fixture(scope="module")
def analysis() -> Analysis:
    return Analysis.fit_frames([analyse(_glide(100, 200, 2.0)), analyse(_glide(220, 130, 2.0))])


@pytest.fixture(scope="module")
def material(analysis: Analysis) -> Material:
    return Material.of([_recording("a", _glide(100, 200, 2.0)), _recording("b", _glide(220, 130, 1.5))], analysis)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def seeded() -> None:
    torch.manual_seed(5)


def _decoder(material: Material) -> DecoderTask:
    torch.manual_seed(1)
    return DecoderTask(trainable(SHAPE.config()), material, DECODER, seed=1, held_out=[])


def _weights(task: DecoderTask) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in task.parts()["decoder"][0].state_dict().items()}


def test_doubling_the_rate_keeps_every_tone_and_adds_none() -> None:
    time = np.arange(4000) / RATE
    for hertz, size in ((300.0, 1.0), (7_500.0, 1.0), (10_300.0, 1.0), (11_010.0, 0.0)):
        tone = torch.tensor(np.cos(2 * np.pi * hertz * time), dtype=torch.float32)
        up = doubled(tone[None])[0]
        expected = size * np.cos(2 * np.pi * hertz * (np.arange(len(up)) / (2 * RATE) + REACH // 2 / RATE))
        assert np.abs(up.numpy() - expected).max() < 0.02


def test_segments_line_samples_latents_and_phases_up(analysis: Analysis, material: Material) -> None:
    segments = draw(material, batch=3, length=8, generator=torch.Generator().manual_seed(2))
    assert segments.latents.shape == (3, 8, LATENT_SIZE)
    assert segments.audio.shape == (3, 8 * SAMPLES_PER_LATENT)
    # The latents of the audio itself are those of the segment, away from its ends.
    again = analysis.latents(segments.audio[0, ::2])
    assert float((again - segments.latents[0])[2:-2].abs().mean()) < 0.05
    # The first partial, whose phase the segment tells, is in the audio.
    phase = segments.at(segments.phase, SAMPLES_PER_LATENT)
    voicing = segments.at(segments.voicing, SAMPLES_PER_LATENT)
    tone = voicing * torch.cos(phase)
    likeness = (tone * segments.audio).sum() / (tone.norm() * segments.audio.norm())
    assert float(likeness) > 0.6  # the partial's own share of the voice is 0.8


def test_training_decodes_what_the_server_decodes(material: Material, seeded: None) -> None:
    model = trainable(SHAPE.config())
    path = DecodePath(model)
    set_first_weights(path, material.latents[None, :8].float())
    latents = torch.randn(2, 12, LATENT_SIZE)
    with torch.no_grad():
        audio, layers = path(latents)
        expected = model.decode_zq(embedded(latents, SHAPE.latent_dim))[:, 0]
        pca = identity_pca(SHAPE.latent_dim)
        assert torch.equal(pca.decode(latents), embedded(latents, SHAPE.latent_dim))
    assert torch.allclose(audio, expected, atol=1e-5)
    assert [layer.shape[1:] for layer in layers] == [(8, 12 * 64), (4, 12 * 512), (2, 12 * 2048)]


def test_numbers_that_are_always_zero_stay_zero_in_codebooks(seeded: None) -> None:
    latents = torch.randn(500, LATENT_SIZE)
    latents[:, PHASE] = 0.0
    model = trainable(SHAPE.config())
    fit_quantizer(model.quantizer, latents, seed=1)
    released = weight_normed(model)  # where a row of zeros is not a number
    with torch.no_grad():
        for level in (*released.quantizer.semantic_quantizer.quantizers, *released.quantizer.quantizer.quantizers):
            entries = level.lookup(torch.arange(SHAPE.codebook_size)[None])[0].T
            assert entries.isfinite().all()
            assert entries[:, PHASE].abs().max() < 1e-5


def test_training_encodes_what_the_server_quantises(seeded: None) -> None:
    model = trainable(SHAPE.config())
    path = EncodePath(model)
    audio = 0.1 * torch.randn(2, 6 * SAMPLES_PER_LATENT)
    set_first_weights(path, audio)
    latents = torch.randn(500, LATENT_SIZE) * torch.linspace(2.0, 0.1, LATENT_SIZE)
    fit_quantizer(model.quantizer, latents, seed=1)
    with torch.no_grad():
        z = path(audio).transpose(1, 2)
        semantic, _ = model.quantizer.semantic_quantizer(z)
        residual, _ = model.quantizer.quantizer(z - semantic)
        assert torch.allclose(model.encode_zq(audio[:, None]), semantic + residual, atol=1e-4)


def test_first_weights_give_every_stage_a_sane_spread(material: Material, seeded: None) -> None:
    path = DecodePath(trainable(SHAPE.config()))
    latents = material.latents[None, :16].float()
    set_first_weights(path, latents)
    with torch.no_grad():
        audio, layers = path(latents)
    assert 0.02 < float(audio.std()) < 0.1
    assert all(0.3 < float(layer.std()) < 3.0 for layer in layers)


def test_a_grown_decoder_computes_what_the_small_one_did(material: Material, seeded: None) -> None:
    latents = material.latents[None, :10].float()
    small = DecodePath(trainable(SHAPE.config()))
    set_first_weights(small, latents)
    large = DecodePath(trainable(replace(SHAPE, decoder_dim=32).config()))
    set_first_weights(large, latents)
    grow(large, small.state_dict())
    with torch.no_grad():
        assert torch.allclose(large(latents)[0], small(latents)[0], atol=1e-5)


def test_growing_refuses_another_plan(seeded: None) -> None:
    small = DecodePath(trainable(SHAPE.config()))
    with pytest.raises(ValueError, match="post_module"):
        grow(DecodePath(trainable(replace(SHAPE, post_dim=128).config())), small.state_dict())
    with pytest.raises(ValueError, match="does not fit"):
        grow(DecodePath(trainable(replace(SHAPE, decoder_dim=8).config())), small.state_dict())


def test_log_distance_is_in_decibels() -> None:
    noise = 0.1 * torch.randn(SAMPLE_RATE, generator=torch.Generator().manual_seed(1))
    assert log_distance(noise, noise) == 0.0
    assert log_distance(0.5 * noise, noise) == pytest.approx(6.0, abs=0.3)


@pytest.mark.parametrize("window", [256, 512, 1024, 2048])
def test_every_mel_band_averages_some_bins_and_every_bin_between_counts(window: int) -> None:
    bands = mel_bands(window)
    assert torch.allclose(bands.sum(1), torch.ones(len(bands)))
    counted = (bands > 0).any(0).nonzero()[:, 0] * SAMPLE_RATE / window
    step = SAMPLE_RATE / window
    assert counted[0] < 80 + step
    assert 8_000 - step < counted[-1] < 8_000 + step
    assert counted.diff().max() == step
    peaks = (bands @ (torch.arange(window // 2 + 1) * step)).diff()
    assert (peaks > 0).all()


def test_the_mel_distance_forgives_the_grain_of_noise_and_not_its_level() -> None:
    torch.manual_seed(2)
    one, other = 0.1 * torch.randn(2, 1, SAMPLE_RATE)
    loss = SpectralLoss((1024,))
    voicing = torch.zeros(1, 4)
    grain, level = (loss.terms(x[:, :40_000], one[:, :40_000], voicing) for x in (other, 2.0 * other))
    assert level["mel"] > 1.3 * grain["mel"]
    assert level["mel"] / grain["mel"] > 1.1 * level["log"] / grain["log"]


def test_decoder_learns_and_a_resumed_run_ends_where_an_unbroken_one_does(material: Material, tmp_path: Path) -> None:
    whole = _decoder(material)
    Stage(whole, tmp_path / "whole", log_steps=4).train(Budget(steps=24), show_progress=False)
    rows = [row["loss"] for row in read_curve(tmp_path / "whole" / "curves.jsonl") if "loss" in row]
    assert rows[-1] < 0.8 * rows[0]

    # Broken off by an error in the middle of a run, after a checkpoint.
    broken = _decoder(material)
    stage = Stage(broken, tmp_path / "broken", log_steps=4)
    for number in range(10):
        broken.step(number, number / 24)
    stage.number = 10
    stage.save()
    broken.step(10, 10 / 24)
    resumed = _decoder(material)
    stage = Stage(resumed, tmp_path / "broken", log_steps=4)
    assert stage.number == 10
    stage.train(Budget(steps=24), show_progress=False)
    expected, found = _weights(whole), _weights(resumed)
    assert all(torch.allclose(found[key], expected[key], atol=1e-4) for key in expected)


def test_the_discriminators_take_part_at_the_end(material: Material) -> None:
    torch.manual_seed(1)
    options = replace(DECODER, gan_from=0.5, gan_windows=(512,))
    task = DecoderTask(trainable(SHAPE.config()), material, options, seed=1, held_out=[])
    assert "discriminators" not in task.step(0, 0.4)
    assert {"discriminators", "adversarial", "features"} <= task.step(1, 0.5).keys()


def test_discriminators_learn_to_tell_tones_from_noise(seeded: None) -> None:
    discriminators = Discriminators((512,), channels=4)
    optimizer = torch.optim.AdamW(discriminators.parameters(), lr=3e-3)
    tones = 0.1 * torch.sin(torch.arange(8192) * torch.tensor([[0.02], [0.05]]))
    noise = 0.1 * torch.randn(2, 8192)
    first = discriminators.discriminator_loss(discriminators(tones), noise).item()
    for _ in range(20):
        optimizer.zero_grad()
        discriminators.discriminator_loss(discriminators(tones), noise).backward()
        optimizer.step()
    optimizer.zero_grad()
    wanted = discriminators(tones)
    assert discriminators.discriminator_loss(wanted, noise).item() < 0.3 * first
    made = noise.clone().requires_grad_()
    adversarial, features = discriminators.decoder_losses(wanted, made)
    (adversarial + features).backward()
    assert made.grad is not None
    assert float(made.grad.abs().sum()) > 0
    assert all(parameter.grad is None for parameter in discriminators.parameters())
    discriminators.discriminator_loss(wanted, made).backward()  # they are still looking
    assert all(parameter.grad is not None for parameter in discriminators.parameters())


def test_encoder_learns(material: Material, tmp_path: Path) -> None:
    torch.manual_seed(1)
    held_out = [(material.latents[:20].float(), draw_audio(material, 20))]
    task = EncoderTask(trainable(SHAPE.config()), material, ENCODER, seed=1, held_out=held_out)
    before = task.measure(tmp_path)
    Stage(task, tmp_path, log_steps=5).train(Budget(steps=40), show_progress=False)
    after = task.measure(tmp_path)
    assert after["held_out_mel"] < 0.8 * before["held_out_mel"]


def draw_audio(material: Material, latents: int) -> torch.Tensor:
    samples = material.samples[: latents * 1024].float() / 32_767
    return doubled(torch.nn.functional.pad(samples, (REACH // 2, REACH // 2))[None])[0]


def test_clips_can_be_encoded_before_the_decoder_is_trained(analysis: Analysis, tmp_path: Path) -> None:
    recordings = two_speakers(("mama, oso.", "seso mo."))
    write_corpus(tmp_path / "corpus", recordings, ["train"] * 3 + ["heldout_text"])
    options = CodecOptions(shape=SHAPE, decoder=DECODER, encoder=ENCODER)
    folder = tmp_path / "codec"
    corpus, cpu = Corpus.open(tmp_path / "corpus"), torch.device("cpu")
    for only in ("encoder", ""):
        assert load_codec(folder, options) is None
        budget = Budget(steps=1 if only else 4)
        train_codec(options, corpus, analysis, folder, budget, seed=1, device=cpu, only=only, show_progress=False)
        assert load_encoder(folder, options) is not None
    assert load_codec(folder, options) is not None


def test_material_of_a_corpus_that_has_grown_reaches_the_hours_asked_for(analysis: Analysis, tmp_path: Path) -> None:
    recordings = two_speakers(("mama, oso.", "seso mo.", "amisi eso.", "o mi.", "sasa mimi oso."))
    hours = 6.5 * sum(len(recording.samples) for recording in recordings) / len(recordings) / RATE / 3600
    for count in (4, len(recordings)):
        write_corpus(tmp_path / str(count), recordings[:count], ["train"] * count)
        corpus = Corpus.open(tmp_path / str(count))
        material = prepare(corpus, analysis, tmp_path / "material", hours=hours, seed=1, progress=False)
    keys = keys_of(tmp_path / "material")
    assert len(keys) == len(set(keys)) >= 6
    assert material.hours >= hours


def test_material_that_was_being_written_is_made_again(analysis: Analysis, tmp_path: Path) -> None:
    recordings = two_speakers(("mama, oso.",))
    write_corpus(tmp_path / "corpus", recordings, ["train"] * 2)
    (tmp_path / "material").mkdir()
    (tmp_path / "material/0000.keys").write_text("high-mama, oso.\n", encoding="utf-8")
    (tmp_path / "material/0000.safetensors.part").write_bytes(b"begun")
    prepare(Corpus.open(tmp_path / "corpus"), analysis, tmp_path / "material", hours=1, seed=1, progress=False)
    assert sorted(keys_of(tmp_path / "material")) == sorted(recording.key for recording in recordings)


def test_codebooks_reproduce_clustered_latents_through_a_saved_release(tmp_path: Path, seeded: None) -> None:
    centres = torch.randn(32, LATENT_SIZE)
    latents = centres[torch.randint(32, (2000,))] + 0.01 * torch.randn(2000, LATENT_SIZE)
    model = trainable(SHAPE.config())
    assert fit_quantizer(model.quantizer, latents, seed=1) < 0.75
    finer = trainable(replace(SHAPE, codebooks=12, codebook_size=128).config())
    assert fit_quantizer(finer.quantizer, latents, seed=1) < 0.15
    loaded = released_and_loaded(weight_normed(model), SHAPE.latent_dim, tmp_path)
    vectors = embedded(latents[None, :50], SHAPE.latent_dim)
    with torch.no_grad():
        own, read = (one.quantizer.semantic_quantizer(vectors)[0] for one in (model, loaded))
    assert torch.allclose(own, read, atol=1e-4)


def test_the_pca_passes_latents_through() -> None:
    latents = torch.randn(1, 3, LATENT_SIZE)
    pca = identity_pca(SHAPE.latent_dim)
    assert torch.equal(pca.encode(pca.decode(latents)), latents)


def test_the_default_shape_is_one_that_the_server_accepts() -> None:
    config = CodecOptions().shape.config()
    assert config.samples_per_latent == SAMPLES_PER_LATENT
    assert math.prod(config.decoder_rates) * math.prod(config.quantizer.downsample_factor) == SAMPLES_PER_LATENT
