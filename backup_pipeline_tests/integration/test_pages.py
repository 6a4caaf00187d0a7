"""What an operator sees: the project's pages in a real browser.

With BACKUP_TEST_PICTURES=docs the pictures of the documentation are made anew.
"""

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import psycopg
import pytest
from playwright.sync_api import Page, expect, sync_playwright

from backup_pipeline.defs.jobs import DRILL, JOB
from backup_pipeline.embedded.postgres import EmbeddedPostgres
from backup_pipeline.embedded.s3 import S3Access
from backup_pipeline.engine.catalog import read_catalog
from backup_pipeline.engine.names import Keys, Kind
from backup_pipeline.engine.s3 import S3Store
from backup_pipeline.engine.store import ObjectStore
from backup_pipeline_tests.conftest import bucket_on, database_called
from backup_pipeline_tests.dagster_ui import LOCATION, DagsterUI, started
from backup_pipeline_tests.store_contract import connection_to

pytestmark = pytest.mark.xdist_group("pages")
DATABASE = "ahold_options"
KEYS = Keys("backups/postgres/")
BACKUPS = 5
NOTES, NOTES_A_DAY = 20_000, 1_000
INVARIANTS = [
    {
        "name": "notes",
        "query": "SELECT count(*) FROM notes WHERE length(note) <> 32",
        "expected": 0,
    },
    {
        "name": "bids",
        "query": "SELECT count(*) FROM quotes WHERE bid > ask",
        "expected": 0,
    },
    {"name": "quotes", "query": "SELECT count(*) > 0 FROM quotes", "expected": True},
]
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
SECOND = 1000.0


@pytest.fixture(scope="module")
def chromium() -> str:
    """A browser; skips where none is installed."""
    found = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if not found:
        pytest.skip("no Chromium is installed, so the pages are not looked at")
    return found


@pytest.fixture(scope="module")
def storage(s3_server: S3Access) -> Iterator[tuple[str, ObjectStore]]:
    """A bucket for this module, and its name."""
    with bucket_on(s3_server, "options-data") as bucket:
        yield bucket, S3Store(connection_to(s3_server, bucket))


