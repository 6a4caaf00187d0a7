"""What every `ObjectStore` promises: one suite for the one in memory and for every real server."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import ClassVar, Protocol

import pytest

from backup_pipeline.engine.s3_client import S3Connection
from backup_pipeline.engine.store import ObjectInfo, ObjectStore, Part
from backup_pipeline.errors import BucketMissing, ObjectExists, ObjectMissing, StoreError

MIB = 1 << 20
SMALLEST_PART = 5 * MIB
HOSTILE = (
    "100%",
    "%41",
    "a b",
    "a+b",
    "'single' \"double\"",
    "<x>&amp;",
    "-option",
    "a=b;c,d",
    "question?mark#hash",
    "ünïcödé-数据",
    "emoji-😀",
    "$(id)`id`",
)


class S3Server(Protocol):
    """A running server, as the fixture `s3_server` gives it."""

    @property
    def endpoint_url(self) -> str: ...
    @property
    def access_key(self) -> str: ...
    @property
    def secret_key(self) -> str: ...


def connection_to(server: S3Server, bucket: str) -> S3Connection:
    """How to reach a bucket of a running server."""
    return S3Connection(
        bucket,
        endpoint_url=server.endpoint_url,
        access_key=server.access_key,
        secret_key=server.secret_key,
    )


def upload_of(
    store: ObjectStore, key: str, bodies: Sequence[bytes], mark: str
) -> tuple[str, list[Part]]:
    """An upload with all of its parts in the store, and not completed."""
    upload_id = store.create_upload(key, {"backup-id": mark})
    parts = [
        store.upload_part(key, upload_id, number, body) for number, body in enumerate(bodies, 1)
    ]
    return upload_id, parts


def at_once(count: int, act: Callable[[int], ObjectInfo]) -> list[ObjectInfo | StoreError]:
    """What came of calling `act` from many threads in the same instant."""
    barrier = threading.Barrier(count)

    def try_it(index: int) -> ObjectInfo | StoreError:
        barrier.wait()
        try:
            return act(index)
        except StoreError as error:
            return error

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(try_it, range(count)))


class StoreContract:
    """Subclasses give the fixtures `store`, an empty bucket, and `nowhere`, a missing one."""

    many: ClassVar[int] = 2_100
    """Objects for the listing; more than two pages of S3 where that is cheap."""

    def read(
        self, store: ObjectStore, key: str, start: int = 0, length: int | None = None
    ) -> bytes:
        return b"".join(store.read(key, start, length))

    # Objects

    def test_what_was_put_is_read_back(self, store: ObjectStore) -> None:
        info = store.put("k", b"hello")
        assert self.read(store, "k") == b"hello"
        assert (info.key, info.size) == ("k", 5)

    def test_put_head_and_list_agree(self, store: ObjectStore) -> None:
        put = store.put("k", b"hello")
        head = store.head("k")
        (listed,) = store.list("k")
        assert (put.key, put.size, put.etag) == (head.key, head.size, head.etag)
        assert (put.key, put.size, put.etag) == (listed.key, listed.size, listed.etag)
        assert head.modified_at == listed.modified_at.replace(microsecond=0)

    def test_times_are_aware_and_utc(self, store: ObjectStore) -> None:
        put = store.put("k", b"hello")
        (listed,) = store.list("k")
        for info in (put, store.head("k"), listed):
            assert info.modified_at.tzinfo is UTC
            assert abs(info.modified_at - datetime.now(UTC)) < timedelta(minutes=1)

    def test_an_etag_has_no_quotes_and_follows_the_content(self, store: ObjectStore) -> None:
        first = store.put("k", b"hello")
        second = store.put("k", b"jello", overwrite=True)
        assert '"' not in first.etag
        assert first.etag != second.etag == store.head("k").etag

    def test_an_empty_object_is_an_object(self, store: ObjectStore) -> None:
        assert store.put("k", b"").size == 0
        assert store.head("k").size == 0
        assert self.read(store, "k") == b""

    def test_head_of_nothing_is_missing(self, store: ObjectStore) -> None:
        with pytest.raises(ObjectMissing):
            store.head("nothing")

    def test_an_object_says_what_it_was_written_with(self, store: ObjectStore) -> None:
        upload = store.create_upload("k", {"backup-id": "7"})
        part = store.upload_part("k", upload, 1, b"bytes")
        store.complete_upload("k", upload, [part], {"backup-id": "7"})
        assert store.metadata("k")["backup-id"] == "7"
        store.put("by hand", b"hello")
        assert "backup-id" not in store.metadata("by hand")
        with pytest.raises(ObjectMissing):
            store.metadata("nothing")

    def test_nothing_is_overwritten_by_default(self, store: ObjectStore) -> None:
        store.put("k", b"first")
        with pytest.raises(ObjectExists):
            store.put("k", b"second")
        assert self.read(store, "k") == b"first"

    def test_the_same_bytes_of_somebody_else_are_an_object_that_exists(
        self, store: ObjectStore
    ) -> None:
        store.put("k", b"same")
        with pytest.raises(ObjectExists):
            store.put("k", b"same")

    def test_overwriting_is_possible_when_asked_for(self, store: ObjectStore) -> None:
        store.put("k", b"first", overwrite=True)
        assert store.put("k", b"second", overwrite=True).size == 6
        assert self.read(store, "k") == b"second"

    def test_of_many_puts_at_once_one_wins(self, store: ObjectStore) -> None:
        outcomes = at_once(8, lambda index: store.put("k", b"%d" % index))
        winners = [index for index, info in enumerate(outcomes) if isinstance(info, ObjectInfo)]
        losers = [error for error in outcomes if isinstance(error, ObjectExists)]
        assert (len(winners), len(losers)) == (1, 7), outcomes
        assert self.read(store, "k") == b"%d" % winners[0]

    def test_damage_on_the_way_is_refused_and_not_stored(self, store: ObjectStore) -> None:
        assert store.refuses_damage("k")
        assert list(store.list("")) == []

    def test_deleted_is_gone(self, store: ObjectStore) -> None:
        store.put("k", b"hello")
        store.delete("k")
        assert list(store.list("")) == []
        with pytest.raises(ObjectMissing):
            store.head("k")

    def test_deleting_nothing_is_no_error(self, store: ObjectStore) -> None:
        store.delete("nothing")
        store.put("k", b"hello")
        store.delete("k")
        store.delete("k")

    def test_a_deleted_name_is_free_again(self, store: ObjectStore) -> None:
        store.put("k", b"first")
        store.delete("k")
        store.put("k", b"second")
        assert self.read(store, "k") == b"second"

    @pytest.mark.parametrize("name", HOSTILE)
    def test_hostile_keys_are_only_keys(self, store: ObjectStore, name: str) -> None:
        key = f"hostile/{name}.sql.gz"
        store.put(key, name.encode())
        upload_id = store.create_upload(f"{key}.up", {"backup-id": "1"})
        assert self.read(store, key) == name.encode()
        assert [info.key for info in store.list("hostile/")] == [key]
        assert [upload.key for upload in store.list_uploads(f"{key}.up")] == [f"{key}.up"]
        store.abort_upload(f"{key}.up", upload_id)
        store.delete(key)
        assert list(store.list("hostile/")) == []

    # Reading

    @pytest.mark.parametrize(
        ("start", "length"),
        [(0, None), (0, 10), (1, 1), (3, 4), (9, 1), (4, None), (0, 0), (5, 0)],
    )
    def test_a_range_is_exactly_its_bytes(
        self, store: ObjectStore, start: int, length: int | None
    ) -> None:
        store.put("k", b"0123456789")
        stop = 10 if length is None else start + length
        assert self.read(store, "k", start, length) == b"0123456789"[start:stop]

    @pytest.mark.parametrize(("start", "length"), [(0, 11), (9, 2), (11, None), (20, 5)])
    def test_more_than_there_is_is_an_error(
        self, store: ObjectStore, start: int, length: int | None
    ) -> None:
        store.put("k", b"0123456789")
        with pytest.raises(StoreError):
            self.read(store, "k", start, length)

    def test_a_large_object_comes_in_pieces(self, store: ObjectStore) -> None:
        body = bytes(range(256)) * 8192
        store.put("k", body)
        pieces = list(store.read("k"))
        assert max(map(len, pieces)) <= MIB
        assert b"".join(pieces) == body

    @pytest.mark.parametrize("length", [None, 0, 1])
    def test_reading_nothing_is_missing_at_the_first_next(
        self, store: ObjectStore, length: int | None
    ) -> None:
        reading = store.read("nothing", 0, length)
        with pytest.raises(ObjectMissing):
            next(reading)

    @pytest.mark.parametrize("length", [None, 0, 1])
    def test_a_replaced_object_is_missing(self, store: ObjectStore, length: int | None) -> None:
        etag = store.put("k", b"first").etag
        assert b"".join(store.read("k", 0, length, etag=etag)) == b"first"[:length]
        store.put("k", b"second", overwrite=True)
        with pytest.raises(ObjectMissing):
            next(store.read("k", 0, length, etag=etag))

    def test_reading_may_stop_early(self, store: ObjectStore) -> None:
        store.put("k", b"x" * (2 * MIB))
        for _ in range(20):
            reading = store.read("k")
            next(reading)
            del reading
        assert store.head("k").size == 2 * MIB

    # Listing

    def test_an_empty_bucket_lists_nothing(self, store: ObjectStore) -> None:
        assert list(store.list("")) == []
        assert list(store.list_uploads("")) == []

    def test_only_the_prefix_is_listed(self, store: ObjectStore) -> None:
        for key in ("a/1", "a/2", "ab/1", "b/a/1"):
            store.put(key, b"x")
        assert [info.key for info in store.list("a/")] == ["a/1", "a/2"]
        assert {info.key for info in store.list("a")} == {"a/1", "a/2", "ab/1"}
        assert list(store.list("c/")) == []

    def test_every_page_of_a_long_listing_comes_in_order(self, store: ObjectStore) -> None:
        keys = [f"many/backup_{index:05}.é%" for index in range(self.many)]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda key: store.put(key, b"x"), keys))
        assert [info.key for info in store.list("many/")] == keys

    # Uploads

    def test_an_upload_is_no_object_until_it_is_completed(self, store: ObjectStore) -> None:
        upload_id, parts = upload_of(store, "k", [b"hello"], "1")
        assert list(store.list("")) == []
        with pytest.raises(ObjectMissing):
            store.head("k")
        info = store.complete_upload("k", upload_id, parts, {"backup-id": "1"})
        assert (info.key, info.size) == ("k", 5)
        assert info.etag == store.head("k").etag
        assert self.read(store, "k") == b"hello"
        assert list(store.list_uploads("")) == []

    def test_parts_are_joined_by_number_and_gaps_are_allowed(self, store: ObjectStore) -> None:
        upload_id = store.create_upload("k", {"backup-id": "1"})
        tail = store.upload_part("k", upload_id, 10_000, memoryview(b"tail"))
        middle = store.upload_part("k", upload_id, 7, bytearray(b"m" * SMALLEST_PART))
        first = store.upload_part("k", upload_id, 3, b"f" * SMALLEST_PART)
        assert (tail.number, tail.size) == (10_000, 4)
        store.complete_upload("k", upload_id, [first, middle, tail], {"backup-id": "1"})
        body = b"f" * SMALLEST_PART + b"m" * SMALLEST_PART + b"tail"
        assert self.read(store, "k") == body
        assert self.read(store, "k", SMALLEST_PART - 1, 2) == b"fm"

    def test_a_part_sent_again_replaces_the_first(self, store: ObjectStore) -> None:
        upload_id, _ = upload_of(store, "k", [b"first"], "1")
        part = store.upload_part("k", upload_id, 1, b"second")
        store.complete_upload("k", upload_id, [part], {"backup-id": "1"})
        assert self.read(store, "k") == b"second"

    def test_an_empty_part_makes_an_empty_object(self, store: ObjectStore) -> None:
        upload_id, parts = upload_of(store, "k", [b""], "1")
        assert store.complete_upload("k", upload_id, parts, {"backup-id": "1"}).size == 0
        assert self.read(store, "k") == b""

    def test_small_parts_before_the_last_are_refused(self, store: ObjectStore) -> None:
        upload_id, parts = upload_of(store, "k", [b"too small", b"tail"], "1")
        with pytest.raises(StoreError):
            store.complete_upload("k", upload_id, parts, {"backup-id": "1"})
        assert list(store.list("")) == []

    def test_parts_out_of_order_are_refused(self, store: ObjectStore) -> None:
        upload_id, parts = upload_of(store, "k", [b"x" * SMALLEST_PART, b"tail"], "1")
        with pytest.raises(StoreError):
            store.complete_upload("k", upload_id, parts[::-1], {"backup-id": "1"})
        assert list(store.list("")) == []

    def test_a_part_the_store_does_not_have_is_refused(self, store: ObjectStore) -> None:
        upload_id, parts = upload_of(store, "k", [b"hello"], "1")
        forged = Part(1, "0" * 32, parts[0].size)
        with pytest.raises(StoreError):
            store.complete_upload("k", upload_id, [forged], {"backup-id": "1"})
        assert list(store.list("")) == []

    def test_no_part_has_a_number_past_ten_thousand(self, store: ObjectStore) -> None:
        upload_id = store.create_upload("k", {"backup-id": "1"})
        with pytest.raises(StoreError):
            store.upload_part("k", upload_id, 10_001, b"x")

    def test_completing_twice_gives_the_same_object(self, store: ObjectStore) -> None:
        upload_id, parts = upload_of(store, "k", [b"hello"], "1")
        first = store.complete_upload("k", upload_id, parts, {"backup-id": "1"})
        assert store.complete_upload("k", upload_id, parts, {"backup-id": "1"}) == first

    def test_a_taken_key_is_never_completed_over(self, store: ObjectStore) -> None:
        store.put("k", b"first")
        upload_id, parts = upload_of(store, "k", [b"second"], "2")
        with pytest.raises(ObjectExists):
            store.complete_upload("k", upload_id, parts, {"backup-id": "2"})
        assert self.read(store, "k") == b"first"
        assert [upload.upload_id for upload in store.list_uploads("k")] == [upload_id]

    def test_of_two_uploads_of_one_key_the_second_loses(self, store: ObjectStore) -> None:
        first_id, first = upload_of(store, "k", [b"first"], "1")
        second_id, second = upload_of(store, "k", [b"second"], "2")
        store.complete_upload("k", second_id, second, {"backup-id": "2"})
        with pytest.raises(ObjectExists):
            store.complete_upload("k", first_id, first, {"backup-id": "1"})
        assert self.read(store, "k") == b"second"

    def test_of_many_completions_at_once_a_winner_has_the_key(self, store: ObjectStore) -> None:
        uploads = [upload_of(store, "k", [b"%d" % index], str(index)) for index in range(6)]
        outcomes = at_once(
            6, lambda index: store.complete_upload("k", *uploads[index], {"backup-id": str(index)})
        )
        winners = [
            b"%d" % index for index, info in enumerate(outcomes) if isinstance(info, ObjectInfo)
        ]
        errors = [error for error in outcomes if isinstance(error, StoreError)]
        assert all(isinstance(error, ObjectExists) for error in errors), outcomes
        assert self.read(store, "k") in winners
        self.require_winners(len(winners))

    def require_winners(self, count: int) -> None:
        """How many completions of one instant may succeed."""
        assert count == 1

    def test_completing_an_aborted_upload_fails(self, store: ObjectStore) -> None:
        upload_id, parts = upload_of(store, "k", [b"hello"], "1")
        store.abort_upload("k", upload_id)
        with pytest.raises(StoreError):
            store.complete_upload("k", upload_id, parts, {"backup-id": "1"})
        assert list(store.list("")) == []

    def test_a_part_for_an_aborted_upload_is_refused(self, store: ObjectStore) -> None:
        upload_id, _ = upload_of(store, "k", [b"hello"], "1")
        store.abort_upload("k", upload_id)
        with pytest.raises(StoreError):
            store.upload_part("k", upload_id, 2, b"late")
        assert list(store.list_uploads("k")) == []

    def test_aborting_twice_or_after_the_end_is_no_error(self, store: ObjectStore) -> None:
        aborted, _ = upload_of(store, "k", [b"hello"], "1")
        store.abort_upload("k", aborted)
        store.abort_upload("k", aborted)
        completed, parts = upload_of(store, "k", [b"hello"], "2")
        store.complete_upload("k", completed, parts, {"backup-id": "2"})
        store.abort_upload("k", completed)
        assert self.read(store, "k") == b"hello"

    def test_open_uploads_are_listed_by_prefix(self, store: ObjectStore) -> None:
        inside = [store.create_upload(f"a/{index}", {"backup-id": "1"}) for index in range(3)]
        store.create_upload("b/1", {"backup-id": "1"})
        assert [upload.upload_id for upload in store.list_uploads("a/")] == inside
        assert [upload.upload_id for upload in store.list_uploads("a/1")] == inside[1:2]
        assert list(store.list_uploads("c/")) == []

    def test_an_upload_is_as_active_as_its_newest_part(self, store: ObjectStore) -> None:
        upload_id = store.create_upload("k", {"backup-id": "1"})
        (begun,) = store.list_uploads("k")
        store.upload_part("k", upload_id, 1, b"hello")
        (active,) = store.list_uploads("k")
        assert begun.active_at <= active.active_at
        assert active.active_at.tzinfo is UTC
        assert abs(active.active_at - datetime.now(UTC)) < timedelta(minutes=1)

    # The bucket

    def test_it_says_where_it_is(self, store: ObjectStore) -> None:
        assert store.describe().startswith("s3://")

    def test_every_call_says_that_the_bucket_is_missing(self, nowhere: ObjectStore) -> None:
        calls: list[Callable[[], object]] = [
            lambda: nowhere.head("k"),
            lambda: list(nowhere.read("k")),
            lambda: nowhere.put("k", b"hello"),
            lambda: nowhere.put("k", b"hello", overwrite=True),
            lambda: nowhere.refuses_damage("k"),
            lambda: nowhere.delete("k"),
            lambda: list(nowhere.list("")),
            lambda: nowhere.create_upload("k", {"backup-id": "1"}),
            lambda: list(nowhere.list_uploads("")),
        ]
        for call in calls:
            with pytest.raises(BucketMissing):
                call()
