"""Fault 11: a process whose clock is wrong, against a store whose clock is right.

The clock of a process is set by a library that is loaded before libc, as libfaketime does it; it
is made with the C compiler of this machine, and skipped visibly where there is none.
"""

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from backup_pipeline.embedded.postgres import EmbeddedPostgres
from backup_pipeline.embedded.s3 import S3Access
from backup_pipeline_tests.faults.killing import COMMAND, Witness
from backup_pipeline_tests.integration.databases import new_database

SHIFTED = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>

static long shift(void) { const char *by = getenv("TEST_CLOCK_SHIFT"); return by ? atol(by) : 0; }

int clock_gettime(clockid_t clock, struct timespec *at) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int code = real(clock, at);
    if (!code && clock == CLOCK_REALTIME) at->tv_sec += shift();
    return code;
}

time_t time(time_t *at) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (at) *at = now.tv_sec;
    return now.tv_sec;
}

int gettimeofday(struct timeval *restrict at, void *restrict zone) {
    struct timespec now;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &now);
    at->tv_sec = now.tv_sec;
    at->tv_usec = now.tv_nsec / 1000;
    return 0;
}
"""


@pytest.fixture(scope="module")
def shifted_clock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library that sets the clock of a process by `TEST_CLOCK_SHIFT` seconds."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler to set the clock of a process with")
    directory = tmp_path_factory.mktemp("clock")
    source, library = directory / "shifted.c", directory / "shifted.so"
    source.write_text(SHIFTED)
    command = [compiler, "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"]
    subprocess.run(command, check=True, capture_output=True)
    return library


class Machine:
    """Runs commands by a clock that can be set."""

    def __init__(self, environment: dict[str, str], library: Path) -> None:
        self._environment = {**environment, "LD_PRELOAD": str(library)}

    def run(self, *arguments: str, minutes: int, code: int) -> "subprocess.CompletedProcess[str]":
        done = subprocess.run(
            [*COMMAND, *arguments],
            env={**self._environment, "TEST_CLOCK_SHIFT": str(60 * minutes)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, done.stderr
        return done


@pytest.fixture
def machine(
    postgres18: EmbeddedPostgres, s3_environment: dict[str, str], shifted_clock: Path
) -> Iterator[Machine]:
    with new_database(postgres18) as server:
        with server.connect() as connection:
            connection.execute("CREATE TABLE public.t AS SELECT 1 AS id")
        environment = postgres18.environment(server.database)
        yield Machine({**s3_environment, **environment}, shifted_clock)


@pytest.fixture
def witness(s3_server: S3Access, bucket: str, postgres18: EmbeddedPostgres) -> Iterator[Witness]:
    with closing(s3_server.client()) as client:
        yield Witness(client, bucket, postgres18)


@pytest.mark.parametrize(("minutes", "way"), [(20, "ahead of"), (-20, "behind")])
def test_a_clock_that_the_store_does_not_accept_is_told_and_nothing_is_left(
    machine: Machine, witness: Witness, minutes: int, way: str
) -> None:
    for verb in ("backup", "list"):
        said = machine.run(verb, minutes=minutes, code=6).stderr
        assert f"This machine's clock is 20 minutes {way} the store's. Set both by NTP." in said
    found = json.loads(machine.run("check", "--json", minutes=minutes, code=1).stdout)
    advice = {each["subject"]: each["advice"] for each in found["findings"] if each["advice"]}
    assert "NTP" in advice["PostgreSQL's clock"]
    assert all(f"20 minutes {way}" in advice[subject] for subject in ("bucket", "writing"))
    assert (witness.objects(), witness.uploads()) == ({}, [])


def test_a_clock_that_the_store_still_accepts_makes_good_backups_and_is_warned_of(
    machine: Machine,
) -> None:
    machine.run("backup", minutes=10, code=0)
    (backup,) = json.loads(machine.run("list", "--json", minutes=0, code=0).stdout)["backups"]
    assert backup["state"] == "verified"
    found = json.loads(machine.run("check", "--json", minutes=10, code=0).stdout)["findings"]
    levels = {each["subject"]: each["level"] for each in found}
    assert levels["PostgreSQL's clock"] == levels["the store's clock"] == "warn"
