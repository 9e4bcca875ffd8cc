"""Opening files of the voices folders, where anything may lie that an operator or another program has put there."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO


class NotAFile(OSError):
    """A pipe, socket, device or folder under the name of a file."""


def open_file(path: Path) -> BinaryIO:
    """Open a regular file for reading, unbuffered; raises OSError, for all other kinds NotAFile.

    Never waits: opening a named pipe would last until somebody writes to it.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise NotAFile(f"{path} is not a file")
        return os.fdopen(descriptor, "rb", buffering=0)
    except BaseException:
        os.close(descriptor)
        raise
