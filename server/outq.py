"""How many bytes sent on a socket its client has not acknowledged, where the system can tell."""

from __future__ import annotations

import struct
import sys


def unacknowledged(descriptor: int) -> int:
    """Return the bytes in the system's send queue, sent or not; 0 where the system does not tell (only Linux does)."""
    if not sys.platform.startswith("linux") or descriptor < 0:
        return 0
    import fcntl
    import termios

    try:
        # SIOCOUTQ of linux/sockios.h is TIOCOUTQ.
        return int(struct.unpack("i", fcntl.ioctl(descriptor, termios.TIOCOUTQ, b"\0\0\0\0"))[0])
    except OSError:
        return 0
