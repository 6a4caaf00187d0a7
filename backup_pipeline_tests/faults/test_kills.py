"""Backups, prunes and verifications killed outright, by SIGKILL, at any moment.

However they end: no partial backup is visible, no good one is lost, no process and no session
stays, and the next run goes on as if nothing had been.
Restores are killed in `test_restore_kills.py`.
"""

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest

from backup_pipeline.embedded.postgres import EmbeddedPostgres
from backup_pipeline.embedded.s3 import S3Access
from backup_pipeline.engine.model import RetentionPolicy
from backup_pipeline.engine.names import BackupName, Keys, Kind
from backup_pipeline.engine.postgres import Server
from backup_pipeline.engine.prune import prune
from backup_pipeline.engine.store import ObjectStore
from backup_pipeline_tests.faults.chance import Chance
from backup_pipeline_tests.faults.killing import COMMAND, PREFIX, Victim, Witness, kill
from backup_pipeline_tests.faults.s3_proxy import Exchange, FaultyS3
from backup_pipeline_tests.integration.databases import new_database
from backup_pipeline_tests.made_backups import DATABASE, KEYS, MADE, make_backup

ROWS = 60_000
DAY = timedelta(days=1)


@pytest.fixture(scope="module")
def live(postgres18: EmbeddedPostgres) -> Iterator[Server]:
    """A database whose dump takes a moment, of a little more than one part."""
    with new_database(postgres18) as server:
        with server.connect() as connection:
            connection.execute(
                "CREATE TABLE public.rows AS SELECT i, md5(i::text) || md5((-i)::text) ||"
                f" md5((2 * i)::text) AS text FROM generate_series(1, {ROWS}) AS i"
            )
        yield server


@pytest.fixture
def witness(s3_server: S3Access, bucket: str, postgres18: EmbeddedPostgres) -> Iterator[Witness]:
    with closing(s3_server.client()) as client:
        yield Witness(client, bucket, postgres18)


@pytest.fixture
def victim(
    live: Server, s3_environment: dict[str, str], postgres18: EmbeddedPostgres
) -> Iterator[Victim]:
    environment = {**s3_environment, **postgres18.environment(live.database)}
    victim = Victim({**environment, "BACKUP_GLOBALS": "without-passwords"})
    yield victim
    victim.wait_until_gone()


# Backups


def test_a_backup_killed_at_any_moment_is_whole_or_invisible(
    live: Server, victim: Victim, witness: Witness, store: ObjectStore, chance: Chance
) -> None:
    whole = victim.run("backup", *dated(0))
    good = lasting(witness)
    for number in chance.times(6, 200):
        moment = chance.random.uniform(0.2, 1.05) * whole
        alone = chance.random.random() < 0.5
        victim.run_and_kill(moment, "backup", *dated(number + 1), alone=alone)
        victim.wait_until_gone()
        witness.wait_until_quiet(live.database)
        found = lasting(witness)
        assert good.items() <= found.items(), "a good backup was touched"
        for name in found_names(found) - found_names(good):
            witness.require_whole(name, ROWS)
        good = found
    require_repaired(live, victim, witness, store)


@pytest.mark.parametrize("after_all", [False, True], ids=["before", "after"])
def test_a_backup_killed_at_any_call_of_the_store_is_whole_or_invisible(
    live: Server,
    victim: Victim,
    witness: Witness,
    store: ObjectStore,
    faulty_s3: FaultyS3,
    chance: Chance,
    after_all: bool,
) -> None:
    """Right before the store gets a request, or right after it did as it was asked."""
    victim.environment = {**victim.environment, "AWS_ENDPOINT_URL_S3": faulty_s3.url}
    victim.run("backup", *dated(0))
    calls = list(faulty_s3.seen.calls)
    for number in chance.some(range(len(calls)), 4):
        faulty_s3.heal()
        started: list[subprocess.Popen[bytes]] = []

        def dies(exchange: Exchange, started: list[subprocess.Popen[bytes]] = started) -> None:
            if after_all:
                exchange.forward()
            kill(started[0].pid, alone=number % 2 == 0)  # noqa: B023  # it runs within the turn
            exchange.reset()

        faulty_s3.on("*", dies, skip=number)
        with victim.start("backup", *dated(number + 1)) as process:
            started.append(process)
            process.wait()
        faulty_s3.heal()
        victim.wait_until_gone()
        witness.wait_until_quiet(live.database)
        for name in witness.visible():
            witness.require_whole(name, ROWS)
    require_repaired(live, victim, witness, store)


