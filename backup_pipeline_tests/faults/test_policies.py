"""Fault 10: whoever has a policy of docs/security.md can do what it is for, and nothing else."""

import json
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from botocore.exceptions import ClientError
from dagster._core.storage.compute_log_manager import ComputeIOType
from dagster_aws.s3 import S3ComputeLogManager

from backup_pipeline.cli import run
from backup_pipeline.embedded.postgres import EmbeddedPostgres
from backup_pipeline.embedded.s3 import S3Access
from backup_pipeline.engine.backup import back_up
from backup_pipeline.engine.dump import PostgresDumpSource
from backup_pipeline.engine.names import BackupName, Keys, Kind
from backup_pipeline.engine.postgres import Server
from backup_pipeline.engine.s3 import S3Store
from backup_pipeline.errors import ObjectExists
from backup_pipeline_tests.conftest import bucket_on
from backup_pipeline_tests.integration.databases import databases, drop_database, new_database
from backup_pipeline_tests.made_backups import make_backup
from backup_pipeline_tests.policies import (
    SECURITY,
    Guarded,
    documented,
    on_minio,
    on_seaweedfs,
    require_client,
)
from backup_pipeline_tests.store_contract import connection_to

KEYS = Keys("backups/postgres/")
VERBS = {
    "backup": {"backup --no-verify"},
    "verify": {"list", "show", "verify", "drill"},
    "restore": {"list", "show", "restore", "globals"},
    "prune": {"list", "show", "prune"},
    "keep": {"list", "show", "keep", "unkeep"},
    "everything": {
        "backup --no-verify",
        "backup",
        "list",
        "show",
        "verify",
        "drill",
        "restore",
        "globals",
        "prune",
        "keep",
        "unkeep",
        "check",
    },
    "logs": set[str](),
}
IMPLIED = {
    "verify": {"restore", "globals"},
    "prune": {"restore", "globals", "verify", "drill"},
    "keep": {"restore", "globals"},
}
"""What a policy cannot help to allow: who may read may restore."""
CALLS = {
    "backup": {"put dump", "put manifest", "put evidence", "put pin", "upload"},
    "verify": {"list", "get", "put evidence"},
    "restore": {"list", "get"},
    "prune": {
        "list",
        "get",
        "put manifest",
        "put evidence",
        "delete dump",
        "delete globals",
        "delete manifest",
    },
    "keep": {"list", "get", "put pin"},
    "everything": {
        "list",
        "get",
        "put dump",
        "put manifest",
        "put evidence",
        "put pin",
        "upload",
        "delete dump",
        "delete globals",
        "delete manifest",
    },
    "logs": set[str](),
}


@pytest.fixture(scope="module")
def guarded(
    s3_server: S3Access, outside: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Guarded]:
    """A server on which somebody has each policy."""
    if "BACKUP_TEST_S3_ENDPOINT" in outside:
        with (
            bucket_on(s3_server) as bucket,
            on_minio(s3_server, require_client(outside), bucket) as server,
        ):
            yield server
        return
    with on_seaweedfs(tmp_path_factory.mktemp("guarded")) as server:
        yield server


@pytest.fixture(scope="module")
def live(postgres: EmbeddedPostgres) -> Iterator[Server]:
    """A small database."""
    with new_database(postgres) as server:
        with server.connect() as connection:
            connection.execute("CREATE TABLE public.t AS SELECT generate_series(1, 100) AS id")
        yield server
        for database in databases(postgres):
            if database.startswith(server.database):
                drop_database(postgres, database)


