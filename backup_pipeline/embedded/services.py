"""Both embedded servers under one directory, and the environment that leads everything to them."""

import contextlib
import os
import shlex
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from types import TracebackType
from typing import Self

from backup_pipeline.embedded.postgres import EmbeddedPostgres
from backup_pipeline.embedded.s3 import EmbeddedS3
from backup_pipeline.embedded.sample import DATABASE
from backup_pipeline.embedded.server import locked

DIRECTORY = Path(".backup-pipeline")
BUCKET = "options-data"
# A variable that is left over from work on a real server, BACKUP_DSN say, would lead there.
_LEADS_ELSEWHERE = ("BACKUP_", "PG", "AWS_")
_FORGET = (
    "for name in $(env | sed -nE 's/^((BACKUP_|PG|AWS_)[A-Za-z0-9_]*)=.*/\\1/p'); "
    'do unset "$name"; done\n'
)


class Services:
    """A PostgreSQL and an S3 server whose data stay in `directory` from one time to the next.

    As a context manager it stops what was started; `running` starts it too.
    """

    def __init__(
        self, directory: Path = DIRECTORY, *, database: str = DATABASE, bucket: str = BUCKET
    ) -> None:
        self.directory = directory.absolute()
        self.database = database
        self.bucket = bucket
        self.postgres = EmbeddedPostgres(self.directory / "postgres")
        self.s3 = EmbeddedS3(self.directory / "s3")
        self._settings = self.directory / "settings.yaml"
        self._held = contextlib.ExitStack()

    @property
    def dsn(self) -> str:
        """The connection string of the database, the password in it."""
        return self.postgres.dsn(self.database)

    def environment(self) -> dict[str, str]:
        """Every variable that the command line and Dagster need, the secrets among them."""
        return {
            **self.postgres.environment(self.database),
            **self.s3.environment(),
            "BACKUP_BUCKET": self.bucket,
            "BACKUP_CONFIG": str(self._settings),
        }

    def lead(self, environment: MutableMapping[str, str]) -> None:
        """Make an environment lead to these servers, and to none that it named before."""
        for name in [name for name in environment if name.startswith(_LEADS_ELSEWHERE)]:
            del environment[name]
        environment.update(self.environment())

    def start(self) -> None:
        """Start both servers, make the bucket, and write `<directory>/env` for a shell (0600).

        Raises `Refused` when another process runs them in this directory.
        """
        with contextlib.ExitStack() as held:
            self.directory.mkdir(parents=True, exist_ok=True)
            held.enter_context(locked(self.directory / "lock", "services"))
            (self.directory / ".gitignore").write_text("*\n")
            # Empty: the backup.yaml of whatever directory this is called in may name a real server.
            self._settings.touch()
            held.callback(self.s3.stop)
            # PostgreSQL makes its cluster while the S3 server comes up.
            self.s3.begin()
            held.enter_context(self.postgres)
            self.s3.wait()
            self.s3.create_bucket(self.bucket)
            self._write_environment()
            self._held = held.pop_all()

    def stop(self) -> None:
        """End both servers; harmless when they are stopped."""
        self._held.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _write_environment(self) -> None:
        path = self.directory / "env"
        path.unlink(missing_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(_FORGET)
            for name, value in self.environment().items():
                file.write(f"export {name}={_quoted(value)}\n")


@contextlib.contextmanager
def running(directory: Path = DIRECTORY) -> Iterator[Services]:
    """Both servers, started in `directory` and stopped at the end."""
    with Services(directory) as services:
        services.start()
        yield services


def _quoted(value: str) -> str:
    # Quotes even where a shell needs none, so that every line looks the same.
    return f"'{value}'" if shlex.quote(value) == value else shlex.quote(value)
