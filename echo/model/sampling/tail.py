"""Where speech ends: the flat tail that the model writes behind the last word.

What reads latents back does so once; call it when a block is finished, not during its steps.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from echo.model.network.transfer import Arriving
from echo.types import TailRules


def ends_in_silence(block: Tensor, rules: TailRules) -> bool:
    """Whether a finished block ``[n, latent_size]`` ends the utterance: its last latents are all (near) zero."""
    tail = block[-min(rules.zero_tail_frames, block.shape[0]) :]
    return bool((tail.abs() <= rules.zero_eps).all())


class TailCheck:
    """Where the speech of some blocks ends: queued on their device at once, read when ``result`` is called.

    spoken  the latents so far, [n, latent_size]; block: the last of them; last: whether no block follows
    """

    def __init__(self, spoken: Tensor, block: Tensor, rules: TailRules, *, last: bool) -> None:
        self._rules = rules
        self._last = last
        self._n, self._emitted = len(spoken), len(spoken) - len(block)
        flags = [(block.abs() <= rules.zero_eps).all(1)]
        if self._n >= rules.flat_window:
            flags.append(_flat(spoken, rules.flat_window, rules.flat_std, mean=rules.flat_mean, largest=rules.flat_max))
        self._flags = Arriving(torch.cat(flags))

    def result(self) -> int | None:
        """Where speech ends, at the last block's start at the earliest; None where it goes on."""
        flags = self._flags.wait().tolist()
        zero, flat = flags[: self._n - self._emitted], flags[self._n - self._emitted :]
        silent = all(zero[-min(self._rules.zero_tail_frames, len(zero)) :])
        if not self._last and not (self._rules.early_stop_on_zero and silent):
            return None
        end = min(self._n, _start_of(flat, self._n) + self._rules.flat_keep)
        if end == self._n and self._rules.cut_silent_tail:
            end -= next((i for i, quiet in enumerate(reversed(zero)) if not quiet), len(zero))
        return max(self._emitted, end)


def flat_tail_start(
    latents: Tensor, window: int = 20, std: float = 0.05, *, mean: float = 0.02, largest: float = 0.05
) -> int:
    """First latent of the flat tail of ``[n, latent_size]``, or n; the streaming variant's backward scan.

    A window is flat when its standard deviation is below ``std``, its mean magnitude below ``mean`` and its largest
    magnitude below ``largest``. Counted is the last run of flat windows, if it has at least two. The run need not reach
    the end: what follows it may be a loud tail that is cut off too.
    """
    n = latents.shape[0]
    return n if n < window else _start_of(_flat(latents, window, std, mean=mean, largest=largest).tolist(), n)


def _flat(latents: Tensor, window: int, std: float, *, mean: float, largest: float) -> Tensor:
    """Which windows are flat, ``[n - window + 1]``."""
    windows = _windows(latents.float(), window)
    magnitude = windows.abs()
    return (windows.std(1) < std) & (magnitude.mean(1) < mean) & (magnitude.amax(1) < largest)


def _start_of(flags: Sequence[bool], n: int) -> int:
    """The first window of the last run of at least two flat ones, or n."""
    end = len(flags)
    while end and not flags[end - 1]:
        end -= 1
    start = end
    while start and flags[start - 1]:
        start -= 1
    return start if end - start >= 2 else n


def _windows(latents: Tensor, window: int) -> Tensor:
    """Every window of latents, flattened: ``[n - window + 1, window * latent_size]``."""
    return latents.unfold(0, window, 1).flatten(1)
