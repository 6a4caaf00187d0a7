"""Chosen tables come back with what belongs to them, and nobody else's rows are read."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime

import pytest

from backup_pipeline import cli
from backup_pipeline.embedded.postgres import EmbeddedPostgres
from backup_pipeline.embedded.sample import load_sample
from backup_pipeline.engine import verify
from backup_pipeline.engine.backup import back_up
from backup_pipeline.engine.catalog import read_manifest
from backup_pipeline.engine.dump import PostgresDumpSource
from backup_pipeline.engine.model import Member
from backup_pipeline.engine.names import BackupName, Keys, Kind
from backup_pipeline.engine.postgres import Server
from backup_pipeline.engine.selection import Selection, SelectionResult, restore_selection
from backup_pipeline.engine.store import ObjectStore
from backup_pipeline.errors import (
    NotFound,
    PostgresFailed,
    Refused,
    TargetExists,
    VerificationFailed,
)
from backup_pipeline_tests.fakes import MemoryStore
from backup_pipeline_tests.integration.databases import (
    assert_equal,
    contents,
    databases,
    drop_database,
    live_database,
    new_database,
    schema,
)

KEYS = Keys("backups/postgres/")
USAGE = 2


def now() -> datetime:
    return datetime.now(UTC)


class CountingStore(MemoryStore):
    """Counts the bytes that are read of a dump."""

    read_of_dump = 0

    def read(
        self, key: str, start: int = 0, length: int | None = None, *, etag: str | None = None
    ) -> Iterator[bytes]:
        for chunk in super().read(key, start, length, etag=etag):
            if key.endswith(Kind.DUMP):
                self.read_of_dump += len(chunk)
            yield chunk


def make(server: Server, store: ObjectStore, postgres: EmbeddedPostgres) -> BackupName:
    name = BackupName.of(server.database, now())
    source = PostgresDumpSource(server, [postgres.bin_dir])
    back_up(source, store, KEYS, name, clock=now)
    return name


@pytest.fixture(scope="module")
def market(any_postgres: EmbeddedPostgres) -> Iterator[Server]:
    """The sample database; whatever is restored beside it is dropped."""
    with new_database(any_postgres) as server:
        load_sample(any_postgres.dsn(server.database), megabytes=4, replace=True)
        yield server
        for database in databases(any_postgres):
            if database.startswith(server.database):
                drop_database(any_postgres, database)


@pytest.fixture(scope="module")
def kept() -> CountingStore:
    return CountingStore()


@pytest.fixture(scope="module")
def backup(market: Server, kept: CountingStore, any_postgres: EmbeddedPostgres) -> BackupName:
    return make(market, kept, any_postgres)


@pytest.fixture
def target(market: Server, any_postgres: EmbeddedPostgres) -> Iterator[str]:
    name = f"{market.database}_part"
    yield name
    drop_database(any_postgres, name)


def bring(
    kept: ObjectStore,
    backup: BackupName,
    market: Server,
    postgres: EmbeddedPostgres,
    target: str,
    selection: Selection,
    *,
    add: bool = False,
) -> SelectionResult:
    return restore_selection(
        kept, KEYS, backup, market, target, selection, [postgres.bin_dir], add=add, clock=now
    )


def tables(server: Server) -> dict[str, tuple[int, str | None]]:
    return {each.table: (each.rows, each.digest) for each in contents(server).tables}


# A constraint, unlike a trigger, is there when the rows come.
WITNESSED = """
    CREATE TABLE public.witnesses (pid int);
    CREATE FUNCTION public.witness() RETURNS bool LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO public.witnesses SELECT pg_backend_pid();
        PERFORM pg_sleep(0.3);
        RETURN true;
    END $$;
    CREATE TABLE public.one (body text CHECK (public.witness()));
    CREATE TABLE public.two (LIKE public.one INCLUDING ALL);
    CREATE TABLE public.three (LIKE public.one INCLUDING ALL);
    INSERT INTO public.one VALUES (repeat('x', 100000));
    INSERT INTO public.two TABLE public.one;
    INSERT INTO public.three TABLE public.one;
    DELETE FROM public.witnesses;
