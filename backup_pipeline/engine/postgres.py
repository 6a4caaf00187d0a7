"""PostgreSQL: where the server is, how a child finds it, and which client tools can read it."""

import getpass
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backup_pipeline.engine.process import Patience, Reader, all_of, child_environment, reading
from backup_pipeline.errors import (
    ChildFailed,
    ClientTooOld,
    InvalidInput,
    PostgresDenied,
    PostgresFailed,
    PostgresUnreachable,
)

if TYPE_CHECKING:
    import psycopg
    from psycopg.rows import TupleRow

    from backup_pipeline.engine.silence import Connection, Peer

_CONNECT_TIMEOUT = "10"
# A connection of which the other end is gone without a word, such as one that a router has
# forgotten, breaks within two minutes; the system's own default is two hours.
_KEEPALIVE = {
    "keepalives_idle": "60",
    "keepalives_interval": "10",
    "keepalives_count": "6",
}
# The same for the server's end, so that no session and no lock outlives a machine that is gone.
_SERVERS_KEEPALIVE = {f"tcp_{name}": value for name, value in _KEEPALIVE.items()}
# What an owner may set for a database, and what changes how pg_dump words its schema.
_PINNED = {"standard_conforming_strings": "on", "quote_all_identifiers": "off"}
_OPTIONS = " ".join(f"-c {name}={value}" for name, value in (_PINNED | _SERVERS_KEEPALIVE).items())
# The first four are settled by the connection; the last would hide who a backend works for.
_NOT_FOR_CHILDREN = (
    "PGSERVICE",
    "PGSERVICEFILE",
    "PGHOSTADDR",
    "PGTARGETSESSIONATTRS",
    "PGAPPNAME",
)
# What libpq says when it gets no connection, and what is worth looking at then.
_ADVICE = {
    "startup parameter": "That is a pooler, such as PgBouncer, which hands out sessions of others: "
    "give PGHOST and PGPORT of PostgreSQL itself.",
    "Connection refused": "Nobody listens there: start the server, or correct PGHOST and PGPORT.",
    "No such file": "No server has its socket there: start it, or correct PGHOST and PGPORT.",
    "timeout": "Nothing answers there: look at the network, its firewalls and PGHOST.",
    "timed out": "Nothing answers there: look at the network, its firewalls and PGHOST.",
    "No route": "There is no way to that host: look at the network and PGHOST.",
    "translate host name": "Nobody knows that host: correct PGHOST, or look at the name service.",
    "too many": "All connections are taken: wait, or look at max_connections and the role's limit.",
    "SSL": "They do not agree on TLS: look at PGSSLMODE, PGSSLROOTCERT, its certificate.",
    "certificate": "They do not agree on TLS: look at PGSSLMODE, PGSSLROOTCERT, its certificate.",
    "starting up": "Wait until it is up, and run it again.",
}
# What an owner may set to end a session or its work; some came with later versions.
_ENDLESS = """
    SELECT set_config(name, '0', false) FROM pg_settings
    WHERE name IN ('statement_timeout', 'lock_timeout', 'transaction_timeout',
                   'idle_session_timeout', 'idle_in_transaction_session_timeout')
"""
NO_PASSWORDS = (
    "Passwords are for superusers and members of pg_read_all_data: become one, or leave them out "
    "with BACKUP_GLOBALS=without-passwords."
)
_SETTLED = {name.encode() for name in _NOT_FOR_CHILDREN}


