"""An S3 server at its worst: a proxy that breaks chosen calls in chosen ways.

It passes every header on as it came, `Host` among them, so the client's signatures stay right.
A rule names a call of S3's API, what happens to it, and how often.
"""

import http.client
import socket
import struct
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

_CHUNK = 65536
# SO_LINGER with no time to linger: closing sends RST instead of FIN.
_RESET = struct.pack("ii", 1, 0)
# What belongs to one connection and is not passed on (RFC 9110, section 7.6.1).
_HOP = {"connection", "expect", "keep-alive", "transfer-encoding"}


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer, whole."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes


class Exchange:
    """One request on its way, and the means to do it harm."""

    def __init__(self, handler: "_Handler", call: str, key: str) -> None:
        self.call = call
        self.key = key
        self._handler = handler

    @cached_property
    def body(self) -> bytes:
        """What the client sends; read when first asked for."""
        return self._handler.rfile.read(self.length)

    @property
    def length(self) -> int:
        """How many bytes the client said that it sends."""
        return int(self._handler.headers.get("Content-Length", 0))

    def forward(self, body: bytes | None = None) -> Reply:
        """Ask the server; gives what it said."""
        sent = self.body if body is None else body
        handler = self._handler
        upstream = http.client.HTTPConnection(handler.server.upstream, timeout=60)
        try:
            upstream.putrequest(
                handler.command, handler.path, skip_host=True, skip_accept_encoding=True
            )
            for name, value in handler.headers.items():
                if name.lower() not in _HOP:
                    upstream.putheader(name, value)
            upstream.endheaders(sent or None)
            reply = upstream.getresponse()
            return Reply(reply.status, reply.getheaders(), reply.read())
        finally:
            upstream.close()

    def answer(self, reply: Reply, *, upto: int | None = None, pace: float = 0) -> None:
        """Answer with `upto` bytes of the body only, or with pauses of `pace` seconds in it."""
        # What the client still sends would else be taken for its next request.
        assert self.body is not None
        handler, is_head = self._handler, self._handler.command == "HEAD"
        handler.send_response_only(reply.status)
        for name, value in reply.headers:
            if name.lower() not in _HOP | {"content-length"} or (
                is_head and name.lower() == "content-length"
            ):
                handler.send_header(name, value)
        if not is_head:
            handler.send_header("Content-Length", str(len(reply.body)))
        handler.end_headers()
        body = reply.body[:upto]
        for at in range(0, 0 if is_head else len(body), _CHUNK):
            handler.wfile.write(body[at : at + _CHUNK])
            handler.wfile.flush()
            if pace:
                self.wait(pace)
        if len(body) < len(reply.body):
            handler.close_connection = True

    def reset(self, *, after: int = 0) -> None:
        """Read some of what the client sends, and end the connection with RST."""
        self._handler.rfile.read(min(after, self.length))
        self._handler.reset()

    def wait(self, seconds: float | None = None) -> None:
        """Until so much time has passed, or until the proxy closes."""
        self._handler.server.closed.wait(seconds)


Fault = Callable[[Exchange], object]


@dataclass
class Rule:
    """What happens to the calls of a name; `*` is every name."""

    call: str
    fault: Fault
    skip: int = 0
    """How many of them pass unharmed first."""
    times: int | None = None
    """How many of them are harmed then; `None` is all."""
    key_ends: str = ""
    met: int = 0
    """How many of them have come so far."""

    def harms(self, call: str, key: str) -> bool:
        """Whether this call is one of them."""
        if self.call not in {"*", call} or not key.endswith(self.key_ends):
            return False
        self.met += 1
        return self.skip < self.met and (self.times is None or self.met <= self.skip + self.times)


@dataclass
class Seen:
    """The calls that have come so far, in their order."""

    calls: list[tuple[str, str]] = field(default_factory=list)

    def count(self, call: str, key_ends: str = "") -> int:
        """How many there were of a name."""
        return sum(each == call and key.endswith(key_ends) for each, key in self.calls)


class FaultyS3:
    """The proxy, listening on loopback while the block lasts."""

    def __init__(self, upstream: str) -> None:
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.upstream = urlsplit(upstream).netloc
        self.seen = self._server.seen

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def on(
        self,
        call: str,
        fault: Fault,
        *,
        skip: int = 0,
        times: int | None = None,
        key_ends: str = "",
    ) -> Rule:
        """Harm the calls of a name; of several rules that hold, the first one does."""
        rule = Rule(call, fault, skip, times, key_ends)
        self._server.rules.append(rule)
        return rule

    def heal(self) -> None:
        """Forget every rule and every call."""
        self._server.rules.clear()
        self.seen.calls.clear()

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.closed.set()
        self._server.shutdown()
        self._server.server_close()
        assert self._server.errors == []


# What can go wrong


def answers(status: int, code: str) -> Fault:
    """The store does nothing, and says so with an error document."""
    return lambda exchange: exchange.answer(_error(status, code))


def answers_after_all(status: int, code: str) -> Fault:
    """The store does as asked, and says that it failed."""

    def fault(exchange: Exchange) -> None:
        exchange.forward()
        exchange.answer(_error(status, code))

    return fault


