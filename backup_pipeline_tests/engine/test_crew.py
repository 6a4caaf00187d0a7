"""A crew ends as one: with the first error, with an interruption, or when all is done."""

import gc
import threading
import time
from collections import deque
from collections.abc import Iterator

import pytest

from backup_pipeline.engine import crew as crew_module
from backup_pipeline.engine.crew import Crew, Stopped, Tally, taken_from


def test_all_is_done_once_and_the_sum_is_right() -> None:
    pieces, tally = deque(range(1000)), Tally()
    told: list[int] = []

    def work() -> None:
        for piece in taken_from(pieces):
            tally.add(piece)

    with Crew() as crew:
        for _ in range(4):
            crew.start(work)
        crew.wait(lambda: told.append(tally.sum))
    assert told[-1] == tally.sum == sum(range(1000))


def test_the_first_error_stops_the_others_and_is_raised() -> None:
    ended = threading.Event()

    def fail() -> None:
        raise ValueError("first")

    def go_on() -> None:
        try:
            while True:
                crew.go_on()
                time.sleep(0.001)
        except Stopped:
            ended.set()
            raise ValueError("because of the first") from None

    with pytest.raises(ValueError, match=r"^first$"), Crew() as crew:
        crew.start(go_on)
        crew.start(fail)
        crew.wait()
    assert ended.is_set()


def test_what_blocks_is_stopped_by_what_it_named() -> None:
    stopped, ended = threading.Event(), threading.Event()

    def block() -> None:
        with crew.stopping(stopped.set):
            begun.set()
            stopped.wait(60)
        ended.set()

    begun = threading.Event()
    with pytest.raises(KeyboardInterrupt), Crew() as crew:
        crew.start(block)
        begun.wait(60)
        raise KeyboardInterrupt
    assert ended.is_set()


def test_nothing_new_begins_to_block_once_it_is_over() -> None:
    late: list[str] = []

    def begin_late() -> None:
        over.wait(60)
        with crew.stopping(lambda: None):
            late.append("began")

    over = threading.Event()
    with Crew() as crew:
        crew.start(begin_late)
        threading.Timer(0.2, over.set).start()
    assert late == []


@pytest.mark.parametrize("hangs", [False, True], ids=["it goes on", "the stop hangs as well"])
def test_who_does_not_end_holds_nobody_up_for_long(
    monkeypatch: pytest.MonkeyPatch, hangs: bool
) -> None:
    monkeypatch.setattr(crew_module, "_PATIENCE", 0.5)
    forever, begun = threading.Event(), threading.Event()
    calls: list[int] = []

    def stop() -> None:
        calls.append(1)
        if hangs:
            forever.wait()

    def block() -> None:
        with crew.stopping(stop):
            begun.set()
            forever.wait()

    begun_at = time.monotonic()
    with pytest.raises(KeyboardInterrupt), Crew() as crew:
        crew.start(block)
        begun.wait()
        raise KeyboardInterrupt
    assert 0.5 <= time.monotonic() - begun_at < 30
    assert hangs == (len(calls) == 1)
    forever.set()


def test_what_a_failed_thread_held_is_closed_when_its_error_is_raised() -> None:
    closed: list[str] = []

    def holding() -> Iterator[int]:
        try:
            yield from (1, 2)
        finally:
            closed.append("here")

    def fail() -> None:
        held = holding()
        next(held)
        try:
            int("x")
        except ValueError as error:
            raise KeyError("x") from error

    gc.disable()
    try:
        with pytest.raises(KeyError) as caught, Crew() as crew:
            crew.start(fail)
            crew.wait()
        assert closed == ["here"]
        assert isinstance(caught.value.__cause__, ValueError)
    finally:
        gc.enable()
