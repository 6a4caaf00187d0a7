"""Notify: tell people what became of a run, by whatever services they use."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from http.client import HTTPException
from typing import TYPE_CHECKING
from urllib.request import urlopen

if TYPE_CHECKING:
    from apprise import NotifyType

_BEATS = 3
_BEAT_SECONDS = 5.0

# They write the URLs that they call, and those hold tokens.
_TALKATIVE = ("apprise", "urllib3", "requests")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a verb came to, in words for people."""

    verb: str
    database: str
    succeeded: bool
    title: str
    lines: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    """Those of the lines that make a success one to look at."""


def notify(urls: Sequence[str], outcome: Outcome) -> tuple[str, ...]:
    """Send an outcome to every service; gives the names of those that did not take it.

    A service that fails is no error, because it must never fail a good backup; the caller reports
    it.
    URLs are Apprise's, and never show in a name or in a log.
    """
    with _quiet():
        return tuple(
            name
            for number, url in enumerate(urls, start=1)
            if (name := _undelivered(number, url, outcome))
        )


def _undelivered(number: int, url: str, outcome: Outcome) -> str | None:
    from apprise import Apprise, NotifyFormat

    service = Apprise.instantiate(url)
    if service is None:
        return f"notification service {number}, whose URL is not one of Apprise's"
    sender = Apprise()
    sender.add(service)
    taken = sender.notify(
        title=outcome.title,
        body="\n".join(outcome.lines) or outcome.title,
        notify_type=_kind(outcome),
        body_format=NotifyFormat.TEXT,
    )
    return None if taken else f"notification service {number}, {service.service_name}"


def _kind(outcome: Outcome) -> "NotifyType":
    from apprise import NotifyType

    if not outcome.succeeded:
        return NotifyType.FAILURE
    return NotifyType.WARNING if outcome.warnings else NotifyType.SUCCESS


class Heartbeat(StrEnum):
    """What became of the ping after a verified backup."""

    SENT = "sent"
    FAILED = "not delivered"
    NONE = "not configured"


def beat(url: str | None) -> Heartbeat:
    """Ping a dead-man's switch, which raises the alarm when no ping comes; tries three times.

    Like a notification it is never an error: the caller reports what became of it.
    The URL holds a token, and shows nowhere.
    """
    if not url:
        return Heartbeat.NONE
    for _ in range(_BEATS):
        # Settings let nothing but http and https through.
        with suppress(OSError, HTTPException, ValueError):
            with urlopen(url, timeout=_BEAT_SECONDS) as answer:  # noqa: S310
                answer.read(1)
            return Heartbeat.SENT
    return Heartbeat.FAILED


@contextmanager
def _quiet() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in _TALKATIVE]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
