"""Faults 21 and 33: the roles of docs/security.md are enough, and less is never a silent subset."""

import gzip
import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import psycopg
import pytest
from psycopg.sql import SQL, Identifier

from backup_pipeline.embedded.postgres import EmbeddedPostgres
from backup_pipeline.engine.access import read_access, told
from backup_pipeline.engine.backup import back_up
from backup_pipeline.engine.diagnosis import diagnose
from backup_pipeline.engine.drill import drill
from backup_pipeline.engine.dump import PostgresDumpSource
from backup_pipeline.engine.findings import Finding, Level
from backup_pipeline.engine.model import Globals
from backup_pipeline.engine.names import BackupName, Keys, Kind
from backup_pipeline.engine.postgres import Server
from backup_pipeline.engine.restore import restore
from backup_pipeline.engine.verify import verify
from backup_pipeline.errors import PostgresFailed
from backup_pipeline_tests.fakes import MemoryStore
from backup_pipeline_tests.integration.databases import (
    contents,
    databases,
    drop_database,
    new_database,
    schema,
)
from backup_pipeline_tests.policies import SECURITY

KEYS = Keys("backups/postgres/")
SCRIPT = """
    CREATE SCHEMA trading;
    CREATE TABLE trading.quotes (id bigserial PRIMARY KEY, price numeric NOT NULL);
    INSERT INTO trading.quotes (price) SELECT i / 4.0 FROM generate_series(1, 500) AS i;
    CREATE TABLE trading.secrets (owner name, secret text);
    INSERT INTO trading.secrets VALUES ('somebody', 'one'), ('backup', 'two');
    ALTER TABLE trading.secrets ENABLE ROW LEVEL SECURITY;
    CREATE POLICY own ON trading.secrets USING (owner = current_user);
    CREATE MATERIALIZED VIEW trading.dear AS SELECT * FROM trading.quotes WHERE price > 100;
    SELECT lo_from_bytea(0, 'a large object');
    REVOKE ALL ON SCHEMA public FROM PUBLIC;
"""


def now() -> datetime:
    return datetime.now(UTC)


def documented(role: str) -> str:
    """The SQL of the page that is about a role."""
    blocks = re.findall(r"^```sql\n(.*?)^```$", SECURITY.read_text(), re.MULTILINE | re.DOTALL)
    return "".join(block for block in blocks if re.search(rf"\b{role}\b", block))


@dataclass(frozen=True)
class Roles:
    """A database whose owner is an ordinary role, and the documented ones beside it."""

    postgres: EmbeddedPostgres
    database: str
    suffix: str

    def server(self, role: str) -> Server:
        user = f"{role}_{self.suffix}"
        return Server.of(self.postgres.dsn(self.database), user=user, password="p")  # noqa: S106  # for a moment, on loopback

    def sql(self, text: str) -> None:
        """Run the page's SQL as a superuser, on roles of this test's own."""
        for role in ("ahold_options_owner", "backup", "restore"):
            text = re.sub(rf"\b{role}\b", f"{role}_{self.suffix}", text)
        with psycopg.connect(self.postgres.dsn(self.database), autocommit=True) as admin:
            admin.execute(text.encode())


@pytest.fixture
def roles(postgres: EmbeddedPostgres) -> Iterator[Roles]:
    """The roles of the page, and a database that belongs to `ahold_options_owner`."""
    suffix = uuid.uuid4().hex[:8]
    made = [f"{role}_{suffix}" for role in ("ahold_options_owner", "backup", "restore")]
    with new_database(postgres) as server:
        roles = Roles(postgres, server.database, suffix)
        roles.sql("CREATE ROLE ahold_options_owner LOGIN")
        roles.sql(documented("backup") + documented("restore"))
        with psycopg.connect(postgres.dsn(), autocommit=True) as admin:
            for role in made:
                admin.execute(SQL("ALTER ROLE {} PASSWORD 'p'").format(Identifier(role)))
            admin.execute(
                SQL("ALTER DATABASE {} OWNER TO {}").format(
                    Identifier(server.database), Identifier(made[0])
                )
            )
            with roles.server("ahold_options_owner").connect() as owner:
                owner.execute(SCRIPT.encode())
            yield roles
            owned = (
                "SELECT datname FROM pg_database JOIN pg_roles ON pg_roles.oid = datdba"
                " WHERE rolname = ANY(%s) AND datname <> %s"
            )
            for (database,) in admin.execute(owned, (made, server.database)).fetchall():
                drop_database(postgres, database)
    with psycopg.connect(postgres.dsn(), autocommit=True) as admin:
        for role in made:
            admin.execute(SQL("DROP ROLE {}").format(Identifier(role)))


