"""An upload is whole or absent, whatever happens on the way, and its memory is bounded."""

import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from backup_pipeline.engine import transfer as module
from backup_pipeline.engine.s3 import S3Store
from backup_pipeline.engine.store import ObjectInfo, ObjectStore, Part
from backup_pipeline.engine.upload import (
    LARGEST_PART,
    MIB,
    MOST_PARTS,
    SMALLEST_PART,
    Upload,
    part_size,
)
from backup_pipeline.errors import BucketMissing, ObjectExists, StoreError, StoreUnreachable
from backup_pipeline_tests.fakes import MemoryStore
from backup_pipeline_tests.store_contract import connection_to

PART = 5 * MIB
MARK = {"backup-id": "1"}


@pytest.fixture(params=["memory", "s3"])
def store(request: pytest.FixtureRequest) -> ObjectStore:
    """The store in memory and a real one, in turn."""
    if request.param == "memory":
        return MemoryStore()
    server, bucket = request.getfixturevalue("s3_server"), request.getfixturevalue("bucket")
    return S3Store(connection_to(server, bucket))


@contextmanager
def uploading(store: ObjectStore, **options: Any) -> Iterator[Upload]:
    with Upload(store, "k", MARK, **{"smallest_part": PART, **options}) as upload:
        yield upload


