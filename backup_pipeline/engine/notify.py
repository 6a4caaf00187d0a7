"""Notify: tell people what became of a run, by whatever services they use."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

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
    from apprise import Apprise, NotifyFormat, NotifyType

    service = Apprise.instantiate(url)
    if service is None:
        return f"notification service {number}, whose URL is not one of Apprise's"
    sender = Apprise()
    sender.add(service)
    taken = sender.notify(
        title=outcome.title,
        body="\n".join(outcome.lines) or outcome.title,
        notify_type=NotifyType.SUCCESS if outcome.succeeded else NotifyType.FAILURE,
        body_format=NotifyFormat.TEXT,
    )
    return None if taken else f"notification service {number}, {service.service_name}"


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