"""


@pytest.mark.parametrize("jobs", [1, 2])
def test_as_many_connections_as_jobs_load_a_new_database(
    postgres18: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch, jobs: int
) -> None:
    monkeypatch.setattr(verify, "_ENOUGH", 1)
    store = MemoryStore()
    with new_database(postgres18) as source:
        with source.connect() as connection:
            connection.execute(WITNESSED)
        name, target = make(source, store, postgres18), f"{source.database}_part"
        chosen = Selection(schemas=("public",))
        tools = [postgres18.bin_dir]
        try:
            result = restore_selection(
                store, KEYS, name, source, target, chosen, tools, jobs=jobs, clock=now
            )
            with source.using(target).connect() as connection:
                loaded = connection.execute("SELECT count(DISTINCT pid) FROM public.witnesses")
                assert loaded.fetchone() == (jobs,)
        finally:
            drop_database(postgres18, target)
    assert (result.tables, result.rows) == (4, 3)


def test_a_table_comes_with_its_indexes_its_key_and_its_sequence(
    market: Server,
    kept: CountingStore,
    backup: BackupName,
    any_postgres: EmbeddedPostgres,
    target: str,
) -> None:
    result = bring(kept, backup, market, any_postgres, target, Selection(tables=("trades",)))
    part = market.using(target)
    assert tables(part) == {"trades": tables(market)["trades"]}
    assert result.rows == tables(market)["trades"][0]
    made = schema(any_postgres, target)
    assert any("ADD CONSTRAINT trades_pkey" in line for line in made)
    assert any("CREATE INDEX trades_contract_idx" in line for line in made)
    assert not any("FOREIGN KEY" in line for line in made)
    sequences = {each.sequence: each for each in contents(market).sequences}
    assert contents(part).sequences == (sequences["trades_trade_id_seq"],)


def test_a_partitioned_table_comes_with_its_partitions(
    market: Server,
    kept: CountingStore,
    backup: BackupName,
    any_postgres: EmbeddedPostgres,
    target: str,
) -> None:
    bring(kept, backup, market, any_postgres, target, Selection(tables=("quotes",)))
    expected = {name: t for name, t in tables(market).items() if name.startswith("quotes")}
    assert len(expected) > 5
    assert tables(market.using(target)) == expected


def test_a_single_partition_leaves_the_others_out(
    market: Server,
    kept: CountingStore,
    backup: BackupName,
    any_postgres: EmbeddedPostgres,
    target: str,
) -> None:
    bring(kept, backup, market, any_postgres, target, Selection(tables=("quotes_2025_12",)))
    expected = {"quotes_2025_12": tables(market)["quotes_2025_12"]}
    assert tables(market.using(target)) == expected


def test_two_tables_come_with_the_key_between_them(
    market: Server,
    kept: CountingStore,
    backup: BackupName,
    any_postgres: EmbeddedPostgres,
    target: str,
) -> None:
    selection = Selection(tables=("contracts", "underlyings"))
    bring(kept, backup, market, any_postgres, target, selection)
    assert set(tables(market.using(target))) == {"contracts", "underlyings"}
    assert any("FOREIGN KEY" in line for line in schema(any_postgres, target))


def test_a_schema_comes_with_all_that_is_in_it(
    market: Server,
    kept: CountingStore,
    backup: BackupName,
    any_postgres: EmbeddedPostgres,
    target: str,
) -> None:
    bring(kept, backup, market, any_postgres, target, Selection(schemas=("analytics",)))
    part = tables(market.using(target))
    assert part["model_runs"] == tables(market)["model_runs"]
    assert any("analytics.exposure" in line for line in schema(any_postgres, target))


GROUPED = """
    CREATE SCHEMA seen;
    CREATE TABLE public.owners (id int PRIMARY KEY, name text);
    CREATE TABLE public.items (owner int, price int);
    INSERT INTO public.owners VALUES (1, 'ada'), (2, 'bob');
    INSERT INTO public.items VALUES (1, 10), (1, 20);
    CREATE VIEW seen.others AS SELECT * FROM public.items;
    CREATE VIEW seen."by owner" AS
        SELECT o.id, o.name, sum(i.price) AS total
        FROM public.owners AS o LEFT JOIN seen.others AS i ON i.owner = o.id GROUP BY o.id;
    CREATE VIEW seen.rich AS SELECT name FROM seen."by owner" WHERE total > 20;
    CREATE MATERIALIZED VIEW seen.kept AS SELECT name, total FROM seen."by owner";
