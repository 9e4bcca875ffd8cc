"""What holds for every test."""

from __future__ import annotations

import gc
import inspect
import logging
import signal
from collections.abc import Iterator
from pathlib import Path

import certifi
import httpx
import pytest

#: Folders whose files take long.
_LONG = ("train", "e2e", "attack", "engines")
#: The folders that `--quick` looks into, and the tests in them that it leaves out.
_QUICK = ("unit", "golden", "contract/openai")
_NOT_QUICK = "not slow"
#: Longer than any answer takes on a slow machine; only a failing test waits for it.
_PATIENCE_S = 60.0


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add an option, not arguments: pytest imports the conftest files of its arguments in its first process too."""
    parser.addoption("--quick", action="store_true", help=f"only {', '.join(_QUICK)}, and what is {_NOT_QUICK}")


def pytest_configure(config: pytest.Config) -> None:
    """Have processes that tests start end at Ctrl-C, and leave out the slow tests of a quick run."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # so a shell starts what runs in its background
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if config.getoption("quick"):
        config.option.markexpr = _NOT_QUICK


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out the folders that are not looked into, without importing them."""
    path = collection_path.relative_to(Path(__file__).parent)
    looked_into = any(path.is_relative_to(folder) or Path(folder).is_relative_to(path) for folder in _QUICK)
    return True if config.getoption("quick") and not looked_into else None


@pytest.fixture(scope="session", autouse=True)
def no_certificates(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Every server is on loopback: do not read a hundred certificates for each client of httpx."""
    folder = tmp_path_factory.mktemp("certificates")
    first, end, _ = Path(certifi.where()).read_text().partition("-----END CERTIFICATE-----\n")
    (folder / "one.pem").write_text(first + end)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("SSL_CERT_FILE", raising=False)
        patch.setenv("SSL_CERT_DIR", str(folder))  # read by clients that trust the environment
        patch.setattr(certifi, "where", lambda: str(folder / "one.pem"))  # and by the others
        yield


@pytest.fixture(scope="session", autouse=True)
def patience() -> Iterator[None]:
    """A client of httpx that is given no time-out waits for longer than its five seconds: machines stall."""
    usual = inspect.signature(httpx.Client).parameters["timeout"].default  # the same object wherever it is a default
    with pytest.MonkeyPatch.context() as patch:
        for phase in ("connect", "read", "write", "pool"):
            patch.setattr(usual, phase, _PATIENCE_S)
        yield


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take long: at the end neither of two processes then waits long for the other."""
    here = Path(__file__).parent
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    slow |= {item.path for item in items if item.path.relative_to(here).parts[0] in _LONG}
    items.sort(key=lambda item: item.path not in slow)


@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session) -> Iterator[None]:
    """Keep the garbage collector from walking, again and again, over modules and tests that stay to the end."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()
        # pytest attaches handlers, six times a test, to each logger that does not propagate: torch has forty.
        for name, logger in logging.root.manager.loggerDict.items():
            if isinstance(logger, logging.Logger) and name.startswith("torch"):
                logger.propagate = True
