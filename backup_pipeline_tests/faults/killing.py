"""The command line as a process that is killed outright, and a witness of what is left then.

The witness asks boto3, gzip, psycopg and psutil, and nothing of the software itself.
"""

import gzip
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import psutil
import psycopg

from backup_pipeline.embedded.postgres import EmbeddedPostgres

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

COMMAND = (sys.executable, "-c", "from backup_pipeline.cli import main; main()")
PREFIX = "backups/postgres/"
MANIFEST, DUMP, GLOBALS = ".manifest.json", ".sql.gz", ".globals.sql.gz"
PATIENCE = 60
"""Seconds for what a killed process leaves to notice it; it takes far less on an idle machine."""


@dataclass
class Victim:
    """Runs commands and kills them; whatever they start is recognized by a mark they inherit."""

    environment: Mapping[str, str]
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Begin a command of the software."""
        return subprocess.Popen(
            [*COMMAND, *arguments],
            env={**self.environment, "TEST_MARK": self.mark},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def run(self, *arguments: str) -> float:
        """Let a command end well; gives how many seconds it took."""
        begun = time.monotonic()
        with self.start(*arguments) as process:
            assert process.wait() == 0, arguments
        return time.monotonic() - begun

    def run_and_kill(self, after: float, *arguments: str, alone: bool) -> None:
        """Kill a command after some seconds, alone or with all that it has started."""
        with self.start(*arguments) as process:
            try:
                process.wait(after)
            except subprocess.TimeoutExpired:
                kill(process.pid, alone=alone)

    def wait_until_gone(self) -> None:
        """Until nothing that any command has started runs any more."""
        deadline = time.monotonic() + PATIENCE
        while left := self.processes():
            assert time.monotonic() < deadline, left
            time.sleep(0.05)

    def processes(self) -> list[psutil.Process]:
        """What still runs of all that was started."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get("TEST_MARK") == self.mark:
                    found.append(process)
        return found


def kill(pid: int, *, alone: bool) -> None:
    """End a child that nobody has waited for yet by SIGKILL, alone or with all it has started."""
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        # It shall start nothing more while its children are looked for.
        process.suspend()
        doomed = [process] if alone else [process, *process.children(recursive=True)]
        for each in doomed:
            with suppress(psutil.NoSuchProcess):
                os.kill(each.pid, signal.SIGKILL)


@dataclass(frozen=True)
class Witness:
    """What is left in a bucket and on a server."""

    client: "S3Client"
    bucket: str
    postgres: EmbeddedPostgres

    def objects(self) -> dict[str, str]:
        """Every key in the bucket with its ETag."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket)
        found = (each for page in pages for each in page.get("Contents", ()))
        return {each["Key"]: each["ETag"] for each in found}

    def uploads(self) -> list[str]:
        """The keys of the open multipart uploads."""
        reply = self.client.list_multipart_uploads(Bucket=self.bucket)
        return [each["Key"] for each in reply.get("Uploads", ())]

    def body(self, key: str) -> bytes:
        """The bytes of an object."""
        return self.client.get_object(Bucket=self.bucket, Key=key)["Body"].read()

    def visible(self) -> set[str]:
        """The names of the backups that there are: those with a manifest."""
        keys = [key.removeprefix(PREFIX) for key in self.objects()]
        return {key.removesuffix(MANIFEST) for key in keys if key.endswith(MANIFEST)}

    def require_whole(self, name: str, rows: int) -> None:
        """A visible backup has to be one that gunzip reads, to its last line, with all rows.

        If its manifest speaks of globals, they have to be there and be whole as well.
        """
        manifest = json.loads(self.body(f"{PREFIX}{name}{MANIFEST}"))
        dump = self.body(f"{PREFIX}{name}{DUMP}")
        assert len(dump) == sum(member["length"] for member in manifest["members"])
        sql = gzip.decompress(dump)
        assert b"PostgreSQL database dump complete" in sql[-300:]
        begun = sql.index(b"COPY public.rows ")
        copied = sql[begun : sql.index(b"\n\\.\n", begun)]
        assert copied.count(b"\n") == rows
        if script := manifest["globals_script"]:
            globals_ = self.body(f"{PREFIX}{name}{GLOBALS}")
            assert len(globals_) == script["length"]
            assert b"database cluster dump complete" in gzip.decompress(globals_)[-100:]

    def backends(self, database: str) -> list[tuple[object, ...]]:
        """The sessions that still work for the software in databases whose names begin so."""
        with psycopg.connect(self.postgres.dsn(), autocommit=True) as admin:
            return admin.execute(
                "SELECT pid, application_name, state, query FROM pg_stat_activity"
                " WHERE application_name IN"
                " ('backup-pipeline', 'pg_dump', 'pg_dumpall', 'pg_restore', 'psql')"
                " AND (starts_with(datname, %s) OR datname = 'postgres')",
                (database,),
            ).fetchall()

    def wait_until_quiet(self, database: str) -> None:
        """Until the server has noticed that its clients are gone."""
        deadline = time.monotonic() + PATIENCE
        while left := self.backends(database):
            assert time.monotonic() < deadline, left
            time.sleep(0.05)