"""


@pytest.mark.parametrize(
    ("selection", "view", "rows"),
    [
        (Selection(tables=("by owner",)), 'seen."by owner"', {(1, "ada", 30), (2, "bob", None)}),
        (Selection(tables=("rich",)), "seen.rich", {("ada",)}),
        (Selection(tables=("kept",)), "seen.kept", {("ada", 30), ("bob", None)}),
        (Selection(schemas=("seen",)), "seen.rich", {("ada",)}),
    ],
)
def test_a_view_whose_query_comes_later_is_no_row_of_nulls(
    any_postgres: EmbeddedPostgres, selection: Selection, view: str, rows: set[tuple[object, ...]]
) -> None:
    """One that groups by a primary key, whatever is seen through it."""
    kept = CountingStore()
    with live_database(any_postgres, GROUPED) as server:
        target = f"{server.database}_part"
        bring(kept, make(server, kept, any_postgres), server, any_postgres, target, selection)
        with server.using(target).connect() as connection:
            assert set(connection.execute(f"TABLE {view}".encode()).fetchall()) == rows


PARTED = """
    CREATE TABLE public.ticks (day int, price int) PARTITION BY RANGE (day);
    CREATE TABLE public.early PARTITION OF public.ticks FOR VALUES FROM (0) TO (10)
        PARTITION BY LIST (day);
    CREATE TABLE public.first PARTITION OF public.early FOR VALUES IN (1);
    CREATE TABLE public.second PARTITION OF public.early FOR VALUES IN (2);
    CREATE TABLE public.late PARTITION OF public.ticks FOR VALUES FROM (10) TO (20);
    CREATE TABLE public.other (day int);
    INSERT INTO public.ticks VALUES (1, 10), (2, 20), (11, 30);
    CREATE VIEW public.dear AS SELECT price FROM public.ticks WHERE price > 10;
    CREATE MATERIALIZED VIEW public.most AS SELECT max(price) FROM public.dear;
    CREATE VIEW public.one AS SELECT price FROM public.first;
