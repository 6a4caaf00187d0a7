"""Two databases are told apart by one value, a missing row, a sequence or a large object."""

from collections.abc import Iterator

import pytest

from backup_pipeline.embedded.postgres import EmbeddedPostgres, embedded_bin_dirs
from backup_pipeline.engine.contents import differences, read_contents
from backup_pipeline.engine.dump import PostgresDumpSource
from backup_pipeline.engine.model import Contents
from backup_pipeline.engine.postgres import Server
from backup_pipeline_tests.integration.databases import EVERY_KIND, new_database

TABLES = """
    CREATE SCHEMA "od.d";
    CREATE TABLE public.one (id serial PRIMARY KEY, price numeric, "row_" text);
    INSERT INTO public.one (price, "row_") SELECT i, NULL FROM generate_series(1, 100) AS i;
    CREATE TABLE "od.d"."it's" (x float8);
    INSERT INTO "od.d"."it's" VALUES (0.1), (0.1), ('NaN');
    SELECT lo_from_bytea(4711, '\\x00ff');
"""


@pytest.fixture
def pair(postgres18: EmbeddedPostgres) -> Iterator[tuple[Server, Server]]:
    """Two databases that hold the same, in another order."""
    with new_database(postgres18) as one, new_database(postgres18) as other:
        for server in (one, other):
            run(server, TABLES)
        run(other, "UPDATE public.one SET price = price WHERE id < 50")
        yield one, other


def run(server: Server, script: str) -> None:
    with server.connect() as connection:
        connection.execute(script)


def contents(server: Server) -> Contents:
    with PostgresDumpSource(server, embedded_bin_dirs(), jobs=2).open_dump() as dump:
        return read_contents(dump)


def told(pair: tuple[Server, Server]) -> list[str]:
    return list(differences(contents(pair[0]), contents(pair[1])))


def test_equal_databases_are_equal_in_whatever_order_their_rows_are(
    pair: tuple[Server, Server],
) -> None:
    assert told(pair) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            "UPDATE public.one SET price = 7.0 WHERE id = 7",
            "table public.one has 100 rows as it should, but not those that were dumped",
        ),
        (
            "DELETE FROM public.one WHERE id = 7",
            "table public.one has 99 rows where 100 were dumped",
        ),
        (
            """DELETE FROM "od.d"."it's" WHERE ctid = (SELECT min(ctid) FROM "od.d"."it's")""",
            "table od.d.it's has 2 rows where 3 were dumped",
        ),
        ("DROP TABLE public.one", "table public.one is missing"),
        ("CREATE TABLE public.two ()", "table public.two was not dumped"),
        ("SELECT nextval('public.one_id_seq')", "sequence public.one_id_seq stands at 101"),
        ("SELECT lo_put(4711, 0, '\\x01')", "the 1 large objects are not those"),
        ("SELECT lo_unlink(4711)", "there are 0 large objects where 1 were dumped"),
    ],
)
def test_a_difference_is_told_with_its_place(
    pair: tuple[Server, Server], change: str, said: str
) -> None:
    run(pair[1], change)
    assert told(pair)[0].startswith(said)


def test_a_cast_of_the_owner_is_not_run(pair: tuple[Server, Server]) -> None:
    """Whoever owns a table can define how its rows become text; a superuser may read it here."""
    run(
        pair[1],
        """
        CREATE FUNCTION public.lie(public.one) RETURNS text LANGUAGE sql AS $$ SELECT 'same' $$;
        CREATE CAST (public.one AS text) WITH FUNCTION public.lie(public.one);
        """,
    )
    assert told(pair) == []


def test_large_objects_are_told_apart_wherever_they_differ(pair: tuple[Server, Server]) -> None:
    for server in pair:
        run(server, "SELECT lo_from_bytea(4712, decode(repeat('00', 50000), 'hex'))")
        run(server, "SELECT lo_create(4713)")
    assert told(pair) == []
    run(pair[1], "SELECT lo_put(4712, 49999, '\\x01')")
    assert told(pair) == ["the 3 large objects are not those that were dumped"]


def test_large_objects_that_were_swapped_are_not_equal(pair: tuple[Server, Server]) -> None:
    for server, first in zip(pair, ("aa", "bb"), strict=True):
        other = {"aa": "bb", "bb": "aa"}[first]
        run(server, f"SELECT lo_from_bytea(5001, '\\x{first}'), lo_from_bytea(5002, '\\x{other}')")
    assert told(pair) == ["the 3 large objects are not those that were dumped"]


def test_every_kind_of_value_can_be_read(postgres18: EmbeddedPostgres) -> None:
    with new_database(postgres18, EVERY_KIND) as server:
        held = contents(server)
    assert len(held.tables) > 5
    assert all(table.digest for table in held.tables)
