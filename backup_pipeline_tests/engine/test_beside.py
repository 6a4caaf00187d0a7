"""What is done beside ends with the block, whatever becomes of either."""

import threading
from collections.abc import Callable

import pytest

from backup_pipeline.engine.beside import beside


def test_the_result_is_waited_for() -> None:
    with beside(lambda: 42, stop=lambda: None) as result:
        assert result() == 42


def test_its_error_is_raised_where_the_result_is_asked_for() -> None:
    def fail() -> int:
        raise ValueError("inside")

    with pytest.raises(ValueError, match="inside"), beside(fail, stop=lambda: None) as result:
        result()


def test_a_signal_that_interrupts_no_system_call_is_still_obeyed(
    interrupted_unnoticed: Callable[[], None],
) -> None:
    over = threading.Event()
    with (
        pytest.raises(KeyboardInterrupt),
        beside(lambda: over.wait(60), stop=over.set) as result,
    ):
        interrupted_unnoticed()
        result()
    assert over.is_set()


def test_it_is_stopped_when_the_block_fails() -> None:
    stopped, ended = threading.Event(), threading.Event()

    def work() -> None:
        stopped.wait(10)
        ended.set()

    with pytest.raises(KeyboardInterrupt), beside(work, stop=stopped.set):
        raise KeyboardInterrupt
    assert ended.is_set()


def test_what_does_not_stop_holds_nobody_up_for_long() -> None:
    forever = threading.Event()
    calls: list[int] = []
    with beside(forever.wait, stop=lambda: calls.append(1)):
        pass
    assert len(calls) == 30
    forever.set()


def test_the_error_of_the_work_comes_before_what_the_block_met_because_of_it() -> None:
    failed = threading.Event()

    def fail() -> None:
        failed.set()
        raise ValueError("first")

    with pytest.raises(ValueError, match="first"), beside(fail, stop=lambda: None) as result:
        failed.wait(10)
        with pytest.raises(ValueError, match="first"):
            result()
        raise RuntimeError("the snapshot is gone")


def test_an_error_of_the_block_alone_is_its_own() -> None:
    with pytest.raises(RuntimeError, match="own"), beside(lambda: 1, stop=lambda: None) as result:
        result()
        raise RuntimeError("its own")
