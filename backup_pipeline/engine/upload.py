"""Bytes in order -> one multipart object, which appears only if `complete()` succeeded.

Several threads can write at once, each into a lane of its own: S3 wants the numbers of parts to
ascend, not to be consecutive, so each lane has a range of them.
"""

from collections.abc import Mapping
from types import TracebackType
from typing import Self

from backup_pipeline.engine.rate import RateLimit
from backup_pipeline.engine.store import ObjectInfo, ObjectStore
from backup_pipeline.engine.transfer import Transfer
from backup_pipeline.errors import StoreError

MIB = 1 << 20
SMALLEST_PART = 5 * MIB
"""S3's limit for every part but the last."""
LARGEST_PART = 5120 * MIB
"""S3's limit (Amazon S3 user guide, "multipart upload limits")."""
MOST_PARTS = 10_000
"""S3's limit, too."""
_OF_THE_TAIL = 100
"""So many parts are for what comes behind the lanes: the schema, and what stayed small."""


def part_size(offset: int, smallest: int = SMALLEST_PART, most_parts: int = MOST_PARTS) -> int:
    """How many bytes the part at `offset` shall have.

    The first half of all parts has the smallest size; from there on each part is larger by a
    share of what went into those before it, so that parts never run out: 10,000 from 5 MiB on hold
    over 5 TiB.
    """
    beyond = max(0, offset - smallest * (most_parts // 2))
    return min(smallest + beyond // max(1, most_parts // 18), LARGEST_PART)


class Upload:
    """One object on its way into the store.

    Entering begins the upload, so a missing bucket or right is found before any byte is made.
    Leaving without a successful `complete()`, for whatever reason, leaves nothing in the store,
    and takes a few seconds at most even when the store does not answer.

    The bytes of the lanes, where there are any, come first, and behind them what `write()` gets.
    `expected` bytes of an object make its parts larger from the start, so that half of all parts
    hold them: that takes less memory than parts that grow late.

    Parts are sent side by side by `workers` threads, one more than there are lanes and two at
    least, and whoever writes waits while `in_flight` bytes are on their way, a part for each of
    the threads: memory holds these and two parts for each lane.

    `metadata` must be unique to this upload (see `ObjectStore.complete_upload`).
    """

    def __init__(
        self,
        store: ObjectStore,
        key: str,
        metadata: Mapping[str, str],
        *,
        lanes: int = 0,
        expected: int = 0,
        rate: RateLimit | None = None,
        workers: int | None = None,
        in_flight: int | None = None,
        smallest_part: int = SMALLEST_PART,
        most_parts: int = MOST_PARTS,
    ) -> None:
        size = max(smallest_part, 2 * expected // most_parts)
        workers = workers or max(2, lanes + 1)
        limit = in_flight or workers * size
        transfer = Transfer(store, key, metadata, workers, limit, rate or RateLimit())
        self._transfer = transfer
        self._front = _Front(transfer)
        self._completed = False
        each = (most_parts - _OF_THE_TAIL) // lanes if lanes else 0
        self.lanes = tuple(
            Lane(self._front, lane, _Parts(transfer, 1 + lane * each, each, size), smallest_part)
            for lane in range(lanes)
        )
        taken = lanes * each
        self._tail = _Parts(transfer, 1 + taken, most_parts - taken, size)

    def __enter__(self) -> Self:
        self._transfer.begin()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._completed:
            return
        try:
            self._transfer.abandon()
        except StoreError as failure:
            if error is None:
                raise
            error.add_note(f"{failure.message} ({failure.hint})")

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append bytes behind the lanes; raises the error of any part that failed since."""
        self._transfer.raise_error()
        self._tail.add(data)
        while self._tail.waiting >= self._tail.next_size:
            self._tail.send(self._tail.next_size)

    def end_lanes(self) -> tuple[int, ...]:
        """Where each lane's bytes stand, once all are closed: their indices in that order."""
        self.write(self._front.take_before())
        left = self._front.take_left()
        for index in left:
            self.write(left[index])
        return (*(i for i in range(len(self.lanes)) if i not in left), *left)

    def complete(self) -> ObjectInfo:
        """Make the object out of all that was written.

        Raises the error of any part that failed, and those of `ObjectStore.complete_upload`.
        """
        if self._tail.waiting or (not self._front.begun and not self._tail.sent):
            self._tail.send(self._tail.waiting)
        info = self._transfer.complete()
        self._completed = True
        return info

    def give_up(self) -> None:
        """Have everybody who writes, or waits to, end in an error; for other threads to call."""
        self._transfer.give_up()


class Lane:
    """Bytes in order that stand together in the object; one thread writes them.

    A lane keeps back what its last part will need to have S3's smallest size.
    One that stays smaller than a part is no part: `Upload` puts its bytes somewhere else, but the
    bytes of the first lane always come first, so no other begins before it has begun.
    """

    def __init__(self, front: "_Front", index: int, parts: "_Parts", smallest: int) -> None:
        self._front = front
        self._index = index
        self._parts = parts
        self._smallest = smallest
        self._begun = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append bytes; raises the error of any part that failed since."""
        self._front.transfer.raise_error()
        self._parts.add(data)
        while self._parts.waiting >= self._parts.next_size + self._smallest:
            self._begin()
            self._parts.send(self._parts.next_size)

    def close(self) -> None:
        """Say that no more will be written here."""
        if self._parts.waiting >= self._smallest:
            self._begin()
            self._parts.send(self._parts.waiting)
        else:
            assert not self._begun
            self._front.leave(self._index, self._parts.take())

    def _begin(self) -> None:
        if not self._begun:
            self._parts.put_before(self._front.begin(self._index))
            self._begun = True


class _Front:
    """Which lane is the first one, and what stands before it of lanes that stayed too small."""

    def __init__(self, transfer: Transfer) -> None:
        self.transfer = transfer
        self.begun = False
        self._first = 0
        self._before = bytearray()
        self._left: dict[int, bytes] = {}

    def begin(self, index: int) -> bytes:
        """Wait until a lane may begin; gives what has to stand before its bytes."""
        with self.transfer.changed:
            self.transfer.wait_until(lambda: self.begun or self._first == index)
            self.begun = True
            self.transfer.changed.notify_all()
            return self.take_before()

    def leave(self, index: int, content: bytes) -> None:
        """A lane ends with so little that it can't begin."""
        with self.transfer.changed:
            self._left[index] = content
            while not self.begun and self._first in self._left:
                self._before += self._left.pop(self._first)
                self._first += 1
            self.transfer.changed.notify_all()

    def take_before(self) -> bytes:
        """What has to stand before the next bytes."""
        taken, self._before = bytes(self._before), bytearray()
        return taken

    def take_left(self) -> dict[int, bytes]:
        """What stands behind all other lanes."""
        return dict(sorted(self._left.items()))


class _Parts:
    """Bytes on their way into parts of ascending numbers."""

    def __init__(self, transfer: Transfer, first: int, count: int, smallest: int) -> None:
        self._transfer = transfer
        self._number = first
        self._end = first + count
        self._count = count
        self._smallest = smallest
        self._waiting = bytearray()
        self.sent = 0

    @property
    def waiting(self) -> int:
        """How many bytes are in no part yet."""
        return len(self._waiting)

    @property
    def next_size(self) -> int:
        """How many bytes the next part shall have."""
        return part_size(self.sent, self._smallest, self._count)

    def add(self, data: bytes | bytearray | memoryview) -> None:
        """Append bytes."""
        self._waiting += data

    def put_before(self, data: bytes) -> None:
        """Put bytes before all others, of which none has been sent."""
        if data:
            self._waiting[:0] = data

    def take(self) -> bytes:
        """All that is waiting."""
        taken, self._waiting = bytes(self._waiting), bytearray()
        return taken

    def send(self, size: int) -> None:
        """Send so many of the bytes that are waiting as the next part."""
        if self._number == self._end:
            raise StoreError(
                f"{self.sent} bytes are in {self._count} parts, and a store takes no more",
                hint="Make the smallest part larger.",
            )
        part, self._waiting = self._waiting[:size], self._waiting[size:]
        self._transfer.send(self._number, part)
        self._number += 1
        self.sent += size
