"""The dependency rule of docs/house.md, checked on the imports themselves."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

#: What a package may never import. A module is matched by its own name or a parent's.
FORBIDDEN = {
    "routes": {"torch", "worker", "echo.model", "echo.engines", "echo.scheduler"},
    "compat": {"torch", "worker", "echo.model", "echo.engines", "echo.scheduler"},
    "server": {
        "torch",
        "fastapi",
        "routes",
        "compat",
        "worker",
        "api_server",
        "echo.service",
        "echo.runtime",
        "echo.model",
        "echo.engines",
        "echo.scheduler",
    },
    "worker": {
        *("torch", "fastapi", "routes", "compat", "server", "api_server"),
        *("echo.model", "echo.scheduler"),
    },
    "echo": {"fastapi", "starlette", "uvicorn", "routes", "compat", "server", "worker", "api_server"},
    "echo.types": {"torch", "pydantic", "asyncio"},
    "echo.errors": {"torch", "pydantic", "asyncio"},
    "echo.stream": {"torch", "pydantic"},
    "echo.service": {"torch", "echo.model", "echo.scheduler"},
    "echo.text": {"torch", "echo.voices", "echo.audio", "echo.vad", "echo.presets", "echo.model", "echo.settings"},
    "echo.voices": {"torch", "echo.text", "echo.vad", "echo.presets", "echo.model", "echo.settings"},
    "echo.audio": {"torch", "echo.text", "echo.voices", "echo.vad", "echo.presets", "echo.model", "echo.settings"},
    "echo.decoding": {
        *("torch", "asyncio", "pydantic", "echo.settings", "echo.model"),
        *("echo.text", "echo.voices", "echo.vad", "echo.presets"),
    },
    "echo.vad": {"echo.text", "echo.voices", "echo.presets", "echo.model", "echo.settings"},
    "echo.presets": {"torch", "echo.text", "echo.voices", "echo.audio", "echo.vad", "echo.model", "echo.settings"},
    "echo.options": {"torch"},
    "echo.model": {
        "asyncio",
        "threading",
        "echo.settings",
        "echo.service",
        "echo.runtime",
        "echo.engines",
        "echo.scheduler",
    },
    "echo.model.network": {"echo.model.sampling", "echo.model.autoencoder", "echo.model.files", "echo.model.cuda"},
    "echo.model.sampling": {"echo.model.autoencoder", "echo.model.files", "echo.model.cuda"},
    "echo.model.autoencoder": {"echo.model.sampling", "echo.model.files", "echo.model.cuda"},
    "echo.model.files": {"echo.model.sampling", "echo.model.cuda"},
    "echo.model.cuda": {"echo.model.sampling", "echo.model.files"},
    "echo.scheduler": {"echo.settings", "echo.service", "echo.runtime", "echo.engines"},
    "echo.scheduler.policy": {"torch", "time"},
    "echo.engines": {"echo.service", "echo.runtime"},
    # It runs in environments where nothing of ours is installed, nor anything that we need.
    "engines.child": {"echo", "routes", "compat", "server", "worker", "api_server", "pydantic", "torch"},
    "engines.chatterbox": {"echo", "routes", "compat", "server", "worker", "api_server", "pydantic"},
    "engines.indextts": {"echo", "routes", "compat", "server", "worker", "api_server", "pydantic"},
    "engines.kokoro": {"echo", "routes", "compat", "server", "worker", "api_server", "pydantic", "torch"},
}


#: `echo-tts serve` starts the server, which is above the library.
EXCEPTIONS = {("echo.cli", "api_server")}


def modules() -> Iterator[tuple[str, Path]]:
    for top in ("echo", "engines", "routes", "compat", "server", "worker"):
        for path in sorted((ROOT / top).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path
    yield "api_server", ROOT / "api_server.py"


def imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative import"
            names |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def test_every_module_imports_only_what_its_room_allows() -> None:
    wrong = [
        f"{name} imports {module}"
        for name, path in modules()
        for package, banned in FORBIDDEN.items()
        if within(name, package)
        for module in sorted(imports(path))
        if any(within(module, ban) and (name, ban) not in EXCEPTIONS for ban in banned)
    ]
    assert not wrong


def test_only_the_settings_module_reads_the_environment() -> None:
    for name, path in modules():
        if name != "echo.settings":
            source = path.read_text(encoding="utf-8")
            assert "os.environ" not in source, name
            assert "getenv" not in source, name


def test_the_rules_name_modules_that_exist() -> None:
    existing = {name for name, _ in modules()}
    missing = {package for package in FORBIDDEN if package not in existing}
    assert not missing


def test_importing_the_package_needs_no_torch() -> None:
    code = "import sys, echo; sys.exit('torch' in sys.modules or 'fastapi' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


@pytest.mark.slow
def test_the_embedded_model_is_loaded_without_torchs_compiler() -> None:
    code = """
import sys
from echo.engines.load import load_engine
from echo.settings import load_settings
load_engine(load_settings({}, model_repo="tiny", device="cpu"), None).close()
sys.exit("torch._dynamo" in sys.modules)  # seconds of every start
"""
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