"""


@pytest.mark.parametrize(
    ("view", "rows", "beside"),
    [
        ("dear", {(20,), (30,)}, {"first": 1, "second": 1, "late": 1}),
        ("most", {(30,)}, {"first": 1, "second": 1, "late": 1}),
        ("one", {(10,)}, {"first": 1}),
    ],
)
def test_a_view_comes_with_the_partitions_of_what_it_asks(
    any_postgres: EmbeddedPostgres,
    view: str,
    rows: set[tuple[object, ...]],
    beside: dict[str, int],
) -> None:
    kept = CountingStore()
    with live_database(any_postgres, PARTED) as server:
        target = f"{server.database}_part"
        backup = make(server, kept, any_postgres)
        bring(kept, backup, server, any_postgres, target, Selection(tables=(view,)))
        with server.using(target).connect() as connection:
            assert set(connection.execute(f"TABLE public.{view}".encode()).fetchall()) == rows
        brought = tables(server.using(target))
        assert {name: number for name, (number, _) in brought.items()} == beside


def test_all_definitions_come_without_rows(
    market: Server,
    kept: CountingStore,
    backup: BackupName,
    any_postgres: EmbeddedPostgres,
    target: str,
) -> None:
    before = kept.read_of_dump
    bring(kept, backup, market, any_postgres, target, Selection(rows=False))
    assert schema(any_postgres, target) == schema(any_postgres, market.database)
    assert {rows for rows, _ in tables(market.using(target)).values()} == {0}
    assert kept.read_of_dump == before


def test_rows_go_into_tables_that_are_there(
    market: Server,
    kept: CountingStore,
    backup: BackupName,
    any_postgres: EmbeddedPostgres,
    target: str,
) -> None:
    bring(kept, backup, market, any_postgres, target, Selection(tables=("trades",), rows=False))
    only_rows = Selection(tables=("trades",), definitions=False)
    bring(kept, backup, market, any_postgres, target, only_rows, add=True)
    assert tables(market.using(target)) == {"trades": tables(market)["trades"]}


@pytest.mark.parametrize(
    ("made", "gone_on", "expected"),
    [
        ("INCREMENT 1", 30, 31),
        ("INCREMENT 1", 20, 21),
        ("INCREMENT 1", 10, 21),
        ("INCREMENT -1 MINVALUE -99 MAXVALUE 99 START 99", 10, 9),
        ("INCREMENT -1 MINVALUE -99 MAXVALUE 99 START 99", 30, 19),
    ],
)
def test_a_sequence_that_is_there_never_goes_back(
    postgres18: EmbeddedPostgres, made: str, gone_on: int, expected: int
) -> None:
    """What it has given since the backup is in somebody's rows."""
    kept, only_rows = CountingStore(), Selection(tables=("t",), definitions=False)
    with live_database(postgres18, "CREATE TABLE public.t (id int)") as server:
        with server.connect() as connection:
            connection.execute(
                f"""
                CREATE SEQUENCE public."100% of it" {made} OWNED BY public.t.id;
                SELECT setval('public."100% of it"', 20);
                """.encode()
            )
        name = make(server, kept, postgres18)
        with server.connect() as connection:
            connection.execute(f"""SELECT setval('public."100% of it"', {gone_on})""".encode())
        bring(kept, name, server, postgres18, server.database, only_rows, add=True)
        with server.connect() as connection:
            following = connection.execute(b"""SELECT nextval('public."100% of it"')""")
            assert following.fetchone() == (expected,)


def test_a_sequence_that_is_made_stands_where_it_stood(
    postgres18: EmbeddedPostgres, kept: CountingStore, target: str
) -> None:
    """Also where that is before its start."""
    tables = (
        "CREATE TABLE public.t (id int); CREATE SEQUENCE public.s START 50 OWNED BY public.t.id"
    )
    with live_database(postgres18, tables) as server:
        with server.connect() as connection:
            connection.execute("SELECT setval('public.s', 20)")
        name = make(server, kept, postgres18)
        bring(kept, name, server, postgres18, target, Selection(tables=("t",)))
        with server.using(target).connect() as connection:
            assert connection.execute("SELECT nextval('public.s')").fetchone() == (21,)


def test_rows_are_added_to_a_server_older_than_the_tools(
    postgres16: EmbeddedPostgres, postgres18: EmbeddedPostgres, kept: CountingStore
) -> None:
    """Whose first statement sets what this server does not know, in the one transaction."""
    with live_database(postgres16, "CREATE TABLE public.t AS SELECT 1 AS id") as server:
        name = make(server, kept, postgres18)
        with server.connect() as connection:
            connection.execute("DROP TABLE public.t")
        table = Selection(tables=("t",))
        bring(kept, name, server, postgres18, server.database, table, add=True)
        assert [each.rows for each in contents(server).tables] == [1]


