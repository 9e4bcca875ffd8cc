"""Finds the files of a model: on the Hugging Face Hub, in a local folder, or inside the package."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path, PurePosixPath
from typing import Any

from echo.errors import LoadError
from echo.sources import BASE_DECODER, TINY_MODEL

#: File names of the release; a ``files`` section in ``config.json`` replaces them.
_WEIGHTS = "pytorch_model.safetensors"
_PCA = "pca_state.safetensors"
_CONFIG = "config.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFiles:
    """Where the parts of a model lie on disk, and its ``config.json`` (empty for the released shapes)."""

    dit: Path
    pca: Path
    autoencoder: Path
    config: Mapping[str, Any]


def locate(source: str, *, pca_source: str | None = None, fish_source: str | None = None) -> ModelFiles:
    """Find, and from the hub download, the files of a model; raises LoadError with the remedy.

    A source is a hub repository (``owner/name``), a local folder, or ``tiny``. A ``config.json`` with a ``dit`` or
    ``ae`` section describes other shapes and, under ``files``, other file names; where it names an ``ae`` file the
    source brings its own decoder and ``fish_source`` is not used. Downloads go through huggingface_hub, its cache,
    progress bar, ``HF_TOKEN`` and ``HF_HUB_OFFLINE``.
    """
    config = _read_config(source)
    names = _file_names(source, config)
    brings_decoder = "ae" in names
    return ModelFiles(
        dit=_fetch(source, names.get("dit", _WEIGHTS)),
        pca=_fetch(pca_source, _PCA) if pca_source else _fetch(source, names.get("pca", _PCA)),
        autoencoder=_fetch(source, names["ae"]) if brings_decoder else _fetch(fish_source or BASE_DECODER, _WEIGHTS),
        config=config,
    )


def _read_config(source: str) -> dict[str, Any]:
    path = _find_config(source)
    if path is None:
        return {}
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise LoadError(f"{path} is not valid JSON; repair or remove it.") from error
    # Hub repositories may hold a config.json of some other tool.
    ours = isinstance(config, dict) and any(isinstance(config.get(part), dict) for part in ("dit", "ae"))
    return config if ours else {}


def _find_config(source: str) -> Path | None:
    folder = _folder(source)
    if folder is not None:
        return folder / _CONFIG if (folder / _CONFIG).is_file() else None
    try:
        return _download(source, _CONFIG)
    except LoadError as error:
        from huggingface_hub.errors import EntryNotFoundError, OfflineModeIsEnabled

        # The released repositories have none, and a cache filled by other tools need not hold it.
        if isinstance(error.__cause__, EntryNotFoundError | OfflineModeIsEnabled):
            return None
        raise


def _file_names(source: str, config: Mapping[str, Any]) -> dict[str, str]:
    names: dict[str, str] = {}
    for part, value in dict(config.get("files") or {}).items():
        # A remark may follow the name: "model.safetensors (bf16)".
        name = str(value).split(maxsplit=1)[0] if str(value).strip() else ""
        path = PurePosixPath(name)
        if not name or path.is_absolute() or ".." in path.parts:
            raise LoadError(f"The config.json of {source} names '{value}' as its {part} file; use a path inside it.")
        names[part] = name
    return names


def _folder(source: str) -> Path | None:
    """The local folder a source names; None for a hub repository."""
    if source == TINY_MODEL:
        return Path(str(resources.files("echo") / "assets" / "tiny"))
    folder = Path(source).expanduser()
    return folder if folder.is_dir() else None


def _fetch(source: str, name: str) -> Path:
    folder = _folder(source)
    if folder is None:
        return _download(source, name)
    path = folder / name
    if not path.is_file():
        raise LoadError(f"The model folder {folder} has no file {name}; it must have the layout of the release.")
    return path


def _download(repo: str, name: str) -> Path:
    if repo.startswith((".", "/", "~")) or repo.count("/") != 1:
        raise LoadError(f"'{repo}' is neither a folder that exists nor a hub repository of the form owner/name.")
    import huggingface_hub  # here, because a model in a folder needs no hub

    try:
        return Path(huggingface_hub.hf_hub_download(repo, name))
    except Exception as error:  # the hub client's HTTP library, and so its exceptions, differ between versions
        raise LoadError(_explain(error, repo, name)) from error


def _explain(error: Exception, repo: str, name: str) -> str:
    """One line: what went wrong and what to do about it. The order matters, as some of these are subclasses."""
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )

    match error:
        case GatedRepoError():
            return (
                f"The repository {repo} is gated: accept its terms at https://huggingface.co/{repo} and set HF_TOKEN "
                "to a token of that account."
            )
        case RepositoryNotFoundError():
            return f"There is no repository {repo} on the hub, or it is private: check the name, or set HF_TOKEN."
        case LocalEntryNotFoundError() | OfflineModeIsEnabled():
            return (
                f"{name} of {repo} is not in the local cache and the hub cannot be reached: check the network, unset "
                "HF_HUB_OFFLINE, or name a local folder."
            )
        case EntryNotFoundError():
            return f"The repository {repo} has no file {name}: it is not a model in the layout of the release."
        case HFValidationError():
            return f"'{repo}' is not a valid repository name; use owner/name or a local folder."
        case _:
            detail = next(iter(str(error).splitlines()), "")
            return f"{name} of {repo} could not be downloaded ({type(error).__name__}: {detail}); try again."
