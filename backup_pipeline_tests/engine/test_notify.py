"""Notifications, sent to a real HTTP server on this machine."""

import json
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from backup_pipeline.engine.notify import Heartbeat, Outcome, beat, notify

# Apprise imports it where Python still has it (3.11 and 3.12).
pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")

CANARY = "canary-4711"
DONE = Outcome(
    "backup", "ahold_options", True, "ahold_options: backed up", ("12.3 MB", "44 tables")
)


class Receiver(HTTPServer):
    """Takes what is posted to it, and answers with a status of the test's choice."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Taking)
        self.status = 200
        self.received: list[dict[str, Any]] = []

    @property
    def url(self) -> str:
        return f"json://user:{CANARY}@127.0.0.1:{self.server_port}/{CANARY}"


class Taking(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        self.server.received.append(json.loads(self.rfile.read(length)))
        self.send_response(self.server.status)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_people_get_the_title_and_the_lines(receiver: Receiver) -> None:
    assert notify([receiver.url], DONE) == ()
    (message,) = receiver.received
    assert message["title"] == "ahold_options: backed up"
    assert message["message"].splitlines() == ["12.3 MB", "44 tables"]
    assert message["type"] == "success"


def test_a_failure_is_told_as_one(receiver: Receiver) -> None:
    failed = Outcome("backup", "ahold_options", False, "ahold_options: not backed up")
    assert notify([receiver.url], failed) == ()
    assert receiver.received[0]["type"] == "failure"
    assert receiver.received[0]["message"]


def test_a_service_that_fails_is_named_without_its_url_and_the_others_are_told(
    receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    receiver.status = 500
    unknown = f"nonsense://{CANARY}"
    broken = f"slack://{CANARY}"
    failed = notify([unknown, broken, receiver.url], DONE)
    assert failed == (
        "notification service 1, whose URL is not one of Apprise's",
        "notification service 2, whose URL is not one of Apprise's",
        "notification service 3, JSON",
    )
    assert len(receiver.received) == 1
    assert CANARY not in caplog.text


def test_a_service_that_nobody_answers_for_is_named() -> None:
    with Receiver() as gone:
        url = gone.url
    assert notify([url], DONE) == ("notification service 1, JSON",)


def test_nobody_to_tell_is_no_failure() -> None:
    assert notify([], DONE) == ()


def test_a_token_is_in_no_log_even_where_debugging_is_on(
    receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, logger="urllib3")
    notify([receiver.url], DONE)
    assert CANARY not in caplog.text
    assert logging.getLogger("urllib3").level == logging.DEBUG


# The dead man's switch


class Pulse(HTTPServer):
    """Counts the pings, and answers with these statuses, the last one for ever."""

    def __init__(self, *statuses: int) -> None:
        super().__init__(("127.0.0.1", 0), Beating)
        self.statuses = list(statuses)
        self.pings = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/{CANARY}"


class Beating(BaseHTTPRequestHandler):
    server: Pulse

    def do_GET(self) -> None:
        self.server.pings += 1
        statuses = self.server.statuses
        self.send_response(statuses.pop(0) if len(statuses) > 1 else statuses[0])
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def pulse(*statuses: int) -> Iterator[Pulse]:
    with Pulse(*statuses) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.mark.parametrize(
    ("statuses", "became", "pings"),
    [
        ((200,), Heartbeat.SENT, 1),
        ((503, 200), Heartbeat.SENT, 2),
        ((404,), Heartbeat.FAILED, 3),
    ],
)
def test_a_heartbeat_is_tried_three_times(
    statuses: tuple[int, ...], became: Heartbeat, pings: int
) -> None:
    with pulse(*statuses) as server:
        assert beat(server.url) is became
        assert server.pings == pings


def test_a_heartbeat_that_nobody_hears_is_no_error(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.DEBUG):
        assert beat(f"http://127.0.0.1:9/{CANARY}") is Heartbeat.FAILED
    assert CANARY not in caplog.text + "".join(capfd.readouterr())


def test_without_an_address_there_is_no_heartbeat() -> None:
    assert beat(None) is Heartbeat.NONE