def make(
    roles: Roles, store: MemoryStore, role: str = "backup", globals_: Globals = Globals.NONE
) -> BackupName:
    name = BackupName.of(roles.database, now())
    source = PostgresDumpSource(roles.server(role), [roles.postgres.bin_dir])
    back_up(source, store, KEYS, name, globals_=globals_, clock=now)
    return name


def rights(roles: Roles) -> Finding:
    """What `check` says of the role that makes backups."""
    found = diagnose(
        roles.server("backup"), [roles.postgres.bin_dir], MemoryStore(), KEYS, clock=now
    )
    return next(finding for finding in found if finding.subject == "rights")


def superuser(roles: Roles, database: str | None = None) -> Server:
    return Server.of(roles.postgres.dsn(database or roles.database))


@pytest.mark.parametrize("globals_", [Globals.WITHOUT_PASSWORDS, Globals.WITH_PASSWORDS])
def test_the_documented_role_has_the_globals_with_passwords_and_without(
    roles: Roles, globals_: Globals
) -> None:
    store = MemoryStore()
    name = make(roles, store, globals_=globals_)
    assert verify(store, KEYS, name, clock=now).passed
    script = gzip.decompress(store.objects[KEYS.of(name, Kind.GLOBALS)].body)
    assert f"CREATE ROLE backup_{roles.suffix};".encode() in script
    assert (b"SCRAM-SHA-256$" in script) == (globals_ is Globals.WITH_PASSWORDS)


def test_the_documented_roles_back_up_restore_and_drill(roles: Roles) -> None:
    store, target = MemoryStore(), f"{roles.database}_restored"
    assert rights(roles).level is Level.OK
    name = make(roles, store)
    result = restore(store, KEYS, name, roles.server("restore"), target, clock=now)
    assert result.rows == 502
    proof = drill(store, KEYS, name, roles.server("restore"), [roles.postgres.bin_dir], clock=now)
    assert (proof.entry.passed, proof.entry.findings) == (True, ())
    with superuser(roles, target).connect() as there:
        owners = there.execute(
            "SELECT DISTINCT relowner::regrole::text FROM pg_class"
            " JOIN pg_namespace ON pg_namespace.oid = relnamespace WHERE nspname = 'trading'"
        ).fetchall()
    assert owners == [(f"restore_{roles.suffix}",)]


def test_what_another_role_restores_is_the_same_but_for_owners_and_rights(roles: Roles) -> None:
    store, target = MemoryStore(), f"{roles.database}_restored"
    name = make(roles, store)
    restore(store, KEYS, name, roles.server("restore"), target, clock=now)
    assert contents(superuser(roles, target)) == contents(superuser(roles))
    assert schema(roles.postgres, target) == schema(roles.postgres, roles.database)


def test_the_owners_and_rights_that_a_restore_does_not_bring_are_told(roles: Roles) -> None:
    roles.sql(
        """
        GRANT SELECT, INSERT ON trading.quotes TO backup;
        GRANT SELECT (owner) ON trading.secrets TO restore;
        CREATE FUNCTION trading.f() RETURNS int LANGUAGE sql AS 'SELECT 1';
        REVOKE EXECUTE ON FUNCTION trading.f() FROM PUBLIC;
        GRANT EXECUTE ON FUNCTION trading.f() TO backup WITH GRANT OPTION;
        ALTER DEFAULT PRIVILEGES FOR ROLE ahold_options_owner IN SCHEMA trading
            GRANT SELECT ON TABLES TO backup;
        """
    )
    store = MemoryStore()
    name = make(roles, store)
    result = restore(
        store, KEYS, name, roles.server("restore"), f"{roles.database}_restored", clock=now
    )
    owner, backup, restorer = (
        f"{role}_{roles.suffix}" for role in ("ahold_options_owner", "backup", "restore")
    )
    assert {(each.role, each.right): each.objects for each in result.missing} == {
        (owner, "owner"): (
            "large objects",
            "materialized view trading.dear",
            "schema trading",
            "sequence trading.quotes_id_seq",
            "table trading.quotes",
            "table trading.secrets",
            "the database",
        ),
        ("postgres", "owner"): ("function trading.f()",),
        (backup, "SELECT"): (
            f"default acl for role {owner} in schema trading on tables",
            "table trading.quotes",
        ),
        (backup, "INSERT"): ("table trading.quotes",),
        (backup, "EXECUTE with grant option"): ("function trading.f()",),
        (restorer, "SELECT"): ("table column trading.secrets.owner",),
        ("PUBLIC", "no EXECUTE"): ("function trading.f()",),
        ("PUBLIC", "no USAGE"): ("schema public",),
    }
    said = told(result.missing)
    assert said
    assert f"7 objects belonged to {owner}" in said
    assert f"4 rights of {backup} are missing" in said
    assert "PUBLIC has 2 that it had not" in said


