"""Loads the synthesisers' shared libraries."""

import ctypes


class TeacherMissing(RuntimeError):
    """A synthesiser or a text source is not installed; the message names the package that brings it."""


def load_library(name: str, package: str) -> ctypes.CDLL:
    """Open a shared library.

    Args:
        name: File name with its version, such as ``libflite.so.1``.
        package: Debian package that brings it, for the error.

    Raises:
        TeacherMissing: The library is not installed.
    """
    try:
        return ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)
    except OSError as error:
        raise TeacherMissing(
            f"{name} is not installed; on Debian or Ubuntu it comes with: apt install {package}"
        ) from error