@dataclass(frozen=True)
class Server:
    """A PostgreSQL server and a database on it, as libpq's parameters.

    Whatever is not given comes from libpq's own sources: `PG*` variables, a service file, a
    password file (PostgreSQL manual, 32.15 to 32.17).
    `repr()` shows no password.
    """

    dsn: str = field(default="", repr=False)
    parameters: Mapping[str, str] = field(default_factory=dict, repr=False)
    patience: float = 60.0
    """Seconds without a word until another connection asks whether it is still there; that one
    waits as long for an answer."""

    @classmethod
    def of(cls, dsn: str | None = None, **parameters: str) -> "Server":
        """A server by connection string or URI, with single parameters that win over it.

        Raises `InvalidInput` where libpq can't read the string.
        """
        server = cls(dsn or "", parameters)
        server._resolved()
        return server

    def using(self, database: str) -> "Server":
        """The same server, another database."""
        return replace(self, parameters={**self.parameters, "dbname": database})

    def with_option(self, name: str, value: str) -> "Server":
        """The same server, with sessions that begin with this setting.

        One that is a service has options that libpq alone knows, and stays as it is.
        """
        if "service" in self._explicit():
            return self
        options = f"{self._resolved().get('options', '')} -c {name}={value}".lstrip()
        return replace(self, parameters={**self.parameters, "options": options})

    @property
    def host(self) -> str:
        """The host, or the directory of the Unix socket."""
        return self._resolved().get("host") or self._resolved().get("hostaddr") or "localhost"

    @property
    def port(self) -> str:
        """The port; libpq takes lists of them, so this is text."""
        return self._resolved().get("port") or "5432"

    @property
    def user(self) -> str:
        """The role that connects."""
        return self._resolved().get("user") or getpass.getuser()

    @property
    def database(self) -> str:
        """The database; PostgreSQL's default is the name of the role."""
        return self._resolved().get("dbname") or self.user

    @property
    def named_database(self) -> str | None:
        """The database that one of libpq's sources names, or `None` where its default holds."""
        return self._resolved().get("dbname")

    @property
    def gives_password(self) -> bool:
        """Whether the connection string itself holds a password."""
        return "password" in self._explicit()

    def describe(self) -> str:
        """`user@host:port/database`, for people."""
        return f"{self.user}@{self.host}:{self.port}/{self.database}"

    def __repr__(self) -> str:
        return f"Server({self.describe()})"

    @contextmanager
    def connect(self) -> "Iterator[Connection]":
        """A connection in autocommit mode with nothing but `pg_catalog` in its search path.

        Raises `PostgresUnreachable` when there is none to be had, `PostgresDenied` when the server
        refuses the login, `PostgresSilent` when nothing comes from it any more, and
        `PostgresFailed` for whatever it reports inside the block.
        """
        import psycopg
        from psycopg import sql

        from backup_pipeline.engine.silence import Connection

        own = {"connect_timeout": _CONNECT_TIMEOUT, "application_name": "backup-pipeline"}
        given: dict[str, Any] = {**own, **_KEEPALIVE, **self._explicit()}
        # From its beginning, as in the children: who does not take that, such as a pooler, says so.
        # The options of a service are known to libpq alone.
        if "service" not in given:
            given["options"] = f"{self._resolved().get('options', '')} {_OPTIONS}".lstrip()
        try:
            connection = Connection.connect(autocommit=True, **given)
        except psycopg.OperationalError as error:
            raise _unconnected(self.describe(), _one_line(error)) from error
        connection.peer = _peer_of(connection, self.patience)
        # Closed without a word more: the server undoes what is not committed.
        with closing(connection):
            try:
                # Nobody's function or operator may stand in for one of pg_catalog's.
                connection.execute("SET search_path = pg_catalog")
                # What takes long here takes long, and a session may have to wait for others.
                connection.execute(_ENDLESS)
                # Of the styles that an owner may set for a database, psycopg reads this one.
                connection.execute("SET DateStyle = ISO")
                # Names and rows are read and written as the database has them.
                encoding = server_encoding(connection)
                if encoding == "SQL_ASCII":
                    # The server converts nothing then, and psycopg gives text as `decoded` does.
                    encoding = "LATIN1"
                set_encoding = sql.SQL("SET client_encoding = {}").format(sql.Literal(encoding))
                connection.execute(set_encoding)
                if "service" in given:
                    for name, value in _SERVERS_KEEPALIVE.items():
                        connection.execute(f"SET {name} = {value}".encode())
                yield connection
            except psycopg.Error as error:
                if connection.fallen_silent:
                    raise connection.fallen_silent from error
                said = _one_line(error)
                raise PostgresFailed(f"{self.describe()}: {said}", hint=advice_on(said)) from error

    def _explicit(self) -> dict[str, str]:
        return {**_parsed(self.dsn), **self.parameters}

    def _resolved(self) -> dict[str, str]:
        from psycopg.pq import Conninfo

        defaults = {
            option.keyword.decode(): option.val.decode()
            for option in Conninfo.get_defaults()
            if option.val is not None
        }
        return {**defaults, **self._explicit()}