@pytest.mark.parametrize(
    ("call", "number", "left"),
    [
        ("PutObject", 1, {Kind.SCHEMA}),
        ("CompleteMultipartUpload", 0, {Kind.SCHEMA, Kind.GLOBALS}),
        ("PutObject", 2, {Kind.SCHEMA, Kind.GLOBALS, Kind.DUMP}),
    ],
)
def test_what_a_backup_leaves_that_is_killed_before_its_manifest_goes_in_time_and_not_before(
    live: Server,
    victim: Victim,
    witness: Witness,
    store: ObjectStore,
    faulty_s3: FaultyS3,
    call: str,
    number: int,
    left: set[Kind],
) -> None:
    victim.run("backup", *dated(0))
    store.put(f"{PREFIX}{live.database}_2019-01-01_000000.sql.gz", b"another script's")
    victim.environment = {**victim.environment, "AWS_ENDPOINT_URL_S3": faulty_s3.url}
    started: list[subprocess.Popen[bytes]] = []

    def dies(exchange: Exchange) -> None:
        kill(started[0].pid, alone=False)
        exchange.reset()

    # The first object that is put is the archive, then come the globals, and then the manifest.
    faulty_s3.on(call, dies, skip=number)
    before = witness.objects().keys()
    with victim.start("backup", *dated(1)) as process:
        started.append(process)
        process.wait()
    faulty_s3.heal()
    found = {key for key in witness.objects() if key not in before}
    assert {key[key.index(".") :] for key in found} == left
    wait_for_the_next_second()
    victim.run("backup", *dated(2))
    assert found <= witness.objects().keys()

    def prune_in(hours: float, *, dry_run: bool = False) -> set[str]:
        policy, moment = RetentionPolicy(days=30), datetime.now(UTC) + timedelta(hours=hours)
        keys = Keys(PREFIX)
        result = prune(store, keys, live.database, policy, now=moment, dry_run=dry_run)
        return {stray.key for stray in result.cleared}

    hours = 30 * 24 + 1 if Kind.DUMP in left else 25
    good = set(witness.objects()) - found
    assert prune_in(hours - 2) == set()
    assert prune_in(hours, dry_run=True) == found
    assert set(witness.objects()) == good | found
    assert prune_in(hours) == found
    assert set(witness.objects()) == good


def require_repaired(live: Server, victim: Victim, witness: Witness, store: ObjectStore) -> None:
    """The next run succeeds, and tells of everything that belongs to no backup."""
    wait_for_the_next_second()
    victim.run("backup", *dated(1000))
    visible = witness.visible()
    done = subprocess.run(
        [*COMMAND, "list", "--json"], env=victim.environment, capture_output=True, check=True
    )
    listed = json.loads(done.stdout)
    assert {backup["name"] for backup in listed["backups"]} == visible
    orphans = {key for key in witness.objects() if stem(key) not in visible | {"catalog.json"}}
    assert {stray["key"] for stray in listed["strays"]} == orphans
    # None of the uploads is old enough for a prune of today; tomorrow they are.
    uploads, tomorrow = witness.uploads(), datetime.now(UTC) + timedelta(hours=25)
    prune(store, Keys(PREFIX), live.database, RetentionPolicy(days=30), now=tomorrow - DAY)
    assert witness.uploads() == uploads
    prune(store, Keys(PREFIX), live.database, RetentionPolicy(days=30), now=tomorrow)
    assert witness.uploads() == []
    assert witness.visible() == visible
    dumped = {stem(key) for key in orphans if kind(key) is Kind.DUMP}
    assert {stem(key) for key in orphans & witness.objects().keys()} == dumped
    for name in dumped:
        victim.run("adopt", name)
        victim.run("verify", name)
        assert name in witness.visible()


