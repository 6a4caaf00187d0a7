"""What the embedded servers share: a lock, ports, a log, a leash, and an answer awaited."""

import contextlib
import fcntl
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from backup_pipeline.embedded.leash import Command, Leashed
from backup_pipeline.embedded.ports import choose_ports, forget_ports
from backup_pipeline.errors import BackupPipelineError, Refused

_POLL = 0.02


class EmbeddedServer(ABC):
    """A server on the loopback address that ends with the process that started it.

    Everything it knows lies in `data_dir` and in files beside it, named `data_dir` plus a suffix.
    """

    name: ClassVar[str]
    port_count: ClassVar[int]
    port_offset: ClassVar[int] = 0
    """For each port, the one this far above it is used too."""
    port_taken: ClassVar[str] = "address already in use"
    """What its log says, in any case of letters, when somebody else has one of its ports."""
    start_timeout: ClassVar[float] = 60.0
    lock_timeout: float = 15.0
    """Seconds to wait for a server whose owner was killed, and which is still stopping."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir.absolute()
        self.log = self.beside(".log")
        self._ports: tuple[int, ...] = ()
        self._process: Leashed | None = None
        self._lock = -1
        self._held = contextlib.ExitStack()

    @abstractmethod
    def prepare(self) -> None:
        """Make what the server needs before it can start; done again at each start."""

    @abstractmethod
    def command(self, ports: tuple[int, ...]) -> Command:
        """How to run the server in the foreground on these ports."""

    @abstractmethod
    def answers(self) -> bool:
        """Whether the server accepts its own credentials now."""

    def beside(self, suffix: str) -> Path:
        """A file next to the data directory."""
        return self.data_dir.with_name(self.data_dir.name + suffix)

    @property
    def ports(self) -> tuple[int, ...]:
        """The ports in use; only while the server is started."""
        if not self._ports:
            raise RuntimeError(f"{self.name} is not started")
        return self._ports

    def start(self) -> None:
        """Start the server and return when it answers.

        Raises `Refused` when another process runs a server on this data, and
        `BackupPipelineError` when it does not start.
        """
        self.begin()
        self.wait()

    def begin(self) -> None:
        """Start the server and return at once; `wait` must follow, or `stop`."""
        with contextlib.ExitStack() as held:
            self.data_dir.parent.mkdir(parents=True, exist_ok=True)
            lock = locked(self.beside(".lock"), self.name, self.lock_timeout)
            self._lock = held.enter_context(lock)
            held.callback(self._end)
            self.prepare()
            self._launch()
            self._held = held.pop_all()

    def wait(self) -> None:
        """Return when the server that was begun answers; stops it when it does not."""
        with contextlib.ExitStack() as on_failure:
            on_failure.callback(self.stop)
            deadline = time.monotonic() + self.start_timeout
            while not (self._running() and self.answers()):
                if not self._running() and not self._relaunch():
                    raise self._failure("did not start")
                if time.monotonic() > deadline:
                    raise self._failure(f"did not answer within {self.start_timeout:.0f} s")
                time.sleep(_POLL)
            on_failure.pop_all()

    def stop(self) -> None:
        """End the server, wait for it, and let go of its lock; harmless when it is stopped."""
        self._held.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _launch(self) -> None:
        remembered = self.beside(".ports")
        self._ports = choose_ports(self.port_count, remembered, offset=self.port_offset)
        self._process = Leashed(self.command(self._ports), self.log, keep_open=[self._lock])

    def _relaunch(self) -> bool:
        """Try other ports, if somebody else took one in the moment before the server did."""
        if self.port_taken not in self._log_text().lower():
            return False
        self._end()
        forget_ports(self.beside(".ports"))
        self._launch()
        return True

    def _running(self) -> bool:
        return self._process is not None and self._process.running()

    def _end(self) -> None:
        process, self._process, self._ports = self._process, None, ()
        if process:
            process.stop()

    def _log_text(self) -> str:
        return self.log.read_bytes().decode(errors="replace")

    def _failure(self, what: str) -> BackupPipelineError:
        tail = "\n".join(self._log_text().splitlines()[-15:])
        return BackupPipelineError(
            f"the embedded {self.name} {what}; the end of its log:\n{tail}",
            hint=f"The whole log is {self.log}.",
        )


@contextlib.contextmanager
def locked(path: Path, name: str, timeout: float = 0.0) -> Iterator[int]:
    """Hold a lock, given as a file descriptor; whoever inherits that holds the lock too.

    Raises `Refused` when another holds it for longer than `timeout` seconds.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        deadline = time.monotonic() + timeout
        while not _try_lock(descriptor):
            if time.monotonic() > deadline:
                raise Refused(
                    f"another process is running the embedded {name} in {path.parent}",
                    hint="Stop that one first, or use another directory.",
                )
            time.sleep(_POLL)
        yield descriptor
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
