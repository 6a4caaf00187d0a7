"""What Prometheus is told of the backups."""

import shutil
import subprocess
from datetime import timedelta
from pathlib import Path

import pytest
from prometheus_client import generate_latest

from backup_pipeline.engine.catalog import read_catalog
from backup_pipeline.engine.metrics import metrics_of
from backup_pipeline.engine.model import Act
from backup_pipeline_tests.fakes import MemoryStore
from backup_pipeline_tests.made_backups import KEYS, NOW, days_ago, make_backup, make_evidence

RULES = Path(__file__).parents[2] / "deploy" / "prometheus-rules.yaml"
PROMTOOL = shutil.which("promtool")


def told(store: MemoryStore, *databases: str) -> dict[str, float]:
    """Each metric with its labels, as Prometheus writes them."""
    registry = metrics_of(read_catalog(store, KEYS), databases, NOW)
    lines = generate_latest(registry).decode().splitlines()
    samples = (line.rpartition(" ") for line in lines if not line.startswith("#"))
    return {name: float(value) for name, _, value in samples}


def test_the_newest_backup_and_the_newest_verified_one_are_told_apart() -> None:
    store = MemoryStore()
    make_backup(store, days_ago(2), database="orders")
    make_backup(store, days_ago(1), database="orders", verified=None)
    found = told(store)
    label = '{database="orders"}'
    assert found[f"backup_pipeline_newest_timestamp_seconds{label}"] == days_ago(1).timestamp()
    newest_verified = found[f"backup_pipeline_newest_verified_timestamp_seconds{label}"]
    assert newest_verified == days_ago(2).timestamp()
    assert found['backup_pipeline_backups{database="orders",state="verified"}'] == 1
    assert found['backup_pipeline_backups{database="orders",state="unverified"}'] == 1
    assert found['backup_pipeline_backups{database="orders",state="failed"}'] == 0


def test_what_the_newest_backup_holds_and_took_is_told() -> None:
    store = MemoryStore()
    name = make_backup(store, days_ago(1), database="orders")
    size = len(f"dump of {name}")
    found = told(store)
    label = '{database="orders"}'
    assert found[f"backup_pipeline_newest_size_bytes{label}"] == size
    assert found[f"backup_pipeline_newest_sql_bytes{label}"] == 10 * size
    assert found[f"backup_pipeline_newest_rows{label}"] == 42
    assert found[f"backup_pipeline_newest_duration_seconds{label}"] == 2


def test_the_last_drill_is_that_of_whichever_backup() -> None:
    store = MemoryStore()
    older = make_backup(store, days_ago(8))
    newer = make_backup(store, days_ago(1))
    make_evidence(store, newer, act=Act.DRILL, at=days_ago(1))
    make_evidence(store, older, act=Act.DRILL, at=NOW)
    label = '{database="ahold_options"}'
    assert told(store)[f"backup_pipeline_newest_drill_timestamp_seconds{label}"] == NOW.timestamp()


def test_a_database_that_was_never_backed_up_is_there_and_sets_off_every_alarm() -> None:
    found = told(MemoryStore(), "orders")
    assert found['backup_pipeline_newest_verified_timestamp_seconds{database="orders"}'] == 0
    assert found['backup_pipeline_newest_drill_timestamp_seconds{database="orders"}'] == 0


def test_a_backup_dated_in_the_future_keeps_no_alarm_silent() -> None:
    store = MemoryStore()
    make_backup(store, NOW + timedelta(days=30), database="orders")
    found = told(store)
    assert found['backup_pipeline_newest_verified_timestamp_seconds{database="orders"}'] == 0
    assert found['backup_pipeline_backups{database="orders",state="verified"}'] == 1


def test_what_belongs_to_no_backup_is_counted() -> None:
    store = MemoryStore()
    store.put(f"{KEYS.prefix}somebodys.txt", b"?")
    assert told(store)["backup_pipeline_strays"] == 1


def test_a_hostile_database_name_starts_no_line() -> None:
    name = 'a"} 1\nevil{x="'
    assert 'backup_pipeline_newest_rows{database="a\\"} 1\\nevil{x=\\""}' in told(
        MemoryStore(), name
    )


@pytest.mark.skipif(not PROMTOOL, reason="promtool is not installed")
def test_prometheus_itself_takes_metrics_and_alerts_and_goes_off_when_it_should(
    tmp_path: Path,
) -> None:
    assert PROMTOOL
    store = MemoryStore()
    make_backup(store, days_ago(1))
    registry = metrics_of(read_catalog(store, KEYS), ["orders"], NOW)
    text = generate_latest(registry)
    subprocess.run([PROMTOOL, "check", "metrics"], input=text, check=True, timeout=60)
    (tmp_path / "rules.yaml").write_text(RULES.read_text())
    (tmp_path / "test.yaml").write_text(_ALERTS)
    subprocess.run([PROMTOOL, "test", "rules", tmp_path / "test.yaml"], check=True, timeout=60)


# Time begins with 0, so a day later is a backup of that moment a day old.
_ALERTS = """
rule_files: [rules.yaml]
evaluation_interval: 30m
tests:
  - interval: 1m
    input_series:
      - series: 'backup_pipeline_newest_verified_timestamp_seconds{database="orders"}'
        values: '0x12000'
      - series: 'backup_pipeline_newest_drill_timestamp_seconds{database="orders"}'
        values: '0x12000'
      - series: 'backup_pipeline_backups{database="orders",state="failed"}'
        values: '0x100 1x11900'
      - series: 'node_textfile_mtime_seconds{file="/textfiles/backup_pipeline.prom"}'
        values: '0+60x120 7200x11880'
    alert_rule_test:
      - {eval_time: 25h, alertname: BackupStale}
      - eval_time: 27h
        alertname: BackupStale
        exp_alerts:
          - exp_labels: {severity: critical, database: orders}
            exp_annotations:
              summary: orders has no verified backup of the last 26 hours
              description: "`backup-pipeline list` shows them, and `check` what is wrong."
      - {eval_time: 1h, alertname: BackupDamaged}
      - eval_time: 3h
        alertname: BackupDamaged
        exp_alerts:
          - exp_labels: {severity: critical, database: orders, state: failed}
            exp_annotations:
              summary: 1 backups of orders are not what was dumped
              description: "`backup-pipeline show NAME` says where."
      - {eval_time: 8d, alertname: RestoreUnproved}
      - eval_time: 194h
        alertname: RestoreUnproved
        exp_alerts:
          - exp_labels: {severity: warning, database: orders}
            exp_annotations:
              summary: no backup of orders was restored and found equal for 8 days
              description: "`backup-pipeline drill --latest` does that, or says why not."
      - {eval_time: 4h, alertname: BackupMetricsMissing}
      - eval_time: 5h
        alertname: BackupMetricsMissing
        exp_alerts:
          - exp_labels: {severity: critical, file: /textfiles/backup_pipeline.prom}
            exp_annotations:
              summary: nothing is known of the backups for two hours
              description: "`backup-pipeline metrics` fails, or nobody calls it."
  - interval: 1m
    alert_rule_test:
      - eval_time: 1h
        alertname: BackupMetricsMissing
        exp_alerts:
          - exp_labels: {severity: critical}
            exp_annotations:
              summary: nothing is known of the backups for two hours
              description: "`backup-pipeline metrics` fails, or nobody calls it."
"""