def test_what_fails_half_way_leaves_the_existing_database_as_it_was(
    market: Server,
    kept: CountingStore,
    backup: BackupName,
    any_postgres: EmbeddedPostgres,
    target: str,
) -> None:
    bring(kept, backup, market, any_postgres, target, Selection(tables=("trades",)))
    # The last one fails behind its rows.
    taken = "DROP SCHEMA public CASCADE; CREATE SCHEMA public; CREATE SEQUENCE public."
    awry = (
        (Selection(tables=("contracts", "trades")), "SELECT"),
        (Selection(tables=("trades",), definitions=False), "SELECT"),
        (Selection(tables=("trades",)), f"{taken}trades_contract_idx"),
    )
    for selection, prepared in awry:
        with market.using(target).connect() as connection:
            connection.execute(prepared.encode())
        before, made = contents(market.using(target)), schema(any_postgres, target)
        with pytest.raises(PostgresFailed, match=r"already exists|duplicate key"):
            bring(kept, backup, market, any_postgres, target, selection, add=True)
        assert contents(market.using(target)) == before
        assert schema(any_postgres, target) == made


def test_rows_that_the_target_drops_are_missed(
    market: Server,
    kept: CountingStore,
    backup: BackupName,
    any_postgres: EmbeddedPostgres,
    target: str,
) -> None:
    table = Selection(tables=("trades",), rows=False)
    bring(kept, backup, market, any_postgres, target, table)
    with market.using(target).connect() as connection:
        connection.execute(
            "CREATE FUNCTION public.drop_it() RETURNS trigger LANGUAGE plpgsql"
            " AS 'BEGIN RETURN NULL; END'"
        )
        connection.execute(
            "CREATE TRIGGER drop_it BEFORE INSERT ON public.trades"
            " FOR EACH ROW EXECUTE FUNCTION public.drop_it()"
        )
    only_rows = Selection(tables=("trades",), definitions=False)
    with pytest.raises(VerificationFailed, match=r"public\.trades took 0 rows"):
        bring(kept, backup, market, any_postgres, target, only_rows, add=True)


def test_a_database_that_is_there_is_added_to_only_when_asked(
    market: Server, kept: CountingStore, backup: BackupName, any_postgres: EmbeddedPostgres
) -> None:
    selection = Selection(tables=("trades",))
    with pytest.raises(TargetExists):
        bring(kept, backup, market, any_postgres, market.database, selection)
    with pytest.raises(NotFound):
        bring(kept, backup, market, any_postgres, "not_there", selection, add=True)


@pytest.mark.parametrize(
    "selection",
    [
        Selection(tables=("trades", "no_such")),
        Selection(schemas=("no_such",)),
        Selection(tables=("trades",), schemas=("analytics",)),
        Selection(tables=("tr.*",)),
    ],
)
def test_what_is_not_in_the_backup_is_not_found(
    market: Server,
    kept: CountingStore,
    backup: BackupName,
    any_postgres: EmbeddedPostgres,
    selection: Selection,
) -> None:
    before = databases(any_postgres)
    with pytest.raises(NotFound):
        bring(kept, backup, market, any_postgres, "never_made", selection)
    assert databases(any_postgres) == before


@pytest.mark.parametrize(
    ("asked", "schemas", "expected"),
    [
        ("analytics.model_runs", (), {"model_runs"}),
        ("Public.TRADES", (), {"trades"}),
        ("public.quotes_2025_1?", (), {"quotes_2025_10", "quotes_2025_11", "quotes_2025_12"}),
        ("*.model_*", ("analytics",), {"model_runs"}),
    ],
)
def test_a_table_may_be_named_with_its_schema(
    market: Server,
    kept: CountingStore,
    backup: BackupName,
    any_postgres: EmbeddedPostgres,
    target: str,
    asked: str,
    schemas: tuple[str, ...],
    expected: set[str],
) -> None:
    selection = Selection(tables=(asked,), schemas=schemas)
    bring(kept, backup, market, any_postgres, target, selection)
    part, whole = tables(market.using(target)), tables(market)
    assert {name: part[name] for name in expected} == {name: whole[name] for name in expected}
    assert {name for name, (rows, _) in part.items() if rows} == expected


