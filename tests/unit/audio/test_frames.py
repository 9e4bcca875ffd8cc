"""Frames of telephones."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from echo.audio.frames import FRAME_BYTES, MULAW_SILENCE, TelephoneFrames


@given(pieces=st.lists(st.binary(max_size=700), max_size=8), most=st.integers(1, 6))
def test_frames_hold_every_byte_once_and_only_the_last_is_filled_up(pieces: list[bytes], most: int) -> None:
    frames = TelephoneFrames(most)
    made = [piece for data in pieces for piece in frames.push(data)] + frames.finish()
    whole = b"".join(pieces)
    assert all(piece and len(piece) % FRAME_BYTES == 0 and len(piece) <= most * FRAME_BYTES for piece in made)
    assert b"".join(made) == whole + MULAW_SILENCE * (-len(whole) % FRAME_BYTES)


def test_the_silence_decodes_to_zero() -> None:
    import av

    codec = av.CodecContext.create("pcm_mulaw", "r")
    codec.sample_rate, codec.layout = 8_000, "mono"  # type: ignore[attr-defined]
    (frame,) = codec.decode(av.Packet(MULAW_SILENCE * FRAME_BYTES))
    assert not frame.to_ndarray().any()


def test_a_frame_leaves_as_soon_as_it_is_whole() -> None:
    frames = TelephoneFrames()
    assert frames.push(bytes(159)) == []
    assert frames.push(bytes(1)) == [bytes(160)]
    assert frames.finish() == []
