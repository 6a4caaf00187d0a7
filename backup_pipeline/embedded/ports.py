"""Free ports of the loopback address."""

import contextlib
import socket
from pathlib import Path

LOOPBACK = "127.0.0.1"


def choose_ports(count: int, remembered: Path, *, offset: int = 0) -> tuple[int, ...]:
    """Ports that were free a moment ago: those of the last time where possible, else new ones.

    The port `offset` above each of them is free too.
    Somebody else may take one before its server does; then `forget` them and choose again.
    """
    with contextlib.suppress(FileNotFoundError, ValueError):
        ports = tuple(map(int, remembered.read_text().split()))
        if len(ports) == count and _all_free(ports, offset):
            return ports
    ports = _free(count, offset)
    remembered.write_text(" ".join(map(str, ports)))
    return ports


def forget_ports(remembered: Path) -> None:
    """Let the next choice be another one."""
    remembered.unlink(missing_ok=True)


def _free(count: int, offset: int) -> tuple[int, ...]:
    chosen: list[int] = []
    with contextlib.ExitStack() as held:
        while len(chosen) < count:
            # All are held until the last is chosen: so they differ.
            port = held.enter_context(_bound(0)).getsockname()[1]
            with contextlib.suppress(OSError, OverflowError):
                if offset:
                    held.enter_context(_bound(port + offset))
                chosen.append(port)
    return tuple(chosen)


def _all_free(ports: tuple[int, ...], offset: int) -> bool:
    try:
        with contextlib.ExitStack() as held:
            for port in {*ports, *(port + offset for port in ports)}:
                held.enter_context(_bound(port))
    except (OSError, OverflowError):
        return False
    return True


def _bound(port: int) -> socket.socket:
    bound = socket.socket()
    # As servers do: connections of the last run, still in TIME_WAIT, take no port away.
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((LOOPBACK, port))
    except (OSError, OverflowError):
        bound.close()
        raise
    return bound
