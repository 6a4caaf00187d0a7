"""One backup: dump, compress, upload, manifest; complete or absent."""

import hashlib
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from threading import Lock

from backup_pipeline.engine.age import Recipient, encrypted
from backup_pipeline.engine.beside import beside
from backup_pipeline.engine.compression import MemberWriter
from backup_pipeline.engine.contents import inventory_of, together
from backup_pipeline.engine.crew import Crew, taken_from
from backup_pipeline.engine.documents import to_json
from backup_pipeline.engine.dump import Dump, DumpSource
from backup_pipeline.engine.findings import SKEW_WRONG
from backup_pipeline.engine.members import Members, Sink
from backup_pipeline.engine.model import (
    BACKUP_ID,
    Codec,
    Contents,
    Globals,
    GlobalsScript,
    Manifest,
    Member,
    Progress,
    Report,
    SchemaArchive,
    Section,
    dump_kind,
    silent,
)
from backup_pipeline.engine.names import BackupName, Keys, Kind
from backup_pipeline.engine.rate import RateLimit
from backup_pipeline.engine.sealing import Sealing, without_digests
from backup_pipeline.engine.store import ObjectStore
from backup_pipeline.engine.upload import Upload
from backup_pipeline.errors import ObjectExists, StoreError
from backup_pipeline.version import __version__

# What SQL becomes is smaller than the tables on disk by about so much.
_SMALLER = 4
_OUR_TIME = "this machine's: the backup has this machine's time"


def back_up(
    source: DumpSource,
    store: ObjectStore,
    keys: Keys,
    name: BackupName,
    *,
    codec: Codec = Codec.GZIP,
    compression_level: int | None = None,
    digests: bool = True,
    recipients: Sequence[Recipient] = (),
    globals_: Globals = Globals.NONE,
    rate: RateLimit | None = None,
    clock: Callable[[], datetime],
    report: Report = silent,
) -> Manifest:
    """Make the backup `name`, which exists from the moment its manifest is written.

    The object is completed only after every pg_dump ended with 0; whatever goes wrong before the
    manifest is stored, an interruption included, nothing of this backup stays in the bucket.
    Streams from pg_dump to the store: no temporary file, and memory does not grow with the size.
    Without a `compression_level` it is the codec's default.
    With `recipients` only who has the identity of one of them can read dump, archive, globals and
    digests.
    Such a dump is one stream: the chunks of a file of age are numbered from its beginning.
    Of the server's globals it has what `globals_` says; they are read first, so that a right that
    lacks is told before anything else is done.
    Where the server's clock can't be right, the backup has the time of `clock`, and a remark.

    Raises `ObjectExists` where the name is taken, and the errors of the server and the store.
    """
    started_at = clock()
    backup_id = str(uuid.uuid4())
    with (
        # What reaches the store takes a while to load; meanwhile the server answers.
        beside(store.describe, stop=lambda: None),
        source.open_dump() as dump,
    ):
        taken_at, remarks = _taken_at(dump.source.snapshot_at, started_at, clock())
        script, globals_script = _script_of_globals(dump, globals_, recipients)
        with Upload(
            store,
            keys.of(name, dump_kind(codec, encrypted=bool(recipients))),
            {BACKUP_ID: backup_id},
            lanes=dump.jobs if dump.jobs > 1 and not recipients else 0,
            expected=dump.source.database_size // _SMALLER,
            rate=rate,
        ) as upload:
            level = codec.default_level if compression_level is None else compression_level
            sealing = Sealing(upload, recipients) if recipients else None
            sink = sealing or upload
            writing = _Writing(dump, upload, sink, codec, level, digests=digests, report=report)
            members, contents = writing.run()
            archive, encryption = dump.schema().archive, None
            if sealing:
                encryption = sealing.close(contents)
                archive = encrypted(archive, recipients)
                members, contents = without_digests(members, contents)
            manifest = Manifest(
                version=1,
                id=backup_id,
                name=str(name),
                source=replace(dump.source, access=dump.access(), snapshot_at=taken_at),
                started_at=started_at,
                finished_at=clock(),
                members=members,
                contents=contents,
                schema_archive=SchemaArchive(len(archive), hashlib.sha256(archive).hexdigest()),
                pg_dump_version=dump.pg_dump_version,
                software_version=__version__,
                codec=codec,
                remarks=(*dump.remarks, *remarks),
                encryption=encryption,
                globals_script=globals_script,
            )
            _commit(store, keys, manifest, archive, script, upload)
    return manifest


def _taken_at(
    said: datetime, started_at: datetime, opened_at: datetime
) -> tuple[datetime, tuple[str, ...]]:
    """The time of a snapshot, with a remark where it can't be the one that the server said.

    Retention goes by it: by a clock far behind each backup would go right after it was made.
    """
    if said < started_at - SKEW_WRONG:
        off, way = started_at - said, "behind"
    elif said > opened_at + SKEW_WRONG:
        off, way = said - opened_at, "ahead of"
    else:
        return said, ()
    return opened_at, (f"the server's clock is {_span(off)} {way} {_OUR_TIME}",)


