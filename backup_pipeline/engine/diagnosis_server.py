"""Diagnosis of the server's side: connection, clock, rights, room, leftovers, client tools."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from backup_pipeline.engine.findings import Finding, Level, failure, few, skew
from backup_pipeline.engine.locks import lock_room
from backup_pipeline.engine.model import Globals
from backup_pipeline.engine.postgres import (
    NO_PASSWORDS,
    Clients,
    Server,
    choose_clients,
    find_clients,
    outdated,
    server_encoding,
)
from backup_pipeline.engine.preflight import data_disk
from backup_pipeline.engine.relations import left_out, read_not_here
from backup_pipeline.engine.target import leftovers
from backup_pipeline.errors import ClientTooOld, PostgresFailed, PostgresUnreachable

if TYPE_CHECKING:
    import psycopg
    from psycopg.rows import TupleRow

    Connection = psycopg.Connection[TupleRow]


def of_server(
    server: Server,
    bin_dirs: Sequence[Path],
    minimums: Mapping[int, int],
    clock: Callable[[], datetime],
    globals_: Globals = Globals.NONE,
) -> Iterator[Finding]:
    """Look at the server, the role's rights on the database, and the client tools."""
    clients = find_clients(bin_dirs)
    try:
        with server.connect() as connection:
            version_num = connection.info.server_version
            row = connection.execute("SELECT clock_timestamp(), current_setting('server_version')")
            there, version = row.fetchone() or (clock(), "?")
            here = clock()
            found = [
                Finding("PostgreSQL", Level.OK, f"{server.describe()} answers, version {version}"),
                skew("PostgreSQL's clock", there, here),
                *_pooled(connection),
                *_standby(connection),
                _rights(connection),
                *_invisible(connection),
                *_room(connection),
                *_half_made(connection),
                *_locks(connection),
                *_globals(connection, globals_, clients),
            ]
    except (PostgresUnreachable, PostgresFailed) as error:
        yield failure("PostgreSQL", error, exit_code=5)
        if not clients:
            yield _no_clients()
        return
    yield from found
    yield _clients(clients, version_num, minimums)


def _pooled(connection: "Connection") -> Iterator[Finding]:
    """Whether somebody else than the server has said which of its processes works for us."""
    row = connection.execute("SELECT pg_backend_pid()").fetchone()
    if row != (connection.info.backend_pid,):
        yield Finding(
            "pooler",
            Level.WARN,
            "the connection goes through a pooler, such as PgBouncer",
            "Give PGHOST and PGPORT of PostgreSQL itself: a pooler may give each transaction "
            "another session, and a backup is more than a transaction.",
        )


def _standby(connection: "Connection") -> Iterator[Finding]:
    """Where it is one: what of the database is not there, and what ends a dump of it."""
    (standby, delay), *_ = connection.execute(_STANDBY).fetchall()
    if not standby:
        return
    if lost := left_out(read_not_here(connection, server_encoding(connection))):
        advice = "Back up the primary, or make them logged, if their rows matter."
        yield Finding("left out", Level.WARN, lost, advice)
    if delay == "-1":
        yield Finding("standby", Level.OK, "it is one, and waits for as long as a backup takes")
        return
    yield Finding(
        "standby",
        Level.WARN,
        f"it is one, and ends a backup for which changes of the primary had to wait {delay}",
        "Raise max_standby_streaming_delay on the standby; with -1 it waits for as long as a "
        "backup takes. hot_standby_feedback = on makes such changes rarer.",
    )


_STANDBY = "SELECT pg_is_in_recovery(), current_setting('max_standby_streaming_delay')"


# Rights


def _rights(connection: "Connection") -> Finding:
    """Whether pg_dump may read everything; where it may not, a backup fails."""
    unreadable = _column(connection, _UNREADABLE)
    unreadable += _column(connection, _UNREADABLE_LARGE_OBJECTS)
    hidden = _column(connection, _HIDDEN)
    role = connection.info.user
    if unreadable:
        return Finding(
            "rights",
            Level.FAIL,
            f"role {role!r} may not read {few(unreadable)}",
            "Make it a member of pg_read_all_data (docs/security.md has the role), and grant "
            "SELECT ON LARGE OBJECT where large objects are named.",
            exit_code=1,
        )
    if hidden:
        return Finding(
            "rights",
            Level.FAIL,
            f"row-level security hides rows of {few(hidden)} from role {role!r}",
            "As a superuser: ALTER ROLE ... BYPASSRLS; a backup without it fails.",
            exit_code=1,
        )
    return Finding("rights", Level.OK, f"role {role!r} may read every row")


_DUMPED = """
    FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
    WHERE relpersistence <> 't'
      AND nspname NOT IN ('pg_catalog', 'information_schema') AND nspname !~ '^pg_toast'
      AND NOT EXISTS (
          SELECT FROM pg_depend
          WHERE classid = 'pg_class'::regclass AND objid = pg_class.oid AND deptype = 'e')
"""
_UNREADABLE = f"""
    SELECT format('%I.%I', nspname, relname) {_DUMPED}
      AND relkind IN ('r', 'p', 'S')
      AND NOT (has_schema_privilege(pg_namespace.oid, 'USAGE')
               AND has_table_privilege(pg_class.oid, 'SELECT'))
    ORDER BY 1
"""
_HIDDEN = f"""
    SELECT format('%I.%I', nspname, relname) {_DUMPED}
      AND relkind IN ('r', 'p') AND row_security_active(pg_class.oid)
    ORDER BY 1
"""
# Until version 18 nothing asks for a right on a large object; PUBLIC is the grantee 0.
_UNREADABLE_LARGE_OBJECTS = """
    SELECT 'large object ' || oid FROM pg_largeobject_metadata
    WHERE current_setting('lo_compat_privileges') = 'off' AND NOT pg_has_role(lomowner, 'USAGE')
      AND NOT EXISTS (
          SELECT FROM aclexplode(lomacl)
          WHERE privilege_type = 'SELECT' AND (grantee = 0 OR pg_has_role(grantee, 'USAGE')))
    ORDER BY oid
"""


