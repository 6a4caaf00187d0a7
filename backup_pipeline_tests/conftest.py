"""Real servers for every test that wants one: started when first asked for, gone at the end.

Each pytest-xdist worker has servers of its own.
`BACKUP_TEST_S3_ENDPOINT`, with `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`, has the tests use
another S3 server than the embedded one.
"""

import os
import signal
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import hypothesis
import psycopg
import pytest
from psycopg.sql import SQL, Identifier

from backup_pipeline.embedded.postgres import EmbeddedPostgres, embedded_bin_dirs
from backup_pipeline.embedded.s3 import REGION, EmbeddedS3, S3Access
from backup_pipeline.embedded.sample import load_sample
from backup_pipeline.engine.postgres import Server
from backup_pipeline.engine.s3 import S3Store
from backup_pipeline.engine.store import ObjectStore
from backup_pipeline_tests.store_contract import connection_to

POSTGRES_15 = Path("/usr/lib/postgresql/15/bin")
SAMPLES = Path(__file__).parents[2] / "shared" / "samples"
SAMPLE_MEGABYTES = 4

# How long a test takes says nothing of what it tests, least of all on a busy machine.
hypothesis.settings.register_profile(
    "untimed", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("untimed")

_OURS = ("PG", "AWS_", "BACKUP_", "DAGSTER_")
_HERMETIC = {
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "AWS_EC2_METADATA_DISABLED": "true",
}
OUTSIDE = pytest.StashKey[Mapping[str, str]]()

CreateDatabase = Callable[..., str]


def pytest_configure(config: pytest.Config) -> None:
    """Take every variable that we read out of the environment, before any test or fixture.

    Signals that whoever started pytest ignores, as `nohup` and shells in the background do, get
    their defaults back: the commands under test inherit them.
    """
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        if signal.getsignal(number) is signal.SIG_IGN:
            default = signal.default_int_handler if number is signal.SIGINT else signal.SIG_DFL
            signal.signal(number, default)
    outside = {name: value for name, value in os.environ.items() if name.startswith(_OURS)}
    config.stash[OUTSIDE] = outside
    for name in outside:
        del os.environ[name]
    os.environ.update(_HERMETIC)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Put them back, for whoever runs pytest inside a larger program."""
    for name in _HERMETIC:
        os.environ.pop(name, None)
    outside = config.stash[OUTSIDE]
    os.environ.update(outside)


def pytest_report_header(config: pytest.Config) -> str:
    """Which servers the tests use."""
    postgres = [str(path.parent.name) for path in embedded_bin_dirs()]
    if POSTGRES_15.is_dir():
        postgres.append(str(POSTGRES_15))
    s3 = config.stash[OUTSIDE].get("BACKUP_TEST_S3_ENDPOINT", "embedded")
    return f"PostgreSQL: {', '.join(postgres)}; S3: {s3}"


@pytest.fixture(scope="session")
def outside(request: pytest.FixtureRequest) -> Mapping[str, str]:
    """The variables that were set where pytest was started, and that no test sees."""
    return request.config.stash[OUTSIDE]


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A directory for the data of a server, removed afterwards.

    For root, the directories above a PostgreSQL's data become enterable; pytest, when it starts,
    closes those above `tmp_path` again.
    """
    with tempfile.TemporaryDirectory(prefix="backup-pipeline-") as directory:
        yield Path(directory)


# PostgreSQL


@contextmanager
def _started(version: int, bin_dir: Path | None = None) -> Iterator[EmbeddedPostgres]:
    with tempfile.TemporaryDirectory(prefix="backup-pipeline-") as directory:
        data = Path(directory, f"postgres{version}")
        with EmbeddedPostgres(data, version, bin_dir=bin_dir, durable=False) as postgres:
            yield postgres


@pytest.fixture(scope="session")
def postgres18() -> Iterator[EmbeddedPostgres]:
    """PostgreSQL 18, from the wheel."""
    with _started(18) as postgres:
        yield postgres


@pytest.fixture(scope="session")
def postgres16() -> Iterator[EmbeddedPostgres]:
    """PostgreSQL 16, from the wheel."""
    with _started(16) as postgres:
        yield postgres


@pytest.fixture(scope="session")
def postgres15() -> Iterator[EmbeddedPostgres]:
    """PostgreSQL 15 as Debian installs it; skips where it is not installed."""
    if not (POSTGRES_15 / "initdb").exists():
        pytest.skip(f"PostgreSQL 15 is not installed in {POSTGRES_15}")
    with _started(15, POSTGRES_15) as postgres:
        yield postgres


@pytest.fixture(scope="session")
def postgres(postgres18: EmbeddedPostgres) -> EmbeddedPostgres:
    """The newest PostgreSQL."""
    return postgres18


@pytest.fixture(scope="session", params=[18, 16, 15])
def any_postgres(request: pytest.FixtureRequest) -> EmbeddedPostgres:
    """Each PostgreSQL in turn."""
    server = request.getfixturevalue(f"postgres{request.param}")
    assert isinstance(server, EmbeddedPostgres)
    return server


@pytest.fixture
def create_database(postgres: EmbeddedPostgres) -> Iterator[CreateDatabase]:
    """Databases on `postgres`: `create_database(template)` makes one and gives its name."""
    with psycopg.connect(postgres.dsn(), autocommit=True) as admin, ExitStack() as dropped:

        def create(template: str = "template0") -> str:
            name = f"test_{uuid.uuid4().hex[:12]}"
            database = Identifier(name)
            admin.execute(
                SQL("CREATE DATABASE {} TEMPLATE {}").format(database, Identifier(template))
            )
            drop = SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(database)
            dropped.callback(admin.execute, drop)
            return name

        yield create


@contextmanager
def database_called(postgres: EmbeddedPostgres, name: str, template: str) -> Iterator[None]:
    """A copy of a database under a name, dropped afterwards with all whose names begin so."""
    with psycopg.connect(postgres.dsn(), autocommit=True) as admin:
        copy = SQL("CREATE DATABASE {} TEMPLATE {}")
        admin.execute(copy.format(Identifier(name), Identifier(template)))
        yield
        like = "SELECT datname FROM pg_database WHERE starts_with(datname, %s)"
        for (left,) in admin.execute(like, (name,)).fetchall():
            admin.execute(SQL("DROP DATABASE {} WITH (FORCE)").format(Identifier(left)))


@pytest.fixture
def database(create_database: CreateDatabase) -> str:
    """The name of an empty database on `postgres`."""
    return create_database()


@pytest.fixture
def server(postgres: EmbeddedPostgres, database: str) -> Server:
    """An empty database."""
    return Server.of(postgres.dsn(database))


@pytest.fixture(scope="session")
def sample_database(postgres: EmbeddedPostgres) -> str:
    """The name of a database with a small sample; a template to copy, never to write to."""
    name = "sample_template"
    load_sample(postgres.dsn(name), megabytes=SAMPLE_MEGABYTES)
    return name


@pytest.fixture
def sample_server(
    postgres: EmbeddedPostgres, sample_database: str, create_database: CreateDatabase
) -> Server:
    """A database of the test's own with a small sample."""
    return Server.of(postgres.dsn(create_database(sample_database)))


@pytest.fixture(scope="session")
def samples_dir() -> Path:
    """Databases of other people as SQL, beside the checkout; skips where they are missing."""
    if not SAMPLES.is_dir():
        pytest.skip(f"there are no sample databases in {SAMPLES}")
    return SAMPLES


# S3


@pytest.fixture(scope="session")
def s3_server(outside: Mapping[str, str]) -> Iterator[S3Access]:
    """The S3 server that was named from outside, else an embedded one."""
    if endpoint := outside.get("BACKUP_TEST_S3_ENDPOINT"):
        region = outside.get("AWS_DEFAULT_REGION", REGION)
        key, secret = outside["AWS_ACCESS_KEY_ID"], outside["AWS_SECRET_ACCESS_KEY"]
        yield S3Access(endpoint, key, secret, region)
        return
    with (
        tempfile.TemporaryDirectory(prefix="backup-pipeline-") as directory,
        EmbeddedS3(Path(directory, "s3")) as embedded,
    ):
        yield embedded.access


@contextmanager
def bucket_on(server: S3Access, prefix: str = "test") -> Iterator[str]:
    """The name of an empty bucket, removed afterwards with whatever is in it."""
    name = f"{prefix}-{uuid.uuid4().hex[:8]}"
    server.create_bucket(name)
    yield name
    _remove_bucket(server, name)


@pytest.fixture
def bucket(s3_server: S3Access) -> Iterator[str]:
    """The name of an empty bucket."""
    with bucket_on(s3_server) as name:
        yield name


def _remove_bucket(server: S3Access, bucket: str) -> None:
    client = server.client()
    try:
        for uploads in client.get_paginator("list_multipart_uploads").paginate(Bucket=bucket):
            for upload in uploads.get("Uploads", []):
                client.abort_multipart_upload(
                    Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"]
                )
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
            if found := page.get("Contents"):
                client.delete_objects(
                    Bucket=bucket,
                    Delete={"Objects": [{"Key": item["Key"]} for item in found], "Quiet": True},
                )
        client.delete_bucket(Bucket=bucket)
    except client.exceptions.NoSuchBucket:
        return  # a test may remove it
    finally:
        client.close()


@pytest.fixture
def store(s3_server: S3Access, bucket: str) -> ObjectStore:
    """An empty bucket of a real S3 server."""
    return S3Store(connection_to(s3_server, bucket))


@pytest.fixture
def s3_environment(s3_server: S3Access, bucket: str) -> dict[str, str]:
    """The variables that lead the command line and Dagster to `bucket`."""
    return {**s3_server.environment(), "BACKUP_BUCKET": bucket}