def _script_of_globals(
    dump: Dump, globals_: Globals, recipients: Sequence[Recipient]
) -> tuple[bytes, GlobalsScript | None]:
    """What is stored of the globals, and what the manifest says of it, if they are asked for."""
    if globals_ is Globals.NONE:
        return b"", None
    passwords = globals_ is Globals.WITH_PASSWORDS
    writer = MemberWriter()
    script = writer.compress(dump.globals(passwords=passwords)) + writer.finish()
    if recipients:
        script = encrypted(script, recipients)
    digest = hashlib.sha256(script).hexdigest()
    return script, GlobalsScript(len(script), writer.raw_length, digest, passwords)


def _span(length: timedelta) -> str:
    hours = length / timedelta(hours=1)
    if hours < 2:
        return f"{hours * 60:.0f} minutes"
    return f"{hours:.0f} hours" if hours < 48 else f"{length.days} days"


class _Writing:
    """A dump on its way into the object, as many streams of it at once as there are lanes."""

    def __init__(
        self,
        dump: Dump,
        upload: Upload,
        sink: Sink,
        codec: Codec,
        level: int,
        *,
        digests: bool,
        report: Report,
    ) -> None:
        """What is in no lane of the `upload` goes into `sink`."""
        self._dump = dump
        self._upload = upload
        self._digests = digests
        self._report = report
        self._telling = Lock()
        self._raw_length = 0
        self._has_schema = False
        self._streams = deque(dump.data())
        self._contents: list[Contents] = []
        sinks = upload.lanes or (sink,)
        self._members = [Members(sink, codec, level, self._told) for sink in sinks]
        self._behind = Members(sink, codec, level, self._told)

    def run(self) -> tuple[tuple[Member, ...], Contents]:
        """Write everything; gives the members in their order, and what they hold."""
        with Crew() as crew:
            for number in range(len(self._members)):
                crew.start(partial(self._work, crew, number))
            # Nobody waits for it, so it is read while the rows stream; beside two readings of the
            # catalog it would slow down both.
            crew.wait(lambda: self._has_schema and self._dump.access())
        order = self._upload.end_lanes() or (0,)
        self._behind.add_text(Section.POST_DATA, self._dump.schema().post_data)
        in_order = [*(self._members[lane] for lane in order), self._behind]
        return _one_after_the_other(in_order), together(self._dump, self._contents)

    def _work(self, crew: Crew, number: int) -> None:
        members = self._members[number]
        with crew.stopping(self._upload.give_up):
            if number == 0:
                schema = self._dump.schema()
                members.add_text(Section.DROPS, schema.drops)
                members.add_text(Section.PRE_DATA, schema.pre_data)
                self._has_schema = True
            for stream in taken_from(self._streams):
                inventory = inventory_of(self._dump, digests=self._digests)
                members.add_data(stream, inventory)
                self._contents.append(inventory.contents())
            if self._upload.lanes:
                self._upload.lanes[number].close()

    def _told(self, length: int) -> None:
        # One at a time: who is told need not know of threads.
        with self._telling:
            self._raw_length += length
            self._report(Progress("dump", self._raw_length))


def _one_after_the_other(parts: Iterable[Members]) -> tuple[Member, ...]:
    offset, placed = 0, []
    for part in parts:
        placed += [replace(member, offset=offset + member.offset) for member in part.done]
        offset += part.length
    return tuple(placed)


def _commit(
    store: ObjectStore,
    keys: Keys,
    manifest: Manifest,
    archive: bytes,
    script: bytes,
    upload: Upload,
) -> None:
    """Make the objects of a backup, or none of them.

    The archive comes first because it settles whose the name is: of two runs that complete an
    upload to one key in one instant, a store may let both succeed, but not of two PUTs.
    """
    name = BackupName.parse(manifest.name)
    made: list[Kind] = []

    def put(kind: Kind, body: bytes) -> None:
        made.append(kind)
        try:
            store.put(keys.of(name, kind), body)
        except ObjectExists:
            # Another backup's, whose archive and dump are of other kinds, or another script's.
            made.remove(kind)
            raise

    try:
        store.put(keys.of(name, manifest.archive_kind), archive)
        made.append(manifest.archive_kind)
        if manifest.globals_script:
            put(manifest.globals_kind, script)
        upload.complete()
        made.append(manifest.kind)
        put(Kind.MANIFEST, to_json(manifest))
    except BaseException as error:
        for kind in reversed(made):
            # The first error is the one to report; an object without a manifest is no backup,
            # and the catalog names it.
            try:
                store.delete(keys.of(name, kind))
            except StoreError as failure:
                error.add_note(f"{keys.of(name, kind)} was left: {failure.message}")
        raise
