"""One backup: dump, compress, upload, manifest; complete or absent."""

import contextlib
import hashlib
import uuid
from collections.abc import Callable
from datetime import datetime

from backup_pipeline.engine.compression import MemberWriter
from backup_pipeline.engine.documents import to_json
from backup_pipeline.engine.dump import Dump, DumpSource
from backup_pipeline.engine.model import (
    Manifest,
    Member,
    Progress,
    Report,
    SchemaArchive,
    Section,
    silent,
)
from backup_pipeline.engine.names import BackupName, Keys, Kind
from backup_pipeline.engine.script import RowCounter, Tail
from backup_pipeline.engine.store import ObjectStore
from backup_pipeline.engine.upload import Upload
from backup_pipeline.errors import PostgresFailed, StoreError
from backup_pipeline.version import __version__

_CHUNK = 1 << 20


def back_up(
    source: DumpSource,
    store: ObjectStore,
    keys: Keys,
    name: BackupName,
    *,
    compression_level: int = 1,
    clock: Callable[[], datetime],
    report: Report = silent,
) -> Manifest:
    """Make the backup `name`, which exists from the moment its manifest is written.

    The object is completed only after every pg_dump ended with 0; whatever goes wrong before the
    manifest is stored, an interruption included, nothing of this backup stays in the bucket.
    Streams from pg_dump to the store: no temporary file, and memory does not grow with the size.

    Raises `ObjectExists` where the name is taken, and the errors of the server and the store.
    """
    started_at = clock()
    backup_id = str(uuid.uuid4())
    with (
        source.open_dump() as dump,
        Upload(store, keys.of(name, Kind.DUMP), {"backup-id": backup_id}) as upload,
    ):
        archive = dump.schema_archive()
        members = _write_members(dump, upload, compression_level, report)
        manifest = Manifest(
            version=1,
            id=backup_id,
            name=str(name),
            source=dump.source,
            started_at=started_at,
            finished_at=clock(),
            members=members,
            schema_archive=SchemaArchive(len(archive), hashlib.sha256(archive).hexdigest()),
            pg_dump_version=dump.pg_dump_version,
            software_version=__version__,
        )
        _commit(store, keys, manifest, archive, upload)
    return manifest


def _write_members(dump: Dump, upload: Upload, level: int, report: Report) -> tuple[Member, ...]:
    members: list[Member] = []
    for stream in dump.streams():
        raw_before = sum(member.raw_length for member in members)
        writer = _MemberInProgress(stream.section, level)
        with stream.open() as reader:
            while chunk := reader.read(_CHUNK):
                upload.write(writer.compress(chunk))
                report(Progress("dump", raw_before + writer.gzip.raw_length))
        upload.write(writer.finish())
        offset = sum(member.length for member in members)
        members.append(writer.member(offset, dump.source.encoding))
    return tuple(members)


class _MemberInProgress:
    """One stream on its way into one gzip member."""

    def __init__(self, section: Section, level: int) -> None:
        self.gzip = MemberWriter(level)
        self._section = section
        self._rows = RowCounter()
        self._tail = Tail()

    def compress(self, chunk: bytes) -> bytes:
        self._tail.feed(chunk)
        if self._section is Section.DATA:
            self._rows.feed(chunk)
        return self.gzip.compress(chunk)

    def finish(self) -> bytes:
        self._rows.close()
        if not self._tail.closed:
            raise PostgresFailed(
                f"pg_dump ended with 0, but its {self._section} section lacks the closing line",
                hint="Check that pg_dump is PostgreSQL's own and not a wrapper.",
            )
        return self.gzip.finish()

    def member(self, offset: int, encoding: str) -> Member:
        return Member(
            section=self._section,
            offset=offset,
            length=self.gzip.length,
            raw_length=self.gzip.raw_length,
            sha256=self.gzip.sha256,
            tables=self._rows.tables(encoding),
        )


def _commit(
    store: ObjectStore, keys: Keys, manifest: Manifest, archive: bytes, upload: Upload
) -> None:
    """Make the three objects of a backup, or none of them.

    The archive comes first because it settles whose the name is: of two runs that complete an
    upload to one key in one instant, a store may let both succeed, but not of two PUTs.
    """
    name = BackupName.parse(manifest.name)
    made: list[Kind] = []
    try:
        store.put(keys.of(name, Kind.SCHEMA), archive)
        made.append(Kind.SCHEMA)
        upload.complete()
        made += [Kind.DUMP, Kind.MANIFEST]
        store.put(keys.of(name, Kind.MANIFEST), to_json(manifest))
    except BaseException:
        for kind in reversed(made):
            # The first error is the one to report; an object without a manifest is no backup,
            # and the catalog names it.
            with contextlib.suppress(StoreError):
                store.delete(keys.of(name, kind))
        raise
