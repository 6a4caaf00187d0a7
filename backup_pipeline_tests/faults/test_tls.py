"""TLS with a private CA, to PostgreSQL and to the store; a wrong CA is refused and named.

The wheel's PostgreSQL is built without TLS, so Debian's serves here.
"""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import psycopg
import pytest
import trustme

from backup_pipeline.embedded.leash import Command
from backup_pipeline.embedded.postgres import EmbeddedPostgres
from backup_pipeline.embedded.s3 import EmbeddedS3
from backup_pipeline_tests.conftest import POSTGRES_15

COMMAND = (sys.executable, "-c", "from backup_pipeline.cli import main; main()")
HOST = "127.0.0.1"


@dataclass(frozen=True)
class Authority:
    """Who signs the servers' certificates, and somebody else of the same name."""

    trusted: Path
    stranger: Path
    certificate: trustme.LeafCert
    elsewhere: trustme.LeafCert
    """Signed as well, and for another host."""


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    directory = tmp_path_factory.mktemp("authority")
    ours, other = trustme.CA(), trustme.CA()
    trusted, stranger = directory / "ours.pem", directory / "other.pem"
    ours.cert_pem.write_to_path(str(trusted))
    other.cert_pem.write_to_path(str(stranger))
    return Authority(trusted, stranger, ours.issue_cert(HOST), ours.issue_cert("elsewhere.example"))


def write(certificate: trustme.LeafCert, directory: Path) -> tuple[Path, Path]:
    """Certificate and key as files."""
    chain, key = directory / "server.crt", directory / "server.key"
    chain.write_bytes(b"".join(blob.bytes() for blob in certificate.cert_chain_pems))
    key.touch(mode=0o600)
    certificate.private_key_pem.write_to_path(str(key))
    return chain, key


class SecurePostgres(EmbeddedPostgres):
    """PostgreSQL that lets nobody in without TLS."""

    certificate: trustme.LeafCert

    def prepare(self) -> None:
        super().prepare()
        uid, gid = self.data_dir.stat().st_uid, self.data_dir.stat().st_gid
        for path in write(self.certificate, self.data_dir):
            os.chown(path, uid, gid)
        (self.data_dir / "pg_hba.conf").write_text("hostssl all all 127.0.0.1/32 scram-sha-256\n")

    def command(self, ports: tuple[int, ...]) -> Command:
        plain = super().command(ports)
        return replace(plain, arguments=[*plain.arguments, "--ssl=on"])


class SecureS3(EmbeddedS3):
    """A store with HTTPS on a port of its own, beside the HTTP that tells when it answers."""

    port_count = EmbeddedS3.port_count + 1
    certificate: trustme.LeafCert

    def command(self, ports: tuple[int, ...]) -> Command:
        chain, key = write(self.certificate, self.data_dir)
        plain = super().command(ports[:-1])
        options = {"port.https": ports[-1], "cert.file": chain, "key.file": key}
        flags = [f"-s3.{name}={value}" for name, value in options.items()]
        return replace(plain, arguments=[*plain.arguments, *flags])

    @property
    def https_url(self) -> str:
        return f"https://{HOST}:{self.ports[-1]}"


@dataclass(frozen=True)
class Site:
    """A database and a bucket that are reached by TLS only."""

    environment: Mapping[str, str]
    postgres: EmbeddedPostgres
    directory: Path

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*COMMAND, *arguments],
            env={**self.environment, **environment},
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    def without(self, *variables: str) -> "Site":
        kept = {name: value for name, value in self.environment.items() if name not in variables}
        return replace(self, environment=kept)


