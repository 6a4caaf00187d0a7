"""What the documents tell people to type does what they say, on real servers."""

import ast
import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from backup_pipeline.embedded.s3 import S3Access
from backup_pipeline.embedded.sample import load_sample
from backup_pipeline.embedded.services import Services
from backup_pipeline.settings import Settings
from backup_pipeline_tests.policies import documented

pytestmark = pytest.mark.xdist_group("documents")
ROOT = Path(__file__).parents[1]
README, RUNBOOK, MINIO = "README.md", "docs/disaster-recovery.md", "docs/minio.md"
TROUBLES, PRACTICE = "docs/troubleshooting.md", "docs/best-practice.md"
ENCRYPTION, MONITORING = "docs/encryption.md", "docs/monitoring.md"
PAGES = (README, RUNBOOK, MINIO, TROUBLES, PRACTICE, ENCRYPTION, MONITORING)
TEXTS = {page: (ROOT / page).read_text() for page in PAGES}
# What is nobody's to install for this software alone.
PROGRAMS = ("age-keygen", "age", "aws")
COMMANDS = dict.fromkeys(
    command
    for text in TEXTS.values()
    for command in re.findall(r"`(backup-pipeline [^`\n]+)`", text)
)
HARM = "DELETE FROM trades WHERE trade_id % 3 = 0; DROP TABLE watchlists"
LOOK = """psql -At --command "SELECT count(*), to_regclass('watchlists') FROM trades" """


