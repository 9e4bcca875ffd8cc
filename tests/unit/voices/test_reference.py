"""Reading reference clips and audio sent as base64."""

from __future__ import annotations

import base64
import io
import json
import struct
import textwrap
from pathlib import Path

import numpy as np
import pytest

from echo.errors import BadRequest, TooLarge, VoiceNotFound
from echo.voices import ClipVoice, VoiceLibrary, decode_base64_voice, looks_like_base64_voice, read_clip
from echo.voices.container import Container, sniff
from echo.voices.inline import parse_audio_base64
from echo.voices.reference import ClipJoiner, decode_clip, load_voice
from tests.unit.voices.voice_files import FORMATS, encoded, level, level_of, read_voice, tone, wav_bytes

SECOND = 44_100
BUNDLED = Path(__file__).parents[3] / "audio_prompts"


def loudest_hertz(audio: np.ndarray) -> float:
    spectrum = np.abs(np.fft.rfft(audio * np.hanning(len(audio))))
    return float(np.argmax(spectrum) * SECOND / len(audio))


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_format_becomes_mono_at_44100_hz(suffix: str) -> None:
    audio = read_clip(encoded(suffix, tone(1.0, rate=48_000)))
    assert audio.dtype == np.float32
    assert audio.ndim == 1
    assert len(audio) / SECOND == pytest.approx(1.0, abs=0.08)  # codecs pad
    assert loudest_hertz(audio) == pytest.approx(440, abs=2)
    assert np.abs(audio[4410:-4410]).max() == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 24_000, 44_100, 48_000, 96_000])
def test_any_sample_rate_keeps_length_pitch_and_level(rate: int) -> None:
    audio = read_clip(wav_bytes(tone(1.0, rate=rate), rate))
    assert len(audio) == pytest.approx(SECOND, abs=2)
    assert loudest_hertz(audio) == pytest.approx(440, abs=2)
    expected = tone(1.0)
    middle = slice(4410, -4410)
    assert np.abs(audio[middle] - expected[: len(audio)][middle]).max() < 2e-3


def test_channels_are_averaged() -> None:
    left, right = tone(0.5, 440, 0.6), tone(0.5, 880, 0.2)
    audio = read_clip(wav_bytes(np.stack([left, right], axis=1).reshape(-1), channels=2))
    assert np.abs(audio - (left + right) / 2).max() < 1e-4


@pytest.mark.parametrize(
    ("tag", "dtype", "full_scale"), [(1, "u1", 128), (1, "<i2", 2**15), (1, "<i4", 2**31), (3, "<f4", 1), (3, "<f8", 1)]
)
def test_every_sample_type_has_the_same_scale(tag: int, dtype: str, full_scale: int) -> None:
    samples = tone(0.3) * full_scale + (128 if dtype == "u1" else 0)
    audio = read_clip(_wav(samples.astype(dtype).tobytes(), tag=tag, bits=np.dtype(dtype).itemsize * 8))
    assert np.abs(audio - tone(0.3)).max() < (0.01 if dtype == "u1" else 1e-4)


def test_clipping_material_is_attenuated_and_quiet_material_is_not_raised() -> None:
    loud = read_clip(_wav((tone(0.3, level=4.0)).astype("<f4").tobytes(), tag=3, bits=32))
    assert np.abs(loud).max() == pytest.approx(1.0)
    assert np.abs(loud - tone(0.3, level=1.0)).max() < 1e-3
    assert np.abs(read_clip(wav_bytes(tone(0.3, level=0.01)))).max() == pytest.approx(0.01, rel=0.01)


@pytest.mark.parametrize("rate", [44_100, 48_000])
def test_only_the_first_seconds_are_decoded(rate: int) -> None:
    samples = np.concatenate([tone(1.0, rate=rate), np.zeros(rate, np.float32)])
    assert len(read_clip(wav_bytes(samples, rate), max_seconds=0.7)) == pytest.approx(0.7 * SECOND, abs=1)