def test_whatever_has_an_owner_a_right_or_a_setting_is_recorded(roles: Roles) -> None:
    """All that a dump without owners and privileges leaves out, and what only --create brings."""
    backup, suffix = f"backup_{roles.suffix}", roles.suffix
    roles.sql(
        """
        SET SESSION AUTHORIZATION ahold_options_owner;
        CREATE COLLATION trading.bytewise (locale = 'C');
        CREATE CONVERSION trading.latin FOR 'LATIN1' TO 'UTF8' FROM iso8859_1_to_utf8;
        CREATE FUNCTION trading.same(int, int) RETURNS bool LANGUAGE sql RETURN $1 = $2;
        CREATE OPERATOR trading.=== (LEFTARG = int, RIGHTARG = int, FUNCTION = trading.same);
        CREATE STATISTICS trading.of_two ON id, price FROM trading.quotes;
        CREATE TEXT SEARCH CONFIGURATION trading.words (COPY = simple);
        CREATE TEXT SEARCH DICTIONARY trading.plain (TEMPLATE = simple);
        SELECT lo_from_bytea(1, 'one more'), lo_from_bytea(2, 'and another');
        GRANT SELECT ON LARGE OBJECT 1, 2 TO backup;
        RESET SESSION AUTHORIZATION;
        CREATE OPERATOR FAMILY trading.family USING btree;
        CREATE OPERATOR CLASS trading.class FOR TYPE int USING hash AS OPERATOR 1 =;
        CREATE FUNCTION trading.on_ddl() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';
        CREATE EVENT TRIGGER watch ON ddl_command_end EXECUTE FUNCTION trading.on_ddl();
        ALTER EVENT TRIGGER watch DISABLE;
        CREATE PUBLICATION quotes FOR TABLE trading.quotes;
        CREATE SUBSCRIPTION away CONNECTION 'host=127.0.0.1 port=1' PUBLICATION p
            WITH (connect = false, slot_name = NONE);
        GRANT EXECUTE ON FUNCTION pg_catalog.pg_ls_waldir() TO backup;
        REVOKE EXECUTE ON FUNCTION pg_catalog.pg_sleep(float8) FROM PUBLIC;
        CREATE LANGUAGE plperl_not_there HANDLER plpgsql_call_handler;
        REVOKE USAGE ON LANGUAGE plpgsql FROM PUBLIC;
        """
    )
    with psycopg.connect(roles.postgres.dsn(roles.database), autocommit=True) as admin:
        database = Identifier(roles.database)
        role = Identifier(backup)
        for setting in ("search_path = trading, public", "app.jwt_secret = 'canary'"):
            admin.execute(SQL("ALTER DATABASE {} SET " + setting).format(database))
        admin.execute(
            SQL("ALTER ROLE {} IN DATABASE {} SET work_mem = '5MB'").format(role, database)
        )
        admin.execute(SQL("GRANT TEMPORARY ON DATABASE {} TO {}").format(database, role))
    with superuser(roles).connect() as connection:
        access = read_access(connection)
    with superuser(roles).connect() as connection:
        connection.execute("DROP SUBSCRIPTION away")
    found = {(each.role, each.right): set(each.objects) for each in access}
    assert found[f"ahold_options_owner_{suffix}", "owner"] >= {
        "collation trading.bytewise",
        "conversion trading.latin",
        "operator trading.===(integer,integer)",
        "statistics object trading.of_two",
        "text search configuration trading.words",
        "text search dictionary trading.plain",
        "large objects",
    }
    assert found["postgres", "owner"] == {
        "event trigger watch",
        "function trading.on_ddl()",
        "language plperl_not_there",
        "operator class trading.class USING hash",
        "operator family trading.class USING hash",
        "operator family trading.family USING btree",
        "publication quotes",
        "subscription away",
    }
    assert found[backup, "SELECT"] == {"large objects"}
    assert found[backup, "EXECUTE"] == {"function pg_catalog.pg_ls_waldir()"}
    assert found[backup, "TEMPORARY"] == {"the database"}
    assert found[backup, "SET"] == {"work_mem=5MB"}
    assert found["PUBLIC", "SET"] == {"search_path=trading, public", "app.jwt_secret"}
    assert found["PUBLIC", "no EXECUTE"] == {"function pg_catalog.pg_sleep(double precision)"}
    assert "language plpgsql" in found["PUBLIC", "no USAGE"]
    assert "2 settings for PUBLIC are missing" in (told(access) or "")


