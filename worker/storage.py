"""S3-compatible storage: a finished file becomes an object and a URL that plays it for a while."""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import IO, Any

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionClosedError,
    ConnectTimeoutError,
    EndpointConnectionError,
    HTTPClientError,
    InvalidRegionError,
    ParamValidationError,
    ReadTimeoutError,
)

from echo.errors import ConfigError, EchoError
from worker.settings import WorkerSettings

log = logging.getLogger(__name__)

#: Longest that the health check waits for the storage, in seconds.
_CHECK_S = 5.0
#: What a storage answers when it does not know the key, or when the secret is wrong.
_REFUSED = {
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "AccessDenied",
    "AuthorizationHeaderMalformed",
    "InvalidToken",
    "403",
}
_NO_BUCKET = {"NoSuchBucket", "404"}


class UploadFailed(EchoError):
    """The file could not be handed to the storage; the message says why without naming it."""

    code = "upload_failed"


@dataclass(frozen=True, slots=True)
class Stored:
    """An uploaded file: its key in the bucket, and a URL that returns it until it expires."""

    key: str
    url: str


class Storage:
    """One bucket. Uploads are tried several times, with growing pauses.

    Raises ConfigError where the settings are such that nothing could ever be uploaded.
    """

    def __init__(self, settings: WorkerSettings) -> None:
        self._bucket = settings.s3_bucket_name
        self._expires_s = settings.s3_url_expires_s
        try:
            self._client = _client(settings, settings.s3_timeout_s, settings.s3_attempts)
            self._checker = _client(settings, min(_CHECK_S, settings.s3_timeout_s), 1)
            self._url("any")  # checks the bucket's name; asks nobody
        except (BotoCoreError, ValueError) as error:
            raise _wrong_setting(settings, error) from None
        #: Threads of their own: a slow storage must not keep the others from being encoded.
        self._threads = ThreadPoolExecutor(2 * settings.jobs, thread_name_prefix="echo-upload")

    async def upload(self, file: IO[bytes], key: str, media_type: str) -> Stored:
        """Upload a file from its start and return where it is; raises UploadFailed.

        Whoever cancels the call and closes the file ends the upload.
        """
        await asyncio.get_running_loop().run_in_executor(self._threads, self._put, file, key, media_type)
        return Stored(key, self._url(key))

    async def reachable(self) -> bool:
        """Tell whether the bucket is there and the keys open it."""
        try:
            await asyncio.to_thread(self._checker.head_bucket, Bucket=self._bucket)
        except (BotoCoreError, ClientError) as error:
            log.warning("the storage does not answer as it should: %s", error)
            return False
        return True

    def close(self) -> None:
        """Wait for uploads that have been given up and whose files are closed."""
        self._threads.shutdown()

    def _put(self, file: IO[bytes], key: str, media_type: str) -> None:
        file.seek(0)
        try:
            self._client.put_object(Bucket=self._bucket, Key=key, Body=file, ContentType=media_type)
        except (BotoCoreError, ClientError) as error:
            log.warning("upload of %s failed: %s", key, error)
            raise UploadFailed(f"The audio could not be uploaded: {_reason(error)}.") from error

    def _url(self, key: str) -> str:
        url = self._client.generate_presigned_url(
            "get_object", Params={"Bucket": self._bucket, "Key": key}, ExpiresIn=self._expires_s
        )
        return str(url)


def _client(settings: WorkerSettings, timeout_s: float, attempts: int) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=settings.s3_endpoint_url or None,
        aws_access_key_id=settings.s3_access_key_id.get_secret_value(),
        aws_secret_access_key=settings.s3_secret_access_key.get_secret_value(),
        region_name=settings.s3_region,
        config=Config(
            signature_version="s3v4",
            s3={"addressing_style": "path" if settings.s3_endpoint_url else "auto"},
            connect_timeout=timeout_s,
            read_timeout=timeout_s,
            retries={"mode": "standard", "total_max_attempts": attempts},
            # boto3's own default is a checksum at the end of the body, which not every compatible storage understands.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            # Jobs upload at the same time, each with a connection.
            max_pool_connections=max(10, settings.jobs),
        ),
    )


def _wrong_setting(settings: WorkerSettings, error: Exception) -> ConfigError:
    match error:
        case ParamValidationError():
            wrong = f"S3_BUCKET_NAME={settings.s3_bucket_name!r}: must be a name of letters, digits, '.', '-' and '_'"
        case InvalidRegionError():
            wrong = f"S3_REGION={settings.s3_region!r}: must be the name of a region, such as us-east-1"
        case _:
            wrong = f"S3_ENDPOINT_URL={settings.s3_endpoint_url!r}: must be the URL of a server"
    return ConfigError(f"{wrong}.")


def _reason(error: BotoCoreError | ClientError) -> str:
    if isinstance(error, ClientError):
        code = str(error.response.get("Error", {}).get("Code", "unknown"))
        if code in _REFUSED:
            return "the storage refused the access keys"
        return "the bucket does not exist" if code in _NO_BUCKET else f"the storage answered {code}"
    match error:
        case ReadTimeoutError() | ConnectTimeoutError():
            return "the storage did not answer in time"
        case EndpointConnectionError():
            return "the storage cannot be reached"
        case ConnectionClosedError() | HTTPClientError():
            return "the connection to the storage broke"
        case _:
            return "the storage's settings are wrong"
