"""Settle: count the rows of a loaded database, and analyse it, by several connections."""

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

_ONLY_SINCE = 180000


def settle(server: Server, expected: "Iterable[TableContents]", encoding: str, jobs: int) -> None:
    """Compare the rows of each table with what is expected, and gather what the planner needs.

    Raises `VerificationFailed` where a table has other rows, and `PostgresFailed`.
    """
    tables = sorted(expected, key=lambda table: -table.rows)
    with server.connect() as connection:
        analysed = list(_to_be_analysed(connection))
        roots = read_inheritance(connection, encoding).roots
    named = {(table.schema, table.table) for table in tables}
    parts: dict[Table, list[Table]] = {}
    for part, root in roots.items():
        if part not in named:
            parts.setdefault(root, []).append(part)
    works: deque[Callable[[Connection], None]] = deque()
    for table in tables:
        # What was dumped under the name of a root is in partitions that are not named.
        name = (table.schema, table.table)
        works.append(partial(_require_rows, table, parts.get(name, [name]), encoding))
    works.extend(partial(_analyse, relation) for relation in analysed)
    with Crew() as crew:
        for _ in range(min(jobs, len(works))):
            crew.start(lambda: _work(server, works, crew))
        crew.wait()


def _work(server: Server, works: "deque[Callable[[Connection], None]]", crew: Crew) -> None:
    with server.connect() as connection, crew.stopping(connection.cancel):
        connection.prepare_threshold = None
        connection.execute("SET synchronous_commit = off")
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
    """
    apart = connection.info.server_version >= _ONLY_SINCE
    only = b"ONLY " if apart else b""
    rows = connection.execute(_RELATIONS, {"apart": apart}).fetchall()
    return [only + quoted(schema) + b"." + quoted(name) for schema, name in rows]


_RELATIONS = """
    SELECT convert_to(nspname::text, getdatabaseencoding()),
           convert_to(relname::text, getdatabaseencoding())
    FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
    WHERE relkind IN ('r', 'm', 'p') AND pg_class.oid >= 16384
      AND nspname !~ '^pg_toast' AND (%(apart)s OR NOT relispartition)
    ORDER BY relkind = 'p' DESC, pg_relation_size(pg_class.oid) DESC
"""
