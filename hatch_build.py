"""Adds to the wheel what lies at the top of the checkout but belongs to the package: presets and bundled voices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

#: The bundled files, and no voice that somebody has put beside them. ``HOME`` of echo/settings.py finds them.
_BUNDLED = ("presets.toml", "audio_prompts/README.md", "audio_prompts/voices.json", "audio_prompts/tiny_*.flac")


class BundledFiles(BuildHookInterface[Any]):
    """Puts the bundled files into a wheel; an editable installation finds them in the checkout."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Extend ``build_data``; ``version`` is "standard" or "editable"."""
        if version == "standard":
            root = Path(self.root)
            for path in (path for pattern in _BUNDLED for path in root.glob(pattern)):
                build_data["force_include"][str(path)] = f"echo/assets/{path.relative_to(root)}"
