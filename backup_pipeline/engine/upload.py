"""Bytes in order -> one multipart object, which appears only if `complete()` succeeded."""

import threading
from collections.abc import Callable, Mapping
from queue import SimpleQueue
from types import TracebackType
from typing import Self

from backup_pipeline.engine.store import ObjectInfo, ObjectStore, Part
from backup_pipeline.errors import StoreError, StoreUnreachable

MIB = 1 << 20
SMALLEST_PART = 5 * MIB
"""S3's limit for every part but the last."""
LARGEST_PART = 5120 * MIB
"""S3's limit (Amazon S3 user guide, "multipart upload limits")."""
MOST_PARTS = 10_000
"""S3's limit, too."""
IN_FLIGHT = 2 * SMALLEST_PART
_ABORT_PATIENCE = 4.0
_TICK = 0.2


def part_size(offset: int, smallest: int = SMALLEST_PART, most_parts: int = MOST_PARTS) -> int:
    """How many bytes the part at `offset` shall have.

    The first tenth of all parts has the smallest size; from there on each part is proportional to
    what went before it, so that parts never run out: 10,000 from 5 MiB on hold over 5 TiB.
    """
    return min(max(smallest, offset // max(1, most_parts // 10)), LARGEST_PART)


class Upload:
    """One object on its way into the store, out of bytes written in order.

    Entering begins the upload, so a missing bucket or right is found before any byte is made.
    Leaving without a successful `complete()`, for whatever reason, leaves nothing in the store,
    and takes a few seconds at most even when the store does not answer.

    Parts are sent side by side by `workers` threads, and `write()` waits while `in_flight` bytes
    are on their way: memory holds that many (or one part, if that is larger) and the part that
    is being filled.

    `metadata` must be unique to this upload (see `ObjectStore.complete_upload`).
    """

    def __init__(
        self,
        store: ObjectStore,
        key: str,
        metadata: Mapping[str, str],
        *,
        workers: int = 2,
        in_flight: int = IN_FLIGHT,
        smallest_part: int = SMALLEST_PART,
        most_parts: int = MOST_PARTS,
    ) -> None:
        self._transfer = _Transfer(store, key, metadata, workers, in_flight)
        self._smallest_part = smallest_part
        self._most_parts = most_parts
        self._sent = 0
        self._number = 1
        self._part = bytearray()
        self._completed = False

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
        """Append bytes; raises the error of any part that failed since."""
        self._transfer.raise_error()
        rest = memoryview(data)
        while rest:
            size = part_size(self._sent, self._smallest_part, self._most_parts)
            room = size - len(self._part)
            self._part += rest[:room]
            rest = rest[room:]
            if len(self._part) == size:
                self._send_part()

    def complete(self) -> ObjectInfo:
        """Make the object out of all that was written.

        Raises the error of any part that failed, and those of `ObjectStore.complete_upload`.
        """
        if self._part or self._number == 1:
            self._send_part()
        info = self._transfer.complete()
        self._completed = True
        return info

    def _send_part(self) -> None:
        if self._number > self._most_parts:
            raise StoreError(
                f"{self._sent} bytes are in {self._most_parts} parts, and a store takes no more",
                hint="Make the smallest part larger.",
            )
        part, self._part = self._part, bytearray()
        self._transfer.send(self._number, part)
        self._number += 1
        self._sent += len(part)


class _Transfer:
    """The parts of one multipart upload, sent side by side by threads of their own.

    The threads are daemons, so a stalled connection never keeps the process from ending.
    """

    def __init__(
        self,
        store: ObjectStore,
        key: str,
        metadata: Mapping[str, str],
        workers: int,
        in_flight: int,
    ) -> None:
        self._store = store
        self._key = key
        self._metadata = dict(metadata)
        self._workers = workers
        self._in_flight = in_flight
        self._upload_id = ""
        self._queue: SimpleQueue[tuple[int, bytearray] | None] = SimpleQueue()
        self._changed = threading.Condition()
        # All of these belong to `_changed`.
        self._pending = 0
        self._pending_bytes = 0
        self._parts: list[Part] = []
        self._error: Exception | None = None
        self._abandoned = False
        self._completing = False
        self._aborted = False
        self._failure: StoreError | None = None

    def begin(self) -> None:
        """Begin the upload and start the threads."""
        self._upload_id = self._store.create_upload(self._key, self._metadata)
        for _ in range(self._workers):
            threading.Thread(target=self._work, name="upload part", daemon=True).start()

    def send(self, number: int, body: bytearray) -> None:
        """Have one part sent, as soon as there is room for it in flight."""
        with self._changed:
            self._wait_for(lambda: self._has_room(len(body)))
            self._pending += 1
            self._pending_bytes += len(body)
        self._queue.put((number, body))

    def complete(self) -> ObjectInfo:
        """Wait for every part and make the object."""
        with self._changed:
            self._wait_for(lambda: not self._pending)
        self._completing = True
        info = self._complete_upload()
        self._end_workers()
        return info

    def abandon(self) -> None:
        """Leave nothing behind; raises `StoreError` where that is not certain in time."""
        with self._changed:
            self._abandoned = True
        self._end_workers()
        forgetting = threading.Thread(target=self._forget, name="abort upload", daemon=True)
        forgetting.start()
        forgetting.join(_ABORT_PATIENCE)
        if self._failure:
            raise self._failure
        if not self._aborted:
            raise StoreUnreachable(
                f"the unfinished upload of {self._key!r} may still be in the store",
                hint="A later prune finds and aborts it.",
            )

    def raise_error(self) -> None:
        """Raise the first error of any part."""
        if self._error:
            raise self._error

    def _wait_for(self, settled: Callable[[], bool]) -> None:
        # A signal that comes just before a wait without an end would be handled only after it.
        while not self._changed.wait_for(lambda: self._error or settled(), _TICK):
            pass
        self.raise_error()

    def _has_room(self, size: int) -> bool:
        return not self._pending or self._pending_bytes + size <= self._in_flight

    def _work(self) -> None:
        # A function of its own for each part, so that no idle thread holds on to a sent one.
        while self._send_next():
            pass

    def _send_next(self) -> bool:
        job = self._queue.get()
        if job is None:
            return False
        number, body = job
        try:
            if not (self._abandoned or self._error):
                part = self._store.upload_part(self._key, self._upload_id, number, body)
                with self._changed:
                    self._parts.append(part)
        except Exception as error:  # noqa: BLE001 - the writer's thread raises it, whatever it is
            with self._changed:
                self._error = self._error or error
        finally:
            with self._changed:
                self._pending -= 1
                self._pending_bytes -= len(body)
                self._changed.notify_all()
        return True

    def _end_workers(self) -> None:
        for _ in range(self._workers):
            self._queue.put(None)

    def _complete_upload(self) -> ObjectInfo:
        parts = sorted(self._parts, key=lambda part: part.number)
        return self._store.complete_upload(self._key, self._upload_id, parts, self._metadata)

    def _forget(self) -> None:
        """Abort the upload, and again once the last part has landed: a late one may revive it."""
        try:
            if self._completing:
                self._take_back()
            late = self._pending
            self._store.abort_upload(self._key, self._upload_id)
            self._aborted = True
            if late:
                with self._changed:
                    self._changed.wait_for(lambda: not self._pending)
                self._store.abort_upload(self._key, self._upload_id)
        except StoreError as failure:
            self._failure = failure

    def _take_back(self) -> None:
        """Delete the object if an interrupted completion made it after all."""
        try:
            self._complete_upload()
        except StoreError:
            # There is no object, or it is another's; an open upload is aborted next.
            return
        self._store.delete(self._key)
