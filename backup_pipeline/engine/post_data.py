"""Post-data: indexes, keys and the rest, made from the schema archive by several at once."""

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO, TYPE_CHECKING

from backup_pipeline.engine.postgres import (
    Clients,
    conninfo_of,
    environment_of,
    find_clients,
    patience_with,
)
from backup_pipeline.engine.process import child_environment, output
from backup_pipeline.engine.script import unquoted
from backup_pipeline.errors import ChildFailed

if TYPE_CHECKING:
    import psycopg
    from psycopg.rows import TupleRow

_OPTIONS = ("--section=post-data", "--no-owner", "--no-privileges")
# What a version of the tools says before it begins, and what only psql heeds.
_ASIDE = (b"--", b"SET ", b"SELECT pg_catalog.set_config(", b"\\restrict ", b"\\unrestrict ")

_TABLESPACE = re.compile(rb"^SET default_tablespace = (?!'')(.+);$", re.MULTILINE)


def fitting_clients(
    bin_dirs: Sequence[Path], pg_dump_version: str, server_version: int
) -> Clients | None:
    """The tools that read the archive, and that write nothing which the server does not know."""
    oldest, newest = int(pg_dump_version.split(".")[0]), server_version // 10000
    fitting = [c for c in find_clients(bin_dirs) if oldest <= c.version_num // 10000 <= newest]
    return min(fitting, key=lambda c: (c.version_num // 10000, -c.version_num), default=None)


def restore_post_data(
    connection: "psycopg.Connection[TupleRow]",
    archive: bytes,
    clients: Clients,
    text: bytes,
    jobs: int,
    *,
    alike: bool = False,
) -> bool:
    """Have pg_restore make what comes behind the rows, if the archive says what the dump says.

    It connects `jobs` times, to the database of the connection; if the tables are `alike` enough
    to keep all of these busy, none of them has workers of its own.
    `text` is the dump's: an archive that lacks anything of it, or has more, is left alone, and so
    is one that can be put nowhere; the result is `False` then.
    Where the server lacks one of the tablespaces, everything goes into the database's own.
    Raises `ChildFailed` where the server refuses a statement.
    """
    with _file(archive) as path:
        if path is None or not _says(clients, path, text):
            return False
        env = environment_of(connection)
        # The switch commits synchronously, and with it everything that was written before.
        options = "-c synchronous_commit=off"
        if alike:
            # A sort divided among workers takes a fifth more CPU, and the cores are taken.
            options += " -c max_parallel_maintenance_workers=0"
        env["PGOPTIONS"] = f"{env.get('PGOPTIONS', '')} {options}".strip()
        how = (*_OPTIONS, f"--jobs={jobs}", "--exit-on-error", "--no-password")
        database = f"--dbname={conninfo_of(connection)}"
        tool = clients.tool("pg_restore")
        command: list[str | Path] = [tool, *how, *_where(connection, text), database, path]
        output(command, env, patience=patience_with(connection))
    return True


def _where(connection: "psycopg.Connection[TupleRow]", text: bytes) -> tuple[str, ...]:
    named = {unquoted(each) for each in _TABLESPACE.findall(text)}
    if not named or named <= {name for (name,) in connection.execute(_TABLESPACES)}:
        return ()
    return ("--no-tablespaces",)


_TABLESPACES = b"SELECT convert_to(spcname::text, getdatabaseencoding()) FROM pg_tablespace"


def _says(clients: Clients, archive: Path, text: bytes) -> bool:
    command = (clients.tool("pg_restore"), *_OPTIONS, "--file=-", archive)
    try:
        script = output(command, child_environment({}))
    except ChildFailed:
        return False  # it can't be read
    return Counter(_statements(script)) == Counter(_statements(text))


def _statements(script: bytes) -> Iterator[bytes]:
    for line in script.splitlines():
        if line.strip() and not line.startswith(_ASIDE):
            yield line


@contextmanager
def _file(content: bytes) -> Iterator[Path | None]:
    """A file, in memory where the system can do that; `None` where it can't be written.

    Each of pg_restore's processes opens it anew, so a pipe won't do.
    """
    with ExitStack() as opened:
        path = None
        with suppress(OSError):
            if hasattr(os, "memfd_create"):
                file: IO[bytes] = opened.enter_context(os.fdopen(os.memfd_create("schema"), "wb"))
                found = Path(f"/proc/{os.getpid()}/fd/{file.fileno()}")
            else:
                file = opened.enter_context(NamedTemporaryFile(prefix="backup-pipeline-"))
                found = Path(file.name)
            file.write(content)
            file.flush()
            path = found
        yield path
