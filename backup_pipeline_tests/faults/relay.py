"""A TCP relay in front of PostgreSQL that can cut, fall silent, and hears what is said."""

import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

_RESET = struct.pack("ii", 1, 0)


class Relay:
    """A relay on loopback while the block lasts."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._lock = threading.Lock()
        self._open: list[socket.socket] = []
        self.passed = 0
        """How many bytes have passed so far, both ways together."""
        self._limit: int | None = None
        self._beyond = self.cut
        self._flowing = threading.Event()
        self._flowing.set()
        self.said = bytearray()
        """What clients have sent to the server, all connections together."""

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._listener.getsockname()[1])

    def cut(self) -> None:
        """End every connection with RST, at both ends."""
        with self._lock:
            connections, self._open = self._open, []
            self._flowing.set()
        for each in connections:
            with suppress(OSError):
                each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            # Also wakes the thread that waits on it.
            with suppress(OSError):
                each.shutdown(socket.SHUT_RD)
            each.close()

    def cut_after(self, size: int) -> None:
        """Cut everything once so many more bytes have passed; what comes later is let through."""
        self._when_passed(size, self.cut)

    def stall(self) -> None:
        """Let nothing through any more, and close nothing; connections are taken as before."""
        self._flowing.clear()

    def stall_after(self, size: int, stalled: threading.Event | None = None) -> None:
        """Stall once so many more bytes have passed, and tell it; `cut` ends it."""

        def stall() -> None:
            self.stall()
            if stalled:
                stalled.set()

        self._when_passed(size, stall)

    def far_ends(self) -> set[tuple[int, int]]:
        """The ends of open connections that are not the relay's, by their port and the relay's."""
        with self._lock:
            return {(each.getpeername()[1], each.getsockname()[1]) for each in self._open}

    def _when_passed(self, size: int, act: Callable[[], None]) -> None:
        with self._lock:
            self._limit, self._beyond = self.passed + size, act

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._port))
            with self._lock:
                self._open += [client, server]
            threading.Thread(target=self._up, args=(client, server), daemon=True).start()
            threading.Thread(target=self._down, args=(server, client), daemon=True).start()

    def _up(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while data := client.recv(65536):
                self.said += data
                self._count(len(data))
                self._flowing.wait()
                server.sendall(data)
        _end(server)

    def _down(self, server: socket.socket, client: socket.socket) -> None:
        with suppress(OSError):
            while data := server.recv(65536):
                self._count(len(data))
                self._flowing.wait()
                client.sendall(data)
        _end(client)

    def _count(self, size: int) -> None:
        with self._lock:
            self.passed += size
            over = self._limit is not None and self.passed > self._limit
            if over:
                self._limit = None
        if over:
            self._beyond()


def _end(sink: socket.socket) -> None:
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
