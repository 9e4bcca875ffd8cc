"""The Ray Serve application: the server's own app and library in each replica.

Ray's proxies take the connections and pick a replica. What guards connections in ``server/`` is therefore not there;
put a reverse proxy in front where strangers connect (docs/scale.md).
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from fastapi import FastAPI
from ray import serve
from ray.serve.config import AutoscalingConfig

from api_server import create_app
from echo.errors import ConfigError, DeviceStopped
from echo.runtime import Runtime
from echo.settings import Settings, load_settings, read_environment, warn_of_unknown
from echo.telemetry import set_up_log
from scale.settings import ScaleSettings

#: How often Ray asks a replica whether it can still speak, and how long it waits for the answer, in seconds.
_CHECK_EVERY_S, _CHECK_PATIENCE_S = 5.0, 20.0


def application(settings: Settings) -> FastAPI:
    """Build a replica's application, which starts when its engine is warm; runs in the replica."""
    set_up_log(settings.log_format, debug=settings.debug_logs)
    runtime = Runtime(settings)
    app = create_app(settings, runtime)
    started = app.router.lifespan_context

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with started(app):
            await runtime.ready()  # or the replica would get requests while it loads
            yield

    app.router.lifespan_context = lifespan
    return app


class Replica:
    """A process with a GPU. Ray replaces it when ``check_health`` raises."""

    async def check_health(self) -> None:
        """Raise DeviceStopped once the device will not speak again."""
        runtime: Runtime = self.app.state.runtime  # type: ignore[attr-defined]  # Ray's ingress adds `app`
        if runtime.is_dead:
            raise DeviceStopped


def deployment(scale: ScaleSettings, settings: Settings) -> serve.Application:
    """Return the application for these settings, which travel to the replicas: those of the nodes are not read.

    Raises ConfigError for what replicas cannot have.
    """
    if settings.jobs_dir is not None:
        raise ConfigError(
            "ECHO_JOBS_DIR: jobs lie on the disk of one server and are not for replicas; unset it, and run a server "
            "of its own for them."
        )

    def build() -> FastAPI:
        return application(settings)

    replica = serve.deployment(
        name="echo-tts",
        ray_actor_options={"num_gpus": scale.gpus, "num_cpus": scale.cpus},
        max_ongoing_requests=scale.streams,
        max_queued_requests=scale.waiting,
        autoscaling_config=AutoscalingConfig(
            min_replicas=scale.min_replicas,
            initial_replicas=scale.min_replicas,
            max_replicas=scale.max_replicas,
            target_ongoing_requests=scale.target,
            # A model takes a minute to load, so one more is started at once and taken away late.
            upscale_delay_s=5,
            downscale_delay_s=300,
        ),
        # An update waits for open streams, as long as the server itself would.
        graceful_shutdown_timeout_s=settings.shutdown_grace_s,
        graceful_shutdown_wait_loop_s=0.5,
        health_check_period_s=_CHECK_EVERY_S,
        health_check_timeout_s=_CHECK_PATIENCE_S,
    )(serve.ingress(build)(Replica))
    return replica.bind()


warn_of_unknown(models=(Settings, ScaleSettings))
app = deployment(read_environment(ScaleSettings), load_settings())