def test_a_path_and_its_bytes_read_the_same(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(wav_bytes(tone()))
    assert np.array_equal(read_clip(tmp_path / "a.wav"), read_clip((tmp_path / "a.wav").read_bytes()))


def test_the_suffix_does_not_matter_but_the_content_does(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(encoded(".flac", tone(rate=48_000)))
    assert loudest_hertz(read_voice(VoiceLibrary([tmp_path]).find("a"))) == pytest.approx(440, abs=3)


@pytest.mark.parametrize("name", ["anna", "beth", "clara", "dan", "eric", "frank"])
def test_the_bundled_clips_are_usable(name: str) -> None:
    audio = read_voice(VoiceLibrary([BUNDLED]).find(f"tiny_{name}"))
    told = json.loads((BUNDLED / "voices.json").read_text(encoding="utf-8"))[f"tiny_{name}"]["seconds"]
    assert 4 < told < 6
    assert len(audio) / SECOND == pytest.approx(told, abs=0.01)
    assert 0.1 < np.abs(audio).max() <= 1


BAD_CLIPS = {
    "empty": b"",
    "text": b"hello, this is no audio at all" * 100,
    "playlist": b"#EXTM3U\n#EXTINF:1,\nfile:///etc/hostname\n" * 40,
    "concat script": b"ffconcat version 1.0\nfile /etc/hostname\n" * 40,
    "wav header only": b"RIFF\x00\x00\x00\x00WAVE",
    "wav without samples": wav_bytes(np.zeros(0, np.float32)),
    "broken mp3": b"\xff\xfb\x90\x00" + bytes(range(256)) * 20,
    "broken id3": b"ID3\x03\x00\x00\x00\x00\x00\x00" + bytes(range(256)) * 20,
    "broken ogg": b"OggS" + bytes(range(256)) * 20,
    "broken flac": b"fLaC" + bytes(range(256)) * 20,
    "broken m4a": b"\x00\x00\x00\x20ftypM4A " + bytes(range(256)) * 20,
    "broken webm": b"\x1a\x45\xdf\xa3" + bytes(range(256)) * 20,
    "broken aac": b"\xff\xf1\x50\x80" + bytes(range(256)) * 20,
}


@pytest.mark.parametrize("name", BAD_CLIPS)
def test_what_is_no_audio_is_refused_without_a_word_about_files(name: str, tmp_path: Path) -> None:
    path = tmp_path / "clip.wav"
    path.write_bytes(BAD_CLIPS[name])
    with pytest.raises(BadRequest) as caught:
        read_clip(path)
    assert caught.value.param == "voice"
    assert "/" not in caught.value.message
    assert "voice's audio" in caught.value.message


@pytest.mark.parametrize("fields", [{"rate": 0}, {"rate": 100}, {"rate": 2**31 - 1}, {"channels": 0}, {"tag": 0x1234}])
def test_impossible_headers_are_refused(fields: dict[str, int]) -> None:
    with pytest.raises(BadRequest):
        read_clip(_wav(wav_bytes(tone(1.0))[44:], **fields))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_samples_that_are_no_numbers_are_refused(value: float) -> None:
    samples = tone(0.5).astype("<f4")
    samples[5000] = value
    with pytest.raises(BadRequest, match="decoded"):
        read_clip(_wav(samples.tobytes(), tag=3, bits=32))


def test_a_damaged_piece_inside_a_clip_does_not_spoil_the_rest() -> None:
    data = bytearray((BUNDLED / "tiny_anna.flac").read_bytes())
    data[60_000:60_500] = bytes(500)
    assert len(read_clip(bytes(data))) > 4 * SECOND


def test_a_clip_that_is_mostly_damaged_is_refused() -> None:
    data = bytearray(encoded(".m4a", tone(2.0, rate=48_000)))
    quarter = len(data) // 4
    data[quarter : 3 * quarter] = np.random.default_rng(0).bytes(2 * quarter)
    with pytest.raises(BadRequest, match="decoded"):
        read_clip(bytes(data))


def test_the_sample_rate_may_change_inside_a_clip() -> None:
    first = encoded(".mp3", tone(1.0, 440, rate=48_000), rate=48_000)
    audio = read_clip(first + encoded(".mp3", tone(1.0, 880, rate=24_000), rate=24_000))
    assert len(audio) / SECOND == pytest.approx(2.0, abs=0.1)
    assert loudest_hertz(audio[4410:39_690]) == pytest.approx(440, abs=3)
    assert loudest_hertz(audio[52_920:84_000]) == pytest.approx(880, abs=3)


def test_less_than_four_latents_is_too_short() -> None:
    assert len(read_clip(wav_bytes(tone(8192 / SECOND)))) == 8192
    with pytest.raises(BadRequest, match="186 ms"):
        read_clip(wav_bytes(tone(8191 / SECOND)))


def test_silence_is_refused() -> None:
    with pytest.raises(BadRequest, match="silent"):
        read_clip(wav_bytes(np.zeros(SECOND, np.float32)))
    with pytest.raises(BadRequest, match="silent"):
        read_clip(wav_bytes(tone(1.0, level=0.0005)))


def test_a_folder_is_joined_in_name_order_with_a_second_of_silence(tmp_path: Path) -> None:
    (tmp_path / "v").mkdir()
    (tmp_path / "v/b.wav").write_bytes(level(2000, 0.5))
    (tmp_path / "v/a.wav").write_bytes(level(1000, 0.25))
    audio = read_voice(VoiceLibrary([tmp_path]).find("v"))
    quarter, half = SECOND // 4, SECOND // 2
    assert len(audio) == quarter + SECOND + half
    assert level_of(audio[:quarter]) == 1000
    assert np.all(audio[quarter : quarter + SECOND] == 0)
    assert level_of(audio[-half:]) == 2000


def test_short_clips_make_a_voice_together(tmp_path: Path) -> None:
    (tmp_path / "v").mkdir()
    for name in "ab":
        (tmp_path / f"v/{name}.wav").write_bytes(level(1000, 0.1))
    assert len(read_voice(VoiceLibrary([tmp_path]).find("v"))) == SECOND + 2 * 4410


def test_an_unreadable_clip_of_a_folder_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "v").mkdir()
    (tmp_path / "v/a.wav").write_bytes(b"junk" * 500)
    (tmp_path / "v/b.wav").write_bytes(level(2000, 0.5))
    voice = VoiceLibrary([tmp_path]).find("v")
    assert level_of(read_voice(voice)) == 2000
    assert "a.wav" in caplog.text
    (tmp_path / "v/b.wav").write_bytes(b"junk" * 500)
    with pytest.raises(BadRequest):
        read_voice(voice)


def test_joined_clips_are_cut_at_the_limit_gaps_included() -> None:
    joiner = ClipJoiner(max_seconds=3.0)
    assert joiner.seconds_left == 3.0
    joiner.add(np.ones(SECOND, np.float32))
    assert joiner.seconds_left == pytest.approx(1.0)
    joiner.add(np.ones(2 * SECOND, np.float32))
    assert joiner.seconds_left == 0
    joiner.add(np.ones(2 * SECOND, np.float32))
    audio = joiner.audio()
    assert len(audio) == 3 * SECOND
    assert audio[: SECOND - 1].all()
    assert not audio[SECOND : 2 * SECOND].any()
    assert audio[2 * SECOND :].all()


def test_files_that_have_gone_are_an_unknown_voice(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(level(1000))
    (tmp_path / "v").mkdir()
    (tmp_path / "v/1.wav").write_bytes(level(1000))
    (tmp_path / "v/2.wav").write_bytes(level(2000))
    library = VoiceLibrary([tmp_path])
    clip, folder = library.find("a"), library.find("v")
    (tmp_path / "a.wav").unlink()
    (tmp_path / "v/1.wav").unlink()
    with pytest.raises(VoiceNotFound):
        read_voice(clip)
    assert level_of(read_voice(folder)) == 2000
    (tmp_path / "v/2.wav").unlink()
    with pytest.raises(VoiceNotFound):
        read_voice(folder)


def test_key_and_audio_come_from_the_same_bytes_wherever_they_lie(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(level(1000))
    (tmp_path / "b.wav").write_bytes(level(1000))
    (tmp_path / "c.wav").write_bytes(level(1001))
    library = VoiceLibrary([tmp_path])
    a, b, c = (load_voice(library.find(name)).key for name in "abc")
    assert a == b == load_voice(ClipVoice(level(1000))).key
    assert a != c


# Audio as base64


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


CLIP = level(1000)


@pytest.mark.parametrize(
    "text",
    [
        base64_of(CLIP),
        base64_of(CLIP).rstrip("="),
        base64.urlsafe_b64encode(CLIP).decode(),
        "\n".join(textwrap.wrap(base64_of(CLIP), 76)),
        "\r\n" + "\r\n".join(textwrap.wrap(base64_of(CLIP), 64)) + "\r\n",
        "data:audio/wav;base64," + base64_of(CLIP),
        "DATA:Audio/x-wav;codecs=1;BASE64," + base64_of(CLIP),
    ],
)
def test_the_usual_ways_to_write_base64_are_read(text: str) -> None:
    assert looks_like_base64_voice(text)
    assert decode_base64_voice(text, len(CLIP)) == CLIP


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_format_is_recognised_by_its_first_bytes(suffix: str) -> None:
    data = encoded(suffix, tone(0.5, rate=48_000))
    assert decode_base64_voice(base64_of(data), 10**6) == data


@pytest.mark.parametrize(
    ("head", "container"),
    [
        (b"RIFF\x00\x00\x00\x00WAVE", Container.WAV),
        (b"RIFF\x00\x00\x00\x00AVI ", None),
        (b"\xff\xfb\x90\x00", Container.MP3),
        (b"\xff\xf3\x90\x00", Container.MP3),
        (b"\xff\xf1\x50\x80", Container.AAC),
        (b"\xff\xff\xff\xff", None),
        (b"\xff\xfe<\x00h\x00", None),  # UTF-16 text
        (b"\xff\xe0\x00\x00", None),
        (b"ID3\x04\x00\x00\x00\x00\x00\x05xxxxx\xff\xfb\x90\x00", Container.MP3),
        (b"ID3\x04\x00\x00\x00\x00\x00\x05xxxxxfLaC", Container.FLAC),
        (b"ID3\x04\x00\x10\x00\x00\x00\x05xxxxx3DIxxxxxxx\xff\xf1\x50\x80", Container.AAC),
        (b"ID3\x04\x00\x00\x80\x00\x00\x05xxxxx", None),
        (b"ID3", None),
        (b"", None),
    ],
)
def test_file_types_are_told_by_their_signature(head: bytes, container: Container | None) -> None:
    assert sniff(head) is container


@pytest.mark.parametrize("name", ["anna", "default__Lydia", "x" * 255, "AAAA", "../" * 5000, "anna marie! " * 200])
def test_names_are_not_taken_for_audio(name: str) -> None:
    assert not looks_like_base64_voice(name)


@pytest.mark.parametrize(
    "text",
    [
        "A" * 5000,  # base64 of zeros
        base64_of(b"GIF89a" + bytes(3000)),
        base64_of(CLIP)[:200] + "!" + base64_of(CLIP)[200:],
        base64_of(CLIP)[:2000] + "é",
        base64_of(CLIP)[:2001],  # one letter over
        "data:audio/wav," + base64_of(CLIP),
        "data:text/plain;base64," + base64_of(CLIP),
        "data:audio/wav;base64,",
        "data:",
        base64_of(CLIP[:600]),
    ],
)
def test_what_is_no_audio_in_base64_is_refused(text: str) -> None:
    with pytest.raises(BadRequest) as caught:
        decode_base64_voice(text, 10**6)
    assert caught.value.param == "voice"
    assert len(caught.value.message) < 200


def test_one_kibibyte_is_the_least() -> None:
    assert len(decode_base64_voice(base64_of(CLIP[:1024]), 10**6)) == 1024
    with pytest.raises(BadRequest, match="1024"):
        decode_base64_voice("data:audio/wav;base64," + base64_of(CLIP[:1023]), 10**6)


def test_the_size_limit_counts_decoded_bytes_exactly() -> None:
    assert len(parse_audio_base64(base64_of(CLIP), len(CLIP), param="voice")) == len(CLIP)
    with pytest.raises(TooLarge) as caught:
        parse_audio_base64(base64_of(CLIP), len(CLIP) - 1, param="audioData")
    assert caught.value.param == "audioData"
    wrapped = "\r\n".join(textwrap.wrap(base64_of(CLIP), 64))
    assert len(parse_audio_base64(wrapped, len(CLIP), param="voice")) == len(CLIP)


def test_a_huge_text_is_judged_by_its_length_and_beginning_alone() -> None:
    class Text(str):
        """Counts how much of it is ever looked at."""

        seen = 0

        def __getitem__(self, key: object) -> str:
            piece = super().__getitem__(key)  # type: ignore[index]
            Text.seen += len(piece)
            return piece

    with pytest.raises(TooLarge):
        decode_base64_voice(Text(base64_of(CLIP) * 100), 25_000)
    with pytest.raises(BadRequest):
        decode_base64_voice(Text("A" * 1_000_000), 10**7)
    assert Text.seen < 1000


def test_titles_in_an_old_encoding_do_not_fail_the_decoding() -> None:
    tag = b"TIT2" + struct.pack(">I", 4) + b"\x00\x00\x03\xff\xfe\xfd"
    header = b"ID3\x03\x00\x00" + bytes([0, 0, 0, len(tag)])
    mp3 = encoded(".mp3", tone(0.5, rate=48_000))
    assert loudest_hertz(decode_clip(header + tag + mp3)) == pytest.approx(440, abs=3)


def _wav(data: bytes, *, tag: int = 1, rate: int = SECOND, channels: int = 1, bits: int = 16) -> bytes:
    frame = channels * bits // 8
    target = io.BytesIO()
    target.write(b"RIFF" + struct.pack("<I", 36 + len(data)) + b"WAVEfmt ")
    target.write(struct.pack("<IHHIIHH", 16, tag, channels, rate, min(rate * frame, 2**32 - 1), frame, bits))
    target.write(b"data" + struct.pack("<I", len(data)) + data)
    return target.getvalue()
