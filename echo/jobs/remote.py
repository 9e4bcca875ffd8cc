"""Results of jobs in S3-compatible storage, through boto3 and the standard ``AWS_*`` settings."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from echo.errors import ConfigError, EchoError

log = logging.getLogger(__name__)

#: How long an address of a result works, in seconds.
_URL_LIFE_S = 3600


class UploadFailed(EchoError):
    """A result could not be uploaded."""

    code = "upload_failed"


class ResultBucket:
    """A bucket, and the prefix of the keys in it, given as ``s3://bucket/prefix``. Raises ConfigError."""

    def __init__(self, address: str) -> None:
        parts = urlsplit(address)
        self._bucket, self._prefix = parts.netloc, parts.path.strip("/")
        if parts.scheme != "s3" or not self._bucket:
            raise ConfigError(f"ECHO_JOBS_S3={address!r}: must be s3://bucket or s3://bucket/prefix.")
        try:
            import boto3
            from botocore.config import Config
            from botocore.exceptions import BotoCoreError, ClientError
        except ModuleNotFoundError:
            raise ConfigError("ECHO_JOBS_S3 needs boto3: pip install 'echo-tts-server[s3]'.") from None
        self._errors = (BotoCoreError, ClientError)
        try:
            self._client: Any = boto3.client(
                "s3",
                config=Config(
                    s3={"addressing_style": "path"},  # the one that every compatible storage understands
                    retries={"mode": "standard", "total_max_attempts": 4},
                    # boto3's own default is a checksum that not every compatible storage understands.
                    request_checksum_calculation="when_required",
                    response_checksum_validation="when_required",
                ),
            )
        except (*self._errors, ValueError) as error:
            raise ConfigError(f"ECHO_JOBS_S3: the storage's settings are wrong ({type(error).__name__}).") from None

    def upload(self, file: Path, job: str, media_type: str) -> str:
        """Upload a result and return its key; raises UploadFailed."""
        key = "/".join(filter(None, (self._prefix, job, file.name)))
        try:
            self._client.upload_file(str(file), self._bucket, key, ExtraArgs={"ContentType": media_type})
        except Exception as error:  # boto3's transfer has errors of its own beside those of botocore
            log.warning("upload of %s failed: %s", key, error)
            raise UploadFailed("The result could not be uploaded to the storage.") from error
        return key

    def url(self, key: str) -> str:
        """Return an address that returns the object for an hour."""
        parameters = {"Bucket": self._bucket, "Key": key}
        return str(self._client.generate_presigned_url("get_object", Params=parameters, ExpiresIn=_URL_LIFE_S))

    def remove(self, key: str) -> None:
        """Remove an object; a failure is reported only."""
        try:
            self._client.delete_object(Bucket=self._bucket, Key=key)
        except self._errors as error:
            log.warning("%s could not be removed from the storage: %s", key, error)
