"""Speech into a file, to the ear, or both, with a bar of its seconds."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

from tqdm import tqdm

from echo.audio.encode import open_output
from echo.terminal.player import Player
from echo.types import Audio, AudioFormat


def write(spoken: Iterable[Audio], rate: int, target: Path | None, format: AudioFormat, *, play: bool) -> None:
    """Write samples at ``rate`` Hz as they are made, and play them; ``target`` None writes no file.

    Whatever is wrong with the request shows at the first samples, before a file is touched. Raises PlayerFailed,
    OSError and what ``spoken`` does.
    """
    samples = iter(spoken)
    first = list(_take(samples))
    with contextlib.ExitStack() as stack:
        player = stack.enter_context(Player(rate)) if play else None
        output = stack.enter_context(open_output(format, rate))
        file = stack.enter_context(target.open("w+b")) if target is not None else None
        bar = stack.enter_context(
            tqdm(unit="s", desc=target.name if target is not None else "speech", bar_format=_BAR, leave=True)
        )
        for part in chain(first, samples):
            if player is not None:
                player.push(part)
            if file is not None:
                file.write(output.push(part))
            bar.update(len(part) / rate)
        if file is not None:
            file.write(output.finish())
            output.complete(file)


def _take(samples: Iterator[Audio]) -> Iterator[Audio]:
    with contextlib.suppress(StopIteration):
        yield next(samples)


#: Nobody knows how long speech will be, so it counts up.
_BAR = "{desc}: {n:.1f} s of audio in {elapsed}"
