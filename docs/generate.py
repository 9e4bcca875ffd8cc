"""Write the generated reference pages; with ``--check``, fail when one is stale."""

from __future__ import annotations

import sys
from pathlib import Path

from pydantic import SecretStr

from echo.options import EngineOptions
from echo.settings import EnvironmentModel, Settings, env_name
from worker.settings import WorkerSettings

DOCS = Path(__file__).resolve().parent


def settings_page() -> str:
    """Return docs/settings.md from the settings class."""
    lines = [
        "# Settings",
        "",
        "Every setting is an environment variable. The commonest also have a flag: `python api_server.py --help`.",
        "A wrong value stops the start with one line that names variable, value and what is allowed; an unknown",
        "`ECHO_*` name is reported with the nearest known one. The effective settings are printed at start-up.",
        "",
        "Options of other engines, and the emotions of IndexTTS-2, are in [engines.md](engines.md).",
        "",
        "*This page is generated from `echo/settings.py` and `worker/settings.py` by `make docs`.*",
        "",
        *_settings_table(Settings),
        "",
        "`HF_TOKEN`, `HF_HOME`, `HF_HUB_CACHE` and `HF_HUB_OFFLINE` work as huggingface_hub defines them.",
        "",
        "## The serverless worker",
        "",
        "[The worker](workers.md) reads these too.",
        "",
        *_settings_table(WorkerSettings),
        "",
    ]
    return "\n".join(lines)


def _settings_table(model: type[EnvironmentModel]) -> list[str]:
    lines = ["| variable | type | default | meaning |", "|---|---|---|---|"]
    schema = model.model_json_schema(by_alias=True)["properties"]
    for field, info in model.model_fields.items():
        name = env_name(field, model)
        lines.append(f"| `{name}` | {_type(schema[name])} | {_default(info.get_default())} | {info.description} |")
    return lines


def options_page() -> str:
    """Return docs/options.md from the options class."""
    lines = [
        "# Engine options of a request",
        "",
        "At the top level of the body of `POST /v1/audio/speech`, or inside `extra_body` (which wins), and as an",
        "extension in Inworld requests. What a request leaves out comes from the preset (`presets.toml`).",
        "",
        "Options of other engines, and the emotions of IndexTTS-2, are in [engines.md](engines.md).",
        "",
        "*This page is generated from `echo/options.py` by `make docs`.*",
        "",
        "| option | type | meaning |",
        "|---|---|---|",
    ]
    schema = EngineOptions.model_json_schema()["properties"]
    for name, info in EngineOptions.model_fields.items():
        lines.append(f"| `{name}` | {_type(schema[name])} | {info.description} |")
    return "\n".join([*lines, ""])


PAGES = {"settings.md": settings_page, "options.md": options_page}


def main() -> int:
    """Write or check the pages; return the exit status."""
    check = "--check" in sys.argv[1:]
    stale = [name for name, render in PAGES.items() if _read(DOCS / name) != render()]
    if check:
        for name in stale:
            print(f"docs/{name} is stale: run `make docs`", file=sys.stderr)  # noqa: T201
        return 1 if stale else 0
    for name in stale:
        (DOCS / name).write_text(PAGES[name](), encoding="utf-8")
    return 0


def _read(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.exists() else None


def _type(schema: dict[str, object]) -> str:
    if "anyOf" in schema:
        parts = schema["anyOf"]
        assert isinstance(parts, list)
        return " or ".join(dict.fromkeys(_type(part) for part in parts if part.get("type") != "null"))
    if "enum" in schema:
        values = schema["enum"]
        assert isinstance(values, list)
        return ", ".join(f"`{value}`" for value in values)
    kind = str(schema.get("type", "string"))
    if kind == "array":
        items = schema.get("items")
        return f"list of {_type(items)}" if isinstance(items, dict) else "list"
    name = {"boolean": "0 or 1", "integer": "int", "number": "number", "string": "text"}.get(kind, kind)
    limits = [
        f"{sign} {schema[key]:g}" if isinstance(schema[key], float) else f"{sign} {schema[key]}"
        for key, sign in (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"), ("exclusiveMaximum", "<"))
        if key in schema
    ]
    return f"{name} {', '.join(limits)}" if limits else name


def _default(value: object) -> str:
    if value is None or value in ("", (), SecretStr("")):
        return "–"
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, tuple):
        return f"`{','.join(map(str, value))}`"
    return f"`{value}`"


if __name__ == "__main__":
    sys.exit(main())
