"""The database that is restored into: its making, the switch, and what was left half made."""

import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from datetime import datetime
from typing import TYPE_CHECKING

from psycopg import errors as pg
from psycopg import sql

from backup_pipeline.engine.beside import beside
from backup_pipeline.engine.model import Source
from backup_pipeline.engine.postgres import Server
from backup_pipeline.errors import (
    PostgresFailed,
    PostgresUnreachable,
    TargetExists,
    TargetInUse,
    TargetUnsuitable,
)

if TYPE_CHECKING:
    import psycopg
    from psycopg.rows import TupleRow

_NAME_BYTES = 63
# Seconds; PostgreSQL itself gives the sessions of a database 5 before it refuses to rename it.
_MOMENT = 2.0
_POLL = 0.1
_EVENT_TRIGGERS_SINCE = 170000


def maintenance(target: str) -> str:
    """The database to be connected to while `target` is renamed."""
    return "template1" if target == "postgres" else "postgres"


def without_event_triggers(server: Server, admin: "psycopg.Connection[TupleRow]") -> Server:
    """The same server, where nobody's event trigger notices our logins, if the role may ask that.

    What fires at each login may write, and the copy would not be what was dumped any more.
    Only a superuser can have restored such a trigger.
    """
    superuser = admin.info.parameter_status("is_superuser") == "on"
    if superuser and admin.info.server_version >= _EVENT_TRIGGERS_SINCE:
        return server.with_option("event_triggers", "off")
    return server


def require_free(
    admin: "psycopg.Connection[TupleRow]",
    target: str,
    *,
    replace: bool = False,
    patient: bool = False,
) -> None:
    """Refuse unless the name is free, or the database that has it may be replaced.

    `patient` says that sessions on it are no reason to refuse yet.
    Raises `TargetExists`, `TargetInUse` and `TargetUnsuitable`.
    """
    if not exists(admin, target):
        return
    if not replace:
        raise TargetExists(f"there is a database {target!r} already")
    # Superusers may, and so may the members of the role that owns it (manual, ALTER DATABASE).
    if admin.execute(_MAY_RENAME, (target,)).fetchone() != (True,):
        raise TargetUnsuitable(
            f"role {admin.info.user!r} does not own the database {target!r}, and may not rename it",
            hint="Connect as its owner, or restore into a new database with --into.",
        )
    sessions = [] if patient else _sessions_that_stay(admin, target, _MOMENT)
    if sessions:
        raise TargetInUse(f"{len(sessions)} sessions are connected to {target!r}: {_few(sessions)}")


_MAY_RENAME = "SELECT pg_has_role(datdba, 'USAGE') FROM pg_database WHERE datname = %s"


@contextmanager
def new_database(
    server: Server, admin: "psycopg.Connection[TupleRow]", source: Source, target: str
) -> Iterator[str]:
    """An empty database like the source while the block lasts; it is dropped at the end.

    Once the block has switched it in, nothing has its name any more, and nothing is dropped.

    It is recognized as half made by a comment, until `switch` takes that away; before it has one,
    by its name and because nobody may connect to it.
    The lock, which ends with this session, says that it is still being worked on.
    """
    name = _suffixed(target, f"_restoring_{uuid.uuid4().hex[:8]}")
    admin.execute("SELECT pg_advisory_lock(%s, hashtext(%s))", (_LOCK, name))
    try:
        admin.execute(_create_database(source, name, admin.info.server_version))
        admin.execute(_comment(name, _HALF_MADE))
        admin.execute(
            sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS true").format(sql.Identifier(name))
        )
        yield name
    except BaseException:
        # The first error is the one to report; what stays then, the next restore removes.
        with suppress(pg.Error, PostgresFailed, PostgresUnreachable):
            _drop(server, admin, name)
        raise
    else:
        _drop(server, admin, name)
    finally:
        with suppress(pg.Error):
            admin.execute("SELECT pg_advisory_unlock(%s, hashtext(%s))", (_LOCK, name))


def leftovers(admin: "psycopg.Connection[TupleRow]") -> tuple[str, ...]:
    """The half-made databases on the server that no restore is working on any more."""
    rows = admin.execute(_LEFTOVERS, {"comment": _HALF_MADE, "lock": _LOCK}).fetchall()
    return tuple(row[0] for row in rows)


