"""Several threads write one object side by side, and it is whole, with the first lane in front."""

import threading
from collections.abc import Sequence
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backup_pipeline.engine.crew import Crew
from backup_pipeline.engine.rate import RateLimit
from backup_pipeline.engine.store import Part
from backup_pipeline.engine.upload import MIB, Lane, Upload
from backup_pipeline.errors import StoreError, StoreUnreachable
from backup_pipeline_tests.fakes import MemoryStore

PART = 5 * MIB
MARK = {"backup-id": "1"}
SMALL, LARGE = 1000, 12 * MIB


def content(lane: int, size: int) -> bytes:
    """Bytes that show which lane they are of, and when any is lost, doubled or swapped."""
    return b"".join(b"%d %013d\n" % (lane, index) for index in range(size // 16 + 1))[:size]


def write(lane: Lane, body: bytes, piece: int = MIB) -> None:
    for at in range(0, len(body), piece):
        lane.write(body[at : at + piece])
    lane.close()


def uploaded(sizes: Sequence[int], behind: bytes = b"tail") -> tuple[bytes, tuple[int, ...]]:
    """An object of lanes with so many bytes, written by threads, and the order of the lanes."""
    store = MemoryStore()
    with Upload(store, "k", MARK, lanes=len(sizes)) as upload:
        lanes = zip(upload.lanes, map(content, range(len(sizes)), sizes), strict=True)
        with Crew() as crew:
            for each in lanes:
                crew.start(partial(write, *each))
            crew.wait()
        order = upload.end_lanes()
        upload.write(behind)
        upload.complete()
    return store.objects["k"].body, order


@pytest.mark.parametrize(
    "sizes",
    [
        (LARGE, LARGE, LARGE),
        (LARGE, SMALL, LARGE),
        (SMALL, LARGE, LARGE),
        (SMALL, SMALL, LARGE),
        (SMALL, LARGE, SMALL),
        (LARGE, SMALL, SMALL),
        (SMALL, SMALL, SMALL),
        (0, 0, 0),
        (0, LARGE, 0),
        (PART - 1, PART, PART + 1),
        (PART, 0, 2 * PART),
    ],
)
def test_the_object_is_the_lanes_one_after_the_other(sizes: Sequence[int]) -> None:
    body, order = uploaded(sizes)
    assert sorted(order) == [0, 1, 2]
    assert order[0] == 0
    assert body == b"".join(content(lane, sizes[lane]) for lane in order) + b"tail"


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 3 * PART), min_size=1, max_size=4))
def test_whatever_the_sizes_are(sizes: list[int]) -> None:
    body, order = uploaded(sizes)
    assert order[0] == 0
    assert body == b"".join(content(lane, sizes[lane]) for lane in order) + b"tail"


def test_nobody_begins_before_the_first_lane() -> None:
    store = MemoryStore()
    with Upload(store, "k", MARK, lanes=2) as upload:
        first, second = upload.lanes
        waiting = threading.Thread(target=write, args=(second, content(1, LARGE)))
        waiting.start()
        waiting.join(0.3)
        assert waiting.is_alive()
        assert [part for each in store.uploads.values() for part in each.parts] == []
        write(first, content(0, SMALL))
        waiting.join(30)
        assert upload.end_lanes() == (0, 1)
        upload.complete()
    assert store.objects["k"].body == content(0, SMALL) + content(1, LARGE)


@pytest.mark.parametrize("fail", ["a part fails", "somebody gives up"])
def test_whoever_waits_for_the_first_lane_is_told_when_it_fails(fail: str) -> None:
    class Failing(MemoryStore):
        def upload_part(
            self, key: str, upload_id: str, number: int, body: bytes | bytearray | memoryview
        ) -> Part:
            raise StoreUnreachable("gone")

    with Upload(Failing(), "k", MARK, lanes=3) as upload:
        met: list[StoreError] = []

        def wait(lane: Lane) -> None:
            try:
                # For as long as it takes: some parts may be sent before the first one has failed.
                while True:
                    lane.write(bytes(MIB))
            except StoreError as error:
                met.append(error)

        waiting = [threading.Thread(target=wait, args=(lane,)) for lane in upload.lanes[1:]]
        for thread in waiting:
            thread.start()
        if fail == "a part fails":
            with pytest.raises(StoreUnreachable):
                write(upload.lanes[0], content(0, LARGE))
                upload.complete()
        else:
            upload.give_up()
        for thread in waiting:
            thread.join(30)
        assert len(met) == 2


def test_expected_bytes_make_larger_parts_from_the_start() -> None:
    store = MemoryStore()
    with Upload(store, "k", MARK, expected=10_000 * 3 * MIB) as upload:
        upload.write(content(0, LARGE))
        upload.complete()
    assert store.objects["k"].etag.endswith("-2")


def test_parts_of_lanes_have_ascending_numbers_with_gaps() -> None:
    numbers: list[int] = []

    class Watched(MemoryStore):
        def upload_part(
            self, key: str, upload_id: str, number: int, body: bytes | bytearray | memoryview
        ) -> Part:
            numbers.append(number)
            return super().upload_part(key, upload_id, number, body)

    with Upload(Watched(), "k", MARK, lanes=2) as upload:
        for index, lane in enumerate(upload.lanes):
            write(lane, content(index, LARGE))
        upload.end_lanes()
        upload.write(b"tail")
        upload.complete()
    assert sorted(numbers) == [1, 2, 4951, 4952, 9901]


def test_a_rate_makes_parts_wait_their_turn() -> None:
    rate = RateLimit(1000)
    assert rate.delay(500) == 0
    assert 0.4 < rate.delay(2000) <= 0.5
    assert 2.4 < rate.delay(1) <= 2.5


def test_no_rate_is_no_wait() -> None:
    assert RateLimit().delay(1 << 40) == 0


def test_an_upload_that_waits_for_its_turn_can_be_left_at_once() -> None:
    store = MemoryStore()
    with (
        pytest.raises(KeyboardInterrupt),
        Upload(store, "k", MARK, rate=RateLimit(1)) as upload,
    ):
        upload.write(content(0, LARGE))
        raise KeyboardInterrupt
    assert store.uploads == {}