def test_names_with_dots_blanks_and_wildcards_are_themselves_first(
    postgres18: EmbeddedPostgres, kept: CountingStore
) -> None:
    with new_database(postgres18) as server:
        with server.connect() as connection:
            connection.execute(
                """
                CREATE SCHEMA a;
                CREATE SCHEMA "a b";
                CREATE TABLE public."a.x" AS SELECT 1 AS id;
                CREATE TABLE a.x AS SELECT 2 AS id;
                CREATE TABLE a."b d" AS SELECT 3 AS id;
                CREATE TABLE "a b".c AS SELECT 4 AS id;
                CREATE TABLE "a b"."*" AS SELECT 5 AS id;
                CREATE VIEW a.seen AS SELECT * FROM a.x;
                """
            )
        name = make(server, kept, postgres18)
        for asked, expected in (
            ("a.x", {"a.x"}),
            ("a.?", {"x"}),
            ("a.b*", {"b d"}),
            ("a b.c", {"c"}),
            ('"a b"."*"', {"*"}),
            ("*", {"*"}),
            ("a*.c", {"c"}),
            ("a.seen", {"x"}),
            ("a.*", {"x", "b d"}),
        ):
            target = f"{server.database}_part"
            bring(kept, name, server, postgres18, target, Selection(tables=(asked,)))
            assert set(tables(server.using(target))) == expected, asked
            drop_database(postgres18, target)


def test_tables_that_are_listed_alike_come_together_or_not_at_all(
    postgres18: EmbeddedPostgres, kept: CountingStore
) -> None:
    """pg_restore puts blanks between the names of schema and table, which may hold some."""
    with new_database(postgres18) as server:
        with server.connect() as connection:
            connection.execute(
                """
                CREATE SCHEMA a;
                CREATE SCHEMA "a b";
                CREATE TABLE a."b c" AS SELECT generate_series(1, 3) AS id;
                CREATE TABLE "a b".c AS SELECT generate_series(1, 4) AS id;
                """
            )
        name = make(server, kept, postgres18)
        target = f"{server.database}_part"
        both = Selection(schemas=("a", "a b"))
        assert bring(kept, name, server, postgres18, target, both).rows == 7
        drop_database(postgres18, target)
        with pytest.raises(Refused, match="told apart"):
            bring(kept, name, server, postgres18, target, Selection(schemas=("a",)))


def test_a_name_that_is_none_is_answered_with_those_near_to_it(
    market: Server, kept: CountingStore, backup: BackupName, any_postgres: EmbeddedPostgres
) -> None:
    for asked, near in (("trade", "public.trades"), ("analytics.trades", "public.trades")):
        with pytest.raises(NotFound) as raised:
            selection = Selection(tables=(asked,))
            bring(kept, backup, market, any_postgres, "never_made", selection)
        assert near in (raised.value.hint or "")


