"""Real databases for the tests, and ways to compare two of them that owe the engine nothing."""

import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from backup_pipeline.embedded.postgres import EmbeddedPostgres
from backup_pipeline.engine.contents import differences
from backup_pipeline.engine.model import Contents
from backup_pipeline.engine.postgres import Server
from backup_pipeline_tests.integration.read_by_sql import read_by_sql

HERE = Path(__file__).parent
EVERY_KIND = HERE / "every_kind.sql"


@contextmanager
def new_database(postgres: EmbeddedPostgres, *scripts: Path, name: str = "") -> Iterator[Server]:
    """A database with psql's reading of some scripts, dropped afterwards."""
    database = name or f"test_{uuid.uuid4().hex[:12]}"
    quoted = psycopg.sql.Identifier(database)
    with psycopg.connect(postgres.dsn(), autocommit=True) as admin:
        admin.execute(psycopg.sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(quoted))
    try:
        for script in scripts:
            psql(postgres, database, script.read_bytes())
        yield Server.of(postgres.dsn(database))
    finally:
        drop_database(postgres, database)


@contextmanager
def live_database(postgres: EmbeddedPostgres, tables: str) -> Iterator[Server]:
    """A database that somebody works with; what a test makes beside it is dropped afterwards.

    Beside it means under a name that begins with its own.
    """
    with new_database(postgres) as server:
        with server.connect() as connection:
            connection.execute(tables.encode())
        yield server
        for database in databases(postgres):
            if database.startswith(server.database):
                drop_database(postgres, database)


def drop_database(postgres: EmbeddedPostgres, database: str) -> None:
    """Drop a database if it is there, whoever is connected."""
    quoted = psycopg.sql.Identifier(database)
    with psycopg.connect(postgres.dsn(), autocommit=True) as admin:
        admin.execute(psycopg.sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(quoted))


@contextmanager
def tablespace(postgres: EmbeddedPostgres, name: str) -> Iterator[None]:
    """A tablespace of the server while the block lasts, which leaves nothing in it."""
    quoted = psycopg.sql.Identifier(name)
    with psycopg.connect(postgres.dsn(), autocommit=True) as admin:
        admin.execute("SET allow_in_place_tablespaces = on")
        admin.execute(psycopg.sql.SQL("CREATE TABLESPACE {} LOCATION ''").format(quoted))
        try:
            yield
        finally:
            admin.execute(psycopg.sql.SQL("DROP TABLESPACE {}").format(quoted))


def psql(postgres: EmbeddedPostgres, database: str, script: bytes) -> None:
    """Run a script with the server's own psql, which stops at the first error."""
    command = [str(postgres.bin_dir / "psql"), "-X", "--quiet", "--set=ON_ERROR_STOP=1"]
    done = subprocess.run(
        command, input=script, env=postgres.environment(database), capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()


def databases(postgres: EmbeddedPostgres) -> set[str]:
    """The names of all databases of a server."""
    with psycopg.connect(postgres.dsn()) as admin:
        return {row[0] for row in admin.execute("SELECT datname FROM pg_database")}


def contents(server: Server) -> Contents:
    """All rows, sequences and large objects of a database."""
    with server.connect() as connection:
        return read_by_sql(connection, pg_encoding(connection))


def pg_encoding(connection: psycopg.Connection[tuple[object, ...]]) -> str:
    """The encoding of a database by PostgreSQL's name."""
    row = connection.execute("SELECT getdatabaseencoding()").fetchone()
    assert row is not None
    return str(row[0])


def views(server: Server) -> dict[str, object]:
    """The rows of every materialized view, which no manifest speaks of."""
    query = "SELECT format('%I.%I', schemaname, matviewname) FROM pg_matviews WHERE ispopulated"
    with server.connect() as connection:
        names = [name for (name,) in connection.execute(query).fetchall()]
        return {
            name: connection.execute(
                f"SELECT array_agg(v::text ORDER BY v::text) FROM {name} AS v"
            ).fetchall()
            for name in names
        }


def schema(postgres: EmbeddedPostgres, database: str) -> list[str]:
    """The schema's statements as pg_dump writes them, less the lines that are random.

    Comment lines don't count: they also name objects of which only the privileges are special.
    """
    command = [
        str(postgres.bin_dir / "pg_dump"),
        "--schema-only",
        "--no-owner",
        "--no-privileges",
    ]
    done = subprocess.run(
        command, env=postgres.environment(database), capture_output=True, check=True, text=True
    )
    return [
        line
        for line in done.stdout.splitlines()
        if line and not line.startswith(("--", "\\restrict ", "\\unrestrict "))
    ]


def assert_equal(postgres: EmbeddedPostgres, one: Server, other: Server) -> None:
    """Both databases hold the same, to the last row, sequence, large object and line of schema."""
    assert list(differences(contents(one), contents(other))) == []
    assert views(one) == views(other)
    assert schema(postgres, one.database) == schema(postgres, other.database)
