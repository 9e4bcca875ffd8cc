"""Fields of jobs: their types, and errors that name the field and what is allowed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, Field, StrictStr, ValidationError
from pydantic_core import PydanticCustomError

from echo.errors import BadRequest

Model = TypeVar("Model", bound=BaseModel)


def _no_bool(value: object) -> object:
    if isinstance(value, bool):
        raise PydanticCustomError("number_type", "a number is wanted")
    return value


# Clients of the old workers send numbers as strings now and then; those that are numbers are taken.
Int = Annotated[int, BeforeValidator(_no_bool)]
Number = Annotated[float, BeforeValidator(_no_bool), Field(allow_inf_nan=False)]

#: Names the file and the object: nothing that a path or a URL would read in another way.
SessionId = Annotated[StrictStr, Field(pattern=r"^[A-Za-z0-9._-]{1,128}\z")]
#: Seeds of torch and numpy generators go up to here.
MAX_SEED = 2**63 - 1


def job_field(default: Any, must: str, **limits: Any) -> Any:
    """Declare a field of a job; ``must`` completes the sentence "<field> ..." of the error."""
    return Field(default, description=must, **limits)


class JobModel(BaseModel):
    """Fields that every job has."""

    text: StrictStr = job_field(..., "is required and must be a text that is not blank.", pattern=r"\S")
    speaker_voice: StrictStr | None = job_field(None, "must be the name of a file in the voices folder, or null.")
    session_id: SessionId | None = job_field(None, "must be 1 to 128 characters out of A-Z a-z 0-9 . _ and -.")
    stream: bool = job_field(False, "must be true or false.")


def validated(model: type[Model], data: Mapping[str, Any]) -> Model:
    """Validate the known fields of a job; null is the same as absent. Raises BadRequest for the first that is wrong."""
    given = {name: data[name] for name in model.model_fields if data.get(name) is not None}
    try:
        return model.model_validate(given)
    except ValidationError as error:
        name = str(error.errors()[0]["loc"][0])
        raise BadRequest(f"{name} {model.model_fields[name].description}", param=name) from None


def unknown(data: Mapping[str, Any], *models: type[BaseModel], besides: frozenset[str] = frozenset()) -> list[str]:
    """Return the names in ``data`` that no model has, as far as they can be shown."""
    known = besides.union(*(model.model_fields for model in models))
    return ["".join(c for c in str(name) if c.isprintable())[:64] for name in data if name not in known]