class Desk:
    """Where somebody types commands against the bucket, with a policy or with all rights."""

    def __init__(
        self,
        guarded: Guarded,
        live: Server,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        self.guarded, self.live = guarded, live
        self.store = S3Store(connection_to(guarded.admin, guarded.bucket))
        self._patch, self._capsys = monkeypatch, capsys

    def type(self, access: S3Access, *arguments: str) -> tuple[int, str]:
        for variable, value in access.environment().items():
            self._patch.setenv(variable, value)
        code = run(arguments)
        captured = self._capsys.readouterr()
        # A JSON document alone on stdout, else everything that was said.
        return code, captured.out if "--json" in arguments else captured.out + captured.err

    def as_admin(self, *arguments: str) -> Any:
        code, said = self.type(self.guarded.admin, *arguments, "--json")
        assert code == 0, said
        return json.loads(said)

    def clear(self) -> None:
        for info in self.store.list(""):
            self.store.delete(info.key)

    def keys(self) -> set[str]:
        return {info.key for info in self.store.list("")}


@pytest.fixture
def desk(
    guarded: Guarded,
    live: Server,
    postgres: EmbeddedPostgres,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> Iterator[Desk]:
    monkeypatch.chdir(tmp_path)
    for variable, value in {
        **postgres.environment(live.database),
        "BACKUP_BUCKET": guarded.bucket,
        "BACKUP_PG_BIN_DIRS": str(postgres.bin_dir),
    }.items():
        monkeypatch.setenv(variable, value)
    desk = Desk(guarded, live, monkeypatch, capsys)
    yield desk
    desk.clear()


def test_each_documented_policy_is_one_that_is_tested() -> None:
    assert set(documented()) == set(VERBS) == set(CALLS)


def now() -> datetime:
    return datetime.now(UTC)


@pytest.mark.parametrize("policy", VERBS)
def test_a_policy_is_enough_for_its_verbs_and_for_no_others(desk: Desk, policy: str) -> None:
    old = [make_backup(desk.store, now() - timedelta(days=days), database=desk.live.database)
           for days in (30, 31, 32)]  # fmt: skip
    name = desk.as_admin("backup", "--no-prune", "--globals", "without-passwords")["name"]
    into = f"{desk.live.database}_{policy}"
    commands = {
        "list": ["list"],
        "show": ["show", name],
        "verify": ["verify", name],
        "drill": ["drill", name],
        "restore": ["restore", "--backup", name, "--into", into, "--no-confirm"],
        "globals": ["globals", "--backup", name],
        "keep": ["keep", name],
        "unkeep": ["unkeep", name],
        "prune": ["prune", "--retention-days", "0"],
        "check": ["check"],
        "backup --no-verify": ["backup", "--no-verify", "--date", "2001-02-03"],
        "backup": ["backup", "--date", "2001-02-04", "--retention-days", "0"],
    }
    before = desk.keys()
    for verb, arguments in commands.items():
        if verb in IMPLIED.get(policy, ()):
            continue
        code, said = desk.type(desk.guarded.holders[policy], *arguments)
        assert code == (0 if verb in VERBS[policy] else 6), f"{verb}: {said}"
        if code:
            assert "AWS_ACCESS_KEY_ID" in said or verb in {"prune", "check"}, said
    gone = before - desk.keys()
    deleted = {KEYS.of(old[-1], kind) for kind in (Kind.DUMP, Kind.SCHEMA, Kind.MANIFEST)}
    assert (deleted <= gone) == (policy in {"prune", "everything"}), gone
    assert [str(key) for key in gone if str(name) in key] == []
    assert list(desk.store.list_uploads(KEYS.prefix)) == []


@pytest.mark.parametrize("policy", CALLS)
def test_a_policy_allows_no_call_that_it_is_not_for(desk: Desk, policy: str) -> None:
    name = make_backup(desk.store, now(), database=desk.live.database)
    bucket, client = desk.guarded.bucket, desk.guarded.holders[policy].client(attempts=1)

    def put(kind: Kind) -> Callable[[], object]:
        return lambda: client.put_object(Bucket=bucket, Key=KEYS.of(name, kind), Body=b"x")

    def delete(kind: Kind) -> Callable[[], object]:
        return lambda: client.delete_object(Bucket=bucket, Key=KEYS.of(name, kind))

    key = KEYS.of(name, Kind.DUMP)
    calls: dict[str, Callable[[], object]] = {
        "list": lambda: client.list_objects_v2(Bucket=bucket, Prefix=KEYS.prefix),
        "get": lambda: client.get_object(Bucket=bucket, Key=key),
        "put dump": put(Kind.DUMP),
        "put manifest": put(Kind.MANIFEST),
        "put evidence": put(Kind.EVIDENCE),
        "put pin": put(Kind.PIN),
        "upload": lambda: client.create_multipart_upload(Bucket=bucket, Key=key),
        "delete dump": delete(Kind.DUMP),
        "delete globals": delete(Kind.GLOBALS),
        "delete manifest": delete(Kind.MANIFEST),
        "everything listed": lambda: client.list_objects_v2(Bucket=bucket),
        "got elsewhere": lambda: client.get_object(Bucket=bucket, Key="elsewhere/x"),
        "put elsewhere": lambda: client.put_object(Bucket=bucket, Key="elsewhere/x", Body=b"x"),
        "deleted elsewhere": lambda: client.delete_object(Bucket=bucket, Key="elsewhere/x"),
        "bucket deleted": lambda: client.delete_bucket(Bucket=bucket),
        "policy read": lambda: client.get_bucket_policy(Bucket=bucket),
        "policy deleted": lambda: client.delete_bucket_policy(Bucket=bucket),
        "versioning": lambda: client.put_bucket_versioning(
            Bucket=bucket, VersioningConfiguration={"Status": "Suspended"}
        ),
    }
    desk.store.put("elsewhere/x", b"x")
    assert {call for call, act in calls.items() if _allowed(act)} == CALLS[policy]
    for upload in desk.store.list_uploads(KEYS.prefix):
        desk.store.abort_upload(upload.key, upload.upload_id)


def _allowed(act: Callable[[], object]) -> bool:
    try:
        act()
    except ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] != 403:
            raise
        return False
    return True


def test_dagster_keeps_and_shows_what_steps_print(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for variable, value in desk.guarded.holders["logs"].environment().items():
        monkeypatch.setenv(variable, value)
    text = (SECURITY.parents[1] / "deploy" / "dagster.yaml").read_text()
    prefix = yaml.safe_load(text)["compute_logs"]["config"]["prefix"]

    def logs(place: str) -> S3ComputeLogManager:
        directory = str(tmp_path / place)
        return S3ComputeLogManager(desk.guarded.bucket, local_dir=directory, prefix=prefix)

    key = ["a run", "compute_logs", "a step"]
    with logs("worker").open_log_stream(key, ComputeIOType.STDOUT) as stream:
        assert stream
        stream.write("printed\n")
    seen = logs("webserver")
    seen.download_from_cloud_storage(key, ComputeIOType.STDOUT)
    assert seen.get_log_data(key).stdout == b"printed\n"
    assert len(seen.get_log_keys_for_log_key_prefix(key[:2], ComputeIOType.STDOUT)) == 1


def test_a_write_only_policy_leaves_nothing_of_a_backup_that_fails(
    desk: Desk, postgres: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    failing = a_pg_dump(tmp_path, postgres, 'case "$*" in *=data*) exit 1;; esac')
    monkeypatch.setenv("BACKUP_PG_BIN_DIRS", str(failing))
    code, said = desk.type(desk.guarded.holders["backup"], "backup", "--no-verify")
    assert (code, "pg_dump ended with code 1" in said) == (1, True), said
    assert desk.keys() == set()
    assert list(desk.store.list_uploads(KEYS.prefix)) == []


def test_a_write_only_policy_never_replaces_a_backup_of_the_same_name(
    desk: Desk, postgres: EmbeddedPostgres
) -> None:
    name = BackupName.of(desk.live.database, now())
    store = S3Store(connection_to(desk.guarded.holders["backup"], desk.guarded.bucket))
    source = PostgresDumpSource(desk.live, [postgres.bin_dir])
    back_up(source, store, KEYS, name, clock=now)
    with pytest.raises(ObjectExists):
        back_up(source, store, KEYS, name, clock=now)
    assert desk.as_admin("verify", str(name))["verified"][0]["passed"] is True
    assert list(desk.store.list_uploads(KEYS.prefix)) == []


def test_a_policy_that_does_not_let_us_write_is_noticed_before_pg_dump_starts(
    desk: Desk, postgres: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    calls = tmp_path / "calls"
    watched = a_pg_dump(tmp_path, postgres, f'echo "$*" >> {calls}')
    monkeypatch.setenv("BACKUP_PG_BIN_DIRS", str(watched))
    code, said = desk.type(desk.guarded.holders["restore"], "backup")
    assert (code, "AccessDenied" in said) == (6, True), said
    assert set(calls.read_text().splitlines()) == {"--version"}
    assert desk.keys() == set()


def test_check_tells_a_write_only_policy_what_it_lacks(desk: Desk) -> None:
    code, said = desk.type(desk.guarded.holders["backup"], "check", "--json")
    findings = {each["subject"]: each for each in json.loads(said)["findings"]}
    failed = {subject for subject, each in findings.items() if each["level"] == "fail"}
    assert (code, failed) == (6, {"bucket", "open uploads", "reading back", "deleting"})
    assert all("docs/security.md" in findings[each]["advice"] for each in failed)
    for subject in ("writing", "multipart uploads", "checksums", "the store's clock"):
        assert findings[subject]["level"] == "ok"


def a_pg_dump(directory: Path, postgres: EmbeddedPostgres, before: str) -> Path:
    """A directory with the real pg_dump behind a line of shell."""
    made = directory / "bin"
    made.mkdir()
    script = made / "pg_dump"
    script.write_text(f'#!/bin/bash\n{before}\nexec "{postgres.bin_dir}/pg_dump" "$@"\n')
    script.chmod(0o755)
    return made
