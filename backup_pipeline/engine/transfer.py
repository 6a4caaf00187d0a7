"""Parts of one multipart upload, sent side by side by threads of their own."""

import threading
import time
from collections.abc import Callable, Mapping
from queue import SimpleQueue

from backup_pipeline.engine.rate import RateLimit
from backup_pipeline.engine.store import ObjectInfo, ObjectStore, Part
from backup_pipeline.errors import StoreError, StoreUnreachable

_ABORT_PATIENCE = 4.0
# A signal that comes just before a wait without end would be handled only after it.
_TICK = 0.2


class Transfer:
    """One multipart upload; its threads are daemons, so a stalled connection keeps no process.

    `in_flight` bytes, or one part, are on their way at most.
    `metadata` must be unique to this upload (see `ObjectStore.complete_upload`).
    """

    def __init__(
        self,
        store: ObjectStore,
        key: str,
        metadata: Mapping[str, str],
        workers: int,
        in_flight: int,
        rate: RateLimit,
    ) -> None:
        self._store = store
        self._key = key
        self._metadata = dict(metadata)
        self._workers = workers
        self._in_flight = in_flight
        self._rate = rate
        self._upload_id = ""
        self._queue: SimpleQueue[tuple[int, bytearray] | None] = SimpleQueue()
        self.changed = threading.Condition()
        # All of these belong to `changed`.
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
        with self.changed:
            self.wait_until(lambda: self._has_room(len(body)))
            self._pending += 1
            self._pending_bytes += len(body)
        self._queue.put((number, body))

    def complete(self) -> ObjectInfo:
        """Wait for every part and make the object."""
        with self.changed:
            self.wait_until(lambda: not self._pending)
        self._completing = True
        info = self._complete_upload()
        self._end_workers()
        return info

    def give_up(self) -> None:
        """Have everybody who waits here stop waiting, and whoever goes on end in an error."""
        with self.changed:
            self._abandoned = True
            self.changed.notify_all()

    def abandon(self) -> None:
        """Leave nothing behind; raises `StoreError` where that is not certain in time."""
        self.give_up()
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
        if self._abandoned:
            raise StoreError(f"the upload of {self._key!r} was given up")

    def wait_until(self, true: Callable[[], bool]) -> None:
        """Wait, with `changed` held, until it is; raises as `raise_error` does."""
        self.raise_error()
        while not true():
            self.changed.wait(_TICK)
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
            self._keep_to_rate(len(body))
            if not (self._abandoned or self._error):
                part = self._store.upload_part(self._key, self._upload_id, number, body)
                with self.changed:
                    self._parts.append(part)
        except Exception as error:  # noqa: BLE001 - the writer's thread raises it, whatever it is
            with self.changed:
                self._error = self._error or error
        finally:
            with self.changed:
                self._pending -= 1
                self._pending_bytes -= len(body)
                self.changed.notify_all()
        return True

    def _keep_to_rate(self, size: int) -> None:
        until = time.monotonic() + self._rate.delay(size)
        with self.changed:
            while not (self._abandoned or self._error) and time.monotonic() < until:
                self.changed.wait(until - time.monotonic())

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
                with self.changed:
                    self.changed.wait_for(lambda: not self._pending)
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
