"""Preflight: can this server hold a database like the source?

What the role may not ask, or what can't be asked from this machine, is no problem here.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from psycopg import errors as pg
from psycopg import sql

from backup_pipeline.engine.model import Source
from backup_pipeline.engine.postgres import server_encoding
from backup_pipeline.errors import TargetUnsuitable

if TYPE_CHECKING:
    import psycopg
    from psycopg.rows import TupleRow

    Admin = psycopg.Connection[TupleRow]


class Problem(NamedTuple):
    """Why a server can't hold a database, and what to do about it."""

    said: str
    advice: str


def require_suitable(admin: "Admin", source: Source) -> None:
    """Raise `TargetUnsuitable`, which names everything that is wrong, unless the server is fit."""
    found = problems(admin, source)
    if found:
        raise TargetUnsuitable(
            "; ".join(problem.said for problem in found),
            hint=" ".join(problem.advice for problem in found),
        )


def problems(admin: "Admin", source: Source) -> list[Problem]:
    """Everything that is wrong with a server which is to hold a database like the source."""
    # One that takes no writes lets nobody try anything else.
    return [*_read_only(admin)] or [problem for look in _LOOKS for problem in look(admin, source)]


def _read_only(admin: "Admin") -> Iterator[Problem]:
    standby, read_only = admin.execute(_READ_ONLY).fetchone() or (False, False)
    if standby:
        yield Problem(
            "the target server is a standby, which takes no writes",
            "Restore on the primary, or on another server; BACKUP_DRILL_DSN names the one on which "
            "drills restore.",
        )
    elif read_only:
        yield Problem(
            f"role {admin.info.user!r} writes nothing on the target server: "
            "default_transaction_read_only is on",
            f"As a superuser: ALTER ROLE {_quoted(admin.info.user)} SET "
            "default_transaction_read_only = off;",
        )


_READ_ONLY = "SELECT pg_is_in_recovery(), current_setting('transaction_read_only')::bool"


def _version(admin: "Admin", source: Source) -> Iterator[Problem]:
    major = admin.info.server_version // 10000
    if major < source.server_version_num // 10000:
        yield Problem(
            f"the backup is of PostgreSQL {source.server_version}, the target is PostgreSQL "
            f"{major}, and an older server can't take it",
            "Restore into a server of the same or a newer major version.",
        )


def _right(admin: "Admin", _: Source) -> Iterator[Problem]:
    may = "SELECT rolcreatedb OR rolsuper FROM pg_roles WHERE rolname = current_user"
    if admin.execute(may).fetchone() != (True,):
        yield Problem(
            f"role {admin.info.user!r} may not create databases on the target server",
            f"As a superuser: ALTER ROLE {_quoted(admin.info.user)} CREATEDB;",
        )


def _extensions(admin: "Admin", source: Source) -> Iterator[Problem]:
    available = _names(admin, "SELECT name FROM pg_available_extensions")
    missing = [each.name for each in source.extensions if each.name not in available]
    if missing:
        yield Problem(
            f"the target server lacks the extensions {', '.join(missing)}",
            "Install the packages of these extensions on the target server first.",
        )


def _roles(admin: "Admin", source: Source) -> Iterator[Problem]:
    present = _names(admin, "SELECT rolname FROM pg_roles")
    missing = [role for role in source.roles if role not in present]
    if missing:
        create = " ".join(f"CREATE ROLE {_quoted(role)};" for role in missing)
        yield Problem(
            "policies or user mappings name roles that the target server lacks: "
            + ", ".join(missing),
            f"Create them first: {create}",
        )


def _locales(admin: "Admin", source: Source) -> Iterator[Problem]:
    # A collation is the only thing that takes a locale and can be undone; it has the encoding of
    # the database that it is in.
    if server_encoding(admin) != source.encoding:
        return
    probes = []
    collate, ctype = source.collate, source.ctype
    if collate and ctype and not {collate, ctype} <= {"C", "POSIX"}:
        probes.append({"provider": "libc", "lc_collate": collate, "lc_ctype": ctype})
    if source.locale is not None:
        probes.append({"provider": source.locale_provider, "locale": source.locale})
    for probe in probes:
        said = _refused(admin, probe)
        if said:
            yield Problem(
                f"the target server does not know the locale of the source: {said}",
                "Install that locale on the target server and restart PostgreSQL.",
            )


def _refused(admin: "Admin", probe: dict[str, str]) -> str | None:
    """What the server says against a locale, if anything."""
    options = sql.SQL(", ").join(
        sql.SQL("{} = {}").format(sql.SQL(option), sql.Literal(value))
        for option, value in probe.items()
    )
    try:
        with admin.transaction(force_rollback=True):
            admin.execute(sql.SQL("CREATE COLLATION pg_temp.probe ({})").format(options))
    except _UNKNOWN_LOCALE as error:
        return error.diag.message_primary
    except pg.InsufficientPrivilege:
        return None
    return None


_UNKNOWN_LOCALE = (
    pg.InvalidParameterValue,  # libc or ICU has no such locale
    pg.WrongObjectType,  # the builtin provider has none
    pg.InvalidObjectDefinition,  # no such provider, or the locale is of another encoding
    pg.FeatureNotSupported,  # built without ICU
)


def _disk(admin: "Admin", source: Source) -> Iterator[Problem]:
    disk = data_disk(admin)
    if disk and disk.free < source.database_size:
        yield Problem(
            f"the source takes {source.database_size:,} bytes, and the target's disk has "
            f"{disk.free:,} free in {disk.directory}",
            "Make room on that disk, or restore into another server.",
        )


class Disk(NamedTuple):
    """Where a server keeps its data, and how many bytes are free there."""

    directory: str
    free: int


def data_disk(admin: "Admin") -> Disk | None:
    """The disk of the server's data, where it is one of this machine and the role may ask."""
    try:
        row = admin.execute(_DATA).fetchone()
        assert row is not None
        directory, modified = row
        if int(Path(directory).stat().st_mtime) != modified:
            return None  # another machine's, and a directory of that name is here too
        return Disk(directory, shutil.disk_usage(directory).free)
    except (pg.InsufficientPrivilege, OSError):
        return None


_DATA = """
    SELECT current_setting('data_directory'),
           extract(epoch FROM (pg_stat_file('.')).modification)::bigint
"""

_LOOKS = (_version, _right, _extensions, _roles, _locales, _disk)


def _names(admin: "Admin", query: str) -> set[str]:
    return {row[0] for row in admin.execute(query.encode()).fetchall()}


def _quoted(name: str) -> str:
    return sql.Identifier(name).as_string(None)