def test_the_same_owner_and_no_rights_are_no_difference(roles: Roles) -> None:
    store = MemoryStore()
    as_the_owner, target = roles.server("ahold_options_owner"), f"{roles.database}_restored"
    roles.sql("ALTER ROLE ahold_options_owner CREATEDB; GRANT USAGE ON SCHEMA public TO PUBLIC")
    name = make(roles, store)
    result = restore(store, KEYS, name, as_the_owner, target, clock=now)
    assert (result.missing, told(result.missing)) == ((), None)


def test_the_documented_role_replaces_a_live_database_and_ends_its_sessions(
    roles: Roles,
) -> None:
    store = MemoryStore()
    name = make(roles, store)
    with psycopg.connect(roles.server("ahold_options_owner").dsn, password="p",  # noqa: S106
                         user=f"ahold_options_owner_{roles.suffix}"):  # fmt: skip
        result = restore(
            store,
            KEYS,
            name,
            roles.server("restore"),
            roles.database,
            replace=True,
            disconnect=True,
            clock=now,
        )
    assert result.previous in databases(roles.postgres)


def test_the_role_that_makes_backups_can_change_nothing(roles: Roles) -> None:
    for statement in (
        "INSERT INTO trading.quotes (price) VALUES (1)",
        "DELETE FROM trading.quotes",
        "CREATE TABLE public.mine (id int)",
        "CREATE SCHEMA mine",
        "SELECT lo_unlink(oid) FROM pg_largeobject_metadata",
        "SELECT nextval('trading.quotes_id_seq')",
        "SET default_transaction_read_only = off; INSERT INTO trading.quotes (price) VALUES (1)",
    ):
        with (
            pytest.raises(PostgresFailed, match=r"permission denied|read-only transaction"),
            roles.server("backup").connect() as connection,
        ):
            connection.execute(statement.encode())


@pytest.mark.parametrize(
    ("lost", "said"),
    [
        ("REVOKE pg_read_all_data FROM backup", "permission denied for"),
        ("ALTER ROLE backup NOBYPASSRLS", "row-level security"),
        ("ALTER ROLE backup RESET lo_compat_privileges", "permission denied for large object"),
    ],
    ids=["no right to read", "row-level security", "large objects"],
)
def test_a_right_that_is_missing_fails_the_backup_and_check_names_it(
    roles: Roles, lost: str, said: str
) -> None:
    roles.sql(lost)
    store = MemoryStore()
    with pytest.raises(PostgresFailed, match=said):
        make(roles, store)
    assert (store.objects, store.uploads) == ({}, {})
    assert (rights(roles).level, rights(roles).exit_code) == (Level.FAIL, 1)


@pytest.mark.parametrize("relation", ["TABLE trading.quotes", "SEQUENCE trading.quotes_id_seq"])
def test_one_table_that_can_not_be_read_fails_the_whole_backup(roles: Roles, relation: str) -> None:
    """With rights on everything else, one by one."""
    roles.sql("REVOKE pg_read_all_data FROM backup; GRANT USAGE ON SCHEMA trading TO backup;"
              "GRANT SELECT ON ALL TABLES IN SCHEMA trading TO backup;"
              "GRANT SELECT ON ALL SEQUENCES IN SCHEMA trading TO backup")  # fmt: skip
    store = MemoryStore()
    make(roles, store)
    roles.sql(f"REVOKE SELECT ON {relation} FROM backup")
    kept = set(store.objects)
    with pytest.raises(
        PostgresFailed, match=f"(permission denied|failed to get).*{relation.split('.')[1]}"
    ):
        back_up(
            PostgresDumpSource(roles.server("backup"), [roles.postgres.bin_dir]),
            store,
            KEYS,
            BackupName.of("other", now()),
            clock=now,
        )
    assert (set(store.objects), store.uploads) == (kept, {})
    assert relation.split(" ")[1] in rights(roles).message


def test_rows_that_a_policy_lets_through_are_refused_as_well(roles: Roles) -> None:
    """Some rows are visible to the role, which is just what must not be taken for all of them."""
    roles.sql("ALTER ROLE backup NOBYPASSRLS")
    roles.sql("UPDATE trading.secrets SET owner = 'backup' WHERE secret = 'two'")
    with roles.server("backup").connect() as connection:
        assert connection.execute("SELECT count(*) FROM trading.secrets").fetchone() == (1,)
    store = MemoryStore()
    with pytest.raises(PostgresFailed, match="row-level security"):
        make(roles, store)
    assert store.objects == {}
