"""How the XTTS routes look in the API's description: their bodies are read by hand."""

from __future__ import annotations

from typing import Any

from compat.xtts.schemas import SpeakBody

WAV: dict[int | str, dict[str, Any]] = {
    200: {"description": "The audio.", "content": {"audio/wav": {"schema": {"type": "string", "format": "binary"}}}}
}
_FIELDS = SpeakBody.model_json_schema()
IN_BODY = {"requestBody": {"required": True, "content": {"application/json": {"schema": _FIELDS}}}}
IN_QUERY = {
    "parameters": [
        {"name": name, "in": "query", "required": name in _FIELDS["required"], "schema": schema}
        for name, schema in _FIELDS["properties"].items()
    ]
}
UPLOAD = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["speaker_name", "wav_file"],
                    "properties": {
                        "speaker_name": {"type": "string"},
                        "language": {"type": "string"},
                        "wav_file": {"type": "string", "format": "binary"},
                    },
                }
            }
        },
    }
}