def _peer_of(connection: "Connection", patience: float) -> "Peer":
    from backup_pipeline.engine.silence import Peer

    info = connection.info
    given = {
        option.keyword.decode(): option.val.decode()
        for option in connection.pgconn.info
        if option.val and option.envvar not in _SETTLED
    }
    given |= {"host": info.host, "port": str(info.port), "dbname": info.dbname}
    given |= {"hostaddr": info.hostaddr} if info.hostaddr else {}
    given |= {"password": info.password} if info.password else {}
    return Peer(f"{info.user}@{info.host}:{info.port}/{info.dbname}", given, patience)


def patience_with(connection: "psycopg.Connection[TupleRow]") -> Patience:
    """How a child that works for a connection is waited for: as long as the server is there."""
    from backup_pipeline.engine.silence import Connection, Silence

    assert isinstance(connection, Connection)
    assert connection.peer
    peer = connection.peer
    return lambda: Silence(peer).goes_on


def environment_of(connection: "psycopg.Connection[TupleRow]") -> dict[str, str]:
    """The environment in which a PostgreSQL tool finds the very server of this connection.

    Parameters travel as libpq's variables: a password is in no argument list, and a database
    name is never taken for an option or a connection string.
    Of several hosts it is the one that answered.
    """
    variables = {
        option.envvar.decode(): option.val.decode()
        for option in connection.pgconn.info
        if option.envvar and option.val
    }
    for name in _NOT_FOR_CHILDREN:
        variables.pop(name, None)
    info, options = connection.info, variables.get("PGOPTIONS", "")
    variables |= {
        "PGOPTIONS": options if _OPTIONS in options else f"{options} {_OPTIONS}".lstrip(),
        "PGHOST": info.host,
        "PGPORT": str(info.port),
        "PGUSER": info.user,
        "PGDATABASE": info.dbname,
        "PGCLIENTENCODING": server_encoding(connection),
    }
    if info.hostaddr:
        # One name may stand for several servers, of which one has the snapshot.
        variables["PGHOSTADDR"] = info.hostaddr
    if info.password:
        variables["PGPASSWORD"] = info.password
    return child_environment(variables)


def conninfo_of(connection: "psycopg.Connection[TupleRow]") -> str:
    """What a tool has to be told beside its environment: its database, and how a wire is watched.

    libpq has no variables for that, and a name alone is taken for a connection string if it looks
    like one.
    """
    from psycopg.conninfo import make_conninfo

    given = {option.keyword.decode(): option.val for option in connection.pgconn.info}
    watched = {name: (given.get(name) or b"").decode() for name in _KEEPALIVE}
    return make_conninfo(dbname=connection.info.dbname, **watched)


def server_encoding(connection: "psycopg.Connection[TupleRow]") -> str:
    """The encoding of the connection's database, by PostgreSQL's name."""
    return connection.info.parameter_status("server_encoding") or "UTF8"


@dataclass(frozen=True, slots=True)
class Clients:
    """PostgreSQL's client tools in one directory."""

    bin_dir: Path
    version: str
    version_num: int

    def tool(self, name: str) -> Path:
        """The path of one of them."""
        return self.bin_dir / name


def find_clients(bin_dirs: Sequence[Path]) -> tuple[Clients, ...]:
    """The client tools in those directories that have a working pg_dump, in that order."""
    with ExitStack() as running:
        asked = [(each, _asked(each, running)) for each in dict.fromkeys(bin_dirs)]
        found = [_clients_in(bin_dir, pg_dump) for bin_dir, pg_dump in asked if pg_dump]
    return tuple(clients for clients in found if clients)