def content(size: int) -> bytes:
    """Bytes that show it when parts are lost, doubled or swapped."""
    return b"".join(b"%015d\n" % index for index in range(size // 16 + 1))[:size]


def require_nothing_left(store: ObjectStore) -> None:
    assert list(store.list("")) == []
    assert list(store.list_uploads("")) == []


def require_no_threads_left() -> None:
    deadline = time.monotonic() + 5
    names = {"upload part", "abort upload"}
    while any(thread.name in names for thread in threading.enumerate()):
        assert time.monotonic() < deadline, threading.enumerate()
        time.sleep(0.01)


# Whole


@pytest.mark.parametrize("size", [0, 1, PART - 1, PART, PART + 1, 3 * PART + 7])
def test_what_was_written_is_the_object(store: ObjectStore, size: int) -> None:
    body = content(size)
    with uploading(store) as upload:
        upload.write(body)
        info = upload.complete()
    assert info == store.head("k")
    assert info.size == size
    assert b"".join(store.read("k")) == body
    assert list(store.list_uploads("")) == []


@pytest.mark.parametrize("piece", [1000, PART // 2, PART, 2 * PART + 1])
def test_how_the_bytes_were_cut_makes_no_difference(piece: int) -> None:
    store, body = MemoryStore(), content(2 * PART + 100_000)
    with uploading(store) as upload:
        for at in range(0, len(body), piece):
            upload.write(memoryview(body)[at : at + piece])
            upload.write(b"")
        upload.complete()
    assert store.objects["k"].body == body
    assert store.objects["k"].etag.endswith("-3")
    assert store.objects["k"].metadata == MARK


def test_a_buffer_may_be_used_again_after_writing() -> None:
    store, buffer = MemoryStore(), bytearray(b"first ")
    with uploading(store) as upload:
        upload.write(buffer)
        buffer[:] = b"second"
        upload.write(buffer)
        upload.complete()
    assert store.objects["k"].body == b"first second"


def test_no_thread_stays_after_completing() -> None:
    with uploading(MemoryStore()) as upload:
        upload.write(content(3 * PART))
        upload.complete()
    require_no_threads_left()


# Absent


def test_leaving_without_completing_leaves_nothing(store: ObjectStore) -> None:
    with uploading(store) as upload:
        upload.write(content(2 * PART + 1))
    require_nothing_left(store)
    require_no_threads_left()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_any_error_on_the_way_leaves_nothing(
    store: ObjectStore, error: type[BaseException]
) -> None:
    with pytest.raises(error), uploading(store) as upload:
        upload.write(content(2 * PART + 1))
        raise error
    require_nothing_left(store)
    require_no_threads_left()


def test_a_taken_key_is_found_at_the_end_and_kept(store: ObjectStore) -> None:
    store.put("k", b"theirs")
    with pytest.raises(ObjectExists), uploading(store) as upload:
        upload.write(b"ours")
        upload.complete()
    assert b"".join(store.read("k")) == b"theirs"
    assert list(store.list_uploads("")) == []


def test_a_missing_bucket_is_found_before_the_first_byte() -> None:
    store = MemoryStore()
    store.bucket_exists = False
    with pytest.raises(BucketMissing), uploading(store):
        pytest.fail("a missing bucket was entered")
    require_no_threads_left()


class Failing(MemoryStore):
    """Refuses one part."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def upload_part(
        self, key: str, upload_id: str, number: int, body: bytes | bytearray | memoryview
    ) -> Part:
        if number == self.number:
            raise StoreUnreachable(f"part {number} was refused")
        return super().upload_part(key, upload_id, number, body)


@pytest.mark.parametrize("number", [1, 2, 5])
def test_a_failed_part_surfaces_at_the_latest_when_completing(number: int) -> None:
    store = Failing(number)
    with pytest.raises(StoreUnreachable, match=f"part {number}"), uploading(store) as upload:
        upload.write(content(5 * PART))
        upload.complete()
    require_nothing_left(store)


def test_a_failed_part_stops_the_writing() -> None:
    store, written = Failing(2), 0
    with pytest.raises(StoreUnreachable, match="part 2"), uploading(store) as upload:
        for _ in range(1000):
            upload.write(bytes(PART))
            written += 1
            time.sleep(0.001)
    assert written < 100
    require_nothing_left(store)


def test_a_failed_part_surfaces_even_at_a_write_that_fills_no_part() -> None:
    with pytest.raises(StoreUnreachable, match="part 1"), uploading(Failing(1)) as upload:
        upload.write(bytes(PART))
        while upload._transfer._pending:
            time.sleep(0.01)
        upload.write(b"one more byte")
        pytest.fail("the failed part did not surface")


class Stalling(MemoryStore):
    """Holds every part back until the gate opens; an abort forgets only what has arrived."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.waiting = threading.Semaphore(0)
        self.answers_aborts = True

    def upload_part(
        self, key: str, upload_id: str, number: int, body: bytes | bytearray | memoryview
    ) -> Part:
        kept = self.uploads[upload_id]
        self.waiting.release()
        assert self.gate.wait(30)
        # S3 lets a part that was on its way during the abort arrive after it.
        with self._lock:
            self.uploads.setdefault(upload_id, kept)
        return super().upload_part(key, upload_id, number, body)

    def abort_upload(self, key: str, upload_id: str) -> None:
        if not self.answers_aborts:
            assert self.gate.wait(30)
        super().abort_upload(key, upload_id)


@pytest.fixture
def stalling() -> Iterator[Stalling]:
    store = Stalling()
    yield store
    store.gate.set()
    require_no_threads_left()


def test_a_stalled_part_does_not_hold_up_the_exit(
    stalling: Stalling, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_ABORT_PATIENCE", 0.2)
    with pytest.raises(KeyboardInterrupt) as caught, uploading(stalling) as upload:
        upload.write(content(2 * PART))
        stalling.waiting.acquire()
        began = time.monotonic()
        raise KeyboardInterrupt
    assert time.monotonic() - began < 2
    assert list(stalling.list_uploads("")) == []
    assert not hasattr(caught.value, "__notes__")


def test_a_part_that_lands_after_the_abort_is_aborted_too(stalling: Stalling) -> None:
    with pytest.raises(KeyboardInterrupt), uploading(stalling) as upload:
        upload.write(content(2 * PART))
        stalling.waiting.acquire()
        threading.Timer(0.2, stalling.gate.set).start()
        raise KeyboardInterrupt
    assert stalling.gate.wait(5)
    require_no_threads_left()
    require_nothing_left(stalling)


def test_an_abort_that_is_not_answered_in_time_is_said(
    stalling: Stalling, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_ABORT_PATIENCE", 0.2)
    stalling.answers_aborts = False
    with pytest.raises(KeyboardInterrupt) as caught, uploading(stalling) as upload:
        upload.write(content(100))
        raise KeyboardInterrupt
    assert "may still be in the store" in caught.value.__notes__[0]


def test_an_abort_that_fails_is_an_error_of_its_own_when_there_is_no_other() -> None:
    class Unabortable(MemoryStore):
        def abort_upload(self, key: str, upload_id: str) -> None:
            raise StoreUnreachable(f"{key} {upload_id}")

    with pytest.raises(StoreUnreachable), uploading(Unabortable()):
        pass


@pytest.mark.parametrize("last", [False, True], ids=["in flight", "completing"])
def test_a_signal_that_interrupts_no_system_call_is_still_obeyed(
    interrupted_unnoticed: Callable[[], None], monkeypatch: pytest.MonkeyPatch, last: bool
) -> None:
    monkeypatch.setattr(module, "_ABORT_PATIENCE", 0.1)
    store, started = Stalling(), time.monotonic()
    with (
        pytest.raises(KeyboardInterrupt),
        uploading(store, workers=1, in_flight=PART) as upload,
    ):
        upload.write(content(PART))
        interrupted_unnoticed()
        if last:
            upload.complete()
        upload.write(content(PART))
    assert time.monotonic() - started < 20  # the gate opens by itself after 30 s
    store.gate.set()
    require_no_threads_left()


class Interrupting(MemoryStore):
    """Is interrupted while it completes: before or after the object was made."""

    def __init__(self, *, after: bool) -> None:
        super().__init__()
        self.after = after
        self.interruptions = 1

    def complete_upload(
        self, key: str, upload_id: str, parts: Sequence[Part], metadata: Mapping[str, str]
    ) -> ObjectInfo:
        self.interruptions -= 1
        if self.interruptions == 0 and not self.after:
            raise KeyboardInterrupt
        info = super().complete_upload(key, upload_id, parts, metadata)
        if self.interruptions == 0:
            raise KeyboardInterrupt
        return info


@pytest.mark.parametrize("after", [False, True])
def test_an_interrupted_completion_leaves_nothing(after: bool) -> None:
    store = Interrupting(after=after)
    with pytest.raises(KeyboardInterrupt), uploading(store) as upload:
        upload.write(content(100))
        upload.complete()
    require_nothing_left(store)


# Bounded


class Counting(MemoryStore):
    """Counts the bytes and parts that are on their way at one time."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = self.parts = self.most_parts = 0
        self.busy = threading.Lock()

    def _count(self, size: int, parts: int) -> None:
        with self.busy:
            self.now += size
            self.parts += parts
            self.most = max(self.most, self.now)
            self.most_parts = max(self.most_parts, self.parts)

    def upload_part(
        self, key: str, upload_id: str, number: int, body: bytes | bytearray | memoryview
    ) -> Part:
        self._count(len(body), 1)
        time.sleep(0.01)
        part = super().upload_part(key, upload_id, number, body)
        self._count(-len(body), -1)
        return part


@pytest.mark.parametrize(
    ("workers", "in_flight", "most", "side_by_side"),
    [(4, 4 * PART, 4 * PART, 4), (2, 4 * PART, 4 * PART, 2), (4, 1, PART, 1)],
)
def test_no_more_is_in_flight_than_allowed(
    workers: int, in_flight: int, most: int, side_by_side: int
) -> None:
    store = Counting()
    with uploading(store, workers=workers, in_flight=in_flight) as upload:
        for _ in range(12):
            upload.write(bytes(PART))
        transfer = upload._transfer
        assert transfer._pending_bytes <= most
        upload.complete()
    assert store.most <= most
    assert store.most_parts == side_by_side


class Forgetful(MemoryStore):
    """Takes parts and keeps nothing of them."""

    def upload_part(
        self, key: str, upload_id: str, number: int, body: bytes | bytearray | memoryview
    ) -> Part:
        return Part(number, f"{key} {upload_id}", len(body))


def test_a_sent_part_is_forgotten() -> None:
    piece = bytes(PART)
    tracemalloc.start()
    try:
        with uploading(Forgetful(), workers=2) as upload:
            for _ in range(6):
                upload.write(piece)
            deadline = time.monotonic() + 5
            while tracemalloc.get_traced_memory()[0] >= PART:
                assert time.monotonic() < deadline, "idle threads hold on to parts"
                time.sleep(0.01)
    finally:
        tracemalloc.stop()


# Part sizes


def offsets(smallest: int, most_parts: int) -> Iterator[int]:
    offset = 0
    for _ in range(most_parts):
        yield offset
        offset += part_size(offset, smallest, most_parts)
    yield offset


def test_ten_thousand_parts_hold_more_than_five_tebibytes() -> None:
    *_, reach = offsets(SMALLEST_PART, MOST_PARTS)
    assert reach > 5 << 40


def test_parts_stay_small_up_to_half_of_what_they_hold() -> None:
    assert part_size(0) == part_size(25_000 * MIB) == SMALLEST_PART
    assert part_size(26_000 * MIB) == SMALLEST_PART + 1_000 * MIB // 555
    assert part_size(10 << 40) == LARGEST_PART


@given(
    smallest=st.integers(5 * MIB, 64 * MIB),
    most_parts=st.integers(100, MOST_PARTS),
    share=st.floats(0, 1),
)
@example(smallest=9713204, most_parts=126, share=0.0)
@example(smallest=10729988, most_parts=108, share=0.0)
def test_parts_only_grow_and_reach_far(smallest: int, most_parts: int, share: float) -> None:
    every = list(offsets(smallest, most_parts))
    sizes = [later - earlier for earlier, later in pairwise(every)]
    assert sizes == sorted(sizes)
    assert smallest <= sizes[0] <= sizes[-1] <= LARGEST_PART
    constant = smallest * most_parts
    # 104 times with ten thousand parts; with few, an eighteenth of them is rounded more coarsely.
    assert every[-1] >= min(90 * constant, LARGEST_PART * most_parts // 5)
    offset = int(share * every[-1])
    assert part_size(offset, smallest, most_parts) <= max(
        smallest, offset // max(1, most_parts // 18)
    )


def test_parts_grow_in_an_upload_that_would_need_too_many() -> None:
    store = MemoryStore()
    with uploading(store, most_parts=20) as upload:
        for _ in range(40):
            upload.write(bytes(PART))
        upload.complete()
    assert len(store.objects["k"].body) == 40 * PART
    assert int(store.objects["k"].etag.partition("-")[2]) < 20


def test_running_out_of_parts_is_an_error() -> None:
    store = MemoryStore()
    with (
        pytest.raises(StoreError, match="takes no more"),
        uploading(store, most_parts=2) as upload,
    ):
        upload.write(bytes(20 * PART))
    require_nothing_left(store)
