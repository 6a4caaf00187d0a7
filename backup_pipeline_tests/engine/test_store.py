"""The store in memory and the real one keep the same promises; and what only the real one meets."""

import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar, Literal
from urllib.parse import urlsplit

import pytest

from backup_pipeline.engine.rate import RateLimit
from backup_pipeline.engine.s3 import S3Store
from backup_pipeline.engine.s3_client import S3Connection
from backup_pipeline.engine.s3_errors import from_botocore
from backup_pipeline.engine.store import ObjectInfo, ObjectStore, Part
from backup_pipeline.errors import (
    BackupPipelineError,
    BucketMissing,
    InvalidInput,
    ObjectExists,
    ObjectMissing,
    StoreDenied,
    StoreError,
    StoreUnreachable,
    VerificationFailed,
)
from backup_pipeline_tests.fakes import MemoryStore
from backup_pipeline_tests.store_contract import (
    SMALLEST_PART,
    S3Server,
    StoreContract,
    connection_to,
    upload_of,
)

MIB = 1 << 20
CANARY = "c4nary-secret-key"
CLOSED_PORT = "http://127.0.0.1:1"


class TestMemoryStore(StoreContract):
    @pytest.fixture
    def store(self) -> ObjectStore:
        return MemoryStore()

    @pytest.fixture
    def nowhere(self) -> ObjectStore:
        store = MemoryStore()
        store.bucket_exists = False
        return store


@pytest.fixture
def connection(s3_server: S3Server, bucket: str) -> S3Connection:
    return replace(connection_to(s3_server, bucket), max_attempts=2)


class TestS3Store(StoreContract):
    many: ClassVar[int] = 1_050

    @pytest.fixture
    def store(self, connection: S3Connection) -> ObjectStore:
        return S3Store(connection)

    @pytest.fixture
    def nowhere(self, connection: S3Connection) -> ObjectStore:
        return S3Store(replace(connection, bucket="backup-pipeline-no-such-bucket"))

    def require_winners(self, count: int) -> None:
        # SeaweedFS looks and writes in two steps; MinIO and AWS let exactly one succeed.
        assert count >= 1


class Wire:
    """A TCP relay in front of a server; it can lose answers, and be slow."""

    def __init__(self, upstream: str, answers: list[int | None], pace: float = 0) -> None:
        """`answers[n]` is after how many bytes of answer connection n is cut, `None` for never.

        A connection of less than no byte never reaches the server; the last number holds on.
        """
        self._upstream = urlsplit(upstream)
        self._answers = answers
        self._pace = pace
        self.connections = 0
        self.ended = threading.Semaphore(0)
        """One for each direction of each connection that has ended."""
        self._listener = socket.create_server(("127.0.0.1", 0))
        # Small, so that a slow wire is slow for the sender too.
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def close(self) -> None:
        for each in (self._listener, *self._open):
            _shut(each)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            limit = self._answers[min(self.connections, len(self._answers) - 1)]
            self.connections += 1
            if limit is not None and limit < 0:
                _shut(client)
                continue
            address = (str(self._upstream.hostname), int(self._upstream.port or 80))
            server = socket.create_connection(address)
            self._open += [client, server]
            for ends in ((client, server, None, self._pace), (server, client, limit, 0)):
                threading.Thread(target=self._pump, args=ends, daemon=True).start()

    def _pump(
        self, source: socket.socket, sink: socket.socket, limit: int | None, pace: float
    ) -> None:
        pause = threading.Event()
        try:
            while (limit is None or limit >= 0) and (data := source.recv(16384)):
                # Asking for the body is no answer yet.
                if limit is not None and not data.startswith(b"HTTP/1.1 100"):
                    data, limit = data[:limit], limit - len(data)
                sink.sendall(data)
                if pace:
                    pause.wait(pace)
        except OSError:
            pass
        _shut(source)
        _shut(sink)
        self.ended.release()


def _shut(end: socket.socket) -> None:
    """Close for good, also for a thread that waits on it."""
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()


@contextmanager
def wired(
    connection: S3Connection, *answers: int | None, pace: float = 0
) -> Iterator[tuple[S3Store, Wire]]:
    """A store behind a wire that cuts the first answers and lets the rest through."""
    with closing(Wire(str(connection.endpoint_url), [*answers, None], pace)) as wire:
        yield S3Store(replace(connection, endpoint_url=wire.url)), wire


