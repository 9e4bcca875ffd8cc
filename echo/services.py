"""The speech services of all engines, of which a request's ``model`` picks one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from echo.engine_metrics import EngineFigures
from echo.errors import NotReady
from echo.service import SpeechService
from echo.types import EngineInfo


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

    def figures(self) -> list[EngineFigures]:
        """What each engine has to do at the moment, for the metrics."""
        return [
            EngineFigures(
                model=service.engine.info.name,
                open_streams=service.admission.open,
                workload=service.engine.workload(),
                available=service.engine.available(),
                memory=service.engine.device_memory(),
            )
            for service in self
        ]

    def refuse(self, reason: NotReady | None = None) -> None:
        """Refuse new requests for every engine; see ``Admission.close``."""
        for service in self:
            service.admission.close(reason)

    def give_up(self) -> None:
        """Fail what every engine still has to do."""
        for service in self:
            service.engine.give_up()