@pytest.fixture(scope="module")
def ui(
    chromium: str,
    postgres: EmbeddedPostgres,
    sample_database: str,
    s3_server: S3Access,
    storage: tuple[str, ObjectStore],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[DagsterUI]:
    """Dagster after five evenings."""
    environment = {
        **s3_server.environment(),
        **postgres.environment(DATABASE),
        "BACKUP_BUCKET": storage[0],
        "BACKUP_PG_BIN_DIRS": str(postgres.bin_dir),
        "BACKUP_INVARIANTS": json.dumps(INVARIANTS),
    }
    home = tmp_path_factory.mktemp("dagster")
    with (
        database_called(postgres, DATABASE, sample_database),
        started(home, environment) as running,
    ):
        for _ in range(BACKUPS):
            grow(postgres)
            assert running.wait(running.launch(JOB)) == "SUCCESS"
        assert running.wait(running.launch(DRILL)) == "SUCCESS"
        yield running


@pytest.fixture
def bucket_store(storage: tuple[str, ObjectStore]) -> ObjectStore:
    """What the bucket of this module holds."""
    return storage[1]


def grow(postgres: EmbeddedPostgres) -> None:
    """Another day's data."""
    with psycopg.connect(postgres.dsn(DATABASE)) as connection:
        connection.execute(
            "CREATE TABLE IF NOT EXISTS public.notes AS"
            " SELECT md5(i::text) AS note FROM generate_series(1, %s) AS i",
            (NOTES,),
        )
        connection.execute(
            "INSERT INTO public.notes SELECT md5(random()::text) FROM generate_series(1, %s)",
            (NOTES_A_DAY,),
        )


@pytest.fixture
def page(chromium: str) -> Iterator[Page]:
    """An empty page of a window of a usual size."""
    flags = ["--no-sandbox", "--disable-background-networking", "--disable-component-update"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=flags)
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        page.set_default_timeout(30 * SECOND)
        expect.set_options(timeout=30 * SECOND)
        yield page
        browser.close()


@pytest.fixture
def picture(outside: Mapping[str, str], tmp_path: Path) -> Path:
    """Where pictures go."""
    return Path(outside.get("BACKUP_TEST_PICTURES", tmp_path))


def test_the_graph_shows_the_way_from_the_database_to_the_pruned_bucket(
    ui: DagsterUI, page: Page, picture: Path
) -> None:
    page.goto(f"{ui.url}/locations/{LOCATION}/asset-groups/{DATABASE}/lineage")

    for asset in ("database", "database_dump", "verified_backup", "restore_proof", "pruned_bucket"):
        expect(page.get_by_text(asset, exact=True).first).to_be_visible()
    for checks, assets in (("5 / 5 Passed", 1), ("3 / 3 Passed", 2), ("4 / 4 Passed", 1)):
        expect(page.get_by_text(checks)).to_have_count(assets)
    page.screenshot(path=picture / "lineage.png")


def test_the_proof_shows_that_the_copy_is_equal_and_the_invariants_hold(
    ui: DagsterUI, page: Page, picture: Path
) -> None:
    page.goto(f"{ui.url}/assets/{DATABASE}/restore_proof?view=checks&checkDetail=restored_equal")

    expect(page.get_by_text("tables are equal").first).to_be_visible()
    for invariant in INVARIANTS:
        expect(page.get_by_text(f"invariant_{invariant['name']}").first).to_be_visible()
    expect(page.get_by_text("Succeeded").first).to_be_visible()
    page.wait_for_timeout(SECOND)
    page.screenshot(path=picture / "proof.png")


def test_the_sizes_of_five_backups_are_plotted(ui: DagsterUI, page: Page, picture: Path) -> None:
    page.set_viewport_size({"width": 1400, "height": 1900})
    page.goto(f"{ui.url}/assets/{DATABASE}/database_dump")

    page.get_by_role("button", name="Plots").click()

    for name in ("size_bytes", "rows", "duration_seconds", "throughput_bytes_per_second"):
        expect(page.get_by_text(name, exact=True).first).to_be_visible()
    page.get_by_text("size_bytes", exact=True).first.scroll_into_view_if_needed()
    page.wait_for_timeout(SECOND)  # the lines are drawn in an animation
    page.screenshot(path=picture / "sizes.png")


def test_a_failed_check_is_beside_those_that_passed(
    ui: DagsterUI, page: Page, picture: Path, bucket_store: ObjectStore
) -> None:
    newest = read_catalog(bucket_store, KEYS, DATABASE).backups[0]
    bucket_store.delete(KEYS.of(newest.name, Kind.SCHEMA))
    assert ui.wait(ui.run_checks([DATABASE, "database_dump"])) == "FAILURE"

    page.goto(f"{ui.url}/assets/{DATABASE}/database_dump?view=checks&checkDetail=object_present")

    expect(page.get_by_text("Failed").first).to_be_visible()
    expect(page.get_by_text(f"{newest.name}.schema.dump is missing")).to_be_visible()
    expect(page.get_by_text("Succeeded")).to_have_count(4)
    expect(page.get_by_role("button", name="Execute all")).to_be_enabled()
    page.wait_for_timeout(SECOND)
    page.screenshot(path=picture / "checks.png")


def test_a_restore_is_launched_from_the_launchpad(
    ui: DagsterUI, page: Page, picture: Path, postgres: EmbeddedPostgres, bucket_store: ObjectStore
) -> None:
    older = read_catalog(bucket_store, KEYS, DATABASE).backups[1]
    page.goto(f"{ui.url}/locations/{LOCATION}/jobs/restore_database/playground")
    editor = page.locator(".CodeMirror")
    expect(editor).to_contain_text("latest")
    editor.get_by_text("confirm").click()
    expect(page.get_by_text("repeat its name here").first).to_be_visible()
    page.wait_for_timeout(SECOND)
    page.screenshot(path=picture / "launchpad.png")

    page.evaluate(
        "text => document.querySelector('.CodeMirror').CodeMirror.setValue(text)",
        f"ops:\n  restored_database:\n    config:\n      backup: {older.name}\n"
        f"      target: {DATABASE}_yesterday\n",
    )
    expect(page.get_by_text("No errors")).to_be_visible()
    page.get_by_role("button", name="Launch Run").click()

    expect(page.get_by_text("Success", exact=True).first).to_be_visible(timeout=60 * SECOND)
    expect(page.get_by_text("RUN_SUCCESS")).to_be_visible()
    page.screenshot(path=picture / "restore.png")
    with psycopg.connect(postgres.dsn(f"{DATABASE}_yesterday")) as restored:
        rows = restored.execute("SELECT count(*) FROM public.notes").fetchall()
    assert rows == [(NOTES + NOTES_A_DAY * (BACKUPS - 1),)]