class TestReading:
    BODY = bytes(range(256)) * 8192

    @pytest.fixture
    def stored(self, connection: S3Connection) -> S3Connection:
        S3Store(connection).put("k", self.BODY)
        return connection

    def test_goes_on_where_the_connection_was_cut(self, stored: S3Connection) -> None:
        with wired(stored, 700_000, 300_000, 900_000) as (store, wire):
            assert b"".join(store.read("k")) == self.BODY
            assert wire.connections == 4

    def test_goes_on_within_a_range(self, stored: S3Connection) -> None:
        with wired(stored, 700_000) as (store, wire):
            assert b"".join(store.read("k", 1000, 1_000_000)) == self.BODY[1000:1_001_000]
            assert wire.connections == 2

    def test_never_goes_on_with_another_object(self, stored: S3Connection) -> None:
        with wired(stored, 700_000) as (store, _):
            reading = store.read("k")
            next(reading)
            S3Store(stored).put("k", self.BODY[::-1], overwrite=True)
            with pytest.raises(ObjectMissing):
                list(reading)

    def test_gives_up_when_connections_bring_nothing(self, stored: S3Connection) -> None:
        cuts = [700_000, *[1_000] * 20]
        with wired(stored, *cuts) as (store, wire):
            with pytest.raises(StoreUnreachable, match="'k' in bucket"):
                list(store.read("k"))
            assert wire.connections <= 1 + 2 * 2

    def test_the_pauses_between_connections_that_bring_nothing_have_an_end(
        self, stored: S3Connection, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pauses: list[float] = []
        monkeypatch.setattr(time, "sleep", pauses.append)
        patient = replace(stored, max_attempts=10)
        with wired(patient, *[1_000] * 40) as (store, _), pytest.raises(StoreUnreachable):
            list(store.read("k"))
        assert max(pauses) == 20

    def test_closing_early_closes_the_connection(self, stored: S3Connection) -> None:
        with wired(stored) as (store, wire):
            reading = store.read("k")
            next(reading)
            assert not wire.ended.acquire(timeout=0.1)
            reading.close()  # type: ignore[attr-defined]  # an Iterator that is a generator
            assert wire.ended.acquire(timeout=5)

    def test_a_rate_makes_chunks_wait_their_turn(self, stored: S3Connection) -> None:
        begun = time.monotonic()
        limited = S3Store(stored, RateLimit(len(self.BODY) / 0.4))
        assert b"".join(limited.read("k")) == self.BODY
        # The last of eight chunks goes when the seven before it have had their time.
        assert time.monotonic() - begun >= 0.35

    def test_a_whole_answer_leaves_the_connection_for_the_next(self, stored: S3Connection) -> None:
        with wired(stored) as (store, wire):
            for _ in range(3):
                assert len(b"".join(store.read("k", 0, 1000))) == 1000
            assert wire.connections == 1


class TestLostAnswers:
    def test_a_put_whose_answer_is_lost_is_still_ours(self, connection: S3Connection) -> None:
        with wired(connection, 0) as (store, wire):
            info = store.put("k", b"hello")
            assert wire.connections > 1
        assert info == S3Store(connection).head("k")

    def test_a_put_never_answered_is_settled_by_looking(self, connection: S3Connection) -> None:
        with wired(connection, 0, 0) as (store, _):
            assert store.put("k", b"hello").size == 5

    def test_a_put_over_somebody_elses_object_is_not_ours(self, connection: S3Connection) -> None:
        S3Store(connection).put("k", b"hello")
        with wired(connection, 0) as (store, _), pytest.raises(ObjectExists):
            store.put("k", b"hello")

    def test_an_overwrite_never_answered_stays_an_error(self, connection: S3Connection) -> None:
        S3Store(connection).put("k", b"first")
        with wired(connection, -1, -1) as (store, _), pytest.raises(StoreUnreachable):
            store.put("k", b"second", overwrite=True)

    @pytest.mark.parametrize("lost", [1, 2])
    def test_a_completion_whose_answer_is_lost_is_settled(
        self, connection: S3Connection, lost: int
    ) -> None:
        direct = S3Store(connection)
        upload_id, parts = upload_of(direct, "k", [b"x" * SMALLEST_PART, b"tail"], "1")
        with wired(connection, *[0] * lost) as (store, _):
            info = store.complete_upload("k", upload_id, parts, {"backup-id": "1"})
        assert info == direct.head("k")
        assert info.size == SMALLEST_PART + 4

    def test_a_lost_answer_never_takes_anothers_object_for_ours(
        self, connection: S3Connection
    ) -> None:
        direct = S3Store(connection)
        upload_id, parts = upload_of(direct, "k", [b"ours"], "1")
        direct.put("k", b"theirs")
        with wired(connection, 0) as (store, _), pytest.raises(ObjectExists):
            store.complete_upload("k", upload_id, parts, {"backup-id": "1"})
        assert b"".join(direct.read("k")) == b"theirs"

    def test_a_completion_that_never_arrived_keeps_its_own_error(
        self, connection: S3Connection
    ) -> None:
        broken = replace(connection, endpoint_url=CLOSED_PORT)
        with pytest.raises(StoreUnreachable, match="CompleteMultipartUpload of 'k'"):
            S3Store(broken).complete_upload("k", "id", [], {"backup-id": "1"})


class WriteOnly(S3Store):
    """As under a policy that allows no GetObject, which HEAD needs too."""

    def _look(self, key: str) -> tuple[ObjectInfo, Mapping[str, str]]:
        raise StoreDenied(key)


def test_a_policy_that_only_lets_us_write_is_enough_to_write(connection: S3Connection) -> None:
    store, reader = WriteOnly(connection), S3Store(connection)
    upload_id, parts = upload_of(store, "k", [b"x" * SMALLEST_PART, b"tail"], "1")
    info = store.complete_upload("k", upload_id, parts, {"backup-id": "1"})
    seen = reader.head("k")
    assert (info.size, info.etag) == (seen.size, seen.etag)
    with pytest.raises(ObjectExists):
        store.put("k", b"hello")


@pytest.mark.parametrize("checksums", ["when_supported", "when_required"])
def test_a_slow_network_is_no_stalled_one(
    connection: S3Connection, checksums: Literal["when_supported", "when_required"]
) -> None:
    impatient = replace(
        connection,
        connect_timeout=1.2,
        read_timeout=1.2,
        max_attempts=1,
        request_checksums=checksums,
    )
    with wired(impatient, pace=0.003) as (store, _):
        upload_id = store.create_upload("k", {"backup-id": "1"})
        part = store.upload_part("k", upload_id, 1, bytearray(16 * MIB))
    assert part.size == 16 * MIB


def ways_of_asking(store: S3Store) -> list[Callable[[], object]]:
    """A call of each kind that needs nothing to be there."""
    return [
        lambda: store.head("k"),
        lambda: list(store.read("k")),
        lambda: store.put("k", b"hello"),
        lambda: list(store.list("")),
        lambda: store.create_upload("k", {"backup-id": "1"}),
    ]


class TestErrors:
    def refused(self, connection: S3Connection) -> list[BackupPipelineError]:
        """What each way of asking says."""
        errors = []
        for ask in ways_of_asking(S3Store(connection)):
            with pytest.raises(BackupPipelineError) as caught:
                ask()
            errors.append(caught.value)
        return errors

    @pytest.mark.parametrize("wrong", [{"secret_key": CANARY}, {"access_key": "nobody"}])
    def test_wrong_credentials_are_denied(
        self, connection: S3Connection, wrong: dict[str, str]
    ) -> None:
        for error in self.refused(replace(connection, **wrong)):  # type: ignore[arg-type]  # names above
            assert isinstance(error, StoreDenied)
            assert "AWS_ACCESS_KEY_ID" in error.hint

    def test_no_server_is_unreachable(self, connection: S3Connection) -> None:
        for error in self.refused(replace(connection, endpoint_url=CLOSED_PORT)):
            assert isinstance(error, StoreUnreachable)
            assert "AWS_ENDPOINT_URL_S3" in error.hint

    def test_no_tls_is_unreachable_and_hints_at_the_certificate(
        self, connection: S3Connection
    ) -> None:
        url = str(connection.endpoint_url).replace("http://", "https://")
        for error in self.refused(replace(connection, endpoint_url=url)):
            assert isinstance(error, StoreUnreachable)
            assert "BACKUP_S3_CA_BUNDLE" in error.hint

    @pytest.mark.parametrize(
        "wrong",
        [
            {"endpoint_url": "nas:9000"},
            {"endpoint_url": f"http://user:{CANARY}@127.0.0.1:1"},
            {"bucket": "not a bucket"},
            {"profile": "nobody-has-this-profile"},
        ],
    )
    def test_settings_that_cannot_work_are_invalid(
        self, connection: S3Connection, wrong: dict[str, str]
    ) -> None:
        for error in self.refused(replace(connection, **wrong)):  # type: ignore[arg-type]  # names above
            assert isinstance(error, InvalidInput)
            assert CANARY not in str(error)

    def test_a_missing_bucket_is_told_from_a_missing_object(self, connection: S3Connection) -> None:
        with pytest.raises(ObjectMissing):
            S3Store(connection).head("k")
        with pytest.raises(BucketMissing):
            S3Store(replace(connection, bucket="backup-pipeline-no-such-bucket")).head("k")

    def test_no_secret_shows(self, connection: S3Connection) -> None:
        with_secrets = replace(connection, secret_key=CANARY, session_token=CANARY)
        store = S3Store(with_secrets)
        assert CANARY not in f"{with_secrets!r} {store!r} {store.describe()}"
        assert all(CANARY not in f"{error} {error.hint}" for error in self.refused(with_secrets))

    def test_messages_name_call_key_and_bucket(self, connection: S3Connection) -> None:
        with pytest.raises(StoreError) as caught:
            S3Store(connection).upload_part("some/key", "no-such-id", 1, b"x")
        for word in ("UploadPart", "'some/key'", repr(connection.bucket), "NoSuchUpload"):
            assert word in str(caught.value)


@pytest.mark.parametrize(
    ("status", "code", "said", "expected", "hint"),
    [
        (403, "RequestTimeTooSkewed", "", StoreError, "NTP"),
        (400, "ExpiredToken", "", StoreDenied, "AWS_ACCESS_KEY_ID"),
        (403, "403", "Forbidden", StoreDenied, "AWS_ACCESS_KEY_ID"),
        (503, "SlowDown", "", StoreUnreachable, "busy"),
        (500, "InternalError", "", StoreUnreachable, "busy"),
        (429, "TooManyRequests", "", StoreUnreachable, "busy"),
        (404, "NoSuchBucket", "", BucketMissing, "BACKUP_BUCKET"),
        (404, "NoSuchKey", "", ObjectMissing, "check"),
        (412, "PreconditionFailed", "", ObjectExists, "run again"),
        (409, "ConditionalRequestConflict", "", ObjectExists, "run again"),
        (400, "XAmzContentSHA256Mismatch", "", StoreError, "BACKUP_S3_CHECKSUMS=when_required"),
        (411, "MissingContentLength", "", StoreError, "BACKUP_S3_CHECKSUMS=when_required"),
        (400, "InvalidArgument", "Unsupported header 'x-amz-sdk-checksum-algorithm'", StoreError,
         "BACKUP_S3_CHECKSUMS=when_required"),
        (501, "NotImplemented", "", StoreError, "If-None-Match"),
        (301, "PermanentRedirect", "", StoreError, "AWS_REGION"),
        (400, "EntityTooSmall", "", StoreError, "check"),
        (400, "InvalidPart", "", StoreError, "check"),
        (403, "InvalidObjectState", "", StoreError, "archived"),
        (403, "QuotaExceeded", "", StoreError, "quota"),
        (400, "InvalidRequest", "Content-MD5 OR x-amz-checksum- HTTP header is required",
         StoreError, "unset BACKUP_S3_CHECKSUMS"),
    ],
)  # fmt: skip
def test_each_answer_has_one_meaning(
    status: int, code: str, said: str, expected: type[StoreError], hint: str
) -> None:
    error = answered(status, code, said)
    assert type(error) is expected
    assert hint in error.hint


def test_a_store_that_wants_parts_of_one_size_can_have_them() -> None:
    error = answered(400, "InvalidPart", call="CompleteMultipartUpload")
    assert type(error) is StoreError
    assert "BACKUP_JOBS=1" in error.hint


def answered(
    status: int, code: str, said: str = "", *, call: str = "PutObject"
) -> BackupPipelineError:
    """What is made of an error that a store answers."""
    from botocore.exceptions import ClientError

    reply = {
        "Error": {"Code": code, "Message": said},
        "ResponseMetadata": {"HTTPStatusCode": status},
    }
    return from_botocore(ClientError(reply, call), call, "k", "b")  # type: ignore[arg-type]  # the part of a reply that matters


@pytest.mark.parametrize(
    ("ahead", "expected", "hint"),
    [
        (20, StoreError, "clock is 20 minutes ahead of the store's"),
        (-20, StoreError, "clock is 20 minutes behind the store's"),
        (10, StoreDenied, "AWS_ACCESS_KEY_ID"),
    ],
)
def test_a_refusal_by_a_store_whose_clock_differs_is_told_from_a_policy(
    ahead: int, expected: type[StoreError], hint: str
) -> None:
    from botocore.exceptions import ClientError

    dated = format_datetime(datetime.now(UTC) - timedelta(minutes=ahead), usegmt=True)
    reply = {
        "Error": {"Code": "403", "Message": "Forbidden"},
        "ResponseMetadata": {"HTTPStatusCode": 403, "HTTPHeaders": {"date": dated}},
    }
    error = from_botocore(ClientError(reply, "HeadObject"), "HeadObject", "k", "b")  # type: ignore[arg-type]  # as above
    assert type(error) is expected
    assert hint in error.hint


def test_a_damaged_object_that_the_store_knows_the_checksum_of_fails_verification(
    connection: S3Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    from botocore.httpchecksum import Crc32Checksum

    store = S3Store(connection)
    store.put("k", b"hello")
    if not _has_checksum(store):
        pytest.skip("this store keeps no checksums")
    monkeypatch.setattr(Crc32Checksum, "digest", lambda _: b"\0\0\0\0")
    with pytest.raises(VerificationFailed):
        list(store.read("k"))


def _has_checksum(store: S3Store) -> bool:
    body = store._client.get_object(Bucket=store._bucket, Key="k")
    body["Body"].close()
    return "ChecksumCRC32" in body


class Answering:
    """A server that gives one answer to everything."""

    def __init__(self, status: int, body: bytes) -> None:
        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = answer  # noqa: N815 - theirs

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def __enter__(self) -> S3Store:
        url = f"http://127.0.0.1:{self._server.server_port}"
        return S3Store(S3Connection("bucket", url, "us-east-1", "key", CANARY, max_attempts=1))

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.mark.parametrize("body", [b"<html><body>Sign in</body></html>", b"<br>Sign in", b"", b"{}"])
def test_a_web_page_where_s3_should_be_is_told_from_a_store(body: bytes) -> None:
    with Answering(200, body) as store:
        asking: list[Callable[[], object]] = [
            *ways_of_asking(store),
            lambda: store.upload_part("k", "id", 1, b"hello"),
            lambda: store.complete_upload("k", "id", [Part(1, "e", 5)], {"backup-id": "1"}),
        ]
        for ask in asking:
            with pytest.raises(StoreError) as caught:
                ask()
            assert "AWS_ENDPOINT_URL_S3 has the port of S3" in caught.value.hint


def test_a_store_may_answer_that_there_is_nothing_to_delete() -> None:
    said = b"<Error><Code>NoSuchKey</Code><Message>no such key</Message></Error>"
    with Answering(404, said) as store:
        store.delete("k")
    with Answering(404, said.replace(b"Key", b"Bucket")) as store, pytest.raises(BucketMissing):
        store.delete("k")


def test_making_a_store_neither_connects_nor_loads_botocore() -> None:
    import subprocess
    import sys

    script = (
        "import sys; from backup_pipeline.engine.s3 import S3Store; "
        "from backup_pipeline.engine.s3_client import S3Connection; "
        f"S3Store(S3Connection('b', endpoint_url={CLOSED_PORT!r})); "
        "sys.exit('botocore' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
