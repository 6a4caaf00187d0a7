"""What several tests of the engine need."""

import signal
import threading
from collections.abc import Callable

import pytest


@pytest.fixture
def interrupted_unnoticed() -> Callable[[], None]:
    """Interrupts the main thread half a second later, without ending the system call it is in.

    The signal goes to another thread, so the interpreter knows of it and the call goes on: what
    happens, too, when a signal comes after the last look for one and before the call.
    """

    def interrupt() -> None:
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)

    return lambda: threading.Timer(0.5, interrupt).start()
