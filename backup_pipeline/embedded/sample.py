"""The sample database: an options market, made reproducibly and in any size."""

from importlib.resources import files
from typing import TYPE_CHECKING, Any

from backup_pipeline.errors import InvalidInput, Refused

if TYPE_CHECKING:
    import psycopg

DATABASE = "ahold_options"

_VERSION = 1
_FIXED_BYTES = 466_000
_BYTES_PER_QUOTE = 81.95
_SCRIPTS = ("sample_1_tables.sql", "sample_2_rows.sql", "sample_3_constraints.sql")
_MADE_WITH = "-c TimeZone=UTC -c DateStyle=ISO -c IntervalStyle=postgres -c search_path=pg_catalog"


def load_sample(conninfo: str, *, megabytes: int = 80, replace: bool = False) -> bool:
    """Make the database that `conninfo` names hold the sample; `False` if it did already.

    `megabytes` (10**6 bytes, within 5 %) is the size of its dump as plain SQL.
    Every server makes the same rows of the same size, at any time.
    The database is created where it is missing; one that holds a sample of another size is made
    anew, and so is any other with `replace`.
    All or nothing: after an interruption the database is empty, and the next call begins again.

    Raises `Refused` where the database holds something else, and `InvalidInput` for a size that
    is too small.
    """
    import psycopg
    from psycopg.conninfo import conninfo_to_dict

    label = f"Sample options market, {megabytes} MB, version {_VERSION}"
    quotes = quotes_in(megabytes)
    given: dict[str, Any] = {**conninfo_to_dict(conninfo), "options": _MADE_WITH}
    database = str(given["dbname"])
    with psycopg.connect(**{**given, "dbname": "postgres"}, autocommit=True) as maintenance:
        if not replace and _holds_sample(maintenance, given, database, label):
            return False
        _recreate(maintenance, database)
    with psycopg.connect(**given) as connection:
        _fill(connection, quotes)
        _label(connection, database, label)
    return True


def quotes_in(megabytes: int) -> int:
    """How many quotes make the dump this large, in units of 10**6 bytes."""
    quotes = round((megabytes * 1_000_000 - _FIXED_BYTES) / _BYTES_PER_QUOTE)
    if quotes < 1:
        raise InvalidInput("the sample is at least 1 MB", hint="Give a larger size.")
    return quotes


def _holds_sample(
    maintenance: "psycopg.Connection[Any]", given: dict[str, Any], database: str, label: str
) -> bool:
    """Whether the sample is there; raises `Refused` where something else is."""
    import psycopg

    found = maintenance.execute(
        "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = %s",
        [database],
    ).fetchone()
    if found is None:
        return False
    if found[0] and str(found[0]).startswith("Sample options market, "):
        return bool(found[0] == label)
    with psycopg.connect(**given) as connection:
        relations = connection.execute(
            "SELECT count(*) FROM pg_class WHERE oid >= 16384 AND relnamespace >= 2200"
        ).fetchone()
    if relations and relations[0]:
        raise Refused(
            f"the database {database} holds something else than the sample",
            hint="Give the sample another database.",
        )
    return False


def _recreate(maintenance: "psycopg.Connection[Any]", database: str) -> None:
    from psycopg.sql import SQL, Identifier

    name = Identifier(database)
    maintenance.execute(SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(name))
    maintenance.execute(SQL("CREATE DATABASE {} TEMPLATE template0").format(name))


def _fill(connection: "psycopg.Connection[Any]", quotes: int) -> None:
    package = files("backup_pipeline.embedded")
    connection.execute("SELECT set_config('sample.quotes', %s, true)", [str(quotes)])
    for script in _SCRIPTS:
        # Bytes, and no parameters: psycopg sends such a script as it is, whatever it holds.
        connection.execute((package / script).read_bytes())


def _label(connection: "psycopg.Connection[Any]", database: str, label: str) -> None:
    from psycopg.sql import SQL, Identifier, Literal

    connection.execute(
        SQL("COMMENT ON DATABASE {} IS {}").format(Identifier(database), Literal(label))
    )