def wait_for_the_next_second() -> None:
    """A dump without a manifest that may be newer than every backup has a prune refuse, and a
    store tells the second only."""
    time.sleep(1.1)


def dated(day: int) -> tuple[str, str]:
    """A label of its own, so that two runs within a second don't ask for one name."""
    return "--date", f"{datetime(2020, 1, 1, tzinfo=UTC) + day * DAY:%Y-%m-%d}"


def stem(key: str) -> str:
    """The name of the backup whose object a key is."""
    parsed = Keys(PREFIX).parse(key)
    return str(parsed[0]) if parsed else key.removeprefix(PREFIX)


def kind(key: str) -> Kind | None:
    """What the object of a backup is."""
    parsed = Keys(PREFIX).parse(key)
    return parsed[1] if parsed else None


def lasting(witness: Witness) -> dict[str, str]:
    """What never changes any more of the backups that there are."""
    names = witness.visible()
    kinds = (Kind.DUMP, Kind.GLOBALS, Kind.SCHEMA, Kind.MANIFEST)
    found = witness.objects().items()
    return {key: etag for key, etag in found if stem(key) in names and key.endswith(kinds)}


def found_names(objects: dict[str, str]) -> set[str]:
    return {stem(key) for key in objects if key.endswith(Kind.MANIFEST)}


# Prunes


def test_a_prune_killed_at_any_moment_loses_nothing_and_the_next_one_ends_it(
    victim: Victim, witness: Witness, store: ObjectStore, chance: Chance
) -> None:
    victim.environment = {**victim.environment, "BACKUP_DATABASE": DATABASE}
    now = datetime.now(UTC)
    arguments = ("prune", "--retention-days", "7")
    make_history(store, now)
    whole = victim.run(*arguments)
    kept = {stem(key) for key in witness.objects() if key.endswith(Kind.MANIFEST)}
    for _ in chance.times(4, 100):
        make_history(store, now)
        before = witness.objects()
        # A prune takes most of its time to start.
        moment = chance.random.uniform(0.4, 1.05) * whole
        victim.run_and_kill(moment, *arguments, alone=True)
        found = witness.objects()
        for name in kept:
            for key in (key for key in before if stem(key) == name):
                assert found[key] == before[key], "a good backup was touched"
        for name in found_names(found):
            assert {f"{PREFIX}{name}{kind}" for kind in MADE} <= found.keys()
        victim.run(*arguments)
        left = {stem(key) for key in witness.objects()}
        assert left == kept | {"catalog.json"}


def make_history(store: ObjectStore, now: datetime) -> None:
    """Eight verified backups, of which five have expired; those that are there stay."""
    names = {info.key for info in store.list(PREFIX)}
    for days in (1, 2, 3, 20, 21, 22, 23, 24):
        taken_at = now - timedelta(days=days)
        name = BackupName.of(DATABASE, taken_at)
        if KEYS.of(name, Kind.MANIFEST) not in names:
            make_backup(store, taken_at)


# Verifications


def test_a_verification_killed_at_any_moment_leaves_the_backup_as_it_was(
    victim: Victim, witness: Witness, chance: Chance
) -> None:
    victim.run("backup", *dated(0), "--no-prune")
    whole = victim.run("verify", "--latest")
    (name,) = witness.visible()
    evidence = f"{PREFIX}{name}{Kind.EVIDENCE}"
    good = {key: etag for key, etag in witness.objects().items() if key != evidence}
    for _ in chance.times(3, 20):
        entries = json.loads(witness.body(evidence))["entries"]
        moment = chance.random.uniform(0.4, 1.05) * whole
        victim.run_and_kill(moment, "verify", "--latest", alone=True)
        found = json.loads(witness.body(evidence))["entries"]
        assert found[: len(entries)] == entries
        assert good.items() <= witness.objects().items()
    victim.run("verify", "--latest")
    victim.run("prune")
