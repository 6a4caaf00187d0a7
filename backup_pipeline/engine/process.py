"""A child process as a byte stream that ends well only if the command did."""

import contextlib
import os
import select
import signal
import subprocess
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Protocol

from backup_pipeline.errors import ChildFailed

_PIPE_SIZE = 1 << 20
_STDERR_KEPT = 4096
_PIECE = 4096
_STATEMENT = b"Command was: "
_GRACE = 3.0
_TICK_MS = 200
_PRIVATE = ("AWS_", "BACKUP_", "PG")


# Which children each thread is reading from.
_children: dict[int, list["ChildReader"]] = defaultdict(list)


class Reader(Protocol):
    """Bytes in order; an empty result is the end."""

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes, and none only at the end."""


Patience = Callable[[], Callable[[], object]]
"""Called where a wait begins; what it gives is called several times a second while it lasts, and
raises what ends it."""


def endless() -> Callable[[], object]:
    """The patience that has no end."""
    return lambda: None


class ChildReader:
    """The standard output of a running child.

    The end of the stream is given only after the child ended with 0; any other end raises
    `ChildFailed` in its place, so nobody can take half an output for a whole one.
    """

    def __init__(
        self, process: subprocess.Popen[bytes], program: str, patience: Patience = endless
    ) -> None:
        self._process = process
        self._program = program
        self._patience = patience
        self._asked_at: float | None = None
        self._stderr = bytearray()
        assert process.stdout is not None
        assert process.stderr is not None
        self._stdout = process.stdout
        self._ready = select.poll()
        self._ready.register(self._stdout, select.POLLIN)
        # The thread closes its pipe itself, so that nobody does while it reads.
        stderr, process.stderr = process.stderr, None
        self._drain = threading.Thread(target=self._keep_both_ends, args=(stderr,), daemon=True)

    def drain(self) -> None:
        """Begin to keep what the child says beside its output."""
        self._drain.start()

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes as soon as there are any; none once the child ended with 0."""
        # A signal that comes just before a blocking read would be handled only after it.
        go_on = self._patience()
        while not self._ready.poll(_TICK_MS):
            go_on()
        data = os.read(self._stdout.fileno(), size)
        if not data:
            self._settle()
        return data

    def end(self) -> None:
        """Ask the child's group to end, so that whoever reads from it meets the end.

        Who is asked again after 3 s is killed: a pg_dump that is to end tells its server first,
        and waits for a server that says nothing.
        """
        if self._process.poll() is None:
            self._signal(signal.SIGKILL if self._grace() <= 0 else signal.SIGTERM)

    def close(self) -> None:
        """End the child's group, if need be by force 3 s after it was first asked; and wait."""
        if self._process.returncode is not None:
            return
        grace = self._grace()
        self._signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(max(grace, 0.0))
        # Its leader may be gone while something that it started lives on.
        self._signal(signal.SIGKILL)
        self._process.wait()

    def _grace(self) -> float:
        """Seconds that are left of the grace, which begins when this is asked first."""
        self._asked_at = self._asked_at or time.monotonic()
        return self._asked_at + _GRACE - time.monotonic()

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def _settle(self) -> None:
        code = _wait(self._process)
        self._drain.join(_GRACE)
        if code == 0:
            return
        how = f"was ended by {_signal_name(-code)}" if code < 0 else f"ended with code {code}"
        # Where it repeats a long statement, its reason stands before that.
        cut = b" [...] " if len(self._stderr) == 2 * _STDERR_KEPT else b""
        stderr = self._stderr[:_STDERR_KEPT] + cut + self._stderr[_STDERR_KEPT:]
        said = stderr.decode(errors="replace").strip()
        raise ChildFailed(
            f"{self._program} {how}" + (f": {said}" if said else " and said nothing"),
            hint=f"The message above is {self._program}'s own.",
        )

    def _keep_both_ends(self, stderr: IO[bytes]) -> None:
        with stderr:
            for data in _without_statements(stderr, self._program):
                self._stderr += data
                del self._stderr[_STDERR_KEPT : max(_STDERR_KEPT, len(self._stderr) - _STDERR_KEPT)]