def choose_clients(clients: Sequence[Clients], server_version_num: int) -> Clients:
    """The tools of the server's own major version, else of the next newer one.

    pg_dump reads servers older than itself, but what a newer pg_dump writes need not load into
    an older server (manual, pg_dump, Notes), and a backup's first duty is to go back where it
    came from.
    Of one major version the newest minor wins.

    Raises `ClientTooOld`, naming both versions, where every pg_dump is older than the server.
    """
    major = server_version_num // 10000
    able = [each for each in clients if each.version_num // 10000 >= major]
    if not able:
        have = ", ".join(each.version for each in clients) or "none at all"
        raise ClientTooOld(
            f"the server is PostgreSQL {major}, and the pg_dump on this machine is older: {have}",
            hint=f"Install PostgreSQL's client tools of version {major} or newer, "
            "or name their directory in BACKUP_PG_BIN_DIRS.",
        )
    return min(able, key=lambda each: (each.version_num // 10000, -each.version_num))


SECURITY_MINIMUMS: Mapping[int, int] = {14: 25, 15: 20, 16: 16, 17: 12, 18: 7}
"""Of each major version of the client tools, the first minor one without a known vulnerability."""


def outdated(version: str, minimums: Mapping[int, int] = SECURITY_MINIMUMS) -> str | None:
    """What is wrong with client tools that are older than the minimum of their major version.

    A major version older than all that have a minimum gets no fixes any more.
    """
    major, _, minor = version.partition(".")
    least = minimums.get(int(major))
    if least is not None and int(minor or 0) < least:
        return f"pg_dump {version} is older than {major}.{least}, the security minimum"
    if int(major) < min(minimums):
        return f"pg_dump {version} is of a major version that gets no security fixes any more"
    return None


def _asked(bin_dir: Path, running: ExitStack) -> Reader | None:
    """The pg_dump in a directory, if there is one, about to tell its version."""
    pg_dump = bin_dir / "pg_dump"
    with suppress(ChildFailed):
        if pg_dump.is_file():
            return running.enter_context(reading([pg_dump, "--version"], child_environment({})))
    return None


def _clients_in(bin_dir: Path, pg_dump: Reader) -> Clients | None:
    try:
        said = all_of(pg_dump).decode()
    except ChildFailed:
        return None
    match = re.search(r"(\d+)(?:\.(\d+))?", said)
    if match is None:
        return None
    return Clients(bin_dir, match[0], int(match[1]) * 10000 + int(match[2] or 0))


def _parsed(dsn: str) -> dict[str, str]:
    import psycopg
    from psycopg.conninfo import conninfo_to_dict

    try:
        return {key: str(value) for key, value in conninfo_to_dict(dsn).items()}
    except psycopg.ProgrammingError:
        # libpq's message may quote the string, and the string may hold the password.
        raise InvalidInput(
            "the connection string is not one that libpq can read",
            hint="Write it as postgresql://user@host:5432/database or host=... dbname=...",
        ) from None


def _unconnected(where: str, said: str) -> PostgresUnreachable:
    # A failed connection has no SQLSTATE; but whatever refused it with FATAL is a server, unless
    # it is a pooler, and only these pass by themselves (errcodes 57P03 and 53300).
    passing = ("starting up", "shutting down", "not accepting connections", "too many")
    others = (*passing, "startup parameter")
    refused = "FATAL:" in said and not any(words in said for words in others)
    if refused:
        return PostgresDenied(f"no connection to {where}: {said}")
    advice = (advice for words, advice in _ADVICE.items() if words in said)
    return PostgresUnreachable(f"no connection to {where}: {said}", hint=next(advice, None))


def advice_on(said: str) -> str | None:
    """What to do about something that a server has reported, if that is known."""
    if "conflict with recovery" in said:
        return (
            "The standby went on with what the primary had removed or locked. Raise "
            "max_standby_streaming_delay on it, or back up the primary."
        )
    if "pg_authid" in said:
        return NO_PASSWORDS
    return None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
