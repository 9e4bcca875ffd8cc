"""What one clip may cost its child process, kept by the operating system where it can."""

from __future__ import annotations

import contextlib
import math
import signal
import time
from pathlib import Path

try:
    import resource
except ImportError:  # Windows has none; there the owner's clock alone ends a child
    resource = None  # type: ignore[assignment]

#: Address space beside the file and its samples. FFmpeg's demuxers, decoders and converters take a tenth of it.
HEADROOM_BYTES = 160 * 2**20
#: Samples lie in memory at most as often: parts, the whole, and a view of which are finite.
_COPIES = 3
#: Processor seconds. Five minutes of 192 kHz in FLAC take 3 on a slow core.
CPU_SECONDS = 30
#: Seconds by the clock, for a child that waits instead of computing, and on a machine with much else to do.
WALL_SECONDS = 90


class JobLimits:
    """Sets the limits of the calling process, afresh for each clip; made once its libraries are loaded."""

    def __init__(self) -> None:
        self._base = _address_space()
        if resource is not None:
            _lower(resource.RLIMIT_CORE, 0)  # a core file per damaged clip would fill the disk

    def begin(self, file_bytes: int, sample_bytes: int) -> None:
        """Limit what the next clip may take."""
        if resource is not None:
            now = _address_space()
            if self._base is not None and now is not None:
                # What earlier clips have left behind is not this one's, unless it has become too much.
                base = min(now, self._base + HEADROOM_BYTES)
                _lower(resource.RLIMIT_AS, base + HEADROOM_BYTES + file_bytes + _COPIES * sample_bytes)
            _lower(resource.RLIMIT_CPU, math.ceil(time.process_time()) + CPU_SECONDS)
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, WALL_SECONDS)  # nobody handles SIGALRM: the process ends

    def end(self) -> None:
        """Stop the clock: waiting for the next clip may take any time."""
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 0)


def _lower(kind: int, value: int) -> None:
    """Set a soft limit, as far as the hard one and the system allow."""
    _, hard = resource.getrlimit(kind)
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(kind, (value, hard))


def _address_space() -> int | None:
    """Return what the process has of it now; None where the system does not say, or does not limit it."""
    try:
        pages = int(Path("/proc/self/statm").read_bytes().split()[0])
    except (OSError, ValueError, IndexError):
        return None
    return pages * resource.getpagesize() if resource is not None else None
