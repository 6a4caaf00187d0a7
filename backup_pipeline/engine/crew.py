"""A crew: threads that do one thing together, and are all stopped when one of them fails."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from traceback import clear_frames
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

from backup_pipeline.engine.process import end_children

if TYPE_CHECKING:
    from collections import deque

Piece = TypeVar("Piece")

_TICK = 0.2
# A child is given 3 s until it is killed.
_PATIENCE = 5.0


class Stopped(Exception):
    """What `Crew.go_on` raises in the threads of a crew that is being stopped."""


class Crew:
    """Threads that do one thing together: the first error of any of them stops the others.

    However the block is left, the threads have ended, or have been told to for 5 s; the child
    processes that they read from are told, too.
    They are daemons, so that a server which answers nothing keeps no process from ending.
    The thread that has the crew never waits for longer than a moment at a time: a signal that
    comes just before a system call which blocks is handled only after it.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        # All of these belong to `_changed`.
        self._running = 0
        self._over = False
        self._error: BaseException | None = None
        self._stops: list[Callable[[], object]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._changed:
            self._over = True
        # In a thread of its own: telling a server that does not answer would take minutes.
        threading.Thread(target=self._stop, name="stop crew", daemon=True).start()
        deadline = time.monotonic() + _PATIENCE
        with self._changed:
            while self._running and time.monotonic() < deadline:
                self._changed.wait(_TICK)

    def start(self, work: Callable[[], object]) -> None:
        """Have a thread of the crew do this."""
        with self._changed:
            self._running += 1
        threading.Thread(target=self._run, args=(work,), name="crew", daemon=True).start()

    def go_on(self) -> None:
        """Raise `Stopped` in a thread of the crew that is to end; to be called now and then."""
        if self._over:
            raise Stopped

    @contextmanager
    def stopping(self, stop: Callable[[], object]) -> Iterator[None]:
        """While the block of a thread lasts, `stop` is what ends whatever it waits for.

        It is called by another thread, and again until the block has ended.
        """
        with self._changed:
            self._stops.append(stop)
        try:
            self.go_on()
            yield
        finally:
            with self._changed:
                self._stops.remove(stop)

    def wait(self, meanwhile: Callable[[], object] = lambda: None) -> None:
        """Wait until all are done, and raise the first error of any of them.

        `meanwhile` is called in this thread, several times a second and once at the end.
        """
        done = False
        while not done:
            with self._changed:
                done = self._changed.wait_for(lambda: self._over or not self._running, _TICK)
            if self._error:
                raise self._error
            meanwhile()

    def _run(self, work: Callable[[], object]) -> None:
        error = None
        ident = threading.get_ident()
        try:
            with self.stopping(lambda: end_children(ident)):
                work()
        except BaseException as failure:  # noqa: BLE001 - whoever waits for the crew raises it
            error = failure
            let_go(error)
        with self._changed:
            # What comes after the end was decided came of that.
            if error and not self._over:
                self._over, self._error = True, error
            self._running -= 1
            self._changed.notify_all()

    def _stop(self) -> None:
        deadline = time.monotonic() + _PATIENCE
        while self._running and time.monotonic() < deadline:
            with self._changed:
                stops = list(self._stops)
            for stop in stops:
                # Whatever stands in its way: the thread is a daemon.
                with suppress(Exception):
                    stop()
            with self._changed:
                self._changed.wait_for(lambda: not self._running, _TICK / 2)


def let_go(error: BaseException) -> None:
    """Close what the frames of a caught error hold, such as a connection to the store.

    An error and its frames hold each other, so that would wait for the collector of garbage.
    """
    ahead: list[BaseException | None] = [error]
    seen: set[int] = set()
    while ahead:
        each = ahead.pop()
        if each is not None and id(each) not in seen:
            seen.add(id(each))
            clear_frames(each.__traceback__)
            ahead += [each.__cause__, each.__context__]


def taken_from(pieces: "deque[Piece]") -> Iterator[Piece]:
    """One piece after the other; of several threads that take from them, one gets each."""
    while True:
        try:
            piece = pieces.popleft()
        except IndexError:
            return
        yield piece


class Tally:
    """A sum that several threads add to."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.sum = 0

    def add(self, amount: int) -> None:
        """Add to it."""
        with self._lock:
            self.sum += amount