@contextmanager
def begun(
    argv: Sequence[str | bytes | Path],
    env: Mapping[str, str],
    given: bytes | None = None,
    patience: Patience = endless,
) -> Iterator[ChildReader]:
    """Run a command in a session of its own, for a thread that takes its output (see `taking`).

    `given` is what the command reads from its input, by default nothing.
    Whoever reads waits with `patience`.

    However the block is left, the whole process group has been ended (SIGTERM, 3 s of grace,
    SIGKILL) and waited for.

    Raises `ChildFailed` where the command can't be started, and from the reader where it ended
    with another code than 0.
    """
    program = Path(os.fsdecode(argv[0])).name
    try:
        process = subprocess.Popen(
            argv,
            env=dict(env),
            stdin=subprocess.DEVNULL if given is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as error:
        raise ChildFailed(f"{program} could not be started: {error}") from error
    with process:
        reader = ChildReader(process, program, patience)
        try:
            reader.drain()
            assert process.stdout is not None
            _widen(process.stdout)
            if given is not None:
                # The thread closes its pipe itself, so that nobody does while it writes.
                stdin, process.stdin = process.stdin, None
                threading.Thread(target=_give, args=(stdin, given), daemon=True).start()
            yield reader
        finally:
            reader.close()


@contextmanager
def taking(reader: ChildReader) -> Iterator[ChildReader]:
    """Read the output of a child in the current thread, so that who stops the thread ends it."""
    ours = _children[threading.get_ident()]
    ours.append(reader)
    try:
        yield reader
    finally:
        ours.remove(reader)


@contextmanager
def reading(
    argv: Sequence[str | bytes | Path],
    env: Mapping[str, str],
    given: bytes | None = None,
    patience: Patience = endless,
) -> Iterator[ChildReader]:
    """Run a command, and read its output in the current thread, as `begun` and `taking` say."""
    with begun(argv, env, given, patience) as child, taking(child):
        yield child


def output(
    argv: Sequence[str | bytes | Path],
    env: Mapping[str, str],
    given: bytes | None = None,
    patience: Patience = endless,
) -> bytes:
    """All that a command writes to its standard output; raises `ChildFailed` unless it ends with 0.

    For outputs that are known to be small; `given` is what the command reads from its input.
    """
    with reading(argv, env, given, patience) as child:
        return all_of(child)


def all_of(reader: Reader) -> bytes:
    """Everything that is left in a reader; raises what it raises."""
    return b"".join(iter(lambda: reader.read(_PIPE_SIZE), b""))


def end_children(thread: int | None) -> None:
    """Ask the children that a thread, by its ident, is reading from to end."""
    for reader in list(_children.get(thread or 0, ())):
        reader.end()


def child_environment(variables: Mapping[str, str]) -> dict[str, str]:
    """The environment for a PostgreSQL tool: this process's own, less every secret it holds.

    Variables of PostgreSQL come from `variables` alone, and messages are in English.
    """
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(_PRIVATE)}
    return {**inherited, "LC_ALL": "C", **variables}


def _without_statements(stderr: IO[bytes], program: str) -> Iterator[bytes]:
    """What a PostgreSQL tool says, but for the statements that its server refused.

    pg_restore repeats them as they stand, and a subscription's holds a password.
    """
    own, repeats, begins = f"{program}: ".encode(), False, True
    # In pieces, since a line may be as long as a statement.
    while piece := stderr.readline(_PIECE):
        if begins:
            repeats = piece.startswith(_STATEMENT) or (repeats and not piece.startswith(own))
        begins = piece.endswith(b"\n")
        if not repeats:
            yield piece


def _wait(process: subprocess.Popen[bytes]) -> int:
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(_TICK_MS / 1000)


def _give(stdin: IO[bytes], given: bytes) -> None:
    # A child need not read all of it: what it thinks of that is in its exit code.
    with contextlib.suppress(BrokenPipeError), stdin:
        stdin.write(given)


def _widen(pipe: IO[bytes]) -> None:
    # Linux only: fewer and larger reads between pg_dump and the compressor.
    import fcntl

    if hasattr(fcntl, "F_SETPIPE_SZ"):
        with contextlib.suppress(OSError):
            fcntl.fcntl(pipe.fileno(), fcntl.F_SETPIPE_SZ, _PIPE_SIZE)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
