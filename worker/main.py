"""``python -m worker``: settings, folders, a page of what was found, the warm-up, and then the SDK's loop."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import runpod
from runpod.serverless import parser as sdk_arguments
from runpod.serverless.modules.rp_logger import RunPodLogger
from runpod.serverless.modules.worker_state import IS_LOCAL_TEST

from echo.errors import ConfigError, EchoError
from echo.settings import Settings, read_environment, warn_of_unknown
from echo.telemetry import set_up_log
from worker.bootstrap import make_folders, page, server_settings
from worker.jobs import Answer, Jobs
from worker.settings import WorkerSettings
from worker.speaker import Speaker

log = logging.getLogger("echo.worker")

#: Exit statuses: wrong settings, and a model that cannot be loaded.
_WRONG_SETTINGS, _NO_MODEL = 2, 1


def main(started: float) -> int:
    """Start the worker and serve until the platform ends it; returns the exit status.

    ``started``: what ``time.perf_counter`` said before the imports.
    """
    imports_s = time.perf_counter() - started
    try:
        worker = read_environment(WorkerSettings)
        settings = server_settings(worker)
        mode = _mode()
        make_folders(settings, worker)
        if worker.fault and mode.hosted:
            raise ConfigError(worker.fault)
        set_up_log(settings.log_format, debug=settings.debug_logs)
        speaker = Speaker(settings)
        jobs = Jobs(settings, worker, speaker)
    except ConfigError as error:
        sys.stderr.write(f"{error.message}\n")
        return _WRONG_SETTINGS
    try:
        warn_of_unknown(models=(Settings, WorkerSettings))
        s3 = speaker.run_now(jobs.storage.reachable()) if jobs.storage else None
        lines = page(settings, worker, jobs.voices, mode=mode.name, s3=s3)
        log.info("the worker starts\n    %s", "\n    ".join(lines))
        if worker.fault:
            log.warning("%s", worker.fault)
        if worker.warm:
            _warm_up(speaker, jobs)
        took_s = time.perf_counter() - started
        log.info("takes jobs %.1f s after its start, %.1f s of them for imports", took_s, imports_s)
        RunPodLogger().set_level(worker.sdk_log_level)
        runpod.serverless.start(sdk_config(speaker, jobs, worker, one_job=mode.one_job))
    except EchoError as error:
        log.error("%s", error.message)
        return _NO_MODEL
    finally:
        speaker.close()
    return 0


@dataclass(frozen=True, slots=True)
class _Mode:
    """How the SDK was asked to run."""

    name: str
    hosted: bool = False
    one_job: bool = False


def _mode() -> _Mode:
    given, _ = sdk_arguments.parse_known_args()
    if given.rp_serve_api:
        return _Mode(f"the SDK's local server on http://{given.rp_api_host}:{given.rp_api_port}")
    if given.test_input:
        return _Mode("one job from the command line", one_job=True)
    if not IS_LOCAL_TEST:
        return _Mode("RunPod", hosted=True)
    if Path("test_input.json").is_file():
        return _Mode("one job from test_input.json", one_job=True)
    raise ConfigError(
        "RUNPOD_WEBHOOK_GET_JOB is not set, so this is not RunPod. To try the worker, start its local server with "
        "--rp_serve_api, or give it a job with --test_input '{\"input\": {...}}'."
    )


def _warm_up(speaker: Speaker, jobs: Jobs) -> None:
    before = time.perf_counter()
    speaker.run_now(speaker.service())
    loaded = time.perf_counter()
    speaker.run_now(jobs.warm_up())
    log.info("loaded in %.1f s, warmed up in %.1f s", loaded - before, time.perf_counter() - loaded)


def sdk_config(speaker: Speaker, jobs: Jobs, worker: WorkerSettings, *, one_job: bool = False) -> dict[str, Any]:
    """Return what the SDK's ``start`` takes; ``one_job``: it runs a single job and ends."""
    config: dict[str, Any] = {
        "concurrency_modifier": lambda current: worker.jobs,
        # Without it the platform forgets a stream's pieces, and /runsync and /status show an empty list.
        "return_aggregate_stream": True,
    }

    def after() -> None:
        if speaker.needs_new_process:  # the SDK ends this one after the job, and the platform starts another
            config["refresh_worker"] = True

    async def handler(job: dict[str, Any]) -> Answer:
        answer = await speaker.run(jobs.whole(job.get("input"), job.get("id", "")))
        after()
        return answer

    async def stream_handler(job: dict[str, Any]) -> AsyncGenerator[Answer]:
        async for message in speaker.stream(jobs.stream(job.get("input"), job.get("id", ""))):
            yield message
        after()

    # The SDK looks at the function, once, to see whether it streams; of a single job's it prints the generator itself.
    config["handler"] = stream_handler if worker.stream_handler and not one_job else handler
    return config