def _globals(
    connection: "Connection", globals_: Globals, clients: Sequence[Clients]
) -> Iterator[Finding]:
    """Whether role and client tools can make the globals that backups are to have."""
    if globals_ is Globals.NONE:
        return
    if globals_ is Globals.WITH_PASSWORDS and _column(connection, _MAY_READ_PASSWORDS) != ["True"]:
        role = connection.info.user
        message = f"role {role!r} may not read the passwords of roles"
        yield Finding("globals", Level.FAIL, message, NO_PASSWORDS, exit_code=1)
        return
    with suppress(ClientTooOld):
        chosen = choose_clients(clients, connection.info.server_version)
        if not chosen.tool("pg_dumpall").is_file():
            message = f"there is no pg_dumpall in {chosen.bin_dir}"
            advice = "Install PostgreSQL's client tools whole: it comes with pg_dump."
            yield Finding("globals", Level.FAIL, message, advice, exit_code=1)
            return
    message = f"backups have roles and other globals, {globals_.replace('-', ' ')}"
    yield Finding("globals", Level.OK, message)


_MAY_READ_PASSWORDS = "SELECT has_table_privilege('pg_catalog.pg_authid', 'SELECT')"


def _invisible(connection: "Connection") -> Iterator[Finding]:
    """What pg_dump leaves out without an error where the role is no superuser."""
    if connection.info.parameter_status("is_superuser") == "on":
        return
    left_out = []
    if subscriptions := _column(connection, _SUBSCRIPTIONS):
        left_out.append(f"the subscriptions {few(subscriptions)}")
    if mappings := _column(connection, _MAPPINGS_WITHOUT_OPTIONS):
        left_out.append(f"the options, passwords among them, of user mappings {few(mappings)}")
    if left_out:
        yield Finding(
            "left out",
            Level.WARN,
            f"role {connection.info.user!r} is no superuser, so pg_dump leaves out "
            + " and ".join(left_out),
            "Keep a note of how to make them, or back up as a superuser.",
        )


_SUBSCRIPTIONS = """
    SELECT subname FROM pg_subscription JOIN pg_database ON pg_database.oid = subdbid
    WHERE datname = current_database() ORDER BY 1
"""
# Whether a mapping has no options or hides them can't be told.
_MAPPINGS_WITHOUT_OPTIONS = """
    SELECT format('of %I for %I', srvname, usename) FROM pg_user_mappings WHERE umoptions IS NULL
    ORDER BY 1
"""


# The server's disk and what lies about on it


def _room(connection: "Connection") -> Iterator[Finding]:
    disk = data_disk(connection)
    if disk is None:
        return
    (size,) = map(int, _column(connection, "SELECT pg_database_size(current_database())"))
    message = f"{disk.free:,} bytes are free in {disk.directory}, the database takes {size:,}"
    if disk.free >= size:
        yield Finding("the server's disk", Level.OK, message)
        return
    yield Finding(
        "the server's disk",
        Level.WARN,
        message,
        "Make room: a restore or a drill beside the live database does not fit.",
    )


def _half_made(connection: "Connection") -> Iterator[Finding]:
    half_made = leftovers(connection)
    if half_made:
        yield Finding(
            "unfinished restores",
            Level.WARN,
            f"killed restores have left {', '.join(half_made)}",
            "The next restore on this server removes them.",
        )


def _locks(connection: "Connection") -> Iterator[Finding]:
    shortage = lock_room(connection).shortage()
    if shortage:
        yield Finding(
            "locks",
            Level.WARN,
            shortage,
            "Raise it and restart the server; until then a backup is made by one pg_dump after the "
            "other.",
        )


def _column(connection: "Connection", query: str) -> list[str]:
    return [str(row[0]) for row in connection.execute(query.encode()).fetchall()]


# Client tools


def _clients(clients: Sequence[Clients], version_num: int, minimums: Mapping[int, int]) -> Finding:
    if not clients:
        return _no_clients()
    try:
        chosen = choose_clients(clients, version_num)
    except ClientTooOld as error:
        return failure("client tools", error, exit_code=1)
    if wrong := outdated(chosen.version, minimums):
        return Finding("client tools", Level.WARN, f"{wrong}, in {chosen.bin_dir}", UPDATE)
    return Finding("client tools", Level.OK, f"pg_dump {chosen.version} in {chosen.bin_dir}")


UPDATE = (
    "Update PostgreSQL's client tools; BACKUP_CLIENT_MINIMUMS says which versions are good enough."
)


def _no_clients() -> Finding:
    return Finding(
        "client tools",
        Level.FAIL,
        "there is no working pg_dump on this machine",
        "Install PostgreSQL's client tools, or name their directory in BACKUP_PG_BIN_DIRS.",
        exit_code=1,
    )
