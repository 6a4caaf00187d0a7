"""The guards of the software, and what the code looks like without each of them."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Mutation:
    """A guard that is taken out."""

    guard: str
    file: str
    """Below `folder`."""
    old: str
    new: str
    tests: tuple[str, ...]
    """Below the directory of the tests; one of them has to fail."""
    folder: str = "engine"
    """Below `backup_pipeline`."""

    @property
    def path(self) -> Path:
        """The file from the root of the project."""
        return Path("backup_pipeline", self.folder, self.file)


MUTATIONS = (
    # process
    Mutation(
        "the stream of a child ends well only if the child did",
        "process.py",
        "            self._settle()\n",
        "            _wait(self._process)\n",
        (
            "engine/test_process.py::test_a_child_that_fails_after_its_output_never_reaches_the_end",
            "engine/test_process.py::test_a_killed_child_never_reaches_the_end",
        ),
    ),
    Mutation(
        "what a child has started is killed where it ignores SIGTERM",
        "process.py",
        "        self._signal(signal.SIGKILL)\n",
        "        self._process.kill()\n",
        ("engine/test_process.py::test_a_grandchild_that_ignores_sigterm_ends_with_its_parent",),
    ),
    Mutation(
        "a child inherits no secret",
        "process.py",
        "if not k.startswith(_PRIVATE)",
        "if k",
        ("engine/test_process.py::test_a_child_inherits_no_secret",),
    ),
    Mutation(
        "a statement that the server refused is not shown",
        "process.py",
        "        if not repeats:\n",
        "        if True:\n",
        (
            "engine/test_process.py::test_a_statement_that_the_server_refused_is_not_repeated",
            "faults/test_secrets.py::test_a_restore_that_is_refused_shows_no_password_of_the_database_s_own",
        ),
    ),
    # silence
    Mutation(
        "a wait for a server that is not there any more ends",
        "silence.py",
        "        if time.monotonic() - self._since >= self._peer.patience:\n",
        "        if False:\n",
        (
            "faults/test_silence.py::test_a_command_whose_server_falls_silent_in_mid_dump_ends_with_5_and_says_what_to_do",
        ),
    ),
    Mutation(
        "a child that waits for a silent server is killed in the end",
        "process.py",
        "signal.SIGKILL if self._grace() <= 0 else signal.SIGTERM",
        "signal.SIGTERM",
        (
            "faults/test_silence.py::test_a_command_that_is_interrupted_in_a_silence_leaves_nothing_within_seconds",
        ),
    ),
    Mutation(
        "who is interrupted waits no longer for a silent server",
        "silence.py",
        "            self.close()\n            raise\n\n    def _listening",
        "            raise\n\n    def _listening",
        (
            "faults/test_silence.py::test_who_is_interrupted_while_a_silent_server_owes_an_answer_waits_no_longer",
        ),
    ),
    Mutation(
        "a server that refuses one more connection is there",
        "silence.py",
        '            if "FATAL:" not in said:\n',
        "            if said:\n",
        ("faults/test_silence.py::test_a_server_that_has_no_room_for_one_more_is_still_there",),
    ),
    Mutation(
        "whoever waits for pg_dump asks whether the server is there",
        "dump.py",
        "begun(command, self._env, patience=self._patience)",
        "begun(command, self._env)",
        ("faults/test_silence.py::test_a_silence_is_noticed_by_whoever_waits_for_rows",),
    ),
    Mutation(
        "a wire is watched",
        "postgres.py",
        "{**own, **_KEEPALIVE, **self._explicit()}",
        "{**own, **self._explicit()}",
        (
            "faults/test_silence.py::test_a_wire_without_another_end_is_noticed_by_both_ends_within_minutes",
        ),
    ),
    # dump, upload and what makes a backup of them
    Mutation(
        "what pg_dump writes ends with its closing line",
        "dump.py",
        "    if not tail.closed:\n",
        "    if False:\n",
        ("engine/test_backup.py::test_output_without_pg_dumps_closing_line_is_no_backup",),
    ),
    Mutation(
        "pg_dump leaves out no table",
        "contents.py",
        "        if name not in tables:\n",
        "        if tables is None:\n",
        ("engine/test_backup.py::test_a_dump_that_leaves_a_table_out_is_no_backup",),
    ),
    Mutation(
        "a table that nobody has locked is where it was when its rows are read",
        "dump.py",
        "            look()\n",
        "            pass\n",
        (
            "integration/test_many_tables.py::test_a_table_that_nobody_held_may_not_have_moved[emptied]",
            "integration/test_many_tables.py::test_a_table_that_nobody_held_may_not_have_moved[renamed]",
        ),
    ),
    Mutation(
        "one backup of a database at a time",
        "dump.py",
        '        connection.execute("SELECT pg_advisory_lock(%s, 0)", (_LOCK,))\n',
        "        pass\n",
        (
            "faults/test_backup_faults.py::test_a_second_backup_of_a_database_waits_its_turn_and_is_refused_in_the_end",
        ),
    ),
    Mutation(
        "the tables of a dump are held from its beginning",
        "dump.py",
        "            lock_relations(connection, tables, encoding, lock_timeout)\n",
        "            pass\n",
        ("integration/test_many_tables.py::test_the_coordinator_locks_where_that_leaves_room",),
    ),
    Mutation(
        "partitioned tables are held from the beginning, too",
        "dump.py",
        "[*self._relations, *read_partitioned(connection, encoding)]",
        "[*self._relations]",
        ("faults/test_backup_faults.py::test_a_table_that_somebody_has_locked[parted]",),
    ),
    Mutation(
        "every pg_dump has its tables before anybody stands in line for one",
        "dump.py",
        "        self._side_by_side = free > 0 and room.fits(SIDE_BY_SIDE)\n",
        "        self._side_by_side = False\n",
        tuple(
            "faults/test_backup_faults.py::"
            f"test_who_wants_a_table_for_himself_waits_for_the_dump_which_goes_on[public.{table}-{jobs}]"
            for table in ("noise", "small")
            for jobs in (1, 2)
        ),
    ),
    Mutation(
        "no pg_dump keeps a line waiting that it stands in",
        "dump.py",
        "min(lock_timeout, _QUEUE_TIMEOUT)",
        "lock_timeout",
        ("faults/test_backup_faults.py::test_a_table_that_somebody_wants_before_pg_dump_has_it",),
    ),
    Mutation(
        "no timeout of the database's owner ends a session",
        "postgres.py",
        "                connection.execute(_ENDLESS)\n",
        "",
        (
            "integration/test_unusual_databases.py::test_timeouts_that_an_owner_has_set_end_nothing",
            "integration/test_parallel_dump.py::test_the_coordinator_outlives_the_patience_of_the_server",
        ),
    ),
    Mutation(
        "drops that stand where nobody knows them are refused",
        "dump.py",
        "any(_differ(*pair) for pair in zip(long[end:], short[start:], strict=True))",
        "False",
        ("engine/test_dump.py::test_texts_that_differ_otherwise_are_refused",),
    ),
    Mutation(
        "what fails in one thread stops the others",
        "crew.py",
        "        if self._over:\n",
        "        if False:\n",
        ("engine/test_crew.py::test_nothing_new_begins_to_block_once_it_is_over",),
    ),
    Mutation(
        "what was stored before a failure is taken back",
        "backup.py",
        "                store.delete(keys.of(name, kind))\n",
        "                pass\n",
        ("engine/test_backup.py::test_a_failure_after_the_object_is_complete_takes_it_back",),
    ),
    Mutation(
        "of two backups of one name the second never touches the first",
        "backup.py",
        "        store.put(keys.of(name, manifest.archive_kind), archive)\n",
        "        store.put(keys.of(name, manifest.archive_kind), archive, overwrite=True)\n",
        ("engine/test_backup.py::test_the_second_of_one_name_loses_and_the_first_is_whole",),
    ),
    Mutation(
        "an upload that is left is aborted",
        "upload.py",
        "            self._transfer.abandon()\n",
        "            self._transfer.give_up()\n",
        ("engine/test_upload.py::test_leaving_without_completing_leaves_nothing",),
    ),
    Mutation(
        "parts grow, so that they never run out",
        "upload.py",
        "smallest + beyond // max(1, most_parts // 18)",
        "smallest",
        ("engine/test_upload.py::test_ten_thousand_parts_hold_more_than_five_tebibytes",),
    ),
    Mutation(
        "a part that fails fails the upload",
        "transfer.py",
        "                self._error = self._error or error\n",
        "                del error\n",
        ("engine/test_upload.py::test_a_failed_part_surfaces_at_the_latest_when_completing",),
    ),
    Mutation(
        "a part that lands after the abort is aborted too",
        "transfer.py",
        "            if late:\n",
        "            if False:\n",
        ("engine/test_upload.py::test_a_part_that_lands_after_the_abort_is_aborted_too",),
    ),
    Mutation(
        "an object that an interrupted completion made is taken back",
        "transfer.py",
        "            if self._completing:\n",
        "            if False:\n",
        ("engine/test_upload.py::test_an_interrupted_completion_leaves_nothing",),
    ),
    # compression and script
    Mutation(
        "a gzip bomb stops at the recorded length",
        "compression.py",
        "            if seen > most:\n",
        "            if False:\n",
        ("engine/test_compression.py::test_a_bomb_stops_at_the_recorded_length",),
    ),
    Mutation(
        "nothing stands behind a member",
        "compression.py",
        "                if not several:\n",
        "                if False:\n",
        ("engine/test_compression.py::test_bytes_behind_a_member_never_pass",),
    ),
    Mutation(
        "a cut member never passes",
        "compression.py",
        "    if not member.eof:\n",
        "    if False:\n",
        (
            "engine/test_compression.py::test_a_cut_member_never_passes",
            "integration/test_adopt.py::test_half_a_dump_is_not_adopted_whatever_gzip_says",
        ),
    ),
    Mutation(
        "no meta-command is ever executed",
        "script.py",
        "        if self._words or not _RESTRICT.fullmatch(line):\n",
        "        if False:\n",
        ("engine/test_script.py::test_a_meta_command_is_an_error_and_never_a_statement",),
    ),
    Mutation(
        "a COPY is of pg_dump's own form",
        "script.py",
        "    match = _COPY.fullmatch(sql)\n",
        '    match = _COPY.fullmatch(sql) or _COPY.fullmatch(b"COPY a.b (c) FROM stdin;")\n',
        ("engine/test_script.py::test_any_other_copy_than_pg_dumps_is_an_error",),
    ),
    Mutation(
        "a script that stops among the rows is an error",
        "script.py",
        "        if self._in_rows:\n            raise",
        "        if False:\n            raise",
        ("engine/test_script.py::test_a_script_that_stops_in_the_middle_is_an_error",),
    ),
    Mutation(
        "half a dump is not adopted",
        "adopt.py",
        "    if not tail.closed:\n",
        "    if False:\n",
        ("integration/test_adopt.py::test_half_a_dump_is_not_adopted_whatever_gzip_says",),
    ),
    Mutation(
        "what has a manifest is not adopted",
        "adopt.py",
        '        raise Refused(f"{name} has a manifest already", hint="Verify it instead.")\n',
        "        pass\n",
        ("integration/test_adopt.py::test_what_is_a_backup_already_or_not_there_is_not_adopted",),
    ),
    Mutation(
        "what is being deleted is not adopted",
        "adopt.py",
        "    if entries and entries[-1].act is Act.EXPIRE and entries[-1].etag == stored.etag:\n",
        "    if False:\n",
        ("integration/test_adopt.py::test_what_is_being_deleted_is_not_adopted",),
    ),
    Mutation(
        "a name that lies about the future is not believed",
        "adopt.py",
        "min(labelled, stored.modified_at.astimezone(UTC))",
        "labelled",
        ("integration/test_adopt.py::test_a_name_that_lies_about_the_future_is_not_believed",),
    ),
    # names
    Mutation(
        "a database's name is one harmless segment of a key",
        "names.py",
        '    encoded = quote(database, safe="")\n',
        "    encoded = database\n",
        ("engine/test_names.py::test_a_hostile_database_name_becomes_one_harmless_segment",),
    ),
    Mutation(
        "only what a name would be written as is read as one",
        "names.py",
        "                if str(name) == text:\n",
        "                if True:\n",
        (
            "engine/test_names.py::test_anything_else_is_refused_with_a_hint",
            "engine/test_names.py::test_only_what_str_would_give_is_a_name",
        ),
    ),
    # documents
    Mutation(
        "a document has to match its own SHA-256",
        "documents.py",
        "        if hashlib.sha256(text).hexdigest() != seal[1].decode():\n",
        "        if not seal:\n",
        ("engine/test_documents.py::test_no_bit_can_flip_unseen",),
    ),
    # catalog
    Mutation(
        "a dump of another size than the manifest's has failed",
        "catalog.py",
        "    if dump.size != entry.length:\n",
        "    if False:\n",
        ("engine/test_catalog.py::test_a_truncated_object_has_failed_whatever_the_evidence_says",),
    ),
    Mutation(
        "evidence holds only for the object that was looked at",
        "catalog.py",
        "verdict for verdict in entry.verdicts if verdict.etag == dump.etag",
        "verdict for verdict in entry.verdicts",
        ("engine/test_catalog.py::test_evidence_holds_only_for_the_object_that_was_looked_at",),
    ),
    Mutation(
        "whole bytes do not make up for a drill that failed",
        "catalog.py",
        "*([drill] if drill else [])",
        "",
        ("integration/test_drill.py::test_whole_bytes_do_not_make_up_for_a_drill_that_failed",),
    ),
    Mutation(
        "evidence belongs to the backup that it names",
        "catalog.py",
        "    if evidence.name != str(name):\n",
        "    if False:\n",
        ("engine/test_catalog.py::test_evidence_of_another_backup_proves_nothing",),
    ),
    Mutation(
        "a manifest belongs to the backup that it names",
        "catalog.py",
        "    if manifest.name != str(name):\n",
        "    if False:\n",
        (
            "engine/test_catalog.py::test_a_damaged_or_forged_manifest_is_reported_and_never_a_backup",
        ),
    ),
    Mutation(
        "the index holds only while its documents are the same",
        "catalog.py",
        " and (known.manifest_etag, known.evidence_etag) == _etags(objects)",
        "",
        ("engine/test_catalog.py::test_the_index_never_outlives_the_documents_it_was_made_of",),
    ),
    Mutation(
        "what has a manifest or a pin is not left over",
        "catalog.py",
        "expired is not None and not objects.keys() & {Kind.MANIFEST, Kind.PIN}",
        "expired is not None",
        (
            "engine/test_catalog.py::test_a_damaged_manifest_stays_undeletable_although_a_deletion_was_begun",
            "engine/test_pins.py::test_a_prune_that_was_killed_beside_a_pin_leaves_the_dump_to_nobody",
        ),
    ),
    Mutation(
        "a new dump of an expired name is not left over",
        "catalog.py",
        "(not dumps or expired in dumps)",
        "True",
        ("engine/test_catalog.py::test_a_new_dump_of_an_expired_name_is_not_deletable",),
    ),
    Mutation(
        "what was a backup once was not left by one that was killed",
        "catalog.py",
        "objects.keys() - {*DUMPS, *GLOBALS} not in ({archive} for archive in ARCHIVES)",
        "not objects.keys() & {*ARCHIVES}",
        ("engine/test_prune.py::test_what_was_a_backup_once_is_not_taken_for_one_that_was_killed",),
    ),
    Mutation(
        "a dump is ours only if it says so",
        "catalog.py",
        "all(BACKUP_ID in store.metadata(info.key) for info in dumps)",
        "True",
        (
            "engine/test_prune.py::test_a_dump_that_does_not_say_that_it_is_ours_is_nobodys_to_delete",
        ),
    ),
    Mutation(
        "what was adopted meanwhile is not cleared away",
        "prune.py",
        "            return\n        else:\n            return\n",
        "            return\n",
        ("engine/test_prune.py::test_what_is_adopted_while_a_prune_runs_stays",),
    ),
    Mutation(
        "what a running backup may own is not cleared away",
        "prune.py",
        "youngest < deletions.now - (over_after if adoptable else stale_after)",
        "True",
        (
            "engine/test_prune.py::test_the_archive_of_a_backup_that_was_killed_goes_when_no_run_can_own_it_any_more",
        ),
    ),
    Mutation(
        "what vanishes while it is read is no crash",
        "catalog.py",
        "        except NotFound:\n            return",
        "        except ZeroDivisionError:\n            return",
        ("engine/test_catalog.py::test_what_vanishes_between_listing_and_reading_is_no_crash",),
    ),
    Mutation(
        "a store that delivers nothing is not an empty bucket",
        "catalog.py",
        "        if reading.undelivered and not any(",
        "        if False and not any(",
        (
            "engine/test_catalog.py::test_where_the_store_gives_no_manifest_at_all_nothing_is_said_of_the_backups",
        ),
    ),
    Mutation(
        "many documents that are not delivered are the store's failure",
        "catalog.py",
        "        if len(self.undelivered) > _MOST_UNDELIVERED:\n",
        "        if False:\n",
        (
            "engine/test_catalog.py::test_many_documents_that_are_not_given_are_the_store_and_not_the_documents",
        ),
    ),
    Mutation(
        "evidence that was not delivered is asked for again",
        "catalog.py",
        "for name, entry in good.items() if name not in reading.passing}",
        "for name, entry in good.items()}",
        (
            "engine/test_catalog.py::test_evidence_that_the_store_can_not_give_proves_nothing_as_long_as_it_can_not",
        ),
    ),
    Mutation(
        "what may be a newer backup is told",
        "choice.py",
        "        if in_time and stray.key.endswith(Kind.MANIFEST):\n",
        "        if False:\n",
        (
            "engine/test_choice.py::test_what_may_be_a_newer_backup_is_told_with_the_newest_that_can_be_read",
        ),
    ),
    Mutation(
        "rights that were taken from everybody are told",
        "access.py",
        "'no ' || privilege_type",
        "privilege_type",
        (
            "faults/test_roles.py::test_the_owners_and_rights_that_a_restore_does_not_bring_are_told",
        ),
    ),
    Mutation(
        "a backup that failed is no example for others",
        "history.py",
        " and backup.state is not State.FAILED",
        "",
        ("engine/test_history.py::test_the_bucket_is_the_history",),
    ),
    Mutation(
        "a backup without its schema archive has failed",
        "catalog.py",
        "    if entry.archived and archive_kind(encrypted=entry.encrypted) not in objects:\n",
        "    if False:\n",
        ("engine/test_catalog.py::test_a_backup_whose_schema_archive_is_missing_has_failed",),
    ),
    Mutation(
        "a server whose clock is far behind makes no backup that is old at once",
        "backup.py",
        "    if said < started_at - SKEW_WRONG:\n",
        "    if False:\n",
        (
            "engine/test_backup.py::test_a_server_whose_clock_is_wrong_does_not_make_a_backup_that_goes_at_once",
        ),
    ),
    # retention
    Mutation(
        "nothing is deleted while the newest backup is not verified",
        "retention.py",
        "    if latest and latest.state is not State.VERIFIED:\n",
        "    if False:\n",
        (
            "engine/test_retention.py::test_nothing_may_be_deleted_while_the_newest_backup_is_not_verified",
        ),
    ),
    Mutation(
        "nothing is deleted while a newer dump has no readable manifest",
        "retention.py",
        "stray.modified_at >= since",
        "False",
        (
            "engine/test_prune.py::test_nothing_is_deleted_while_the_newest_manifest_is_missing_or_forged",
        ),
    ),
    Mutation(
        "a backup dated in the future is never the newest",
        "retention.py",
        "b for b in backups if not dated_in_future(b, now)",
        "b for b in backups",
        ("engine/test_catalog.py::test_the_newest_backup_is_never_one_dated_in_the_future",),
    ),
    Mutation(
        "a backup dated in the future does not count among the minimum",
        "retention.py",
        "if b.state is not State.FAILED and not dated_in_future(b, now)",
        "if b.state is not State.FAILED",
        (
            "engine/test_retention.py::test_a_backup_dated_in_the_future_stays_and_counts_for_nothing",
        ),
    ),
    Mutation(
        "only verified backups count among the minimum",
        "retention.py",
        "[b for b in whole if b.state is State.VERIFIED]",
        "whole",
        ("engine/test_retention.py::test_unverified_backups_take_no_place_of_verified_ones",),
    ),
    Mutation(
        "failed backups count for nothing",
        "retention.py",
        "if b.state is not State.FAILED and not dated_in_future(b, now)",
        "if not dated_in_future(b, now)",
        ("engine/test_retention.py::test_failed_backups_do_not_count_among_the_minimum",),
    ),
    Mutation(
        "unverified backups stay where verified ones would",
        "retention.py",
        "        if backup.name in would_be\n",
        "        if False\n",
        (
            "engine/test_prune.py::test_a_bucket_that_was_copied_keeps_what_nobody_has_looked_at_there",
        ),
    ),
    Mutation(
        "the newest verified backups stay, however old",
        "retention.py",
        "counted[: policy.minimum]",
        "counted[:0]",
        ("engine/test_retention.py::test_the_newest_verified_backups_stay_whatever_their_age",),
    ),
    Mutation(
        "only UTC decides",
        "retention.py",
        "    return now.astimezone(UTC) - backup.taken_at.astimezone(UTC)\n",
        "    return now.replace(tzinfo=None) - backup.taken_at.replace(tzinfo=None)\n",
        ("engine/test_retention.py::test_only_utc_decides_also_across_the_end_of_summer_time",),
    ),
    # prune
    Mutation(
        "a pin that is set before the manifest goes is respected",
        "prune.py",
        "        if is_pinned(self.store, self.keys, name):\n            return False\n",
        "",
        ("engine/test_pins.py::test_a_pin_set_after_the_prune_listed_the_bucket_holds",),
    ),
    Mutation(
        "a pin that is set while the manifest goes is respected",
        "prune.py",
        "        if pinned and manifest:\n",
        "        if False:\n",
        ("engine/test_pins.py::test_a_pin_set_right_before_the_manifest_is_deleted_holds",),
    ),
    Mutation(
        "who pins what is being deleted is told",
        "pins.py",
        "    if not _exists(store, keys.of(name, Kind.MANIFEST)):\n",
        "    if False:\n",
        ("engine/test_pins.py::test_who_pins_what_is_being_deleted_is_told",),
    ),
    Mutation(
        "the evidence of a deletion goes last",
        "prune.py",
        "            for kind in (*kinds, Kind.EVIDENCE):\n",
        "            for kind in (Kind.EVIDENCE, *kinds):\n",
        (
            "engine/test_prune.py::test_the_expiry_is_recorded_first_the_manifest_goes_next_and_the_evidence_last",
        ),
    ),
    Mutation(
        "a live upload is never aborted",
        "prune.py",
        " and upload.active_at < before:",
        ":",
        (
            "engine/test_prune.py::test_stale_uploads_of_this_database_are_aborted_and_live_ones_are_not",
        ),
    ),
    Mutation(
        "a deletion that fails is told, and ends nothing else",
        "prune.py",
        '            self.failed.append(f"{name} was not deleted completely: {error.message}")\n',
        "            del error\n",
        (
            "engine/test_prune.py::test_what_can_not_be_deleted_is_named_and_the_next_prune_finishes_it",
        ),
    ),
    Mutation(
        "a dry run deletes nothing",
        "prune.py",
        "            for kind in (*kinds, Kind.EVIDENCE):\n                if not self.dry_run:\n",
        "            for kind in (*kinds, Kind.EVIDENCE):\n                if True:\n",
        ("engine/test_prune.py::test_a_dry_run_changes_nothing_and_tells_what_a_real_one_does",),
    ),
    Mutation(
        "a dry run withdraws nothing",
        "prune.py",
        "            if not self.dry_run and not self._withdraw(backup, decision.reason):\n",
        "            if not self._withdraw(backup, decision.reason):\n",
        ("engine/test_prune.py::test_a_dry_run_changes_nothing_and_tells_what_a_real_one_does",),
    ),
    Mutation(
        "a dry run aborts nothing",
        "prune.py",
        "            if not self.dry_run:\n                self.store.abort_upload(",
        "            if True:\n                self.store.abort_upload(",
        ("engine/test_prune.py::test_a_dry_run_changes_nothing_and_tells_what_a_real_one_does",),
    ),
    Mutation(
        "uploads of other databases are not aborted",
        "prune.py",
        "parsed[0].database == database and upload.active_at",
        "upload.active_at",
        (
            "engine/test_prune.py::test_stale_uploads_of_this_database_are_aborted_and_live_ones_are_not",
        ),
    ),
    # verify
    Mutation(
        "the SHA-256 of each member is compared",
        "verify.py",
        "    if stretch.sha256 is not None and digest.hexdigest() != stretch.sha256:\n",
        "    if False:\n",
        ("engine/test_verify.py::test_one_flipped_bit_anywhere_is_found",),
    ),
    Mutation(
        "the object is as long as the backup",
        "stored.py",
        "        if info.size != self.manifest.length:\n",
        "        if False:\n",
        ("engine/test_verify.py::test_another_length_is_found",),
    ),
    Mutation(
        "pg_dump's closing line has to be there",
        "verify.py",
        "closed=tail.closed or not ends)\n",
        "closed=True)\n",
        ("engine/test_verify.py::test_right_hashes_do_not_make_up_for_wrong_contents",),
    ),
    Mutation(
        "the rows of each table are counted again",
        "verify.py",
        "    if tables != member.tables:\n",
        "    if False:\n",
        ("engine/test_verify.py::test_right_hashes_do_not_make_up_for_wrong_contents",),
    ),
    Mutation(
        "no section is missing",
        "verify.py",
        " or set(sections) != set(Section)",
        "",
        ("engine/test_verify.py::test_a_member_too_few_is_found",),
    ),
    Mutation(
        "the schema archive is compared, and so are the globals",
        "stored.py",
        "        if hashlib.sha256(body).hexdigest() != expected.sha256:\n",
        "        if False:\n",
        (
            "engine/test_verify.py::test_another_schema_archive_is_found",
            "engine/test_globals.py::test_one_flipped_bit_anywhere_is_found_and_it_is_said_where",
        ),
    ),
    Mutation(
        "only what is encrypted may do without the SHA-256 of its members",
        "verify.py",
        "        if member.sha256 is None and not manifest.encryption:\n",
        "        if False:\n",
        ("engine/test_verify.py::test_a_manifest_without_the_sha_256_of_a_member_is_refused",),
    ),
    # encryption
    Mutation(
        "the header of an encrypted file is authentic",
        "age.py",
        "                        self._require_mac(file_key)\n",
        "",
        ("engine/test_age.py::test_one_flipped_bit_anywhere_gives_nothing",),
    ),
    Mutation(
        "an empty last chunk stands alone",
        "age.py",
        " or (last == TAG and self._chunks > 1)",
        "",
        ("engine/test_age.py::test_an_empty_chunk_behind_others_is_refused",),
    ),
    Mutation(
        "the keys of a file are its own",
        "age.py",
        "        file_key, nonce = os.urandom(_FILE_KEY), os.urandom(_NONCE)\n",
        "        file_key, nonce = bytes(_FILE_KEY), bytes(_NONCE)\n",
        ("engine/test_age.py::test_each_file_has_a_key_of_its_own",),
    ),
    Mutation(
        "no digest of what is encrypted stands in the manifest",
        "backup.py",
        "                members, contents = without_digests(members, contents)\n",
        "",
        ("engine/test_sealing.py::test_nothing_in_the_bucket_tells_of_rows_or_definitions",),
    ),
    Mutation(
        "the archive of an encrypted backup is encrypted",
        "backup.py",
        "                archive = encrypted(archive, recipients)\n",
        "",
        ("engine/test_sealing.py::test_nothing_in_the_bucket_tells_of_rows_or_definitions",),
    ),
    Mutation(
        "a restore begins only with the right key",
        "restore.py",
        "    backup.require_identity()\n",
        "",
        ("faults/test_encryption.py::test_without_the_right_key_a_restore_says_no_word",),
    ),
    Mutation(
        "every chunk is authentic before the server is touched",
        "verify.py",
        "        if isinstance(each, Piece) and backup.is_readable:\n",
        "        if False:\n",
        (
            "faults/test_encryption.py::test_ciphertext_that_was_tampered_with_is_found_before_a_restore_says_a_word",
        ),
    ),
    Mutation(
        "a forged manifest has no more read than a header",
        "stored.py",
        "        if encryption.header > _MOST_HEADER:\n",
        "        if False:\n",
        ("engine/test_sealing.py::test_a_manifest_with_a_boundless_header_is_found",),
    ),
    Mutation(
        "an encrypted dump is as long as its members",
        "stored.py",
        " or self._payload.length != sum(member.length for member in self.manifest.members)",
        "",
        ("engine/test_sealing.py::test_a_manifest_that_leaves_out_the_end_is_found",),
    ),
    # store
    Mutation(
        "a PUT never replaces anything by accident",
        "s3.py",
        '            request["IfNoneMatch"] = "*"\n',
        "            pass\n",
        ("engine/test_store.py::TestS3Store::test_nothing_is_overwritten_by_default",),
    ),
    Mutation(
        "a completion never replaces anything",
        "s3.py",
        '                    IfNoneMatch="*",\n',
        "",
        ("engine/test_store.py::TestS3Store::test_a_taken_key_is_never_completed_over",),
    ),
    Mutation(
        "a lost answer is settled by looking at the object",
        "s3.py",
        "        if isinstance(error, StoreDenied | BucketMissing):\n",
        "        if error:\n",
        (
            "engine/test_store.py::TestLostAnswers::test_a_put_never_answered_is_settled_by_looking",
            "engine/test_store.py::TestLostAnswers::test_a_put_whose_answer_is_lost_is_still_ours",
        ),
    ),
    Mutation(
        "somebody else's object is never taken for ours",
        "s3.py",
        "        if any(metadata.get(name) != value for name, value in mark.items()):\n",
        "        if False:\n",
        (
            "engine/test_store.py::TestLostAnswers::test_a_lost_answer_never_takes_anothers_object_for_ours",
        ),
    ),
    Mutation(
        "reading goes on only with the very same object",
        "s3.py",
        """            request["IfMatch"] = f'"{etag}"'\n""",
        "            pass\n",
        ("engine/test_store.py::TestReading::test_never_goes_on_with_another_object",),
    ),
    Mutation(
        "reading gives up when connections bring nothing",
        "s3.py",
        "            if futile == self._connection.max_attempts:\n",
        "            if futile == 6:\n",
        ("engine/test_store.py::TestReading::test_gives_up_when_connections_bring_nothing",),
    ),
    Mutation(
        "reading goes on where a connection was cut",
        "s3.py",
        "            if offset == end:\n",
        "            if True:\n",
        ("engine/test_store.py::TestReading::test_goes_on_where_the_connection_was_cut",),
    ),
    Mutation(
        "requests are tried again",
        "s3_client.py",
        '"total_max_attempts": connection.max_attempts',
        '"total_max_attempts": 1',
        ("faults/test_store_faults.py::test_a_fault_that_passes_costs_a_retry_and_no_backup",),
    ),
    Mutation(
        "no stall outlives its timeout",
        "s3_client.py",
        "                read_timeout=connection.read_timeout,\n",
        "                read_timeout=90,\n",
        (
            "faults/test_store_faults.py::test_a_fault_that_stays_ends_in_an_error_after_a_few_tries_and_nothing_is_left[stall]",
        ),
    ),
    Mutation(
        "an object is given back only from where it was asked for",
        "s3.py",
        "        if first != start or not start <= stop <= wanted <= size:\n",
        "        if False:\n",
        (
            "faults/test_store_faults.py::test_a_store_that_heeds_no_range_gives_no_bytes_of_another_place",
        ),
    ),
    # PostgreSQL
    Mutation(
        "nobody's function stands in for one of pg_catalog's",
        "postgres.py",
        '                connection.execute("SET search_path = pg_catalog")\n',
        "",
        ("engine/test_postgres.py::test_a_connection_finds_nobodys_functions",),
    ),
    Mutation(
        "a pg_dump older than the server is refused",
        "postgres.py",
        "each for each in clients if each.version_num // 10000 >= major",
        "each for each in clients",
        (
            "engine/test_postgres.py::test_a_server_newer_than_every_pg_dump_is_refused_with_both_versions",
        ),
    ),
    Mutation(
        "an older server is refused before anything is loaded",
        "preflight.py",
        "    if major < source.server_version_num // 10000:\n",
        "    if False:\n",
        ("integration/test_preflight.py::test_everything_that_is_wrong_is_said_at_once",),
    ),
    Mutation(
        "a missing extension is named before anything is loaded",
        "preflight.py",
        "each.name for each in source.extensions if each.name not in available",
        "each.name for each in ()",
        ("integration/test_preflight.py::test_everything_that_is_wrong_is_said_at_once",),
    ),
    Mutation(
        "a role without the right to create databases is told before",
        "preflight.py",
        "_LOOKS = (_version, _right, ",
        "_LOOKS = (_version, ",
        ("integration/test_preflight.py::test_everything_that_is_wrong_is_said_at_once",),
    ),
    Mutation(
        "a role that the target lacks is told before",
        "preflight.py",
        "_extensions, _roles, _locales",
        "_extensions, _locales",
        ("integration/test_preflight.py::test_everything_that_is_wrong_is_said_at_once",),
    ),
    Mutation(
        "a locale that the target lacks is told before",
        "preflight.py",
        "_roles, _locales, _disk",
        "_roles, _disk",
        ("integration/test_preflight.py::test_a_locale_that_the_server_lacks",),
    ),
    Mutation(
        "a disk without room is told before",
        "preflight.py",
        "_locales, _disk)",
        "_locales)",
        ("integration/test_preflight.py::test_a_disk_of_this_machine_without_room",),
    ),
    Mutation(
        "another machine's disk is not asked",
        "preflight.py",
        "        if int(Path(directory).stat().st_mtime) != modified:\n",
        "        if False:\n",
        ("integration/test_preflight.py::test_a_disk_of_another_machine_can_not_be_asked",),
    ),
    Mutation(
        "a server that is not fit is refused before it is touched",
        "restore.py",
        "        require_suitable(admin, manifest.source)\n",
        "",
        (
            "integration/test_restore.py::test_a_missing_extension_is_named_before_the_restore_starts",
        ),
    ),
    Mutation(
        "who may not rename a database is told before it loads",
        "target.py",
        "    if admin.execute(_MAY_RENAME, (target,)).fetchone() != (True,):\n",
        "    if False:\n",
        (
            "faults/test_restore_faults.py::test_somebody_elses_database_is_not_replaced_and_that_is_known_before_it_loads",
        ),
    ),
    Mutation(
        "a live database is never replaced unless asked",
        "target.py",
        "    if not replace:\n",
        "    if False:\n",
        (
            "faults/test_restore_faults.py::test_a_name_that_is_taken_is_refused_before_a_byte_is_read",
        ),
    ),
    Mutation(
        "sessions on the live database refuse the switch before anything is loaded",
        "target.py",
        "    if sessions:\n        raise TargetInUse",
        "    if False:\n        raise TargetInUse",
        (
            "integration/test_restore.py::test_sessions_on_the_live_database_refuse_the_switch_before_anything_is_loaded",
        ),
    ),
    Mutation(
        "both renames are one transaction",
        "target.py",
        "            with ending, admin.transaction():\n",
        "            with ending:\n",
        ("integration/test_switch.py::test_when_the_second_rename_fails_the_first_is_undone",),
    ),
    Mutation(
        "a restore that fails drops what it has made",
        "target.py",
        "        with suppress(pg.Error, PostgresFailed, PostgresUnreachable):\n"
        "            _drop(server, admin, name)\n        raise\n",
        "        raise\n",
        (
            "integration/test_restore.py::test_a_statement_that_the_server_refuses_leaves_the_target_as_it_was",
            "integration/test_restore.py::test_an_interruption_leaves_the_target_as_it_was",
        ),
    ),
    Mutation(
        "what somebody still works on is not left over",
        "target.py",
        "      AND NOT EXISTS (\n",
        "      OR EXISTS (\n",
        (
            "faults/test_restore_kills.py::test_a_database_of_which_somebody_is_still_making_a_copy_is_left_alone",
        ),
    ),
    Mutation(
        "a name alone is no proof of whose a database is",
        "target.py",
        "(NOT datallowconn AND datname",
        "(datname",
        (
            "faults/test_restore_kills.py::test_somebody_elses_database_of_such_a_name_is_left_alone",
        ),
    ),
    # restore
    Mutation(
        "the rows that an extension brought are not taken away",
        "load.py",
        "      AND NOT EXISTS (\n",
        "      AND true OR EXISTS (\n",
        ("integration/test_load.py::test_a_table_is_not_emptied_whose_rows_an_extension_brings",),
    ),
    Mutation(
        "what stands among the rows is done once, and in its order",
        "load.py",
        "_behind(seen, events)",
        "events",
        (
            "integration/test_load.py::test_a_statement_among_the_rows_comes_after_what_stands_before_it_and_once",
        ),
    ),
    Mutation(
        "pg_restore makes what the dump says",
        "post_data.py",
        "        if path is None or not _says(clients, path, text):\n",
        "        if path is None:\n",
        ("integration/test_load.py::test_an_archive_that_lacks_something_is_left_alone",),
    ),
    Mutation(
        "pg_restore sets nothing that the server does not know",
        "post_data.py",
        "if oldest <= c.version_num // 10000 <= newest",
        "if oldest <= c.version_num // 10000",
        ("integration/test_load.py::test_tools_that_do_not_fit_the_server_are_left_alone",),
    ),
    Mutation(
        "every byte is verified before the server is touched",
        "restore.py",
        "        require_whole(backup, jobs, report, inflating=False, globals_too=False)\n",
        "",
        ("faults/test_bit_rot.py::test_rot_is_found_before_a_restore_says_a_word",),
    ),
    Mutation(
        "rows are compared before a restored database gets its name",
        "settle.py",
        "    if rows != table.rows:\n",
        "    if False:\n",
        (
            "integration/test_restore.py::test_rows_that_are_not_those_of_the_manifest_are_never_switched_in",
        ),
    ),
    Mutation(
        "a statement that the server refuses ends the restore",
        "execute.py",
        "    if not is_set:\n",
        "    if False:\n",
        (
            "faults/test_hostile_dumps.py::test_a_name_that_the_server_does_not_know_ends_the_restore_wherever_it_is_no_parameter",
        ),
    ),
    Mutation(
        "what a server refuses to set leaves the transaction whole",
        "execute.py",
        "        with connection.transaction():\n",
        "        if True:\n",
        ("integration/test_selection.py::test_rows_are_added_to_a_server_older_than_the_tools",),
    ),
    Mutation(
        "what is added to a database is one transaction",
        "selection.py",
        "with server.using(target).connect() as connection, connection.transaction():",
        "with server.using(target).connect() as connection:",
        (
            "integration/test_selection.py::test_what_fails_half_way_leaves_the_existing_database_as_it_was",
        ),
    ),
    Mutation(
        "a part has all its rows",
        "selection.py",
        "            if name in self.tables and taken[name] != each.rows:\n",
        "            if False:\n",
        ("integration/test_selection.py::test_rows_that_the_target_drops_are_missed",),
    ),
    Mutation(
        "a sequence that has gone on is not set back",
        "selection.py",
        "    WHERE %%(made)s OR sign",
        "    WHERE %%(made)s OR true OR sign",
        ("integration/test_selection.py::test_a_sequence_that_is_there_never_goes_back",),
    ),
    Mutation(
        "a view comes with its query",
        "archive.py",
        "        needs[view] |= {query}\n",
        "        pass\n",
        ("integration/test_selection.py::test_a_view_whose_query_comes_later_is_no_row_of_nulls",),
    ),
    Mutation(
        "a view comes with the partitions that it asks",
        "archive.py",
        "        needs[view] |= attachments\n",
        "        pass\n",
        ("integration/test_selection.py::test_a_view_comes_with_the_partitions_of_what_it_asks",),
    ),
    Mutation(
        "a view of one partition comes without the others",
        "archive.py",
        "        asked[partition] -= {parent}\n",
        "        pass\n",
        ("integration/test_selection.py::test_a_view_comes_with_the_partitions_of_what_it_asks",),
    ),
    Mutation(
        "tables that can not be told apart are refused",
        "archive.py",
        "        if number < len(listed[text]):\n",
        "        if False:\n",
        (
            "integration/test_selection.py::test_tables_that_are_listed_alike_come_together_or_not_at_all",
        ),
    ),
    Mutation(
        "a copy is compared before it gets its name",
        "sync.py",
        "    if wrong := list(differences(expected, found)):\n",
        "    if wrong := list(differences(expected, expected)):\n",
        ("integration/test_sync.py::test_a_copy_that_differs_is_never_switched_in",),
    ),
    # drill
    Mutation(
        "a drill compares what the copy holds",
        "drill.py",
        "        yield from differences(contents, found)\n",
        "        del found\n",
        ("integration/test_drill.py::test_whatever_differs_in_the_copy_is_found_and_named",),
    ),
    Mutation(
        "a drill compares the schema",
        "drill.py",
        "        yield from _schema_differences(expected, schema.pre_data + schema.post_data)\n",
        "        del expected, schema\n",
        ("integration/test_drill.py::test_whatever_differs_in_the_copy_is_found_and_named",),
    ),
    Mutation(
        "a finding shows no password",
        "drill.py",
        "    if _SECRET.search(line):\n",
        "    if False:\n",
        ("integration/test_drill.py::test_a_finding_shows_no_password",),
    ),
    Mutation(
        "the digests of rows are compared",
        "contents.py",
        " and expected.digest != found.digest:",
        " and False:",
        ("integration/test_contents.py::test_a_difference_is_told_with_its_place",),
    ),
    Mutation(
        "trouble of the server is no evidence against a backup",
        "drill.py",
        "    if state is None or state.startswith(_OF_THE_SERVER):\n",
        "    if state is None:\n",
        (
            "integration/test_drill.py::test_trouble_of_the_server_is_no_evidence_against_the_backup",
        ),
    ),
    Mutation(
        "an owner's invariant changes nothing",
        "drill.py",
        '            connection.execute("SET TRANSACTION READ ONLY")\n',
        "",
        ("integration/test_drill.py::test_invariants_hold_or_say_what_they_found",),
    ),
    # messages
    Mutation(
        "a service that fails is named, and the others are told",
        "notify.py",
        "    return None if taken else f",
        "    return None if True else f",
        (
            "engine/test_notify.py::test_a_service_that_fails_is_named_without_its_url_and_the_others_are_told",
        ),
    ),
    Mutation(
        "a token is in no log",
        "notify.py",
        "        logger.setLevel(logging.CRITICAL + 1)\n",
        "        pass\n",
        ("engine/test_notify.py::test_a_token_is_in_no_log_even_where_debugging_is_on",),
    ),
    # Dagster's shell
    Mutation(
        "a restore heeds no limit for the night",
        "jobs.py",
        "bucket.store(in_haste=True)",
        "bucket.store()",
        ("defs/test_jobs.py::test_a_restore_is_not_slowed_down_by_a_limit_for_the_night",),
        folder="defs",
    ),
    Mutation(
        "a database is replaced only when its name is repeated",
        "jobs.py",
        "    if exists and config.confirm != target:\n",
        "    if False:\n",
        (
            "defs/test_jobs.py::test_a_database_that_exists_is_replaced_only_when_its_name_is_repeated",
        ),
        folder="defs",
    ),
    Mutation(
        "a confirmation of another database is a mistake",
        "jobs.py",
        "    if not exists and config.confirm and config.confirm != target:\n",
        "    if False:\n",
        ("defs/test_jobs.py::test_a_confirmation_of_another_database_is_a_mistake",),
        folder="defs",
    ),
    Mutation(
        "wrong credentials are not tried again",
        "failures.py",
        "isinstance(error, TRANSIENT) and not isinstance(error, PostgresDenied)",
        "isinstance(error, TRANSIENT)",
        ("defs/test_failures.py::test_what_will_not_pass_by_itself_is_not_retried",),
        folder="defs",
    ),
    Mutation(
        "the text of an unknown error is not passed on",
        "outcomes.py",
        "An unexpected {kind}; the log",
        "An unexpected {data.error}; the log",
        ("defs/test_sensors.py::test_the_text_of_an_unknown_error_is_not_passed_on",),
        folder="defs",
    ),
    Mutation(
        "a backup that is not whole does not beat",
        "assets.py",
        "            if not entry.passed:\n",
        "            if False:\n",
        ("defs/test_assets.py::test_a_damaged_backup_fails_and_nothing_is_pruned",),
        folder="defs",
    ),
    Mutation(
        "an old backup does not beat",
        "assets.py",
        "        if is_recent(database, manifest, entry):\n",
        "        if True:\n",
        (
            "defs/test_sensors.py::test_an_old_backup_that_is_verified_again_does_not_beat_and_is_warned_of",
        ),
        folder="defs",
    ),
    Mutation(
        "an old backup that is verified again is no fresher for that",
        "sensors.py",
        "        if taken:\n",
        "        if False:\n",
        ("defs/test_sensors.py::test_an_old_backup_that_is_verified_again_is_no_fresher_for_that",),
        folder="defs",
    ),
    Mutation(
        "a manifest that can not be read fails a verification of all backups",
        "jobs.py",
        "for name, entry in entries.items() if not entry.passed), *unreadable]",
        "for name, entry in entries.items() if not entry.passed)]",
        ("defs/test_jobs.py::test_a_damaged_manifest_fails_the_job_and_the_rest_is_verified",),
        folder="defs",
    ),
    Mutation(
        "a backup that has not begun is enough for a backfill",
        "sensors.py",
        "        if new and _is_waiting(context.instance, job.name):\n",
        "        if False:\n",
        (
            "defs/test_sensors.py::test_a_backfill_queues_one_backup_at_a_time_and_none_is_forgotten",
        ),
        folder="defs",
    ),
    Mutation(
        "the demo leads to no real server",
        "services.py",
        "            del environment[name]\n",
        "            pass\n",
        ("embedded/test_services.py::test_nothing_leads_to_a_real_server_any_more",),
        folder="embedded",
    ),
    Mutation(
        "a drill that failed fails its run",
        "assets.py",
        "            if not result.entry.passed:\n",
        "            if False:\n",
        (
            "defs/test_real_servers.py::test_a_drill_proves_that_the_newest_backup_restores_and_how_long_it_takes",
        ),
        folder="defs",
    ),
    Mutation(
        "deletions that fail are told",
        "assets.py",
        "        if result.failed:\n",
        "        if False:\n",
        ("defs/test_sensors.py::test_deletions_that_fail_are_told_although_the_backup_is_good",),
        folder="defs",
    ),
    Mutation(
        "a run looks at the backup that it made",
        "runs.py",
        "    if made:\n        return BackupName",
        "    if False:\n        return BackupName",
        ("defs/test_runs.py::test_a_run_executed_again_from_its_failure_verifies_its_own_dump",),
        folder="defs",
    ),
    Mutation(
        "an S3 resource that switches security off is refused",
        "resources.py",
        "if self.s3.use_unsigned_session or not self.s3.use_ssl or self.s3.verify is False:",
        "if False:",
        ("defs/test_resources.py::test_an_s3_resource_that_switches_security_off_is_refused",),
        folder="defs",
    ),
    Mutation(
        "a message that is not delivered fails its tick",
        "sensors.py",
        "    if undelivered:\n",
        "    if False:\n",
        (
            "defs/test_sensors.py::test_a_service_that_fails_is_reported_once_and_the_run_stays_good",
        ),
        folder="defs",
    ),
    Mutation(
        "a staleness that can not be told to one is not told to the others for ever",
        "sensors.py",
        "            except dg.Failure as failure:\n",
        "            except ZeroDivisionError as failure:\n",
        (
            "defs/test_sensors.py::test_staleness_that_can_not_be_told_to_one_is_not_told_to_the_others_for_ever",
        ),
        folder="defs",
    ),
    Mutation(
        "a backup that is not verified is nothing to rely on",
        "requirement.py",
        "if backup.state is State.VERIFIED and fresh:",
        "if fresh:",
        ("test_requirement.py::test_one_that_is_not_verified_counts_for_nothing",),
        folder="",
    ),
    Mutation(
        "a backup dated in the future is nothing to rely on",
        "requirement.py",
        " and not dated_in_future(backup, now)",
        "",
        ("test_requirement.py::test_one_that_is_dated_in_the_future_counts_for_nothing",),
        folder="",
    ),
    # the command line
    Mutation(
        "who restores on the command line heeds no limit for the night",
        "restore.py",
        '        update={"limit_rate": limit_rate}\n',
        "        update={}\n",
        ("test_cli.py::test_who_restores_is_not_slowed_down_by_a_limit_for_the_night",),
        folder="cli",
    ),
    Mutation(
        "nobody's silence is a yes to a restore",
        "restore.py",
        "    if not sys.stdin.isatty():\n",
        "    if False:\n",
        ("integration/test_cli.py::test_without_a_person_a_restore_is_refused_and_never_hangs",),
        folder="cli",
    ),
    Mutation(
        "a part never replaces a whole database",
        "restore.py",
        "    if partly and replace:\n",
        "    if False:\n",
        ("test_cli.py::test_wrong_usage_ends_with_2_and_says_what_is_wrong",),
        folder="cli",
    ),
    Mutation(
        "a backup that is not whole ends with an error",
        "backup.py",
        '    if not entry.passed:\n        raise VerificationFailed(f"{name} is not what',
        '    if False:\n        raise VerificationFailed(f"{name} is not what',
        ("test_cli.py::test_a_backup_that_is_not_whole_ends_with_7_and_nothing_is_pruned",),
        folder="cli",
    ),
    # unusual databases
    Mutation(
        "an argument that is called begin begins no body",
        "script.py",
        'word == b"ATOMIC" and self._before == b"BEGIN" and not self._parentheses',
        'word == b"BEGIN"',
        ("engine/test_script.py::test_statements_end_where_the_server_would_end_them",),
    ),
    Mutation(
        "rows are written the same way whatever an owner has set",
        "dump.py",
        """f"{environment['PGOPTIONS']} {_SAME_ROWS}\"""",
        "environment['PGOPTIONS']",
        (
            "integration/test_unusual_databases.py::test_rows_are_compared_whatever_the_time_zone_and_the_style_of_either_database",
        ),
    ),
    Mutation(
        "a database is dropped without the right to end an autovacuum worker",
        "target.py",
        "    for statement in (drop, forced):\n",
        "    for statement in (forced,):\n",
        (
            "integration/test_unusual_databases.py::test_an_autovacuum_worker_keeps_no_plain_role_from_dropping_what_it_made",
        ),
    ),
    Mutation(
        "autovacuum workers are not ended",
        "target.py",
        " WHERE datid = {} AND usesysid IS NOT NULL",
        " WHERE datid = {}",
        (
            "integration/test_unusual_databases.py::test_an_autovacuum_worker_keeps_no_plain_role_from_switching",
        ),
    ),
    Mutation(
        "what can't be dropped stands in nobody's way",
        "target.py",
        "        with suppress(pg.Error, PostgresFailed, PostgresUnreachable):\n"
        "            _drop(server, admin, name)\n            dropped",
        "        with suppress():\n            _drop(server, admin, name)\n            dropped",
        (
            "integration/test_unusual_databases.py::test_what_another_role_has_left_is_no_reason_to_do_without_a_restore",
        ),
    ),
    Mutation(
        "no trigger notices our logins",
        "target.py",
        "    if superuser and ",
        "    if False and ",
        (
            "integration/test_unusual_databases.py::test_a_trigger_that_writes_at_each_login_writes_none_of_ours",
        ),
    ),
    Mutation(
        "what is elsewhere is not analysed",
        "settle.py",
        " AND pg_class.oid NOT IN (SELECT oid FROM above)",
        "",
        (
            "integration/test_unusual_databases.py::test_it_comes_back_equal_and_a_drill_says_so_and_leaves_nothing",
        ),
    ),
    # standby
    Mutation(
        "what a standby does not hold comes back empty, and is no difference",
        "contents.py",
        "    parts = [*streams, dump.not_here]\n",
        "    parts = list(streams)\n",
        (
            "faults/test_standby.py::test_a_backup_of_a_standby_restores_on_the_primary",
            "faults/test_standby.py::test_a_standby_is_synced_into_another_server_as_it_is",
        ),
    ),
    Mutation(
        "rows that a standby lacks are told",
        "dump.py",
        "        remarks = [left_out(self.not_here)]\n",
        "        remarks: list[str | None] = []\n",
        ("faults/test_standby.py::test_rows_that_a_standby_lacks_are_told",),
    ),
    Mutation(
        "nothing is attempted on a standby",
        "preflight.py",
        "    if standby:\n",
        "    if False:\n",
        ("faults/test_standby.py::test_nothing_is_attempted_on_a_server_that_takes_no_writes",),
    ),
    # roles and other globals
    Mutation(
        "what pg_dumpall writes ends with its closing line",
        "dump.py",
        '        _require_closed(tail, "pg_dumpall", "what it wrote")\n',
        "",
        (
            "integration/test_globals.py::test_a_pg_dumpall_that_fails_makes_the_backup_fail_and_leaves_nothing",
        ),
    ),
    Mutation(
        "passwords of roles are left out unless they are asked for",
        "dump.py",
        "        if not passwords:\n",
        "        if False:\n",
        (
            "integration/test_dump_contract.py::test_its_globals_are_a_whole_script_with_passwords_or_without",
        ),
    ),
    Mutation(
        "a name that looks like a connection string is a name to pg_dumpall, too",
        "dump.py",
        'f"--database={self._conninfo}"',
        'f"--database={self.source.database}"',
        (
            "integration/test_globals.py::test_a_database_with_a_name_like_a_connection_string_has_them_too",
        ),
    ),
    Mutation(
        "names of roles keep their bytes in a database of another encoding",
        "dump.py",
        '        if self.source.encoding != "UTF8":\n',
        "        if False:\n",
        (
            "integration/test_globals.py::test_names_are_the_same_from_a_database_of_another_encoding",
        ),
    ),
    Mutation(
        "no timeout of an owner ends the reading of roles",
        "dump.py",
        "{self._env['PGOPTIONS']} {_ENDLESS}",
        "{self._env['PGOPTIONS']}",
        ("integration/test_globals.py::test_no_timeout_of_an_owner_ends_them",),
    ),
    Mutation(
        "who may not read passwords is told what to do",
        "postgres.py",
        '    if "pg_authid" in said:\n',
        "    if False:\n",
        (
            "integration/test_globals.py::test_a_role_that_is_no_superuser_has_them_without_passwords_or_is_told_so",
        ),
    ),
    Mutation(
        "the globals of an encrypted backup are encrypted",
        "backup.py",
        "        script = encrypted(script, recipients)\n",
        "        pass\n",
        (
            "engine/test_globals.py::test_encrypted_they_are_for_the_same_recipients_and_take_the_key",
        ),
    ),
    Mutation(
        "globals of another's are never taken back",
        "backup.py",
        "            made.remove(kind)\n",
        "",
        ("engine/test_globals.py::test_a_foreign_script_of_that_name_is_never_touched",),
    ),
    Mutation(
        "globals are taken back",
        "backup.py",
        "        made.append(kind)\n        try:\n",
        "        try:\n",
        (
            "engine/test_globals.py::test_a_failure_at_any_object_takes_all_back",
            "engine/test_globals.py::test_a_foreign_script_of_that_name_is_never_touched",
        ),
    ),
    Mutation(
        "a verification looks at the globals",
        "verify.py",
        "        if manifest.globals_script and globals_too:\n",
        "        if False:\n",
        ("engine/test_globals.py::test_one_flipped_bit_anywhere_is_found_and_it_is_said_where",),
    ),
    Mutation(
        "a restore has no use for the globals",
        "restore.py",
        "inflating=False, globals_too=False)",
        "inflating=False)",
        (
            "integration/test_globals.py::test_damaged_globals_fail_a_verification_and_a_drill_and_stop_no_restore",
        ),
    ),
    Mutation(
        "stored globals end with pg_dumpall's closing line",
        "stored.py",
        "    if not tail.closed:\n",
        "    if False:\n",
        (
            "engine/test_globals.py::test_right_hashes_do_not_make_up_for_what_pg_dumpall_does_not_write",
        ),
    ),
    Mutation(
        "globals have psql do nothing of its own",
        "stored.py",
        "    for _ in (*reader.feed(sql), *reader.close()):\n",
        "    for _ in ():\n",
        (
            "engine/test_globals.py::test_right_hashes_do_not_make_up_for_what_pg_dumpall_does_not_write",
        ),
    ),
    Mutation(
        "encrypted globals take the key",
        "stored.py",
        "        self.require_identity()\n        stored",
        "        stored",
        (
            "engine/test_globals.py::test_encrypted_they_are_for_the_same_recipients_and_take_the_key",
        ),
    ),
    Mutation(
        "a backup whose globals are missing has failed",
        "catalog.py",
        "    if scripted and globals_kind(encrypted=entry.encrypted) not in objects:\n",
        "    if False:\n",
        (
            "engine/test_globals.py::test_a_missing_object_is_found_by_a_verification_and_by_a_listing",
        ),
    ),
    Mutation(
        "globals that a manifest does not have are nobody's to delete",
        "catalog.py",
        "        others |= {*GLOBALS}\n",
        "        pass\n",
        ("engine/test_globals.py::test_a_foreign_script_beside_a_dump_without_an_archive_stays",),
    ),
    Mutation(
        "what a killed backup left is known with its globals, too",
        "catalog.py",
        "objects.keys() - {*DUMPS, *GLOBALS} not in",
        "objects.keys() - DUMPS not in",
        ("engine/test_globals.py::test_what_a_killed_backup_left_goes_in_time_the_archive_last",),
    ),
    Mutation(
        "the archive of a killed backup goes last",
        "prune.py",
        "(*DUMPS, *GLOBALS, *ARCHIVES)",
        "(*DUMPS, *ARCHIVES, *GLOBALS)",
        ("engine/test_globals.py::test_what_a_killed_backup_left_goes_in_time_the_archive_last",),
    ),
    Mutation(
        "a backup goes with its globals",
        "model.py",
        "        return dump, *scripts, archive_kind(",
        "        return dump, archive_kind(",
        (
            "engine/test_globals.py::test_a_prune_takes_them_with_the_backup_and_the_archive_after_them",
        ),
    ),
    Mutation(
        "who may not read passwords is told so beforehand",
        "diagnosis_server.py",
        '_column(connection, _MAY_READ_PASSWORDS) != ["True"]',
        "False",
        (
            "integration/test_globals.py::test_a_role_that_is_no_superuser_has_them_without_passwords_or_is_told_so",
        ),
    ),
    Mutation(
        "a pg_dumpall that is missing is told beforehand",
        "diagnosis_server.py",
        '        if not chosen.tool("pg_dumpall").is_file():\n',
        "        if False:\n",
        (
            "integration/test_globals.py::test_a_pg_dumpall_that_fails_makes_the_backup_fail_and_leaves_nothing",
        ),
    ),
    Mutation(
        "a file of globals is for nobody else",
        "globals.py",
        "0o600",
        "0o644",
        ("test_cli.py::test_globals_go_into_a_new_file_that_nobody_else_may_read",),
        folder="cli",
    ),
    Mutation(
        "a file of globals takes nobody's place",
        "globals.py",
        "os.O_CREAT | os.O_EXCL",
        "os.O_CREAT",
        ("test_cli.py::test_globals_go_into_a_new_file_that_nobody_else_may_read",),
        folder="cli",
    ),
)