def remove_leftovers(server: Server, admin: "psycopg.Connection[TupleRow]") -> tuple[str, ...]:
    """Drop what killed restores have left; gives the names of what was dropped.

    What can't be dropped, such as what another role has left, is nobody's reason to do without a
    restore: it stays among the `leftovers`.
    """
    dropped = []
    for name in leftovers(admin):
        with suppress(pg.Error, PostgresFailed, PostgresUnreachable):
            _drop(server, admin, name)
            dropped.append(name)
    return tuple(dropped)


_HALF_MADE = "half made by backup_pipeline: a restore that did not finish"
# The first half of the lock's key; a number that nobody else would hit upon.
_LOCK = 0x72657374
# A lock is found in whichever database it was taken.
_LEFTOVERS = """
    SELECT datname FROM pg_database
    WHERE (shobj_description(oid, 'pg_database') = %(comment)s
           OR (NOT datallowconn AND datname ~ '_restoring_[0-9a-f]{8}$'))
      AND NOT EXISTS (
          SELECT FROM pg_locks
          WHERE locktype = 'advisory' AND classid = %(lock)s::oid
            AND objid = (hashtext(datname)::bigint & 4294967295)::oid)
    ORDER BY datname
"""


def _comment(database: str, text: str | None) -> sql.Composed:
    return sql.SQL("COMMENT ON DATABASE {} IS {}").format(
        sql.Identifier(database), sql.Literal(text)
    )


def _drop(server: Server, admin: "psycopg.Connection[TupleRow]", name: str) -> None:
    drop = sql.SQL("DROP DATABASE IF EXISTS {}").format(sql.Identifier(name))
    forced = drop + sql.SQL(" WITH (FORCE)")
    # An autovacuum worker makes way for the first; for the second it takes the right to end it.
    for statement in (drop, forced):
        with suppress(pg.ObjectInUse):
            admin.execute(statement)
            return
    _drop_subscriptions(server, name)
    admin.execute(forced)


def _drop_subscriptions(server: Server, name: str) -> None:
    """Drop what keeps a database from being dropped; the publisher's slot is that of another."""
    with server.using(name).connect() as connection:
        rows = connection.execute(_SUBSCRIPTIONS).fetchall()
        for subscription in (sql.Identifier(row[0]) for row in rows):
            for statement in _WITHOUT_SUBSCRIPTION:
                connection.execute(sql.SQL(statement).format(subscription))


_WITHOUT_SUBSCRIPTION = (
    "ALTER SUBSCRIPTION {} DISABLE",
    "ALTER SUBSCRIPTION {} SET (slot_name = NONE)",
    "DROP SUBSCRIPTION {}",
)
_SUBSCRIPTIONS = """
    SELECT subname FROM pg_subscription JOIN pg_database ON pg_database.oid = subdbid
    WHERE datname = current_database()
"""


def _create_database(source: Source, name: str, version_num: int) -> sql.Composed:
    options = [("ENCODING", source.encoding)]
    if source.collate and source.ctype:
        options += [("LC_COLLATE", source.collate), ("LC_CTYPE", source.ctype)]
    if source.collate and version_num >= 150000:
        options.append(("LOCALE_PROVIDER", source.locale_provider))
    if source.locale is not None:
        options.append((f"{source.locale_provider.upper()}_LOCALE", source.locale))
    return sql.SQL("CREATE DATABASE {} TEMPLATE template0 ALLOW_CONNECTIONS false {}").format(
        sql.Identifier(name),
        sql.SQL(" ").join(
            sql.SQL("{} {}").format(sql.SQL(option), sql.Literal(value))
            for option, value in options
        ),
    )


