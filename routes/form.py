"""Forms with one uploaded file."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.datastructures import FormData, UploadFile
from starlette.requests import Request

from echo.errors import BadRequest

#: Most fields of a form beside its file.
_MAX_FIELDS = 16
#: Room in the body of an upload for what is not audio: field names and boundaries.
BESIDES_AUDIO = 2**20


class Form:
    """The fields of a form, by name."""

    def __init__(self, data: FormData) -> None:
        self._data = data

    def text(self, name: str) -> str:
        """Return a field, or "" if it is absent or a file."""
        value = self._data.get(name, "")
        return value if isinstance(value, str) else ""

    def required(self, name: str) -> str:
        """Return a field; raises BadRequest if it is absent, empty or a file."""
        value = self.text(name)
        if not value.strip():
            raise BadRequest(
                f"{name}: this field is required.", param=name, code=BadRequest.code if name in self._data else _MISSING
            )
        return value

    def texts(self) -> dict[str, str]:
        """Return all fields that are no files."""
        return {name: value for name, value in self._data.items() if isinstance(value, str)}

    async def file(self, name: str) -> bytes:
        """Return the content of a file; raises BadRequest if there is none."""
        return (await self.named_file(name))[1]

    async def named_file(self, name: str) -> tuple[str, bytes]:
        """Return the name that a file has at the client's, and its content; raises BadRequest if there is none."""
        upload = self._data.get(name)
        if not isinstance(upload, UploadFile):
            raise BadRequest(f"{name}: a file is required.", param=name, code=_MISSING)
        return upload.filename or "", await upload.read()


@asynccontextmanager
async def read_form(request: Request) -> AsyncIterator[Form]:
    """Read a form, url-encoded or multipart; any other body counts as empty. Raises BadRequest."""
    async with request.form(max_files=1, max_fields=_MAX_FIELDS) as data:
        yield Form(data)


_MISSING = "missing_required_parameter"
