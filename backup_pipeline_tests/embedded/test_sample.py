"""The sample database: the same rows each time, of the size that was asked for, and only once."""

import hashlib
import subprocess

import psycopg
import pytest

from backup_pipeline.embedded import sample
from backup_pipeline.embedded.postgres import EmbeddedPostgres
from backup_pipeline.embedded.sample import load_sample
from backup_pipeline.errors import InvalidInput, Refused
from backup_pipeline_tests.conftest import SAMPLE_MEGABYTES, CreateDatabase


def dump(postgres: EmbeddedPostgres, database: str) -> bytes:
    command = [str(postgres.bin_dir / "pg_dump"), "--clean", "--if-exists", "--no-owner"]
    environment = postgres.environment(database)
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    return done.stdout


def digest(sql: bytes) -> str:
    """A digest of a dump without the two lines that hold a random key."""
    lines = [line for line in sql.splitlines() if b"restrict " not in line]
    return hashlib.sha256(b"\n".join(lines)).hexdigest()


def test_it_is_the_same_each_time(
    postgres: EmbeddedPostgres, database: str, sample_database: str
) -> None:
    load_sample(postgres.dsn(database), megabytes=SAMPLE_MEGABYTES)
    assert digest(dump(postgres, database)) == digest(dump(postgres, sample_database))


def test_its_rows_are_the_same_on_every_version(
    any_postgres: EmbeddedPostgres, postgres: EmbeddedPostgres, sample_database: str
) -> None:
    query = (
        "SELECT md5(string_agg(q::text, '' ORDER BY quote_id)) FROM public.quotes AS q"
        " UNION ALL SELECT md5(string_agg(t::text, '' ORDER BY trade_id)) FROM public.trades AS t"
        " UNION ALL SELECT md5(string_agg(r::text, '' ORDER BY run_id))"
        " FROM analytics.model_runs AS r"
    )
    load_sample(any_postgres.dsn("sample_template"), megabytes=SAMPLE_MEGABYTES)
    with (
        psycopg.connect(postgres.dsn(sample_database)) as one,
        psycopg.connect(any_postgres.dsn("sample_template")) as other,
    ):
        assert one.execute(query).fetchall() == other.execute(query).fetchall()


@pytest.mark.parametrize("megabytes", [1, 9])
def test_its_dump_is_as_large_as_was_asked_for(
    postgres: EmbeddedPostgres, database: str, megabytes: int
) -> None:
    load_sample(postgres.dsn(database), megabytes=megabytes)
    assert len(dump(postgres, database)) == pytest.approx(megabytes * 1e6, rel=0.05)


def test_a_second_time_nothing_is_done(postgres: EmbeddedPostgres, database: str) -> None:
    dsn = postgres.dsn(database)
    assert load_sample(dsn, megabytes=1) is True
    with psycopg.connect(dsn) as connection:
        connection.execute("DELETE FROM public.positions")
    assert load_sample(dsn, megabytes=1) is False
    with psycopg.connect(dsn) as connection:
        assert connection.execute("SELECT count(*) FROM public.positions").fetchone() == (0,)
    assert load_sample(dsn, megabytes=1, replace=True) is True
    with psycopg.connect(dsn) as connection:
        assert connection.execute("SELECT count(*) FROM public.positions").fetchone() == (2400,)


def test_another_size_takes_the_place_of_the_first(
    postgres: EmbeddedPostgres, database: str
) -> None:
    load_sample(postgres.dsn(database), megabytes=1)
    assert load_sample(postgres.dsn(database), megabytes=2) is True
    assert len(dump(postgres, database)) == pytest.approx(2e6, rel=0.05)


def test_a_database_of_somebody_else_is_left_alone(
    postgres: EmbeddedPostgres, database: str
) -> None:
    with psycopg.connect(postgres.dsn(database)) as connection:
        connection.execute("CREATE TABLE public.precious ()")
    with pytest.raises(Refused, match="something else"):
        load_sample(postgres.dsn(database), megabytes=1)


def test_what_was_interrupted_is_begun_again(
    postgres: EmbeddedPostgres, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(sample, "_SCRIPTS", (*sample._SCRIPTS[:2], "missing.sql"))
        with pytest.raises(FileNotFoundError):
            load_sample(postgres.dsn(database), megabytes=1)
    with psycopg.connect(postgres.dsn(database)) as connection:
        assert connection.execute("SELECT to_regclass('public.quotes')").fetchone() == (None,)
    assert load_sample(postgres.dsn(database), megabytes=1) is True


def test_a_size_too_small_is_refused(postgres: EmbeddedPostgres, database: str) -> None:
    with pytest.raises(InvalidInput, match="at least 1 MB"):
        load_sample(postgres.dsn(database), megabytes=0)


def test_it_restores_with_psql_to_the_same(
    postgres: EmbeddedPostgres, sample_database: str, create_database: CreateDatabase
) -> None:
    sql, copy = dump(postgres, sample_database), create_database()
    psql = [str(postgres.bin_dir / "psql"), "-X", "--quiet", "--set=ON_ERROR_STOP=1"]
    subprocess.run(
        psql, input=sql, env=postgres.environment(copy), stdout=subprocess.DEVNULL, check=True
    )
    assert digest(dump(postgres, copy)) == digest(sql)


@pytest.mark.parametrize(
    ("what", "query"),
    [
        (
            "partitions with rows",
            "pg_class WHERE relispartition AND relkind = 'r' AND relpages > 0",
        ),
        ("a partitioned table", "pg_class WHERE relkind = 'p'"),
        ("a view", "pg_class WHERE relkind = 'v' AND relnamespace = 'analytics'::regnamespace"),
        ("a materialized view", "pg_class WHERE relkind = 'm' AND relispopulated"),
        ("a table without columns", "pg_class WHERE relkind = 'r' AND relnatts = 0"),
        ("an identity column", "pg_attribute WHERE attidentity = 'a'"),
        ("a generated column", "pg_attribute WHERE attgenerated = 's'"),
        ("a sequence of nobody", "pg_sequences WHERE sequencename = 'run_numbers'"),
        ("a partial index", "pg_index WHERE indpred IS NOT NULL"),
        ("an expression index", "pg_index WHERE indexprs IS NOT NULL AND indrelid >= 16384"),
        ("a foreign key", "pg_constraint WHERE contype = 'f'"),
        ("a deferred one", "pg_constraint WHERE contype = 'f' AND condeferred"),
        ("an enum", "pg_type WHERE typtype = 'e'"),
        ("a domain", "pg_type WHERE typtype = 'd' AND oid >= 16384"),
        ("a trigger", "pg_trigger WHERE NOT tgisinternal"),
        ("large objects", "pg_largeobject_metadata"),
        ("statistics", "pg_statistic_ext"),
        ("a tab, a newline, a backslash", r"public.underlyings WHERE name ~ '\t.*\n.*\\'"),
        ("text that is not ASCII", "public.underlyings WHERE name = 'ソニーグループ'"),
        ("a text that looks like COPY's NULL", r"public.trades WHERE note = '\N'"),
        ("an empty text", "public.trades WHERE note = ''"),
        ("no value", "public.quotes WHERE volatility IS NULL"),
        ("not a number", "analytics.model_runs WHERE 'NaN' = ANY (losses)"),
    ],
)
def test_it_holds(postgres: EmbeddedPostgres, sample_database: str, what: str, query: str) -> None:
    with psycopg.connect(postgres.dsn(sample_database)) as connection:
        connection.execute("ANALYZE public.quotes")
        found = connection.execute(f"SELECT count(*) > 0 FROM {query}").fetchone()
        connection.rollback()
    assert found == (True,), what