def typed(page: str, *, make: bool = False) -> list[str]:
    """The blocks of a page that people type, those that only run make apart."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", TEXTS[page], re.MULTILINE | re.DOTALL)
    return [block for block in blocks if block.startswith("make ") == make]


@dataclass(frozen=True)
class Shell:
    """A terminal as `. .backup-pipeline/env` makes it, with a small sample and a backup."""

    env: Mapping[str, str]

    def runs(self, script: str, directory: Path, typed: str = "", **variables: str) -> str:
        """What a script prints; where it asks before a restore, somebody says yes."""
        yes = re.sub(
            r"(backup-pipeline (?:restore|sync) (?!.*--(?:no-confirm|list|help))(?:.*[^|\s]))",
            r"\1 --no-confirm",
            script,
        )
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", yes],
            env={**self.env, **variables},
            cwd=directory,
            input=typed,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr + done.stdout
        return done.stdout


@pytest.fixture(scope="module")
def shell() -> Iterator[Shell]:
    """One for all pages; not under `tmp_path`, which a second pytest closes to the server."""
    with (
        tempfile.TemporaryDirectory(prefix="backup-pipeline-") as directory,
        Services(Path(directory, "services")) as services,
    ):
        services.start()
        load_sample(services.dsn, megabytes=4)
        ours = (Path(sys.executable).parent, services.postgres.bin_dir)
        path = os.pathsep.join([*map(str, ours), os.environ["PATH"]])
        env = {**os.environ, **services.environment(), "PATH": path}
        laptop = Path(directory, "laptop.conf")
        laptop.write_text(f"[laptop]\nhost=127.0.0.1\nport={env['PGPORT']}\n")
        env["PGSERVICEFILE"] = str(laptop)
        # Where a page speaks of the roles that a backup has, it has them.
        env["BACKUP_GLOBALS"] = "without-passwords"
        shell = Shell(env)
        shell.runs("backup-pipeline backup", ROOT)
        yield shell


def run_page(shell: Shell, page: str, directory: Path, *, after_each: str = "") -> None:
    """Run all blocks of a page in one shell, as somebody types them who reads it."""
    blocks = typed(page)
    lacking = {program for program in PROGRAMS if not shutil.which(program)}
    possible = [block for block in blocks if not lacking & {*re.findall(r"[\w-]+", block)}]
    if page == ENCRYPTION and "age-keygen" in lacking:
        pytest.skip("age is not installed, which makes the keys")
    shell.runs("".join(f"{block}{after_each}\n" for block in possible), directory)
    if possible != blocks:
        pytest.skip(f"{' and '.join(lacking)} not installed; all the other blocks passed")


@pytest.mark.parametrize(
    ("page", "count"),
    [(README, 3), (TROUBLES, 5), (PRACTICE, 5), (ENCRYPTION, 4), (MONITORING, 2)],
)
def test_the_blocks_work_one_after_the_other(
    shell: Shell, tmp_path: Path, page: str, count: int
) -> None:
    assert len(typed(page)) == count
    try:
        run_page(shell, page, tmp_path)
    finally:
        if page == ENCRYPTION:
            # The newest backup is what other pages restore, without a key.
            shell.runs("backup-pipeline backup", tmp_path)


def test_the_runbook_brings_back_what_was_lost(shell: Shell, tmp_path: Path) -> None:
    (before,) = shell.runs(LOOK, tmp_path).split()
    shell.runs(f'psql --quiet --command "{HARM}"', tmp_path)
    (harmed,) = shell.runs(LOOK, tmp_path).split()
    assert len(typed(RUNBOOK)) == 13

    run_page(shell, RUNBOOK, tmp_path, after_each=f"{LOOK} >> seen")

    rescued = before.replace("watchlists", "")
    assert [*dict.fromkeys((tmp_path / "seen").read_text().split())] == [harmed, rescued, before]


def test_minio_is_set_up_as_its_page_says(
    shell: Shell, tmp_path: Path, outside: Mapping[str, str]
) -> None:
    endpoint, client = outside.get("BACKUP_TEST_S3_ENDPOINT"), outside.get("BACKUP_TEST_MC")
    if not (endpoint and client):
        pytest.skip(
            "BACKUP_TEST_S3_ENDPOINT and BACKUP_TEST_MC name no MinIO; make test-minio does"
        )
    root = S3Access(endpoint, outside["AWS_ACCESS_KEY_ID"], outside["AWS_SECRET_ACCESS_KEY"])
    (tmp_path / "everything.json").write_text(documented()["everything"])
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "mc").symlink_to(client)
    secret = secrets.token_hex(20)
    shell.runs(
        "\n".join(typed(MINIO)),
        tmp_path,
        typed=f"{secret}\n",
        PATH=f"{tmp_path / 'bin'}:{shell.env['PATH']}",
        HOME=str(tmp_path),
        MC_HOST_nas=endpoint.replace("://", f"://{root.access_key}:{root.secret_key}@"),
        AWS_ENDPOINT_URL_S3=endpoint,
        AWS_ACCESS_KEY_ID="backup",
        AWS_SECRET_ACCESS_KEY=secret,
        BACKUP_BUCKET="options-data",
    )


def test_minio_is_built_as_its_page_says() -> None:
    script = (ROOT / "scripts" / "test-minio").read_text()
    for line in re.findall(r"^go install .*$", TEXTS[MINIO], re.MULTILINE):
        assert line in script


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_of_a_sentence_or_a_table_works(
    shell: Shell, tmp_path: Path, command: str
) -> None:
    name = shell.runs("backup-pipeline list | head -n 1 | cut -f 1", tmp_path).strip()
    soon = datetime.now() + timedelta(minutes=1)  # noqa: DTZ005  # local, as people type it
    exact = command.replace("NAME", name).replace("2025-12-10T12:00", f"{soon:%Y-%m-%dT%H:%M}Z")
    if ("restore" in exact or "sync" in exact) and "--replace" not in exact:
        exact += f" --into restored_{secrets.token_hex(4)}"
    shell.runs(exact, tmp_path)


def test_the_messages_that_people_look_up_are_those_of_the_software() -> None:
    said = set()
    for path in (ROOT / "backup_pipeline").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                said.add(node.value)
    quoted = re.findall(r"^\| `([^`]+)`", TEXTS[TROUBLES], re.MULTILINE)
    assert len(quoted) > 10
    for message in quoted:
        for part in filter(None, (part.strip(" ,:()") for part in message.split("…"))):
            assert any(part in each for each in said), f"nothing says {part!r}"


def test_every_link_leads_somewhere() -> None:
    for page, text in TEXTS.items():
        for target in re.findall(r"\]\((?!https?:)([^)]+)\)", text):
            file, _, anchor = target.partition("#")
            path = (ROOT / page).parent / file if file else ROOT / page
            assert path.exists(), f"{page} leads to {target}"
            if anchor:
                assert anchor in anchors(path.read_text()), f"{page} leads to {target}"


def anchors(text: str) -> set[str]:
    """Those that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings}


def test_the_make_commands_are_what_ci_runs() -> None:
    ci = (ROOT / ".ci" / "run").read_text().splitlines()
    assert typed(README, make=True) == ["make demo\n", "make test\n"]
    assert all(block.strip() in ci for block in typed(README, make=True))


def test_every_setting_is_in_the_table_with_its_default() -> None:
    rows = dict(re.findall(r"^\| `BACKUP_(\w+)` \| `?([^|`]*)`? \|", TEXTS[README], re.MULTILINE))
    for name, field in Settings.model_fields.items():
        assert name.upper() in rows, f"BACKUP_{name.upper()} is not documented"
        default = field.default
        if isinstance(default, str | int | float) and default != "auto":
            shown = str(default).lower() if isinstance(default, bool) else str(default)
            assert rows[name.upper()] == shown
    assert set(rows) == {name.upper() for name in Settings.model_fields} | {"CONFIG"}
