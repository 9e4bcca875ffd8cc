"""The worker's environment variables, beside the server's. Names of the old workers keep their name and meaning."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import ConfigDict, SecretStr, field_validator

from echo.settings import EnvironmentModel, env_field

#: Longest life of a presigned URL with signature version 4: seven days, in seconds.
LONGEST_URL_S = 7 * 24 * 3600


class WorkerSettings(EnvironmentModel):
    """What only the serverless worker reads. Spaces and line ends around a value, as pasted keys have them, go."""

    model_config = ConfigDict(str_strip_whitespace=True)

    voices_dir: str = env_field(
        "AUDIO_VOICES_DIR", "", "Folder of the clips that `speaker_voice` names. Unset: `ECHO_VOICES_DIR`."
    )
    output_dir: Path = env_field(
        "OUTPUT_AUDIO_DIR",
        Path("/tmp/echo-tts-output"),
        "Where a file is until it has been uploaded. It has no name there, so nothing is left even by a crash.",
    )
    s3_endpoint_url: str = env_field(
        "S3_ENDPOINT_URL", "", "The S3-compatible storage, `https://...`, addressed by path. Unset: Amazon's."
    )
    s3_access_key_id: SecretStr = env_field("S3_ACCESS_KEY_ID", SecretStr(""), "Its access key.")
    s3_secret_access_key: SecretStr = env_field("S3_SECRET_ACCESS_KEY", SecretStr(""), "Its secret key.")
    s3_bucket_name: str = env_field("S3_BUCKET_NAME", "", "The bucket, which must exist.")
    s3_region: str = env_field("S3_REGION", "us-east-1", "The region that requests are signed for.")
    s3_url_expires_s: int = env_field(
        "S3_URL_EXPIRES_S",
        3600,
        "Life of the URL of an answer, in seconds; seven days at most.",
        ge=1,
        le=LONGEST_URL_S,
    )
    s3_attempts: int = env_field("S3_ATTEMPTS", 4, "How often an upload is tried in all.", ge=1, le=20)
    s3_timeout_s: float = env_field(
        "S3_TIMEOUT_S", 30.0, "Longest wait for a sign of life from the storage, in seconds.", gt=0, le=600
    )
    inline_audio: bool = env_field(
        "ECHO_WORKER_INLINE_AUDIO",
        False,
        "Without S3 settings, answer with the file itself in base64 (`audio_base64`), up to 7 MB; 0.72 MB with "
        "`STREAM_HANDLER`.",
    )
    stream_handler: bool = env_field(
        "STREAM_HANDLER", False, "Start the generator handler, for jobs with `stream`; every output is then a list."
    )
    jobs: int = env_field("ECHO_WORKER_JOBS", 4, "Jobs that are spoken at the same time.", ge=1, le=256)
    warm: bool = env_field(
        "ECHO_WARM",
        False,
        "Load the model and speak a sentence before the first job is taken; else with the first job.",
    )

    sdk_log_level: Literal["DEBUG", "INFO", "WARN", "ERROR"] = env_field(
        "RUNPOD_LOG_LEVEL", "INFO", "What the SDK logs; with DEBUG also every job and every answer."
    )

    @field_validator("s3_endpoint_url")
    @classmethod
    def _url(cls, value: str) -> str:
        if value and not value.startswith(("https://", "http://")):
            raise ValueError("must be a URL that begins with https:// or http://")
        return value

    @property
    def missing(self) -> list[str]:
        """The variables without which nothing can be uploaded and that are not set."""
        wanted = {
            "S3_ACCESS_KEY_ID": self.s3_access_key_id.get_secret_value(),
            "S3_SECRET_ACCESS_KEY": self.s3_secret_access_key.get_secret_value(),
            "S3_BUCKET_NAME": self.s3_bucket_name,
        }
        return [name for name, value in wanted.items() if not value]

    @property
    def has_s3(self) -> bool:
        """True where finished files are uploaded."""
        return not self.missing

    @property
    def fault(self) -> str | None:
        """Why no file could ever be handed over, as one line for the operator; None where all is well."""
        missing = self.missing
        some = len(missing) < 3 or bool(self.s3_endpoint_url)
        if not missing or (self.inline_audio and not some):
            return None
        more = "" if some else ", or set ECHO_WORKER_INLINE_AUDIO=1 for answers that hold the audio itself"
        return f"{', '.join(missing)}: not set; finished files cannot be uploaded. Set {_them(missing)}{more}."


def _them(names: list[str]) -> str:
    return "it" if len(names) == 1 else "them"
