"""Plays samples as they are made, through whatever player the machine has."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from types import TracebackType
from typing import Self

from echo.audio.pcm import to_bytes
from echo.errors import EchoError
from echo.types import Audio

#: Players that take 16-bit mono samples on standard input, the ones with the least delay first.
_PLAYERS: tuple[tuple[str, ...], ...] = (
    ("pw-cat", "--playback", "--raw", "--format=s16", "--rate={rate}", "--channels=1", "-"),
    ("paplay", "--raw", "--format=s16le", "--rate={rate}", "--channels=1"),
    ("aplay", "-q", "-t", "raw", "-f", "S16_LE", "-r", "{rate}", "-c", "1", "-"),
    ("play", "-q", "-t", "raw", "-e", "signed", "-b", "16", "-r", "{rate}", "-c", "1", "-"),
    ("ffplay", "-nodisp", "-autoexit", "-loglevel", "error", "-f", "s16le", "-ar", "{rate}", "-ch_layout", "mono", "-"),
    (
        "mpv",
        "--no-terminal",
        "--demuxer=rawaudio",
        "--demuxer-rawaudio-rate={rate}",
        "--demuxer-rawaudio-channels=1",
        "-",
    ),
)


class PlayerFailed(EchoError):
    """There is no player, or it ended with an error."""

    code = "player_failed"


def find_player() -> tuple[str, ...]:
    """Return the command of the first player that is installed; raises PlayerFailed."""
    command = next((command for command in _PLAYERS if shutil.which(command[0])), None)
    if command is None:
        names = ", ".join(command[0] for command in _PLAYERS)
        raise PlayerFailed(f"--play needs one of {names}, and none is installed.")
    return command


class Player:
    """A player's process; leaving the context waits until all has been heard. Raises PlayerFailed."""

    def __init__(self, rate: int) -> None:
        command = find_player()
        self._name = command[0]
        self._process = subprocess.Popen(
            [part.format(rate=rate) for part in command], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL
        )

    def push(self, samples: Audio) -> None:
        """Play samples after those before; waits while the player has enough."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(to_bytes(samples))
            self._process.stdin.flush()
        except BrokenPipeError:
            raise PlayerFailed(f"{self._name} does not play: is there a sound device?") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        if error is not None:
            self._process.kill()
        with contextlib.suppress(BrokenPipeError):  # told below
            self._process.stdin.close()
        status = self._process.wait()
        if error is None and status != 0:
            raise PlayerFailed(f"{self._name} ended with status {status}: is there a sound device?")
