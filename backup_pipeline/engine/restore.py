"""Restore: bring a backup back under a name, and swap it in for the live database when asked."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from psycopg import errors as pg

from backup_pipeline.engine.catalog import read_manifest
from backup_pipeline.engine.model import Manifest, Progress, Report, Section, TableRows, silent
from backup_pipeline.engine.names import BackupName, Keys
from backup_pipeline.engine.postgres import Server
from backup_pipeline.engine.script import (
    CopyBegin,
    CopyRows,
    Event,
    ScriptReader,
    Statement,
    encoded,
    quoted,
)
from backup_pipeline.engine.store import ObjectInfo, ObjectStore
from backup_pipeline.engine.target import (
    exists,
    kept_name,
    maintenance,
    new_database,
    remove_leftovers,
    require_free,
    require_suitable,
    switch,
)
from backup_pipeline.engine.verify import read_member, require_whole
from backup_pipeline.errors import VerificationFailed

if TYPE_CHECKING:
    import psycopg
    from psycopg.rows import TupleRow

_SET = re.compile(rb"^SET \w+ = [^;]*;\Z", re.MULTILINE)
_LOADED = (Section.PRE_DATA, Section.DATA, Section.POST_DATA)


@dataclass(frozen=True, slots=True)
class RestoreResult:
    """What a restore made."""

    database: str
    previous: str | None
    """The name under which the replaced database is kept."""
    tables: int
    rows: int
    size: int
    verify_seconds: float
    load_seconds: float
    switch_seconds: float

    @property
    def seconds(self) -> float:
        """From the first byte to a database in place."""
        return self.verify_seconds + self.load_seconds + self.switch_seconds


def restore(
    store: ObjectStore,
    keys: Keys,
    name: BackupName,
    server: Server,
    target: str,
    *,
    replace: bool = False,
    disconnect: bool = False,
    clock: Callable[[], datetime],
    report: Report = silent,
) -> RestoreResult:
    """Restore a backup as the database `target` of `server`.

    Everything that can be known is settled before the server is touched: the bytes of the backup,
    and that the server can hold it.
    Then it is loaded into a database of another name, its rows are compared with the manifest,
    and only then it is renamed to `target`.
    With `replace` a database that has the name already is renamed in the same transaction and
    kept; with `disconnect` the sessions on it are ended first.
    Whatever goes wrong, an interruption included, `target` is as it was.
    What a restore that was killed outright left on the server is removed by the next one.

    Raises `NotFound`, `VerificationFailed`, `TargetExists`, `TargetInUse`, `TargetUnsuitable`,
    `PostgresUnreachable`, `PostgresFailed`, and the errors of the store.
    """
    started_at = clock()
    manifest = read_manifest(store, keys, name)
    with server.using(maintenance(target)).connect() as admin:
        require_free(admin, target, replace=replace, disconnect=disconnect)
        require_suitable(admin, manifest)
        stored = require_whole(store, keys, manifest, report)
        verified_at = clock()
        remove_leftovers(admin)
        with new_database(admin, manifest, target) as loading:
            load(server.using(loading), store, stored, manifest, report)
            loaded_at = clock()
            previous = switch(
                admin,
                loading,
                target,
                kept_name(target, started_at),
                replace=replace,
                disconnect=disconnect,
            )
    return RestoreResult(
        database=target,
        previous=previous,
        tables=len(manifest.tables),
        rows=manifest.rows,
        size=stored.size,
        verify_seconds=(verified_at - started_at).total_seconds(),
        load_seconds=(loaded_at - verified_at).total_seconds(),
        switch_seconds=(clock() - loaded_at).total_seconds(),
    )


def load(
    server: Server,
    store: ObjectStore,
    stored: ObjectInfo,
    manifest: Manifest,
    report: Report = silent,
) -> None:
    """Load a backup into the empty database of `server`, compare its rows, and analyse it.

    The drops are left out: there is nothing to drop.
    Raises `PostgresFailed` at the first statement that the server refuses.
    """
    members = [member for member in manifest.members if member.section in _LOADED]
    total, done = sum(member.raw_length for member in members), 0
    with server.connect() as connection:
        connection.prepare_threshold = None
        # The switch commits synchronously, and with it everything that was written before.
        connection.execute("SET synchronous_commit = off")
        for member in members:
            chunks = read_member(store, stored, member, manifest.source.encoding)
            for event_end in _execute(connection, _events(chunks)):
                report(Progress("restore", done + event_end, total))
            done += member.raw_length
        _require_rows(connection, manifest)
        connection.execute("ANALYZE")


def database_exists(server: Server, database: str) -> bool:
    """Whether the server has a database of that name; raises `PostgresUnreachable`."""
    with server.using(maintenance(database)).connect() as admin:
        return exists(admin, database)


def _events(chunks: Iterator[bytes]) -> Iterator[Event]:
    reader = ScriptReader()
    for chunk in chunks:
        yield from reader.feed(chunk)
    yield from reader.close()


def _execute(connection: "psycopg.Connection[TupleRow]", events: Iterator[Event]) -> Iterator[int]:
    """Send a script to the server; yields how many of its bytes have gone so far."""
    sent = 0
    for event in events:
        if isinstance(event, Statement):
            _run(connection, event.sql)
            sent += len(event.sql)
            yield sent
        elif isinstance(event, CopyBegin):
            with connection.cursor().copy(event.sql) as copy:
                for rows in events:
                    if not isinstance(rows, CopyRows):
                        break
                    copy.write(rows.data)
                    sent += len(rows.data)
                    yield sent


def _run(connection: "psycopg.Connection[TupleRow]", statement: bytes) -> None:
    try:
        connection.execute(statement)
    except pg.UndefinedObject:
        # A pg_dump newer than the server sets parameters that the server does not know yet.
        if not _SET.search(statement):
            raise


def _require_rows(connection: "psycopg.Connection[TupleRow]", manifest: Manifest) -> None:
    for table in manifest.tables:
        counted = _count(connection, table, manifest.source.encoding)
        if counted != table.rows:
            raise VerificationFailed(
                f"{table.schema}.{table.table} has {counted} rows where {table.rows} were dumped",
                hint="The target is as it was. A rule or trigger may change rows as they load.",
            )


def _count(connection: "psycopg.Connection[TupleRow]", table: TableRows, encoding: str) -> int:
    name = b".".join(quoted(encoded(part, encoding)) for part in (table.schema, table.table))
    row = connection.execute(b"SELECT count(*) FROM ONLY " + name).fetchone()
    assert row is not None
    return int(row[0])