def switch(
    server: Server,
    admin: "psycopg.Connection[TupleRow]",
    loaded: str,
    target: str,
    previous: str,
    *,
    replace: bool = False,
    disconnect: bool = False,
    wait: float = 0.0,
) -> str | None:
    """Give the loaded database its name; gives the name under which an old one is kept, if any.

    One transaction: nobody ever sees half of it, and a crash undoes all of it.
    `wait` is for how many seconds the sessions on the old one may go by themselves, before they
    are ended or the switch is refused.
    Raises `TargetExists` and `TargetInUse`.
    """
    deadline = time.monotonic() + wait
    while True:
        if replace:
            _sessions_that_stay(admin, target, deadline - time.monotonic())
        over = time.monotonic() >= deadline
        ending = _ending_sessions(server, admin, target) if disconnect and over else nullcontext()
        try:
            with ending, admin.transaction():
                taken = replace and exists(admin, target)
                if taken:
                    _rename(admin, target, previous)
                _rename(admin, loaded, target)
                admin.execute(_comment(target, None))
        except pg.DuplicateDatabase as error:
            raise TargetExists(f"a database {target!r} was created meanwhile") from error
        except pg.InsufficientPrivilege as error:
            # Only superusers may end the sessions of superusers.
            raise TargetInUse(
                f"role {admin.info.user!r} may not end all sessions on {target!r}: "
                + _few(_sessions(admin, target)),
                hint="End them by hand, or switch as a superuser; nothing was changed.",
            ) from error
        except pg.ObjectInUse as error:
            if over:
                sessions = _sessions(admin, target) + _sessions(admin, loaded)
                holding = _few(sessions) or error.diag.message_detail
                raise TargetInUse(f"{target!r} is in use: {holding}") from error
        else:
            return previous if taken else None


@contextmanager
def _ending_sessions(
    server: Server, admin: "psycopg.Connection[TupleRow]", target: str
) -> Iterator[None]:
    """End the sessions on the target, again and again while the block renames it.

    Once would not do: a client that is just connecting is no session yet, and would stay.
    While PostgreSQL waits for the last session to end, it lets nobody else in.
    """
    # By OID: those of the database that gets the name next are not meant.
    terminate = sql.SQL(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datid = {} AND usesysid IS NOT NULL"
    ).format(sql.Literal(_oid(admin, target)))
    over = threading.Event()

    def end() -> None:
        with server.using(maintenance(target)).connect() as other:
            while not over.wait(_POLL):
                other.execute(terminate)

    admin.execute(terminate)
    with beside(end, stop=over.set):
        yield


def _rename(admin: "psycopg.Connection[TupleRow]", old: str, new: str) -> None:
    admin.execute(
        sql.SQL("ALTER DATABASE {} RENAME TO {}").format(sql.Identifier(old), sql.Identifier(new))
    )


def exists(admin: "psycopg.Connection[TupleRow]", database: str) -> bool:
    """Whether the server has a database of that name."""
    return _oid(admin, database) is not None


def _oid(admin: "psycopg.Connection[TupleRow]", database: str) -> int | None:
    query = "SELECT oid FROM pg_database WHERE datname = %s"
    row = admin.execute(query, (database,)).fetchone()
    return row[0] if row else None


def _sessions(admin: "psycopg.Connection[TupleRow]", database: str) -> list[str]:
    # An autovacuum worker, which nobody has logged in for, makes way by itself.
    rows = admin.execute(
        "SELECT format('%%s (pid %%s, %%s)', usename, pid, application_name)"
        " FROM pg_stat_activity"
        " WHERE datname = %s AND usesysid IS NOT NULL ORDER BY pid",
        (database,),
    ).fetchall()
    return [row[0] for row in rows]


def _sessions_that_stay(
    admin: "psycopg.Connection[TupleRow]", database: str, seconds: float
) -> list[str]:
    """Those that are still there after some time, which ends as soon as there are none."""
    deadline = time.monotonic() + seconds
    while (sessions := _sessions(admin, database)) and time.monotonic() < deadline:
        time.sleep(_POLL)
    return sessions


def _few(sessions: list[str]) -> str:
    shown = ", ".join(sessions[:5])
    return shown + (f" and {len(sessions) - 5} more" if len(sessions) > 5 else "")


def kept_name(target: str, at: datetime) -> str:
    """Under which name a replaced database is kept."""
    return _suffixed(target, f"_before_{at:%Y%m%d_%H%M%S}")


def _suffixed(target: str, suffix: str) -> str:
    """The target's name with a suffix, within PostgreSQL's 63 bytes."""
    room = _NAME_BYTES - len(suffix)
    return target.encode()[:room].decode(errors="ignore") + suffix
