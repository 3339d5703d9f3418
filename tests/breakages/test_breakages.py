"""Deliberate breakages of the protocol: each leaves one rule out, and a named test must notice.

The product is copied, one piece of its text is replaced, and the test that guards the rule is run on
the copy: it has to fail. A rule whose absence nobody notices would not be guarded.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.conftest import ROOT
from tests.services import Given, Kafka, Registry

COPIED = ("app", "config", "outbox", "relay", "migrations", "tests", "alembic.ini", "pyproject.toml", "README.md")
OPERATIONS = "tests/contract/test_operations.py"
STORE, KILLS = "tests/contract/test_store.py", "tests/faults/test_kill_at_each_step.py"


class Breakage(NamedTuple):
    """One rule left out: where, what instead, and the test that notices."""

    name: str
    file: str
    text: str
    instead: str
    noticed_by: str


BREAKAGES = [
    Breakage(
        "the progress record is not read back",
        "relay/shard.py",
        "record = parts.read_back(self.shard)",
        "record = None",
        f"{KILLS}::test_kill_in_the_first_cycle[sqlite-committed]",
    ),
    Breakage(
        "the transaction holds no progress record",
        "relay/publisher.py",
        "[(self._progress_key, progress, [])]",
        "[]",
        f"{KILLS}::test_kill_in_the_first_cycle[sqlite-committed]",
    ),
    Breakage(
        "rows are marked before the commit",
        "relay/shard.py",
        'self._step("encoded")',
        'parts.store.mark_sent(self.shard, sequence, refs, inference=False); self._step("encoded")',
        f"{KILLS}::test_kill_in_the_first_cycle[sqlite-encoded]",
    ),
    Breakage(
        "a mark ignores the tag",
        "outbox/statements.py",
        "outbox.tag = r.tag AND outbox.{_UNSENT}",
        "outbox.{_UNSENT}",
        f"{STORE}::test_a_mark_names_id_and_tag[sqlite]",
    ),
    Breakage(
        "parking ignores the tag",
        "outbox/statements.py",
        "WHERE id = :id AND tag = :tag AND shard",
        "WHERE id = :id AND (tag = :tag OR true) AND shard",
        f"{STORE}::test_a_parked_row_names_id_and_tag[sqlite]",
    ),
    Breakage(
        "only pending rows are marked",
        "outbox/statements.py",
        "state IN ('pending', 'parked', 'discarded')\"\n_SENT",
        "state IN ('pending')\"\n_SENT",
        f"{STORE}::test_what_a_progress_record_proves_is_marked_in_every_unsent_state[sqlite]",
    ),
    Breakage(
        "a mark settles whatever its sequence is",
        "outbox/statements.py",
        "CASE WHEN settled = :sequence - 1 THEN :sequence ELSE settled END",
        ":sequence",
        f"{STORE}::test_a_sequence_is_settled_only_from_the_one_before[sqlite]",
    ),
    Breakage(
        "a sequence further ahead is settled, too",
        "outbox/store.py",
        "if sequence > settled + 1 or not sequence:",
        "if not sequence:",
        f"{STORE}::test_a_record_further_ahead_marks_nothing[sqlite]",
    ),
    Breakage(
        "the select does not compare the settled sequence",
        "outbox/store.py",
        "if settled != lease.settled:",
        "if False:",
        f"{STORE}::test_a_sequence_is_settled_only_from_the_one_before[sqlite]",
    ),
    Breakage(
        "the select takes rows whatever is settled",
        "outbox/statements.py",
        "AND epoch = :epoch AND settled = :settled)",
        "AND epoch = :epoch)",
        f"{STORE}::test_rows_are_not_selected_when_another_sequence_is_settled[sqlite]",
    ),
    Breakage(
        "a mark of pending rows ignores the tag",
        "outbox/statements.py",
        "BETWEEN :first_id AND :last_id AND tag {{tags}}",
        "BETWEEN :first_id AND :last_id AND (true OR tag {{tags}})",
        f"{STORE}::test_a_mark_names_id_and_tag[sqlite]",
    ),
    Breakage(
        "the lease is not checked under the lock",
        "outbox/store.py",
        "    _insist_on(lease, owner, epoch)\n    return int(settled)",
        "    return int(settled)",
        f"{STORE}::test_who_lost_the_lease_neither_selects_settles_nor_parks[sqlite]",
    ),
    Breakage(
        "taking a lease leaves the epoch as it is",
        "outbox/statements.py",
        "epoch = epoch + 1",
        "epoch = epoch",
        f"{STORE}::test_who_lost_the_lease_neither_selects_settles_nor_parks[sqlite]",
    ),
    Breakage(
        "the select does not look for parked rows",
        "outbox/statements.py",
        "AND p.id < o.id",
        "AND p.id < o.id AND false",
        f"{STORE}::test_a_row_waits_behind_a_parked_row_of_its_interaction_only[sqlite]",
    ),
    Breakage(
        "a refused batch is parked whole",
        "relay/shard.py",
        "if len(rows) == 1:\n            self._suspects = {rows[0].ref: reason}",
        "if rows:\n            self._suspects = {row.ref: reason for row in rows}",
        "tests/faults/test_parking.py::test_a_kill_on_the_way_to_parking_parks_the_same_row[sqlite]",
    ),
    Breakage(
        "the same rows again on the same producer after an abort",
        "relay/publisher.py",
        "            if not asked:\n                self._abort()",
        "            if not asked:\n                self._abort()\n                self.publish(records, progress)\n"
        "                return",
        "tests/faults/test_parking.py::test_with_the_pass_policy_nothing_waits[sqlite]",
    ),
    Breakage(
        "inference calls are not made due by the mark",
        "outbox/store.py",
        "if inference and marked:",
        "if False:",
        f"{KILLS}::test_kill_between_commit_and_mark_makes_inference_calls_due[sqlite]",
    ),
    Breakage(
        "one bad row fails its neighbours",
        "outbox/recording.py",
        "outcomes = [_recorded_alone(cursor, dialect, row, row_errors) for row in rows]",
        "outcomes = [RowRefused('')] * len(rows)",
        f"{STORE}::test_each_row_of_a_batch_keeps_its_own_outcome[sqlite]",
    ),
    Breakage(
        "a retry takes whatever has the id",
        "outbox/statements.py",
        "r.id AND outbox.tag = r.tag AND outbox.shard = :shard AND outbox.state = 'parked'",
        "r.id AND outbox.shard = :shard",
        f"{OPERATIONS}::test_what_changed_since_the_plan_is_left_alone[sqlite]",
    ),
    Breakage(
        "a plan replays its own replays",
        "outbox/statements.py",
        "AND substr(o.key, 1, length(:prefix)) <> :prefix",
        "AND :prefix <> ''",
        f"{OPERATIONS}::test_a_plan_given_again_does_not_replay_itself[sqlite]",
    ),
    Breakage(
        "a change goes on record without its rows",
        "outbox/operations.py",
        "order.reason, json.dumps(ids))",
        "order.reason, '[]')",
        f"{OPERATIONS}::test_what_changed_since_the_plan_is_left_alone[sqlite]",
    ),
    Breakage(
        "the webhook answers before the commit",
        "app/recorder.py",
        "        self._queue.put(waiting)",
        "        self._queue.put(waiting)\n"
        "        return __import__('outbox.rows').rows.Accepted(1, row.interaction_id, False)",
        "tests/integration/test_webhook.py::test_a_locked_database_answers_503_and_recovers",
    ),
]


@pytest.mark.parametrize("breakage", BREAKAGES, ids=lambda breakage: breakage.name.replace(" ", "-"))
def test_a_breakage_is_noticed(
    breakage: Breakage, kafka: Kafka | Given, registry: Registry | Given, tmp_path: Path
) -> None:
    """The named test fails on a copy of the product in which the rule is left out."""
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, copy / name)
    file = copy / breakage.file
    original = file.read_text()
    assert original.count(breakage.text) == 1, f"{breakage.file} does not hold the text once: {breakage.text}"
    file.write_text(original.replace(breakage.text, breakage.instead))
    environ = {
        **os.environ,
        "KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap_servers,
        "SCHEMA_REGISTRY_URL": registry.url,
        "SCHEMA_REGISTRY_USERNAME": registry.username,
        "SCHEMA_REGISTRY_PASSWORD": registry.password,
        "TEST_DEADLINE_SECONDS": "20",
    }
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", breakage.noticed_by]
    done = subprocess.run(command, cwd=copy, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 1, f"not noticed by {breakage.noticed_by}:\n{done.stdout[-2000:]}"
    assert "1 failed" in done.stdout, done.stdout[-2000:]
