"""Backups put into a store directly, for tests of what comes after a dump."""

import hashlib
import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from backup_pipeline.engine.catalog import record
from backup_pipeline.engine.documents import to_json
from backup_pipeline.engine.model import (
    Act,
    Codec,
    Contents,
    EvidenceEntry,
    Manifest,
    Member,
    SchemaArchive,
    Section,
    Source,
    TableContents,
    TableRows,
)
from backup_pipeline.engine.names import BackupName, Keys, Kind
from backup_pipeline.engine.store import ObjectStore

NOW = datetime(2025, 12, 16, 22, 0, tzinfo=UTC)
KEYS = Keys("backups/postgres/")
DATABASE = "ahold_options"
MADE = (Kind.DUMP, Kind.SCHEMA, Kind.MANIFEST, Kind.EVIDENCE)
"""What `make_backup` stores."""


def days_ago(days: float) -> datetime:
    return NOW - timedelta(days=days)


def manifest_of(name: BackupName, taken_at: datetime, dump: bytes, archive: bytes) -> Manifest:
    """A manifest of one member that fits the bytes."""
    return Manifest(
        version=1,
        id=str(uuid.uuid4()),
        name=str(name),
        source=Source(
            database=name.database,
            database_size=8_000_000,
            server_version="18.1",
            server_version_num=180001,
            encoding="UTF8",
            locale_provider="libc",
            collate="C.UTF-8",
            ctype="C.UTF-8",
            locale=None,
            extensions=(),
            snapshot_at=taken_at,
            snapshot_lsn="0/1",
        ),
        started_at=taken_at,
        finished_at=taken_at + timedelta(seconds=2),
        members=(
            Member(
                section=Section.DATA,
                offset=0,
                length=len(dump),
                raw_length=10 * len(dump),
                sha256=hashlib.sha256(dump).hexdigest(),
                tables=(TableRows("public", "quotes", 42),),
            ),
        ),
        contents=Contents((TableContents("public", "quotes", 42, "1"),), (), None),
        schema_archive=SchemaArchive(len(archive), hashlib.sha256(archive).hexdigest()),
        pg_dump_version="18.1",
        software_version="0",
    )


def make_backup(
    store: ObjectStore,
    taken_at: datetime,
    *,
    database: str = DATABASE,
    verified: bool | None = True,
    keys: Keys = KEYS,
    codec: Codec = Codec.GZIP,
) -> BackupName:
    """Store a small backup; `verified` is what its evidence says, `None` leaves it without."""
    name = BackupName.of(database, taken_at.astimezone(UTC))
    dump, archive = f"dump of {name}".encode(), b"archive"
    store.put(keys.of(name, codec.kind), dump)
    store.put(keys.of(name, Kind.SCHEMA), archive)
    manifest = replace(manifest_of(name, taken_at, dump, archive), codec=codec)
    store.put(keys.of(name, Kind.MANIFEST), to_json(manifest))
    if verified is not None:
        make_evidence(store, name, passed=verified, at=taken_at, keys=keys, codec=codec)
    return name


def make_evidence(
    store: ObjectStore,
    name: BackupName,
    *,
    passed: bool = True,
    act: Act = Act.VERIFY,
    at: datetime = NOW,
    keys: Keys = KEYS,
    codec: Codec = Codec.GZIP,
) -> None:
    """Record that the stored dump was looked at."""
    etag = store.head(keys.of(name, codec.kind)).etag
    findings = () if passed else ("member data: one bit is flipped",)
    record(store, keys, name, EvidenceEntry(act, at, passed, etag, findings, 10, 42, 0.5))
