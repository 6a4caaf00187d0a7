"""Diagnosis of the server on which drills restore: could it take the database as it is now?"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from backup_pipeline.engine.findings import Finding, Level, failure, hint_of
from backup_pipeline.engine.postgres import Server, choose_clients, find_clients
from backup_pipeline.engine.preflight import problems
from backup_pipeline.engine.source import read_source
from backup_pipeline.engine.target import leftovers, maintenance
from backup_pipeline.errors import (
    ClientTooOld,
    PostgresFailed,
    PostgresUnreachable,
    TargetUnsuitable,
)

if TYPE_CHECKING:
    import psycopg
    from psycopg.rows import TupleRow

    Connection = psycopg.Connection[TupleRow]

_SUBJECT = "drill server"


def of_drill_server(drills: Server, live: Server, bin_dirs: Sequence[Path]) -> Iterator[Finding]:
    """Look whether a drill of `live` could begin on the other server, and what others have left."""
    there = drills.using(maintenance(live.database))
    try:
        with there.connect() as admin:
            found = [*_fitness(admin, there, live), *_tools(admin, bin_dirs), *_half_made(admin)]
    except (PostgresUnreachable, PostgresFailed) as error:
        advice = f"Check BACKUP_DRILL_DSN. {hint_of(error)}"
        yield failure(_SUBJECT, error, exit_code=5, advice=advice)
        return
    yield from found


def _fitness(admin: "Connection", there: Server, live: Server) -> Iterator[Finding]:
    version = admin.info.parameter_status("server_version")
    answers = f"{there.describe()} answers, version {version}"
    try:
        with live.connect() as connection:
            source = read_source(connection)
    except (PostgresUnreachable, PostgresFailed):
        # Why, is told where the live server was looked at.
        yield Finding(_SUBJECT, Level.WARN, f"{answers}; what the database needs can't be asked")
        return
    wrong = problems(admin, source)
    for problem in wrong:
        code = TargetUnsuitable.exit_code
        yield Finding(_SUBJECT, Level.FAIL, problem.said, problem.advice, code)
    if not wrong:
        yield Finding(_SUBJECT, Level.OK, f"{answers}, and could take {live.database} as it is")


def _tools(admin: "Connection", bin_dirs: Sequence[Path]) -> Iterator[Finding]:
    clients = find_clients(bin_dirs)
    try:
        # What is restored there is dumped again, to be compared.
        if clients:
            choose_clients(clients, admin.info.server_version)
    except ClientTooOld as error:
        yield failure("drill server's client tools", error)


def _half_made(admin: "Connection") -> Iterator[Finding]:
    half_made = leftovers(admin)
    if half_made:
        yield Finding(
            "unfinished drills",
            Level.WARN,
            f"killed runs have left {', '.join(half_made)} on the drill server",
            "The next drill removes them.",
        )
