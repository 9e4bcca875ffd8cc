"""torch.compile for methods of live objects: during warm-up only, and taken back at the first failure."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import logging
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from echo.files import atomic_write

log = logging.getLogger(__name__)

#: Triton builds a small C module per kernel with the first of these that it finds.
_C_COMPILERS = ("clang", "gcc", "cc")


def obstacle(device: torch.device) -> str | None:
    """Return why nothing can be compiled for a device; None where all that can be known beforehand is there."""
    if device.type != "cuda":
        return f"the device is {device.type}, not cuda"
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    if not any(map(shutil.which, _C_COMPILERS)):
        return "there is no C compiler"
    return None


#: The stance of torch in which a call that would compile fails instead; the error names it.
_RECOMPILES = "fail_on_recompile"
#: Most compiled variants of a method. Beyond it torch would run the method as it is, and say so nowhere; here it fails.
_VARIANTS = 64


class Compiler:
    """Compiles a group of methods of live objects; the first exception in any of them takes all of them back.

    A method compiles when it is first called with a shape, so the warm-up must call it as requests will. Each is one
    graph: what would break it fails. After ``seal`` nothing compiles any more: a shape for which there is no compiled
    code runs as it was written, and is counted in ``misses``. A call that fails is repeated the same way, so the
    methods must bear being called twice with the same arguments.

    ``name`` is what the log calls the group; ``compile`` takes what torch.compile takes. Used by one thread at a time.
    """

    def __init__(self, name: str, compile: Callable[..., Any] = torch.compile) -> None:
        self.name = name
        self._compile = compile
        self._methods: list[tuple[object, str]] = []
        self._failed = False
        self._sealed = False
        self.misses = 0

    @property
    def active(self) -> bool:
        """True until a compiled method has failed."""
        return not self._failed

    def add(self, owner: object, method: str) -> None:
        """Put the compiled method in the place of ``owner.method``; a module's state dict does not change."""
        original: Callable[..., Any] = getattr(owner, method)
        # Symbolic sizes from the start: text and batch differ from request to request.
        compiled = self._compile(original, dynamic=True, fullgraph=True)

        def call(*arguments: Any) -> Any:
            if self._failed:
                return original(*arguments)
            try:
                with self._stance():
                    return compiled(*arguments)
            except Exception as error:
                if self._sealed and _RECOMPILES in str(error):
                    self.misses += 1
                    log.debug("nothing compiled for this call of %s", self.name, exc_info=error)
                else:
                    self._give_up(error)
            # Outside the handler, where the traceback no longer keeps the failed call's tensors alive.
            return original(*arguments)

        setattr(owner, method, call)
        self._methods.append((owner, method))

    def seal(self) -> None:
        """End the compiling: from here on no request waits for it."""
        self._sealed = True

    def _stance(self) -> contextlib.AbstractContextManager[Any]:
        # Entered per call, because these are process-wide and others may compile in this process.
        if self._sealed:
            stance: contextlib.AbstractContextManager[Any] = torch.compiler.set_stance(_RECOMPILES)
            return stance
        import torch._dynamo.config as dynamo  # takes seconds, which who does not compile is spared
        import torch.fx.experimental._config as shapes

        stack = contextlib.ExitStack()
        stack.enter_context(dynamo.patch(recompile_limit=_VARIANTS))
        # Else a size that happens to equal another (16 latents, 16 heads) would be taken for it, for ever.
        stack.enter_context(shapes.patch(use_duck_shape=False))  # type: ignore[attr-defined]  # made at import
        return stack

    def _give_up(self, error: Exception) -> None:
        self._failed = True
        self.misses += 1  # nothing is compiled any more
        for owner, method in self._methods:
            delattr(owner, method)
        first_line = next(iter(str(error).splitlines()), "")
        log.warning(
            "torch.compile of %s failed, it goes on uncompiled: %s: %s", self.name, type(error).__name__, first_line
        )
        log.debug("torch.compile of %s failed", self.name, exc_info=error)


class Artifacts:
    """What torch.compile has produced, in one file that spares the next start most of the compiling.

    The file is code that torch will run: the folder must be one that only the server's user can write to. A file that
    is missing, unreadable or from another torch costs nothing but the compiling. ``pack`` and ``unpack`` are torch's.
    """

    def __init__(
        self,
        file: Path,
        *,
        pack: Callable[[], tuple[bytes, object] | None] = torch.compiler.save_cache_artifacts,
        unpack: Callable[[bytes], object | None] = torch.compiler.load_cache_artifacts,
    ) -> None:
        self.file = file
        self._pack = pack
        self._unpack = unpack

    def load(self) -> bool:
        """Hand the file to torch; False, with a warning where there is a file, when that is not possible."""
        if not self.file.exists():
            return False
        try:
            usable = self._unpack(self.file.read_bytes()) is not None
        except Exception as error:
            log.debug("compile artifacts", exc_info=error)
            usable = False
        if not usable:
            log.warning("the compile artifacts in %s cannot be used and are ignored", self.file)
        return usable

    def save(self) -> None:
        """Write what has been compiled so far; the file is whole at any time. A failure is only a warning."""
        try:
            if (packed := self._pack()) is None:
                return
            with atomic_write(self.file) as temporary:
                temporary.write_bytes(packed[0])
        except Exception as error:
            log.warning("the compile artifacts cannot be saved to %s: %s", self.file, type(error).__name__)


def artifact_key(device_name: str, model: str, torch_version: str = torch.__version__) -> str:
    """Return the file name (without suffix) for a torch, a device and a model; different ones never share a file."""
    parts = (torch_version, device_name, model)
    readable = re.sub(r"[^\w.]+", "-", "-".join(parts)).strip("-")
    return f"{readable[:80]}-{hashlib.sha256(repr(parts).encode()).hexdigest()[:8]}"
