"""Where speech ends: the flat tail that the model writes behind the last word.

All functions read their latents back once; call them when a block is finished, not during its steps.
"""

from __future__ import annotations

from torch import Tensor

from echo.types import TailRules


def ends_in_silence(block: Tensor, rules: TailRules) -> bool:
    """Whether a finished block ``[n, latent_size]`` ends the utterance: its last latents are all (near) zero."""
    tail = block[-min(rules.zero_tail_frames, block.shape[0]) :]
    return bool((tail.abs() <= rules.zero_eps).all())


def flat_tail_start(
    latents: Tensor, window: int = 20, std: float = 0.05, *, mean: float = 0.02, largest: float = 0.05
) -> int:
    """First latent of the flat tail of ``[n, latent_size]``, or n; the streaming variant's backward scan.

    A window is flat when its standard deviation is below ``std``, its mean magnitude below ``mean`` and its largest
    magnitude below ``largest``. Counted is the last run of flat windows, if it has at least two. The run need not reach
    the end: what follows it may be a loud tail that is cut off too.
    """
    n = latents.shape[0]
    if n < window:
        return n
    windows = _windows(latents.float(), window)
    magnitude = windows.abs()
    flat = (windows.std(1) < std) & (magnitude.mean(1) < mean) & (magnitude.amax(1) < largest)
    flags = flat.tolist()
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
