"""Settle: count the rows of a loaded database, and later analyse it, by several connections."""

from collections import deque
from functools import partial
from typing import TYPE_CHECKING

from backup_pipeline.engine.crew import Crew, taken_from
from backup_pipeline.engine.inheritance import read_inheritance
from backup_pipeline.engine.model import TableContents
from backup_pipeline.engine.postgres import Server
from backup_pipeline.engine.script import encoded, quoted
from backup_pipeline.errors import VerificationFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import psycopg
    from psycopg.rows import TupleRow

    from backup_pipeline.engine.plan import Table

    Connection = psycopg.Connection[TupleRow]
    Works = deque[Callable[[Connection], None]]

_ONLY_SINCE = 180000


def require_rows(
    connection: "Connection",
    server: Server,
    expected: "Iterable[TableContents]",
    encoding: str,
    jobs: int,
) -> None:
    """Compare the rows of each table with what is expected, before anything can hide or add some.

    A policy may filter them, and an event trigger may write some at each login.
    `connection` is one of the `jobs` by which they are counted.
    Raises `VerificationFailed` where a table has other rows, and `PostgresFailed`.
    """
    tables = sorted(expected, key=lambda table: -table.rows)
    roots = read_inheritance(connection, encoding).roots
    named = {(table.schema, table.table) for table in tables}
    parts: dict[Table, list[Table]] = {}
    for part, root in roots.items():
        if part not in named:
            parts.setdefault(root, []).append(part)
    works: Works = deque()
    for table in tables:
        # What was dumped under the name of a root is in partitions that are not named.
        name = (table.schema, table.table)
        works.append(partial(_require_rows, table, parts.get(name, [name]), encoding))
    with Crew() as crew:
        crew.start(lambda: _take(connection, works, crew))
        _take_beside(server, works, jobs - 1, crew)
        crew.wait()


def analyse(server: Server, jobs: int) -> None:
    """Gather what the planner needs, as ANALYZE does; raises `PostgresFailed`."""
    with server.connect() as connection:
        found = list(_to_be_analysed(connection))
    works: Works = deque(partial(_analyse, each) for each in found)
    with Crew() as crew:
        _take_beside(server, works, jobs, crew)
        crew.wait()


def _take_beside(server: Server, works: "Works", jobs: int, crew: Crew) -> None:
    for _ in range(min(jobs, len(works))):
        crew.start(lambda: _connect_and_take(server, works, crew))


def _connect_and_take(server: Server, works: "Works", crew: Crew) -> None:
    with server.connect() as connection:
        connection.prepare_threshold = None
        connection.execute("SET synchronous_commit = off")
        _take(connection, works, crew)


def _take(connection: "Connection", works: "Works", crew: Crew) -> None:
    with crew.stopping(connection.cancel):
        for work in taken_from(works):
            crew.go_on()
            work(connection)


def _require_rows(
    table: TableContents, places: "Iterable[Table]", encoding: str, connection: "Connection"
) -> None:
    rows = 0
    for place in places:
        name = b".".join(quoted(encoded(part, encoding)) for part in place)
        row = connection.execute(b"SELECT count(*) FROM ONLY " + name).fetchone()
        assert row is not None
        rows += row[0]
    if rows != table.rows:
        raise VerificationFailed(
            f"{table.schema}.{table.table} has {rows} rows where {table.rows} were dumped",
            hint="The target is as it was. A rule or trigger may change rows as they load.",
        )


def _analyse(relation: bytes, connection: "Connection") -> None:
    connection.execute(b"ANALYZE " + relation)


def _to_be_analysed(connection: "Connection") -> "list[bytes]":
    """What ANALYZE without a name would take, the largest first, and each thing once.

    Before PostgreSQL 18 a partitioned table is analysed with its partitions or not at all.
    What has foreign tables below it is left out, less these: another server need not answer.
    """
    apart = connection.info.server_version >= _ONLY_SINCE
    only = b"ONLY " if apart else b""
    rows = connection.execute(_RELATIONS, {"apart": apart}).fetchall()
    return [only + quoted(schema) + b"." + quoted(name) for schema, name in rows]


_RELATIONS = """
    WITH RECURSIVE above(oid) AS (
        SELECT inhparent FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
        WHERE relkind = 'f'
        UNION
        SELECT inhparent FROM pg_inherits JOIN above ON inhrelid = above.oid
    )
    SELECT convert_to(nspname::text, getdatabaseencoding()),
           convert_to(relname::text, getdatabaseencoding())
    FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
    WHERE relkind IN ('r', 'm', 'p') AND pg_class.oid >= 16384
      AND nspname !~ '^pg_toast' AND pg_class.oid NOT IN (SELECT oid FROM above)
      AND (%(apart)s OR NOT relispartition
           OR EXISTS (SELECT FROM pg_inherits JOIN above ON above.oid = inhparent
                      WHERE inhrelid = pg_class.oid))
    ORDER BY relkind = 'p' DESC, pg_relation_size(pg_class.oid) DESC
"""
