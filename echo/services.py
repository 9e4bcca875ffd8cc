"""The speech services of all engines, of which a request's ``model`` picks one."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from echo.errors import NotReady
from echo.service import SpeechService
from echo.types import EngineInfo, Workload


class Services:
    """One service per engine, the default one first."""

    def __init__(self, services: Sequence[SpeechService]) -> None:
        self.default = services[0]
        self._by_name = {service.engine.info.name: service for service in services}

    def __iter__(self) -> Iterator[SpeechService]:
        return iter(self._by_name.values())

    def of(self, model: str | None) -> SpeechService:
        """Return the service of the engine of this name; the default one for any other name, as clients have theirs."""
        return self._by_name.get(model or "", self.default)

    @property
    def infos(self) -> list[EngineInfo]:
        """What the engines say of themselves, the default one first."""
        return [service.engine.info for service in self]

    @property
    def open(self) -> int:
        """Requests that hold a slot of any engine."""
        return sum(service.admission.open for service in self)

    @property
    def healthy(self) -> bool:
        """Whether all engines can be expected to speak, now or after a restart of their own."""
        return all(service.engine.healthy() for service in self)

    def workload(self) -> Workload:
        """Sums over the engines; the times are those of the one that is worst off."""
        each = [service.engine.workload() for service in self]
        limited = [one for one in each if math.isfinite(one.max_nbytes)]
        return Workload(
            active=sum(one.active for one in each),
            waiting=sum(one.waiting for one in each),
            nbytes=sum(one.nbytes for one in each),
            max_nbytes=sum(one.max_nbytes for one in limited) if limited else math.inf,
            queue_wait_s=max(one.queue_wait_s for one in each),
            busy_s=max(one.busy_s for one in each),
            shape_misses=sum(one.shape_misses for one in each),
        )

    def refuse(self, reason: NotReady | None = None) -> None:
        """Refuse new requests for every engine; see ``Admission.close``."""
        for service in self:
            service.admission.close(reason)

    def give_up(self) -> None:
        """Fail what every engine still has to do."""
        for service in self:
            service.engine.give_up()