@pytest.fixture(scope="module")
def site(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    if not (POSTGRES_15 / "initdb").exists():
        pytest.skip(f"PostgreSQL 15, which is built with TLS, is not installed in {POSTGRES_15}")
    directory = tmp_path_factory.mktemp("site")
    postgres = SecurePostgres(directory / "postgres", bin_dir=POSTGRES_15, durable=False)
    s3 = SecureS3(directory / "s3")
    postgres.certificate = s3.certificate = authority.certificate
    with postgres, s3:
        s3.create_bucket("options-data")
        with psycopg.connect(postgres.dsn(), autocommit=True) as admin:
            admin.execute("CREATE TABLE t AS SELECT generate_series(1, 1000) AS id")
        yield Site(
            {
                "PATH": os.defpath,
                **postgres.environment(),
                "PGSSLMODE": "verify-full",
                "PGSSLROOTCERT": str(authority.trusted),
                **s3.environment(),
                "AWS_ENDPOINT_URL_S3": s3.https_url,
                "BACKUP_S3_CA_BUNDLE": str(authority.trusted),
                "BACKUP_S3_MAX_ATTEMPTS": "1",
                "BACKUP_PG_BIN_DIRS": str(POSTGRES_15),
            },
            postgres,
            directory,
        )


def connections(site: Site, begun: int) -> dict[str, bool]:
    """Of each program that has connected since then, whether all of its sessions had TLS."""
    found: dict[str, bool] = {}
    for line in site.postgres.log.read_text(errors="replace")[begun:].splitlines():
        if "connection authorized" in line and "application_name=" in line:
            program = line.split("application_name=")[1].split()[0]
            found[program] = found.get(program, True) and "SSL enabled" in line
    return found


def test_every_session_and_every_request_goes_by_tls(site: Site) -> None:
    with psycopg.connect(site.postgres.dsn(), autocommit=True) as admin:
        admin.execute("ALTER SYSTEM SET log_connections = on")
        admin.execute("SELECT pg_reload_conf()")
    begun = len(site.postgres.log.read_text(errors="replace"))
    for arguments in (
        ["check"],
        ["backup"],
        ["drill", "--latest"],
        ["restore", "--latest", "--into", "restored", "--no-confirm"],
        ["sync", "--to", f"host={HOST}", "--into", "synced", "--no-confirm"],
    ):
        done = site.run(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr
    assert connections(site, begun) == {
        "backup-pipeline": True,
        "pg_dump": True,
        "pg_restore": True,
    }


def test_a_certificate_of_somebody_else_is_refused_by_name(
    site: Site, authority: Authority
) -> None:
    stranger = str(authority.stranger)
    for arguments in (["backup"], ["check"]):
        done = site.run(*arguments, PGSSLROOTCERT=stranger)
        assert (done.returncode, "certificate verify failed" in done.stdout + done.stderr) == (
            5,
            True,
        ), done.stdout + done.stderr
        done = site.run(*arguments, BACKUP_S3_CA_BUNDLE=stranger)
        said = done.stdout + done.stderr
        assert (done.returncode, "no TLS connection" in said) == (6, True), said
        assert "BACKUP_S3_CA_BUNDLE" in said


def test_without_the_authority_nothing_is_trusted(site: Site) -> None:
    done = site.without("BACKUP_S3_CA_BUNDLE").run("list")
    assert (done.returncode, "BACKUP_S3_CA_BUNDLE" in done.stderr) == (6, True), done.stderr
    done = site.without("PGSSLROOTCERT").run("backup", HOME=str(site.directory))
    assert done.returncode == 5
    assert "root certificate file" in done.stderr


@pytest.mark.parametrize("variable", ["AWS_CA_BUNDLE", "BACKUP_S3_CA_BUNDLE"])
def test_the_authority_is_named_as_everywhere_or_in_our_own_variable(
    site: Site, authority: Authority, variable: str
) -> None:
    bare = site.without("BACKUP_S3_CA_BUNDLE")
    assert bare.run("list", **{variable: str(authority.trusted)}).returncode == 0


def test_a_server_without_tls_is_refused_where_tls_is_asked_for(
    site: Site, authority: Authority, postgres15: EmbeddedPostgres
) -> None:
    done = site.run("backup", **postgres15.environment())
    assert done.returncode == 5
    assert "server does not support SSL" in done.stderr


def test_a_bundle_that_is_no_bundle_is_an_error_and_not_a_trace(site: Site, tmp_path: Path) -> None:
    (tmp_path / "empty.pem").write_text("nothing")
    for path in (tmp_path / "missing.pem", tmp_path / "empty.pem"):
        done = site.run("list", BACKUP_S3_CA_BUNDLE=str(path))
        assert (done.returncode, "BACKUP_S3_CA_BUNDLE" in done.stderr) == (6, True), done.stderr
        assert "Traceback" not in done.stderr


def test_a_certificate_of_another_host_is_refused(
    authority: Authority, site: Site, tmp_path: Path
) -> None:
    """Signed by the right authority, and yet not the server that was asked for."""
    impostor = SecureS3(tmp_path / "s3")
    impostor.certificate = authority.elsewhere
    with impostor:
        done = site.run(
            "list", **{**impostor.environment(), "AWS_ENDPOINT_URL_S3": impostor.https_url}
        )
    assert (done.returncode, "no TLS connection" in done.stderr) == (6, True), done.stderr
