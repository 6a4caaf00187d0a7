"""Diagnosis: what works between here, PostgreSQL and the bucket, and what to do where not."""

import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path

from backup_pipeline.engine.catalog import newest, read_catalog
from backup_pipeline.engine.model import State
from backup_pipeline.engine.names import Keys
from backup_pipeline.engine.postgres import Clients, Server, choose_clients, find_clients
from backup_pipeline.engine.store import ObjectStore
from backup_pipeline.engine.target import leftovers
from backup_pipeline.errors import (
    BackupPipelineError,
    ClientTooOld,
    ObjectExists,
    ObjectMissing,
    PostgresFailed,
    PostgresUnreachable,
    StoreError,
)

SKEW_WRONG = timedelta(minutes=15)
"""Where S3 stops to accept signatures, and dates stop to mean anything."""
SKEW_ODD = timedelta(minutes=1)
FRESH_FOR = timedelta(hours=26)
"""A daily backup and two hours of grace."""

# pg_dump before these lets a hostile server put psql's meta-commands into a dump (CVE-2025-8714
# and CVE-2025-8715, PostgreSQL's announcement of 14 August 2025).
_SAFE_MINOR = {13: 22, 14: 19, 15: 14, 16: 10, 17: 6}


class Level(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    subject: str
    level: Level
    message: str
    advice: str = ""
    """What to do, where something is wrong."""
    exit_code: int = 0
    """What the command line ends with if this is the first failure."""


def diagnose(
    server: Server,
    bin_dirs: Sequence[Path],
    store: ObjectStore,
    keys: Keys,
    *,
    clock: Callable[[], datetime],
) -> Iterator[Finding]:
    """Look at everything that a backup of `server.database` needs, each thing for itself.

    Writes one small probe object under the prefix and deletes it again.
    """
    yield from _postgres(server, bin_dirs, clock)
    yield from _reading(store, keys, server.database, clock())
    yield from _writing(store, keys, clock)


def _postgres(
    server: Server, bin_dirs: Sequence[Path], clock: Callable[[], datetime]
) -> Iterator[Finding]:
    clients = find_clients(bin_dirs)
    try:
        with server.connect() as connection:
            version_num = connection.info.server_version
            row = connection.execute("SELECT clock_timestamp(), current_setting('server_version')")
            there, version = row.fetchone() or (clock(), "?")
            here = clock()
            half_made = leftovers(connection)
    except (PostgresUnreachable, PostgresFailed) as error:
        yield _failure("PostgreSQL", error, exit_code=5)
        if not clients:
            yield _no_clients()
        return
    yield Finding("PostgreSQL", Level.OK, f"{server.describe()} answers, version {version}")
    yield _skew("PostgreSQL's clock", there, here)
    if half_made:
        yield Finding(
            "unfinished restores",
            Level.WARN,
            f"killed restores have left {', '.join(half_made)}",
            "The next restore on this server removes them.",
        )
    yield _clients(clients, version_num)


def _clients(clients: Sequence[Clients], version_num: int) -> Finding:
    if not clients:
        return _no_clients()
    try:
        chosen = choose_clients(clients, version_num)
    except ClientTooOld as error:
        return _failure("client tools", error, exit_code=1)
    major, minor = divmod(chosen.version_num, 10000)
    message = f"pg_dump {chosen.version} in {chosen.bin_dir}"
    if minor < _SAFE_MINOR.get(major, 0):
        return Finding(
            "client tools",
            Level.WARN,
            f"{message} is older than the security fix of {major}.{_SAFE_MINOR[major]}",
            "Update PostgreSQL's client tools (CVE-2025-8714, CVE-2025-8715).",
        )
    return Finding("client tools", Level.OK, message)


def _no_clients() -> Finding:
    return Finding(
        "client tools",
        Level.FAIL,
        "there is no working pg_dump on this machine",
        "Install PostgreSQL's client tools, or name their directory in BACKUP_PG_BIN_DIRS.",
        exit_code=1,
    )


def _reading(store: ObjectStore, keys: Keys, database: str, now: datetime) -> Iterator[Finding]:
    try:
        catalog = read_catalog(store, keys, database)
    except StoreError as error:
        yield _failure("bucket", error, exit_code=error.exit_code)
        return
    yield Finding("bucket", Level.OK, f"{store.describe()} can be listed and read")
    if catalog.strays:
        yield Finding(
            "strays",
            Level.WARN,
            f"{len(catalog.strays)} objects under the prefix belong to no backup of {database}",
            "`backup-pipeline list` names them and says why.",
        )
    latest = newest(catalog.backups, now)
    if latest is None:
        yield Finding(
            "newest backup",
            Level.WARN,
            f"there is no backup of {database} yet",
            "Run `backup-pipeline backup`.",
        )
        return
    age = now - latest.taken_at
    message = f"{latest.name}, {latest.state}, {age.total_seconds() / 3600:.1f} hours old"
    if latest.state is State.FAILED:
        reason = "; ".join(latest.findings)
        yield Finding(
            "newest backup",
            Level.FAIL,
            f"{message}: {reason}",
            "Run `backup-pipeline backup` now, and look at the store's disks.",
            exit_code=1,
        )
    elif latest.state is State.UNVERIFIED:
        advice = "Run `backup-pipeline verify --latest`."
        yield Finding("newest backup", Level.WARN, message, advice)
    elif age > FRESH_FOR:
        advice = "Look whether the schedule runs, or run `backup-pipeline backup`."
        yield Finding("newest backup", Level.WARN, message, advice)
    else:
        yield Finding("newest backup", Level.OK, message)


def _writing(store: ObjectStore, keys: Keys, clock: Callable[[], datetime]) -> Iterator[Finding]:
    key = f"{keys.prefix}.probe-{uuid.uuid4()}"
    body = key.encode()
    try:
        store.put(key, body)
        here = clock()
    except StoreError as error:
        yield _failure("writing", error, exit_code=error.exit_code)
        return
    try:
        yield _overwriting(store, key, body)
        yield _reading_back(store, key, body)
        yield _skew("the store's clock", store.head(key).modified_at, here)
    except StoreError as error:
        yield _failure("reading back", error, exit_code=error.exit_code)
    finally:
        deleted = _deleting(store, key)
    yield deleted


def _overwriting(store: ObjectStore, key: str, body: bytes) -> Finding:
    try:
        store.put(key, body)
    except ObjectExists:
        return Finding(
            "writing", Level.OK, "objects can be written, and are not overwritten by a second run"
        )
    return Finding(
        "writing",
        Level.WARN,
        "objects can be written, but the store ignores `If-None-Match: *`",
        "Update the store: two runs of one name would not notice each other.",
    )


def _reading_back(store: ObjectStore, key: str, body: bytes) -> Finding:
    if b"".join(store.read(key)) == body:
        return Finding("reading back", Level.OK, "what was written comes back unchanged")
    return Finding(
        "reading back",
        Level.FAIL,
        "what was written comes back changed",
        "Don't trust this store: look at its disks and at what lies between here and there.",
        exit_code=6,
    )


def _deleting(store: ObjectStore, key: str) -> Finding:
    try:
        store.delete(key)
        store.head(key)
    except ObjectMissing:
        return Finding("deleting", Level.OK, "objects can be deleted")
    except StoreError as error:
        return Finding(
            "deleting",
            Level.FAIL,
            f"the probe {key} can't be deleted: {error.message}",
            "Allow s3:DeleteObject, or nothing will ever be pruned.",
            exit_code=6,
        )
    return Finding(
        "deleting",
        Level.FAIL,
        f"the probe {key} is there still after it was deleted",
        "Look whether the bucket locks its objects.",
        exit_code=6,
    )


def _skew(subject: str, there: datetime, here: datetime) -> Finding:
    difference = there.astimezone(UTC) - here.astimezone(UTC)
    seconds = abs(difference).total_seconds()
    way = "ahead of" if difference > timedelta(0) else "behind"
    message = f"{seconds:.0f} s {way} this machine's"
    advice = "Let every machine keep its time by NTP."
    if abs(difference) > SKEW_WRONG:
        return Finding(subject, Level.FAIL, message, advice, exit_code=1)
    if abs(difference) > SKEW_ODD:
        return Finding(subject, Level.WARN, message, advice)
    return Finding(subject, Level.OK, "agrees with this machine's")


def _failure(subject: str, error: BackupPipelineError, *, exit_code: int) -> Finding:
    return Finding(subject, Level.FAIL, error.message, error.hint, exit_code)
