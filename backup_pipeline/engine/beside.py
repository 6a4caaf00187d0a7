"""Something long that is done in a thread of its own while the caller goes on."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

T = TypeVar("T")

_PATIENCE = 3.0
_TICK = 0.2


@contextmanager
def beside(work: Callable[[], T], *, stop: Callable[[], object]) -> Iterator[Callable[[], T]]:
    """Do `work` while the block lasts; what is yielded waits for it and gives or raises its result.

    Where the block fails after the work did, the error of the work is raised, because what the
    block met may have come from it.
    Where the block is left before the work is done, `stop` is called until it ends, for 3 s.
    """
    future: Future[T] = Future()
    # A daemon, so that a server which answers nothing keeps no process from ending.
    thread = threading.Thread(target=_run, args=(future, work), daemon=True)
    thread.start()
    try:
        yield partial(_result, future)
    except Exception as error:
        first = future.exception() if future.done() else None
        if first is None or first is error:
            raise
        raise first from error
    finally:
        for _ in range(int(_PATIENCE / 0.1)):
            if future.done():
                break
            stop()
            thread.join(0.1)


def _result(future: Future[T]) -> T:
    # A signal that comes just before a wait without an end would be handled only after it.
    while not wait([future], _TICK).done:
        pass
    return future.result()


def _run(future: "Future[T]", work: Callable[[], T]) -> None:
    try:
        future.set_result(work())
    except BaseException as error:  # noqa: BLE001 - whoever asks for the result gets it
        future.set_exception(error)
