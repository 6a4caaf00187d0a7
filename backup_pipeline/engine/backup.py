"""One backup: dump, compress, upload, manifest; complete or absent."""

import contextlib
import hashlib
import uuid
from collections.abc import Callable
from datetime import datetime

from backup_pipeline.engine.compression import MemberWriter
from backup_pipeline.engine.documents import to_json
from backup_pipeline.engine.dump import DumpSource, DumpStream, agreed
from backup_pipeline.engine.model import (
    Manifest,
    Member,
    Progress,
    Report,
    SchemaArchive,
    Section,
    TableRows,
    all_rows,
    silent,
)
from backup_pipeline.engine.names import BackupName, Keys, Kind
from backup_pipeline.engine.script import Inventory, Tail
from backup_pipeline.engine.store import ObjectStore
from backup_pipeline.engine.upload import Upload
from backup_pipeline.errors import PostgresFailed, StoreError
from backup_pipeline.version import __version__

_CHUNK = 1 << 20
# A data member ends with a table once it holds so many bytes of SQL: all but tiny tables have one
# to themselves, so that a restore of one table need not read the others.
_ENOUGH = 1 << 16
# Larger tables are cut between rows, so that several can read them side by side.
_TOO_MUCH = 1 << 26


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
        members = _Members(upload, compression_level)
        inventory = Inventory(dump.source.encoding)
        with dump.reading_contents() as contents:
            for stream in dump.streams():
                members.add(stream, inventory, report)
            held = agreed(dump, all_rows(members.done), inventory.sequences, contents())
        manifest = Manifest(
            version=1,
            id=backup_id,
            name=str(name),
            source=dump.source,
            started_at=started_at,
            finished_at=clock(),
            members=tuple(members.done),
            contents=held,
            schema_archive=SchemaArchive(len(archive), hashlib.sha256(archive).hexdigest()),
            pg_dump_version=dump.pg_dump_version,
            software_version=__version__,
        )
        _commit(store, keys, manifest, archive, upload)
    return manifest


class _Members:
    """The streams of a dump on their way into the members of the object."""

    def __init__(self, upload: Upload, level: int) -> None:
        self._upload = upload
        self._level = level
        self._gzip = MemberWriter(level)
        self._offset = self._raw_offset = 0
        self._continues: str | None = None
        self.done: list[Member] = []

    def add(self, stream: DumpStream, inventory: Inventory, report: Report) -> None:
        """Write all of a stream, as one member or several; raises the errors of who made it."""
        tail = Tail()
        with stream.open() as reader:
            while chunk := reader.read(_CHUNK):
                tail.feed(chunk)
                if stream.section is Section.DATA:
                    self._add_data(chunk, inventory)
                else:
                    self._write(chunk)
                report(Progress("dump", self._raw_offset + self._gzip.raw_length))
        if stream.section is Section.DATA:
            inventory.close()
        if not tail.closed:
            raise PostgresFailed(
                f"pg_dump ended with 0, but its {stream.section} section lacks the closing line",
                hint="Check that pg_dump is PostgreSQL's own and not a wrapper.",
            )
        self._end(stream.section, inventory.take_tables())

    def _add_data(self, chunk: bytes, inventory: Inventory) -> None:
        start = 0
        for end in inventory.ends(chunk):
            length = self._gzip.raw_length + end - start
            enough = _TOO_MUCH if inventory.copying else _ENOUGH
            if inventory.holds_rows and length >= enough:
                self._write(chunk[start:end])
                self._end(Section.DATA, inventory.take_tables(), inventory.copying)
                start = end
        self._write(chunk[start:])

    def _write(self, raw: bytes) -> None:
        self._upload.write(self._gzip.compress(raw))

    def _end(
        self, section: Section, tables: tuple[TableRows, ...], going_on: str | None = None
    ) -> None:
        gzip, self._gzip = self._gzip, MemberWriter(self._level)
        continues, self._continues = self._continues, going_on
        self._upload.write(gzip.finish())
        self.done.append(
            Member(
                section=section,
                offset=self._offset,
                length=gzip.length,
                raw_length=gzip.raw_length,
                sha256=gzip.sha256,
                tables=tables,
                continues=continues,
                unfinished=going_on is not None,
            )
        )
        self._offset += gzip.length
        self._raw_offset += gzip.raw_length


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
