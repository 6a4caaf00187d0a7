"""A child's output is whole or it is an error, and no child outlives its reader."""

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from backup_pipeline.engine.process import child_environment, output, reading
from backup_pipeline.errors import ChildFailed

SHELL = "/bin/sh"


def sh(script: str) -> list[str]:
    return [SHELL, "-c", script]


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    # A child that nobody waited for yet still has its entry.
    return state != "Z"


def ends(pid: int) -> bool:
    """Whether a process ends that was killed a moment ago: the kernel takes its time."""
    deadline = time.monotonic() + 30
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not alive(pid)


def test_the_whole_output_is_read() -> None:
    assert output(sh("printf one; printf two"), child_environment({})) == b"onetwo"


def test_a_large_output_arrives_in_order() -> None:
    program = "import sys; [sys.stdout.write(f'{i:07}\\n') for i in range(400_000)]"
    lines = output([sys.executable, "-c", program], child_environment({})).split()
    assert lines == [b"%07d" % i for i in range(400_000)]


def test_a_child_that_fails_after_its_output_never_reaches_the_end() -> None:
    with (
        reading(sh("printf half; echo 'disk on fire' >&2; exit 3"), child_environment({})) as child,
        pytest.raises(ChildFailed, match=r"sh ended with code 3: disk on fire"),
    ):
        assert child.read(100) == b"half"
        child.read(100)


def test_a_killed_child_never_reaches_the_end() -> None:
    with (
        reading(sh("printf half; kill -9 $$"), child_environment({})) as child,
        pytest.raises(ChildFailed, match="SIGKILL"),
    ):
        while child.read(100):
            pass


def test_a_child_that_cannot_be_started_says_why() -> None:
    with pytest.raises(ChildFailed, match="no-such-program could not be started"):
        output(["/no-such-program"], child_environment({}))


def test_leaving_early_ends_the_whole_group() -> None:
    script = "sleep 600 & echo $!; echo $$; exec sleep 600"
    with reading(sh(script), child_environment({})) as child:
        said = b""
        while said.count(b"\n") < 2:
            said += child.read(100)
    assert all(ends(int(pid)) for pid in said.split())


def test_an_exception_ends_a_child_that_ignores_sigterm() -> None:
    started = time.monotonic()
    with (
        pytest.raises(KeyboardInterrupt),
        reading(sh("trap '' TERM; echo $$; while :; do sleep 1; done"), child_environment({})) as c,
    ):
        pid = int(c.read(100))
        raise KeyboardInterrupt
    assert not alive(pid)
    assert time.monotonic() - started < 9


def test_a_grandchild_that_ignores_sigterm_ends_with_its_parent() -> None:
    stubborn = "trap '' TERM; echo $$; while :; do sleep 1; done"
    with reading(["sh", "-c", 'sh -c "$0" & wait', stubborn], child_environment({})) as child:
        pid = int(child.read(100))
    assert ends(pid)


def test_a_signal_that_interrupts_no_system_call_is_still_obeyed(
    interrupted_unnoticed: Callable[[], None],
) -> None:
    started = time.monotonic()
    with (
        reading(sh("exec sleep 60"), child_environment({})) as child,
        pytest.raises(KeyboardInterrupt),
    ):
        interrupted_unnoticed()
        child.read(100)
    assert time.monotonic() - started < 30


def test_a_grandchild_that_keeps_stderr_open_holds_nobody_up() -> None:
    started = time.monotonic()
    escape = "import os, time; os.setsid(); print(os.getpid(), flush=True); time.sleep(60)"
    with reading(sh(f'{sys.executable} -c "{escape}" & sleep 60'), child_environment({})) as child:
        pid = int(child.read(100))
    os.kill(pid, signal.SIGKILL)
    assert time.monotonic() - started < 30


def test_a_chatty_stderr_blocks_nothing_and_its_end_is_kept() -> None:
    noise = "import sys; [print(f'line {i}', file=sys.stderr) for i in range(50_000)]; sys.exit(1)"
    with pytest.raises(ChildFailed, match="line 49999"):
        output([sys.executable, "-c", noise], child_environment({}))


SAID = """
sh: from TOC entry 3423; 6100 16452 SUBSCRIPTION s postgres
sh: error: could not execute query: ERROR:  permission denied to create subscription
DETAIL:  Only roles with some privileges may do that.
Command was: CREATE SUBSCRIPTION s CONNECTION 'password=canary' PUBLICATION p;
-- canary, too: MORE


sh: warning: errors ignored on restore: 1
"""


@pytest.mark.parametrize("length", [0, 5_000, 1_000_000])
def test_a_statement_that_the_server_refused_is_not_repeated(length: int) -> None:
    """It may hold somebody's password."""
    said = SAID.replace("MORE", length * "canary")
    with pytest.raises(ChildFailed) as raised:
        output(["sh", "-c", "cat >&2; exit 1"], child_environment({}), said.encode())
    message = raised.value.message
    assert "permission denied to create subscription\nDETAIL:  Only roles" in message
    assert message.endswith("errors ignored on restore: 1")
    assert "canary" not in message


def test_a_child_inherits_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary")
    monkeypatch.setenv("BACKUP_DSN", "canary")
    monkeypatch.setenv("PGPASSWORD", "canary of another server")
    seen = output(["/usr/bin/env"], child_environment({"PGPASSWORD": "mine"}))
    assert b"canary" not in seen
    assert b"PGPASSWORD=mine" in seen
