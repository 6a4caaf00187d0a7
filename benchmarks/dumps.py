"""The dumps that restores and verifications begin with: ours and the others', made once."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.commands import DUMP_ALONE, RIVALS
from benchmarks.rivals import PREFIX, SQL
from benchmarks.servers import BUCKET, Servers


@dataclass(frozen=True, slots=True)
class Dumps:
    """One database on the local disk, in three forms; the first is in the bucket as well."""

    sql: Path
    archive: Path
    directory: Path


@contextmanager
def made(servers: Servers, database: str, *, archives: bool = True) -> Iterator[Dumps]:
    """Dumps of a database, ours in the bucket among them, while the block lasts.

    Without `archives` there are none of pg_dump's own formats, which take minutes for 5,000 MB.
    """
    env = servers.environment(database)
    directory = servers.scratch / "dumps"
    directory.mkdir()
    dumps = Dumps(directory / SQL, directory / "archive", directory / "directory")
    sql = (DUMP_ALONE, (*RIVALS, "dump_gzip", directory))
    others = (
        ("pg_dump", "--format=custom", f"--file={dumps.archive}"),
        ("pg_dump", "--format=directory", "--jobs=2", f"--file={dumps.directory}"),
    )
    for command in (*sql, *(others if archives else ())):
        subprocess.run(command, env=env, check=True)
    servers.s3.access.client().download_file(BUCKET, PREFIX + SQL, str(dumps.sql))
    yield dumps
    shutil.rmtree(directory)
    servers.empty_bucket()
