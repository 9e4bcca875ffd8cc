"""What only a fleet has: how many replicas, and what each takes of a machine."""

from __future__ import annotations

from typing import Self

from pydantic import model_validator

from echo.settings import EnvironmentModel, env_field


class ScaleSettings(EnvironmentModel):
    """The variables of ``scale.app``, beside the server's own, which hold for every replica."""

    min_replicas: int = env_field("ECHO_MIN_REPLICAS", 1, "Replicas that always run.", ge=1, le=10_000)
    max_replicas: int = env_field("ECHO_MAX_REPLICAS", 1, "Replicas under the highest load.", ge=1, le=10_000)
    gpus: float = env_field(
        "ECHO_REPLICA_GPUS", 1.0, "GPUs of a replica; 0 speaks on the CPU, a fraction shares one.", ge=0, le=8
    )
    cpus: float = env_field("ECHO_REPLICA_CPUS", 2.0, "CPU cores of a replica.", gt=0, le=256)
    streams: int = env_field(
        "ECHO_REPLICA_STREAMS",
        64,
        "Requests and sockets that a replica may have open; the rest waits, or goes elsewhere.",
        ge=1,
        le=100_000,
    )
    target: float = env_field(
        "ECHO_REPLICA_TARGET",
        32.0,
        "Open requests per replica that the number of replicas is kept at: more add one, fewer take one away.",
        gt=0,
        le=100_000,
    )
    waiting: int = env_field(
        "ECHO_SCALE_WAITING",
        64,
        "Requests that may wait for a replica at each proxy; more are answered 503.",
        ge=0,
        le=1_000_000,
    )

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.max_replicas < self.min_replicas:
            raise ValueError(f"ECHO_MAX_REPLICAS must be at least ECHO_MIN_REPLICAS, {self.min_replicas}")
        return self