def test_a_flipped_bit_in_the_wanted_rows_leaves_nothing(
    market: Server, kept: CountingStore, backup: BackupName, any_postgres: EmbeddedPostgres
) -> None:
    manifest = read_manifest(kept, KEYS, backup)
    (member,) = [m for m in manifest.members if any(t.table == "trades" for t in m.tables)]
    key, before = KEYS.of(backup, Kind.DUMP), databases(any_postgres)
    good = kept.objects[key].body
    bad = bytearray(good)
    bad[member.offset + member.length // 2] ^= 1
    kept.put(key, bytes(bad), overwrite=True)
    try:
        with pytest.raises(VerificationFailed):
            bring(kept, backup, market, any_postgres, "never", Selection(tables=("trades",)))
    finally:
        kept.put(key, good, overwrite=True)
    assert databases(any_postgres) == before


def test_names_of_any_kind_are_taken_literally(
    postgres18: EmbeddedPostgres, kept: CountingStore
) -> None:
    odd = ['a b"c', "a b", "a", "--version", "*", "new\nline"]
    with new_database(postgres18) as server:
        with server.connect() as connection:
            for number, name in enumerate(odd):
                quoted = name.replace('"', '""')
                connection.execute(f'CREATE TABLE public."{quoted}" AS SELECT {number} AS n')
        backup = make(server, kept, postgres18)
        target = f"{server.database}_part"
        for number, table in enumerate(odd):
            selection = Selection(tables=(table,))
            bring(kept, backup, server, postgres18, target, selection)
            (restored,) = contents(server.using(target)).tables
            assert (restored.table, restored.rows) == (table, 1), number
            drop_database(postgres18, target)


def share_of(member: Member, table: str) -> float:
    """How many of a member's compressed bytes are a table's, by its rows."""
    rows = sum(each.rows for each in member.tables if each.table == table)
    return member.length * rows / (sum(each.rows for each in member.tables) or 1)


def test_one_table_of_twelve_reads_less_than_twice_its_own_bytes(
    postgres18: EmbeddedPostgres, outside: Mapping[str, str]
) -> None:
    """BACKUP_TEST_SELECTION_MB makes the database larger."""
    rows = int(outside.get("BACKUP_TEST_SELECTION_MB", "36")) * 1_000_000 // 12 // 75
    store = CountingStore()
    with new_database(postgres18) as server:
        with server.connect() as connection:
            for number in range(12):
                last = number + rows * (number + 1) // 6
                connection.execute(
                    f"CREATE TABLE public.t{number} AS SELECT i, md5(i::text) AS one,"
                    f" md5((-i)::text) AS two FROM generate_series({number}, {last}) AS i"
                )
        name = make(server, store, postgres18)
        manifest = read_manifest(store, KEYS, name)
        target = f"{server.database}_part"
        for number in range(12):
            own = sum(share_of(m, f"t{number}") for m in manifest.members)
            before = store.read_of_dump
            selection = Selection(tables=(f"t{number}",))
            result = bring(store, name, server, postgres18, target, selection)
            read = store.read_of_dump - before
            print(f"t{number}: read {read} of {manifest.length}, its own {own:.0f}")  # noqa: T201
            assert result.read_bytes == read
            assert read < 2 * own
            assert tables(server.using(target)) == {f"t{number}": tables(server)[f"t{number}"]}
            drop_database(postgres18, target)


def test_on_the_command_line(
    postgres18: EmbeddedPostgres,
    store: ObjectStore,
    sample_server: Server,
    s3_environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    database = sample_server.database
    for variable, value in {**postgres18.environment(database), **s3_environment}.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setenv("BACKUP_PG_BIN_DIRS", str(postgres18.bin_dir))
    make(sample_server, store, postgres18)
    target = f"{database}_part"
    ask = ["restore", "--latest", "--no-confirm", "--into", target, "--table", "trades"]
    try:
        assert cli.run([*ask, "--schema-only"]) == 0
        assert cli.run([*ask, "--data-only", "--add"]) == 0
        assert "restored the rows of 1 tables" in capsys.readouterr().out
        assert tables(sample_server.using(target)) == {"trades": tables(sample_server)["trades"]}
    finally:
        drop_database(postgres18, target)
    for wrong in (["--data-only"], ["--schema-only", "--data-only", "--add"], ["--replace"]):
        assert cli.run([*ask, *wrong]) == USAGE
    assert cli.run(["restore", "--latest", "--no-confirm", "--into", target, "--add"]) == USAGE


def test_a_whole_restore_still_reads_every_member(
    market: Server, kept: CountingStore, backup: BackupName, any_postgres: EmbeddedPostgres
) -> None:
    """Everything of the selection, definitions and rows, is the database itself."""
    target = f"{market.database}_all"
    bring(kept, backup, market, any_postgres, target, Selection())
    one, other = contents(market), contents(market.using(target))
    assert (one.tables, one.sequences) == (other.tables, other.sequences)
    with market.using(target).connect() as connection:
        connection.execute("SELECT lo_unlink(oid) FROM pg_largeobject_metadata")
    with market.connect() as connection:
        objects = connection.execute("SELECT count(*) FROM pg_largeobject_metadata").fetchone()
    assert objects != (0,)
    assert schema(any_postgres, target) == schema(any_postgres, market.database)
    assert_equal(any_postgres, market, market)
