"""Restore: bring a backup back under a name, and swap it in for the live database when asked."""

import re
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from psycopg import errors as pg
from psycopg import sql

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
from backup_pipeline.engine.verify import read_member, require_whole
from backup_pipeline.errors import (
    TargetExists,
    TargetInUse,
    TargetUnsuitable,
    VerificationFailed,
)

if TYPE_CHECKING:
    import psycopg
    from psycopg.rows import TupleRow

_NAME_BYTES = 63
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

    Raises `NotFound`, `VerificationFailed`, `TargetExists`, `TargetInUse`, `TargetUnsuitable`,
    `PostgresUnreachable`, `PostgresFailed`, and the errors of the store.
    """
    started_at = clock()
    manifest = read_manifest(store, keys, name)
    with server.using(_maintenance(target)).connect() as admin:
        _require_free(admin, target, replace=replace, disconnect=disconnect)
        _require_suitable(admin, manifest)
        stored = require_whole(store, keys, manifest, report)
        verified_at = clock()
        loading = _suffixed(target, f"_restoring_{uuid.uuid4().hex[:8]}")
        with _new_database(admin, manifest, loading):
            load(server.using(loading), store, stored, manifest, report)
            loaded_at = clock()
            before = _suffixed(target, f"_before_{started_at:%Y%m%d_%H%M%S}")
            previous = _switch(
                admin, loading, target, before, replace=replace, disconnect=disconnect
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
    with server.using(_maintenance(database)).connect() as admin:
        return _exists(admin, database)


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


def _maintenance(target: str) -> str:
    return "template1" if target == "postgres" else "postgres"


def _require_free(
    admin: "psycopg.Connection[TupleRow]", target: str, *, replace: bool, disconnect: bool
) -> None:
    if not _exists(admin, target):
        return
    if not replace:
        raise TargetExists(f"there is a database {target!r} already")
    sessions = _sessions(admin, target)
    if sessions and not disconnect:
        raise TargetInUse(f"{len(sessions)} sessions are connected to {target!r}: {_few(sessions)}")


def _require_suitable(admin: "psycopg.Connection[TupleRow]", manifest: Manifest) -> None:
    source, major = manifest.source, admin.info.server_version // 10000
    if major < source.server_version_num // 10000:
        raise TargetUnsuitable(
            f"the backup is of PostgreSQL {source.server_version}, the target is PostgreSQL "
            f"{major}, and an older server can't take it",
            hint="Restore into a server of the same or a newer major version.",
        )
    rows = admin.execute("SELECT name FROM pg_available_extensions").fetchall()
    missing = [each.name for each in source.extensions if each.name not in {row[0] for row in rows}]
    if missing:
        raise TargetUnsuitable(
            f"the target server lacks the extensions {', '.join(missing)}",
            hint="Install the packages of these extensions on the target server first.",
        )
    may = admin.execute(
        "SELECT rolcreatedb OR rolsuper FROM pg_roles WHERE rolname = current_user"
    ).fetchone()
    if may is None or not may[0]:
        raise TargetUnsuitable(
            f"role {admin.info.user!r} may not create databases on the target server",
            hint=f"As a superuser: ALTER ROLE {admin.info.user} CREATEDB;",
        )


@contextmanager
def _new_database(
    admin: "psycopg.Connection[TupleRow]", manifest: Manifest, name: str
) -> Iterator[None]:
    """A database of this name while the block lasts, unless the block has renamed it."""
    try:
        admin.execute(_create_database(manifest, name, admin.info.server_version))
        yield
    except BaseException:
        admin.execute(
            sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
        )
        raise


def _create_database(manifest: Manifest, name: str, version_num: int) -> sql.Composed:
    source = manifest.source
    options = [("ENCODING", source.encoding)]
    options += [("LC_COLLATE", source.collate), ("LC_CTYPE", source.ctype)]
    if version_num >= 150000:
        options.append(("LOCALE_PROVIDER", source.locale_provider))
    if source.locale is not None:
        options.append((f"{source.locale_provider.upper()}_LOCALE", source.locale))
    return sql.SQL("CREATE DATABASE {} TEMPLATE template0 {}").format(
        sql.Identifier(name),
        sql.SQL(" ").join(
            sql.SQL("{} {}").format(sql.SQL(option), sql.Literal(value))
            for option, value in options
        ),
    )


def _switch(
    admin: "psycopg.Connection[TupleRow]",
    loaded: str,
    target: str,
    previous: str,
    *,
    replace: bool,
    disconnect: bool,
) -> str | None:
    """Give the loaded database its name; gives the name under which an old one is kept, if any."""
    try:
        with admin.transaction():
            taken = replace and _exists(admin, target)
            if taken:
                if disconnect:
                    admin.execute(_TERMINATE, (target,))
                _rename(admin, target, previous)
            _rename(admin, loaded, target)
    except pg.DuplicateDatabase as error:
        raise TargetExists(f"a database {target!r} was created meanwhile") from error
    except pg.ObjectInUse as error:
        raise TargetInUse(
            f"sessions are connected to {target!r}: {_few(_sessions(admin, target))}"
        ) from error
    return previous if taken else None


_TERMINATE = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"


def _rename(admin: "psycopg.Connection[TupleRow]", old: str, new: str) -> None:
    admin.execute(
        sql.SQL("ALTER DATABASE {} RENAME TO {}").format(sql.Identifier(old), sql.Identifier(new))
    )


def _exists(admin: "psycopg.Connection[TupleRow]", database: str) -> bool:
    query = "SELECT FROM pg_database WHERE datname = %s"
    return admin.execute(query, (database,)).fetchone() is not None


def _sessions(admin: "psycopg.Connection[TupleRow]", database: str) -> list[str]:
    rows = admin.execute(
        "SELECT format('%%s (pid %%s, %%s)', usename, pid, application_name)"
        " FROM pg_stat_activity WHERE datname = %s ORDER BY pid",
        (database,),
    ).fetchall()
    return [row[0] for row in rows]


def _few(sessions: list[str]) -> str:
    shown = ", ".join(sessions[:5])
    return shown + (f" and {len(sessions) - 5} more" if len(sessions) > 5 else "")


def _suffixed(target: str, suffix: str) -> str:
    """The target's name with a suffix, within PostgreSQL's 63 bytes."""
    room = _NAME_BYTES - len(suffix)
    return target.encode()[:room].decode(errors="ignore") + suffix
