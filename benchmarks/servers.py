"""PostgreSQL and an S3 server for benchmarks, and what they take themselves."""

import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import psycopg
from psycopg.sql import SQL, Identifier

from backup_pipeline.embedded.postgres import EmbeddedPostgres
from backup_pipeline.embedded.s3 import EmbeddedS3
from backup_pipeline.embedded.sample import load_sample

if TYPE_CHECKING:
    from mypy_boto3_s3.type_defs import ObjectTypeDef

BUCKET = "benchmarks"


@dataclass(frozen=True)
class Servers:
    """Both servers, started, with an empty bucket."""

    scratch: Path
    """On the same disk; removed at the end."""
    postgres: EmbeddedPostgres
    s3: EmbeddedS3

    def environment(self, database: str) -> Mapping[str, str]:
        """What a command needs to find the database, the bucket and the client tools."""
        return {
            **os.environ,
            **self.postgres.environment(database),
            **self.s3.environment(),
            "BACKUP_BUCKET": BUCKET,
            "PATH": f"{self.postgres.bin_dir}{os.pathsep}{os.environ['PATH']}",
        }

    def sample(self, megabytes: int) -> str:
        """The name of a sample database of that size, made when it is first asked for."""
        name = f"sample_{megabytes}"
        if load_sample(self.postgres.dsn(name), megabytes=megabytes):
            print(f"made a sample of {megabytes} MB", file=sys.stderr)
            with psycopg.connect(self.postgres.dsn(name), autocommit=True) as connection:
                connection.execute("VACUUM (ANALYZE)")
                connection.execute("CHECKPOINT")
        return name

    def drop(self, database: str) -> None:
        """Remove a database; what was written is on the disk afterwards, so nobody else pays."""
        with psycopg.connect(self.postgres.dsn(), autocommit=True) as connection:
            connection.execute(
                SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(Identifier(database))
            )
            connection.execute("CHECKPOINT")

    def empty_bucket(self) -> None:
        """Delete every object."""
        client = self.s3.access.client()
        for found in self._objects():
            client.delete_object(Bucket=BUCKET, Key=found["Key"])

    def largest_object(self) -> int:
        """The size of the largest object in the bucket."""
        return max(found["Size"] for found in self._objects())

    def _objects(self) -> "list[ObjectTypeDef]":
        pages = self.s3.access.client().get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
        return [found for page in pages for found in page.get("Contents", [])]

    def cpu_seconds(self) -> tuple[float, float]:
        """What PostgreSQL and the S3 server have taken so far."""
        return _cpu_seconds("postgres"), _cpu_seconds("weed")


@contextmanager
def started() -> Iterator[Servers]:
    """Both servers while the block lasts, PostgreSQL durable as in earnest."""
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as directory:
        scratch = Path(directory)
        with (
            EmbeddedPostgres(scratch / "postgres") as postgres,
            EmbeddedS3(scratch / "s3") as s3,
        ):
            s3.create_bucket(BUCKET)
            with psycopg.connect(postgres.dsn(), autocommit=True) as connection:
                connection.execute(_LOCKS)
            postgres.stop()
            postgres.start()
            yield Servers(scratch, postgres, s3)


# pg_dump locks every table, and so does each that works beside another.
_LOCKS = "ALTER SYSTEM SET max_locks_per_transaction = 1024"


def _cpu_seconds(program: str) -> float:
    """Of this process's server of that name: its processes, and those that it has waited for."""
    total = 0.0
    for child in psutil.Process().children(recursive=True):
        try:
            if child.name() == program:
                total += sum(child.cpu_times()[:4])
        except psutil.NoSuchProcess:
            continue
    return total
