"""The database that is restored into: what its server must offer, its making, and the switch."""

import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING

from psycopg import errors as pg
from psycopg import sql

from backup_pipeline.engine.model import Manifest
from backup_pipeline.errors import TargetExists, TargetInUse, TargetUnsuitable

if TYPE_CHECKING:
    import psycopg
    from psycopg.rows import TupleRow

_NAME_BYTES = 63
# Seconds; PostgreSQL itself gives the sessions of a database 5 before it refuses to rename it.
_MOMENT = 2.0


def maintenance(target: str) -> str:
    """The database to be connected to while `target` is renamed."""
    return "template1" if target == "postgres" else "postgres"


def require_free(
    admin: "psycopg.Connection[TupleRow]", target: str, *, replace: bool, disconnect: bool
) -> None:
    """Raise `TargetExists` or `TargetInUse` unless the name is free, or may be replaced."""
    if not exists(admin, target):
        return
    if not replace:
        raise TargetExists(f"there is a database {target!r} already")
    sessions = [] if disconnect else _sessions_that_stay(admin, target)
    if sessions:
        raise TargetInUse(f"{len(sessions)} sessions are connected to {target!r}: {_few(sessions)}")


def require_suitable(admin: "psycopg.Connection[TupleRow]", manifest: Manifest) -> None:
    """Raise `TargetUnsuitable` unless the server can hold the backup."""
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
def new_database(
    admin: "psycopg.Connection[TupleRow]", manifest: Manifest, target: str
) -> Iterator[str]:
    """An empty database for a backup while the block lasts, unless the block has switched it in.

    It is recognized as half made by a comment, until `switch` takes that away; before it has one,
    by its name and because nobody may connect to it.
    The lock, which ends with this session, says that it is still being worked on.
    """
    name = _suffixed(target, f"_restoring_{uuid.uuid4().hex[:8]}")
    admin.execute("SELECT pg_advisory_lock(%s, hashtext(%s))", (_LOCK, name))
    try:
        admin.execute(_create_database(manifest, name, admin.info.server_version))
        admin.execute(_comment(name, _HALF_MADE))
        admin.execute(
            sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS true").format(sql.Identifier(name))
        )
        yield name
    except BaseException:
        _drop(admin, name)
        raise
    finally:
        admin.execute("SELECT pg_advisory_unlock(%s, hashtext(%s))", (_LOCK, name))


def leftovers(admin: "psycopg.Connection[TupleRow]") -> tuple[str, ...]:
    """The half-made databases on the server that no restore is working on any more."""
    rows = admin.execute(_LEFTOVERS, {"comment": _HALF_MADE, "lock": _LOCK}).fetchall()
    return tuple(row[0] for row in rows)


def remove_leftovers(admin: "psycopg.Connection[TupleRow]") -> tuple[str, ...]:
    """Drop what killed restores have left; gives the names of what was dropped."""
    found = leftovers(admin)
    for name in found:
        _drop(admin, name)
    return found


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


def _drop(admin: "psycopg.Connection[TupleRow]", name: str) -> None:
    admin.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


def _create_database(manifest: Manifest, name: str, version_num: int) -> sql.Composed:
    source = manifest.source
    options = [("ENCODING", source.encoding)]
    options += [("LC_COLLATE", source.collate), ("LC_CTYPE", source.ctype)]
    if version_num >= 150000:
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
    admin: "psycopg.Connection[TupleRow]",
    loaded: str,
    target: str,
    previous: str,
    *,
    replace: bool,
    disconnect: bool,
) -> str | None:
    """Give the loaded database its name; gives the name under which an old one is kept, if any.

    One transaction: nobody ever sees half of it, and a crash undoes all of it.
    Raises `TargetExists` and `TargetInUse`.
    """
    try:
        with admin.transaction():
            taken = replace and exists(admin, target)
            if taken:
                if disconnect:
                    admin.execute(_TERMINATE, (target,))
                _rename(admin, target, previous)
            _rename(admin, loaded, target)
            admin.execute(_comment(target, None))
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


def exists(admin: "psycopg.Connection[TupleRow]", database: str) -> bool:
    """Whether the server has a database of that name."""
    query = "SELECT FROM pg_database WHERE datname = %s"
    return admin.execute(query, (database,)).fetchone() is not None


def _sessions(admin: "psycopg.Connection[TupleRow]", database: str) -> list[str]:
    rows = admin.execute(
        "SELECT format('%%s (pid %%s, %%s)', usename, pid, application_name)"
        " FROM pg_stat_activity WHERE datname = %s ORDER BY pid",
        (database,),
    ).fetchall()
    return [row[0] for row in rows]


def _sessions_that_stay(admin: "psycopg.Connection[TupleRow]", database: str) -> list[str]:
    """Those that are still there after a moment: a client that has just gone is none."""
    deadline = time.monotonic() + _MOMENT
    while (sessions := _sessions(admin, database)) and time.monotonic() < deadline:
        time.sleep(0.1)
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
