"""Servers are found by libpq's own rules, and so is the pg_dump that fits them."""

from pathlib import Path

import pytest

from backup_pipeline.embedded.postgres import EmbeddedPostgres
from backup_pipeline.engine.postgres import (
    Clients,
    Server,
    choose_clients,
    environment_of,
    find_clients,
)
from backup_pipeline.errors import (
    ClientTooOld,
    InvalidInput,
    PostgresDenied,
    PostgresFailed,
    PostgresUnreachable,
)


def clients(*versions: str) -> list[Clients]:
    return [
        Clients(Path(f"/bin-{version}"), version, int(major) * 10000 + int(minor))
        for version in versions
        for major, minor in [version.split(".")]
    ]


@pytest.mark.parametrize(
    ("server", "have", "chosen"),
    [
        (160004, ["15.9", "16.2", "18.1"], "16.2"),
        (160004, ["16.2", "16.9"], "16.9"),
        (150000, ["18.1", "17.2"], "17.2"),
        (180001, ["18.0"], "18.0"),
    ],
)
def test_the_tools_of_the_servers_own_version_come_first(
    server: int, have: list[str], chosen: str
) -> None:
    assert choose_clients(clients(*have), server).version == chosen


def test_a_server_newer_than_every_pg_dump_is_refused_with_both_versions() -> None:
    with pytest.raises(ClientTooOld, match=r"PostgreSQL 18.*15\.9, 16\.2"):
        choose_clients(clients("15.9", "16.2"), 180001)


def test_a_machine_without_pg_dump_is_refused() -> None:
    with pytest.raises(ClientTooOld, match="none at all"):
        choose_clients([], 160000)


def test_a_directory_without_a_working_pg_dump_is_no_choice(tmp_path: Path) -> None:
    broken = tmp_path / "pg_dump"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    assert find_clients([tmp_path, tmp_path / "missing"]) == ()


def test_single_parameters_win_over_the_connection_string() -> None:
    server = Server.of("postgresql://me@db.example:5433/one", port="6000").using("two")
    assert server.describe() == "me@db.example:6000/two"


def test_libpqs_variables_fill_what_is_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGHOST", "from.environment")
    monkeypatch.setenv("PGUSER", "somebody")
    server = Server.of("port=7000")
    assert server.describe() == "somebody@from.environment:7000/somebody"


@pytest.mark.parametrize("name", ["a=b", "postgresql://x", "--version", "it's", "new\nline", ""])
def test_a_database_name_is_a_name_and_nothing_else(name: str) -> None:
    assert Server.of("host=h user=u").using(name).database == (name or "u")


def test_a_server_that_is_not_there_is_unreachable() -> None:
    with (
        pytest.raises(PostgresUnreachable) as caught,
        Server.of("host=127.0.0.1 port=1 user=u dbname=d").connect(),
    ):
        pass
    assert not isinstance(caught.value, PostgresDenied)


@pytest.mark.parametrize(
    "wrong", [{"password": "canary"}, {"user": "nobody_here"}, {"dbname": "not there"}]
)
def test_a_login_that_the_server_refuses_is_told_apart(
    postgres: EmbeddedPostgres, wrong: dict[str, str]
) -> None:
    with (
        pytest.raises(PostgresDenied) as caught,
        Server.of(postgres.dsn(), **wrong).connect(),
    ):
        pass
    assert "canary" not in f"{caught.value} {caught.value.hint}"


def test_a_connection_finds_nobodys_functions(server: Server) -> None:
    with server.connect() as connection:
        connection.execute("CREATE FUNCTION public.lower(text) RETURNS text RETURN 'hijacked'")
        row = connection.execute("SELECT lower('A'::text), current_setting('search_path')")
        assert row.fetchone() == ("a", "pg_catalog")


def test_what_the_server_reports_inside_is_an_error_of_ours(server: Server) -> None:
    with pytest.raises(PostgresFailed, match="division by zero"), server.connect() as connection:
        connection.execute("SELECT 1 / 0")


def test_a_child_is_led_to_the_very_server_of_the_connection(
    postgres: EmbeddedPostgres, server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    services = tmp_path / "services"
    hosts, ports = f"127.0.0.1,{postgres.host}", f"1,{postgres.port}"
    services.write_text(
        f"[backups]\nhost={hosts}\nport={ports}\nuser={postgres.user}\n"
        "options=-c application_name=theirs\n"
    )
    monkeypatch.setenv("PGSERVICEFILE", str(services))
    of_service = Server.of("service=backups", dbname=server.database, password=postgres.password)
    with of_service.connect() as connection:
        env = environment_of(connection)
        idle = connection.execute("SELECT current_setting('tcp_keepalives_idle')").fetchone()
    assert idle == ("60",)
    assert env["PGOPTIONS"].startswith("-c application_name=theirs -c standard_conforming")
    assert (env["PGHOST"], env["PGPORT"]) == (postgres.host, str(postgres.port))
    assert (env["PGUSER"], env["PGDATABASE"]) == (postgres.user, server.database)
    assert env["PGPASSWORD"] == postgres.password
    assert not env.keys() & {"PGSERVICE", "PGSERVICEFILE"}


def test_an_option_comes_beside_those_that_are_there(server: Server) -> None:
    both = Server.of(server.dsn, options="-c work_mem=5MB").with_option("jit", "off")
    with both.connect() as connection:
        shown = "SELECT current_setting('work_mem'), current_setting('jit')"
        assert connection.execute(shown).fetchone() == ("5MB", "off")
    # What a service has among its options only libpq knows, so nothing takes their place.
    assert Server.of("service=x").with_option("jit", "off") == Server.of("service=x")


def test_a_child_asks_nobody_again_where_a_name_leads(
    postgres: EmbeddedPostgres, server: Server
) -> None:
    """One name may stand for several servers, and `PGHOSTADDR` for a name that nobody knows."""
    by_address = Server.of(
        server.dsn, host="nobody-knows.invalid", hostaddr=postgres.host, port=str(postgres.port)
    )
    with by_address.connect() as connection:
        env = environment_of(connection)
    assert (env["PGHOST"], env["PGHOSTADDR"]) == ("nobody-knows.invalid", postgres.host)


def test_a_password_is_never_shown() -> None:
    server = Server.of("postgresql://me:canary@h/db", passfile="/x")
    assert "canary" not in repr(server) + server.describe() + str(server)


def test_an_unreadable_connection_string_is_not_repeated() -> None:
    with pytest.raises(InvalidInput) as caught:
        Server.of("host=h password='canary")
    assert "canary" not in f"{caught.value} {caught.value.hint}"
    assert caught.value.__cause__ is None
