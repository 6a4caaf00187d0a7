"""Silence: who waits for a server that says nothing asks, by another connection, if it is there."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import psycopg
from psycopg.abc import PQGen
from psycopg.rows import TupleRow

from backup_pipeline.errors import PostgresSilent

RV = TypeVar("RV")

_CANCEL_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Peer:
    """The very server of a connection, by address."""

    where: str
    parameters: Mapping[str, str] = field(repr=False)
    patience: float
    """Seconds without a word until it is asked, and seconds that it has to answer."""

    def require_alive(self) -> None:
        """Raise `PostgresSilent` unless somebody answers; who refuses a connection does, too."""
        seconds = str(max(2, round(self.patience)))  # libpq takes 1 for 2
        given = {**self.parameters, "connect_timeout": seconds}
        try:
            psycopg.connect(**given).close()  # type: ignore[arg-type]  # libpq's own parameters
        except psycopg.OperationalError as error:
            said = " ".join(str(error).split())
            if "FATAL:" not in said:
                raise PostgresSilent(
                    f"{self.where} has said nothing for {self.patience:g} s, and another "
                    f"connection got no answer either: {said}"
                ) from error


class Silence:
    """How long a server has said nothing; made when the waiting begins."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self._since = time.monotonic()

    def goes_on(self) -> None:
        """To be called several times a second; raises `PostgresSilent` when nobody is there."""
        if time.monotonic() - self._since >= self._peer.patience:
            self._peer.require_alive()
            self._since = time.monotonic()


class Connection(psycopg.Connection[TupleRow]):
    """A connection that waits for as long as its server is there, and no longer."""

    peer: Peer | None = None
    fallen_silent: PostgresSilent | None = None

    def wait(self, gen: PQGen[RV], interval: float = 0.1, timeout: float | None = None) -> RV:
        """Wait for an answer as psycopg does; raises `PostgresSilent`, and is closed then."""
        return super().wait(self._listening(gen), interval, timeout)

    def cancel_safe(self, *, timeout: float = 30.0) -> None:
        """Cancel what runs, as psycopg does when it is interrupted; raises `CancellationTimeout`.

        Where nobody takes that within two seconds the connection is closed: psycopg would wait for
        five, and five more for the answer, and who interrupts is promised an end within ten.
        """
        try:
            super().cancel_safe(timeout=min(timeout, _CANCEL_SECONDS))
        except psycopg.errors.CancellationTimeout:
            self.close()
            raise

    def _listening(self, gen: PQGen[RV]) -> PQGen[RV]:
        silence = Silence(self.peer) if self.peer else None
        try:
            wanted = next(gen)
            while True:
                ready = yield wanted
                if ready:
                    silence = Silence(self.peer) if self.peer else None
                elif silence:
                    self._go_on(silence)
                wanted = gen.send(ready)
        except StopIteration as end:
            result: RV = end.value
            return result

    def _go_on(self, silence: Silence) -> None:
        try:
            silence.goes_on()
        except PostgresSilent as error:
            self.fallen_silent = error
            # Nothing shall wait for it once more.
            self.close()
            raise
