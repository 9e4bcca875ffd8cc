"""Inworld's voice routes: list, get, clone, update and delete voices."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from compat.bodies import documented
from compat.inworld.errors import RPC_RESPONSES, rpc_status
from compat.inworld.listing import Page, as_tts_voice, as_voice, languages_wanted, page, speaks
from compat.inworld.schemas import CloneBody, VoicePatch
from echo.errors import BadRequest
from echo.runtime import Runtime
from echo.voices.clones import SampleReport, SamplesRejected
from echo.voices.cloning import belongs
from echo.voices.inline import parse_audio_base64
from echo.voices.metadata import VoiceMetadata
from echo.voices.names import DEFAULT_WORKSPACE, reduce_workspace
from echo.voices.voice import Voice
from routes.deps import RuntimeDep, client_of
from routes.errors import describe
from routes.json import read_json

router = APIRouter(tags=["Inworld voices"], responses=RPC_RESPONSES)

PageSize = Annotated[int, Query(alias="pageSize", ge=0)]
PageToken = Annotated[str, Query(alias="pageToken")]

# FastAPI runs functions that are not async in its thread pool: listing voices reads folders.


@router.get("/tts/v1/voices")
def list_tts_voices(runtime: RuntimeDep, filter: str = "") -> dict[str, object]:
    """Every voice; ``filter=language=en`` narrows them to a language."""
    wanted = languages_wanted(filter)
    return {"voices": [as_tts_voice(voice) for voice in runtime.voices.list() if speaks(voice, wanted)]}


@router.get("/voices/v1/voices")
def list_voices(
    runtime: RuntimeDep, page_size: PageSize = 0, page_token: PageToken = "", filter: str = ""
) -> dict[str, object]:
    """Every voice, page by page; without a ``pageSize`` all at once."""
    return _list(runtime, None, page_size, page_token, filter)


@router.get("/voices/v1/workspaces/{workspace}/voices")
def list_workspace_voices(
    workspace: str, runtime: RuntimeDep, page_size: PageSize = 0, page_token: PageToken = "", filter: str = ""
) -> dict[str, object]:
    """The voices cloned in a workspace and those that every workspace has."""
    return _list(runtime, workspace, page_size, page_token, filter)


@router.get("/voices/v1/voices/{voice}")
def get_voice(voice: str, runtime: RuntimeDep) -> dict[str, object]:
    """One voice by full id, or by the short name of a clone in the default workspace."""
    return as_voice(runtime.cloning.find(voice), DEFAULT_WORKSPACE)


@router.get("/voices/v1/workspaces/{workspace}/voices/{voice}")
def get_workspace_voice(workspace: str, voice: str, runtime: RuntimeDep) -> dict[str, object]:
    """One voice by full id or short name."""
    return as_voice(runtime.cloning.find(voice, workspace), reduce_workspace(workspace))


@router.post("/voices/v1/voices:clone", openapi_extra=documented(CloneBody))
async def clone_voice(request: Request, runtime: RuntimeDep) -> Response:
    """Make a voice of one or more recordings, in the default workspace."""
    return await _clone(request, runtime, DEFAULT_WORKSPACE)


@router.post("/voices/v1/workspaces/{workspace}/voices:clone", openapi_extra=documented(CloneBody))
async def clone_workspace_voice(workspace: str, request: Request, runtime: RuntimeDep) -> Response:
    """Make a voice of one or more recordings."""
    return await _clone(request, runtime, workspace)


@router.patch("/voices/v1/voices/{voice}", openapi_extra=documented(VoicePatch))
async def describe_voice(voice: str, request: Request, runtime: RuntimeDep) -> dict[str, object]:
    """Change name, description or tags of a clone."""
    return await _describe(request, runtime, None, voice)


@router.patch("/voices/v1/workspaces/{workspace}/voices/{voice}", openapi_extra=documented(VoicePatch))
async def describe_workspace_voice(
    workspace: str, voice: str, request: Request, runtime: RuntimeDep
) -> dict[str, object]:
    """Change name, description or tags of a clone."""
    return await _describe(request, runtime, workspace, voice)


@router.delete("/voices/v1/voices/{voice}")
async def delete_voice(voice: str, runtime: RuntimeDep) -> dict[str, object]:
    """Delete a clone by full id, or by its short name in the default workspace."""
    return await _delete(runtime, None, voice)


@router.delete("/voices/v1/workspaces/{workspace}/voices/{voice}")
async def delete_workspace_voice(workspace: str, voice: str, runtime: RuntimeDep) -> dict[str, object]:
    """Delete a clone by full id or short name."""
    return await _delete(runtime, workspace, voice)


def _list(runtime: Runtime, workspace: str | None, size: int, token: str, filter: str) -> dict[str, object]:
    wanted = languages_wanted(filter)
    voices = [v for v in runtime.voices.list() if belongs(v, workspace) and speaks(v, wanted)]
    shown: Page[Voice] = page(voices, size, token)
    return {
        "voices": [as_voice(voice, reduce_workspace(workspace or DEFAULT_WORKSPACE)) for voice in shown.items],
        "totalSize": len(voices),
        "nextPageToken": shown.next_token,
    }


async def _clone(request: Request, runtime: Runtime, workspace: str) -> Response:
    runtime.cloning.require_enabled()
    body = CloneBody.parse(await read_json(request))
    metadata = VoiceMetadata(
        display_name=body.display_name, description=body.description, tags=tuple(body.tags), lang=body.lang_code
    )
    try:
        voice, reports = await runtime.cloning.publish(
            metadata,
            lambda: _decoded(body, runtime.settings.inworld_max_sample_size),
            nbytes=sum(len(sample.audio_data) for sample in body.voice_samples),
            workspace=workspace,
            client=client_of(request),
        )
    except SamplesRejected as error:
        answer = {**rpc_status(describe(error)), "audioSamplesValidated": _validated(body, error.reports)}
        return JSONResponse(answer, 400)
    return JSONResponse({"voice": as_voice(voice, workspace), "audioSamplesValidated": _validated(body, reports)})


def _decoded(body: CloneBody, max_bytes: int) -> list[bytes]:
    samples, reports = [], []
    for index, sample in enumerate(body.voice_samples):
        try:
            samples.append(parse_audio_base64(sample.audio_data, max_bytes, param=f"voiceSamples.{index}.audioData"))
            reports.append(SampleReport())
            max_bytes -= len(samples[-1])
        except BadRequest:
            reports.append(SampleReport(errors=("This is not an audio file in base64.",)))
    if len(samples) < len(reports):
        raise SamplesRejected(reports)
    return samples


def _validated(body: CloneBody, reports: tuple[SampleReport, ...]) -> list[dict[str, Any]]:
    return [
        {
            "langCode": body.lang_code,
            "warnings": [{"text": text} for text in report.warnings],
            "errors": [{"text": text} for text in report.errors],
            "transcription": sample.transcription,
        }
        for sample, report in zip(body.voice_samples, reports, strict=True)
    ]


async def _describe(request: Request, runtime: Runtime, workspace: str | None, name: str) -> dict[str, object]:
    runtime.cloning.require_enabled()
    body = VoicePatch.parse(await read_json(request))
    voice = await runtime.cloning.describe(
        name, workspace, display_name=body.display_name, description=body.description, tags=body.tags
    )
    return as_voice(voice, DEFAULT_WORKSPACE)


async def _delete(runtime: Runtime, workspace: str | None, name: str) -> dict[str, object]:
    await runtime.cloning.delete(name, workspace)
    return {}