def resets(after: int = 0) -> Fault:
    """The connection breaks before the request is whole."""
    return lambda exchange: exchange.reset(after=after)


def loses_the_reply(exchange: Exchange) -> None:
    """The store does as asked, and the connection breaks before it can say so."""
    exchange.forward()
    exchange.reset()


def stalls(exchange: Exchange) -> None:
    """Nothing happens any more, and the connection stays."""
    exchange.wait()
    exchange.reset()


def cuts(after: int) -> Fault:
    """The answer ends too early, with a clean end of the connection."""
    return lambda exchange: exchange.answer(exchange.forward(), upto=after)


def stalls_in_the_answer(after: int) -> Fault:
    """The answer begins and never ends."""

    def fault(exchange: Exchange) -> None:
        exchange.answer(exchange.forward(), upto=after)
        exchange.wait()

    return fault


def drips(pace: float) -> Fault:
    """The answer comes in small pieces, `pace` seconds apart."""
    return lambda exchange: exchange.answer(exchange.forward(), pace=pace)


def flips(at: int = 0) -> Fault:
    """One bit of the answer is another one."""

    def fault(exchange: Exchange) -> None:
        reply = exchange.forward()
        exchange.answer(Reply(reply.status, reply.headers, _flipped(reply.body, at)))

    return fault


def heeds_no_range(exchange: Exchange) -> None:
    """What was asked for as a part of an object comes as if it were all of it."""
    reply = exchange.forward()
    headers = [each for each in reply.headers if each[0].lower() != "content-range"]
    exchange.answer(Reply(200, headers, reply.body))


def flips_the_request(at: int = 0) -> Fault:
    """One bit of what is stored is another one."""
    return lambda exchange: exchange.answer(exchange.forward(_flipped(exchange.body, at)))


def does(before: Callable[[], object] | None, after: Callable[[], object] | None = None) -> Fault:
    """Something happens right before the store gets the request, or right after it did it."""

    def fault(exchange: Exchange) -> None:
        assert exchange.body is not None
        if before:
            before()
        reply = exchange.forward()
        if after:
            after()
        exchange.answer(reply)

    return fault


def _error(status: int, code: str) -> Reply:
    document = (
        '<?xml version="1.0" encoding="UTF-8"?>'
        f"<Error><Code>{code}</Code><Message>as the test wants it</Message></Error>"
    )
    return Reply(status, [("Content-Type", "application/xml")], document.encode())


def _flipped(body: bytes, at: int) -> bytes:
    flipped = bytearray(body)
    if flipped:
        flipped[at % len(flipped)] ^= 1
    return bytes(flipped)


def call_of(method: str, target: str) -> tuple[str, str]:
    """The call of S3's API that a request is, and the key that it is about."""
    parts = urlsplit(target)
    asked = parse_qs(parts.query, keep_blank_values=True).keys()
    key = unquote(parts.path.lstrip("/").partition("/")[2])
    if not key:
        listing = "ListMultipartUploads" if "uploads" in asked else "ListObjectsV2"
        return (listing if method == "GET" else f"{method.capitalize()}Bucket"), ""
    named = {
        "GET": "ListParts" if "uploadId" in asked else "GetObject",
        "HEAD": "HeadObject",
        "PUT": "UploadPart" if "partNumber" in asked else "PutObject",
        "POST": "CreateMultipartUpload" if "uploads" in asked else "CompleteMultipartUpload",
        "DELETE": "AbortMultipartUpload" if "uploadId" in asked else "DeleteObject",
    }
    return named[method], key


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64
    upstream = ""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.rules: list[Rule] = []
        self.seen = Seen()
        self.errors: list[BaseException | None] = []
        self.closed = threading.Event()
        self._lock = threading.Lock()
        self._to_reset: set[socket.socket] = set()

    def fault(self, call: str, key: str) -> Fault | None:
        """What shall happen to a call, which is counted by this."""
        with self._lock:
            self.seen.calls.append((call, key))
            # Every rule counts, also where another one has the word.
            harming = [rule for rule in self.rules if rule.harms(call, key)]
        return harming[0].fault if harming else None

    def shutdown_request(self, request: Any) -> None:
        if request in self._to_reset:
            self._to_reset.discard(request)
            self.close_request(request)
        else:
            super().shutdown_request(request)

    def reset(self, request: socket.socket) -> None:
        """Have a connection end with RST."""
        request.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._to_reset.add(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        error = sys.exception()
        # Clients go away, and some are killed.
        if not isinstance(error, OSError):
            self.errors.append(error)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def reset(self) -> None:
        self.close_connection = True
        self.server.reset(self.connection)

    def log_message(self, *_: Any) -> None:
        """Nobody reads it."""

    def _pass(self) -> None:
        exchange = Exchange(self, *call_of(self.command, self.path))
        fault = self.server.fault(exchange.call, exchange.key)
        if fault:
            fault(exchange)
        else:
            exchange.answer(exchange.forward())

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _pass  # noqa: N815  # as http.server wants
