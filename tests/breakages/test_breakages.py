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

from testkit import ROOT
from testkit.databases import TEMPLATES
from testkit.services import ExternalService, Kafka, Registry

COPIED = (
    "app",
    "config",
    "console",
    "outbox",
    "relay",
    "migrations",
    "testkit",
    "tests",
    "alembic.ini",
    "pyproject.toml",
    "README.md",
)
OPERATIONS, RETENTION = "tests/contract/test_change.py", "tests/contract/test_retention.py"
PLANNED = "tests/contract/test_planned_change.py"
SHARDS = "tests/contract/test_shards.py"
CALLS = "tests/contract/test_inference_queue.py"
CONSOLE, REVEAL = "tests/unit/console", "tests/contract/test_console_reveal.py"
MACHINE = "tests/model/test_state_machine.py::test_every_row_is_delivered_exactly_once"
LOST = "tests/model/test_lost_rows.py"
STORE, KILLS = "tests/contract/test_store.py", "tests/faults/test_kill_at_each_step.py"
MOVES, FUZZ = "tests/contract/test_moves.py", "tests/fuzz/test_fuzz.py::test_no_input_breaks_a_rule"
VERIFICATION, VERIFY = "tests/contract/test_verification.py", "tests/integration/test_verify.py"
NAMED = f"{MOVES}::test_a_move_takes_the_rows_that_it_names"
SELECTED = f"{MOVES}::test_rows_are_selected_only_under_the_lease"
ACCEPTED = "tests/faults/test_replicated.py::test_no_row_is_accepted_that_only_the_primary_has"
IN_SHARD = f"{MOVES}::test_each_pending_row_is_in_the_shard_of_its_interaction"


_LEASE = """
              SELECT 1 FROM outbox_shard
              WHERE shard = :shard AND owner = :owner AND epoch = :epoch
                AND acknowledged_sequence = :acknowledged_sequence
"""
_SELECT = "WHERE w.shard = :shard\n          AND EXISTS ("
"""Occurs only in the statement that selects rows behind parked ones as well."""
_SELECT_UNBLOCKED = "              ) IS NULL\n          )\n          AND EXISTS ("
_IN_ORDER_SQLITE = "          )\n        ORDER BY w.id LIMIT"
"""Ends SQLite's variant of the statement that leaves rows behind parked ones out."""
_PAUSED_SQLITE = (
    "          SELECT 1 FROM outbox_pause AS p\n          WHERE p.shard = :shard\n"
    "            AND (p.until IS NULL OR p.until > CAST((julianday"
)
"""Occurs only in SQLite's variant of a statement."""


class Breakage(NamedTuple):
    """One rule left out: where, what instead, and the test that notices."""

    name: str
    file: str
    text: str
    instead: str
    noticed_by: str


BREAKAGES = [
    Breakage(
        "a new owner does not read back the last progress record",
        "relay/shard/takeover.py",
        "record = services.clients.read_back(shard, self._stop.is_set)",
        "record = None",
        f"{KILLS}::test_kill_in_the_first_cycle[sqlite-committed]",
    ),
    Breakage(
        "a transaction has no progress record",
        "relay/kafka/producer.py",
        "[progress_record])",
        "[])",
        f"{KILLS}::test_kill_in_the_first_cycle[sqlite-committed]",
    ),
    Breakage(
        "rows are marked before their transaction is committed",
        "relay/shard/worker.py",
        'self._step("encoded")',
        'self._mark(owned, progress.ref_of(sequence, 2**40, value), refs); self._step("encoded")',
        f"{KILLS}::test_kill_in_the_first_cycle[sqlite-encoded]",
    ),
    Breakage(
        "a mark ignores the nonce of rows",
        "outbox/sql/flow.py",
        " AND o.nonce = r.nonce\n    CROSS JOIN",
        "\n    CROSS JOIN",
        f"{STORE}::test_marking_compares_id_and_nonce[sqlite]",
    ),
    Breakage(
        "parking ignores the nonce of rows",
        "outbox/sql/flow.py",
        " AND w.nonce = r.nonce\n    JOIN outbox",
        "\n    JOIN outbox",
        f"{STORE}::test_parking_compares_id_and_nonce[sqlite]",
    ),
    Breakage(
        "only pending rows are marked, not parked or discarded ones",
        "outbox/sql/flow.py",
        "\n       OR EXISTS (SELECT 1 FROM outbox_parked WHERE id = o.id)",
        "",
        f"{STORE}::test_rows_of_a_progress_record_are_marked_in_every_unsent_state[sqlite]",
    ),
    Breakage(
        "a mark acknowledges a record of any sequence",
        "outbox/progress.py",
        "elif verdict is ProgressVerdict.IN_ORDER and found is not None and",
        "elif found is not None and",
        f"{STORE}::test_only_the_next_sequence_is_acknowledged[sqlite]",
    ),
    Breakage(
        "a sequence that skips one is acknowledged",
        "outbox/progress.py",
        "if found.sequence > acknowledged + 1:",
        "if False:",
        f"{STORE}::test_a_record_further_ahead_marks_nothing[sqlite]",
    ),
    Breakage(
        "a relay selects rows without comparing the acknowledged sequence of its lease",
        "outbox/progress.py",
        "if row.acknowledged_sequence != lease.acknowledged_sequence:",
        "if False:",
        f"{STORE}::test_only_the_next_sequence_is_acknowledged[sqlite]",
    ),
    Breakage(
        "the select statement ignores the acknowledged sequence",
        "outbox/sql/flow.py",
        _SELECT_UNBLOCKED + _LEASE + _IN_ORDER_SQLITE,
        _SELECT_UNBLOCKED + _LEASE.replace("AND acknowledged_sequence = :acknowledged_sequence", "") + _IN_ORDER_SQLITE,
        f"{STORE}::test_rows_are_not_selected_if_another_sequence_is_acknowledged[sqlite]",
    ),
    Breakage(
        "the select statement ignores the epoch",
        "outbox/sql/flow.py",
        _SELECT_UNBLOCKED + _LEASE + _IN_ORDER_SQLITE,
        _SELECT_UNBLOCKED + _LEASE.replace("AND epoch = :epoch", "") + _IN_ORDER_SQLITE,
        f"{SELECTED}[sqlite-epoch-True]",
    ),
    Breakage(
        "the select statement for the skip policy ignores the epoch",
        "outbox/sql/flow.py",
        _SELECT + _LEASE,
        _SELECT + _LEASE.replace("AND epoch = :epoch", ""),
        f"{SELECTED}[sqlite-epoch-False]",
    ),
    Breakage(
        "the select statement for the skip policy ignores the acknowledged sequence",
        "outbox/sql/flow.py",
        _SELECT + _LEASE,
        _SELECT + _LEASE.replace("AND acknowledged_sequence = :acknowledged_sequence", ""),
        f"{SELECTED}[sqlite-sequence-False]",
    ),
    Breakage(
        "a mark of pending rows ignores the nonce",
        "outbox/sql/flow.py",
        "AND nonce IN (SELECT value FROM json_each(:nonces))",
        "",
        f"{STORE}::test_marking_compares_id_and_nonce[sqlite]",
    ),
    Breakage(
        "a mark of pending rows ignores the nonce on PostgreSQL",
        "outbox/sql/flow.py",
        "AND nonce = ANY(CAST(:nonces AS bigint[]))",
        "AND CAST(:nonces AS bigint[]) IS NOT NULL",
        f"{NAMED}[postgresql-mark]",
    ),
    Breakage(
        "a mark of pending rows leaves them pending",
        "outbox/sql/flow.py",
        "DELETE FROM outbox_pending\n    WHERE shard = :shard AND id BETWEEN",
        "DELETE FROM outbox_pending\n    WHERE false AND shard = :shard AND id BETWEEN",
        f"{MOVES}::test_a_marked_row_has_the_shard_and_sequence_that_sent_it[sqlite-mark-pending]",
    ),
    Breakage(
        "a mark of a progress record's rows leaves them pending",
        "outbox/sql/flow.py",
        "WHERE (shard, id) IN (\n",
        "WHERE false AND (shard, id) IN (\n",
        f"{NAMED}[sqlite-acknowledge]",
    ),
    Breakage(
        "a mark of a progress record's rows leaves them parked",
        "outbox/sql/flow.py",
        "WHERE id IN (SELECT s.id FROM json_each(:rows)",
        "WHERE false AND id IN (SELECT s.id FROM json_each(:rows)",
        f"{MOVES}::test_a_marked_row_has_the_shard_and_sequence_that_sent_it[sqlite-acknowledge-parked]",
    ),
    Breakage(
        "a mark finds only rows of the shard that sent them",
        "outbox/sql/flow.py",
        "WHERE EXISTS (SELECT 1 FROM outbox_pending WHERE shard = o.interaction_hash % i.shards AND",
        "WHERE EXISTS (SELECT 1 FROM outbox_pending WHERE shard = :shard AND",
        f"{MOVES}::test_a_record_marks_rows_in_whichever_shard_they_are[sqlite]",
    ),
    Breakage(
        "parking leaves rows pending",
        "outbox/sql/flow.py",
        "WHERE shard = :shard AND id IN (\n        SELECT p.id",
        "WHERE false AND shard = :shard AND id IN (\n        SELECT p.id",
        f"{NAMED}[sqlite-park]",
    ),
    Breakage(
        "the lease is not checked under the row lock",
        "outbox/progress.py",
        "    _require_epoch(lease, row)\n    return _progress(row)",
        "    return _progress(row)",
        f"{STORE}::test_without_the_lease_nothing_is_selected_acknowledged_marked_or_parked[sqlite]",
    ),
    Breakage(
        "a mark needs no lease",
        "outbox/store.py",
        "            shard = progress.lock_shard(connection, lease)\n"
        "            verdict = progress.acknowledge(connection, lease.shard, shard, record)\n"
        "            marked += progress.mark_rows(",
        "            shard = progress.read_shard(connection, lease.shard)\n"
        "            verdict = progress.acknowledge(connection, lease.shard, shard, record)\n"
        "            marked += progress.mark_rows(",
        f"{LOST}::test_a_relay_without_the_lease_marks_nothing[sqlite]",
    ),
    Breakage(
        "the statement that marks needs no lease",
        "outbox/sql/flow.py",
        "          SELECT 1 FROM outbox_shard\n"
        "          WHERE shard = :shard AND owner = :owner AND epoch = :epoch "
        "AND acknowledged_sequence = :sequence - 1\n",
        "          SELECT 1 FROM outbox_shard WHERE shard = :shard\n",
        f"{STORE}::test_without_the_lease_nothing_is_selected_acknowledged_marked_or_parked[sqlite]",
    ),
    Breakage(
        "the statement that marks needs no lease on PostgreSQL",
        "outbox/sql/flow.py",
        "        WHERE shard = :shard AND owner = :owner AND epoch = :epoch AND acknowledged_sequence = :sequence - 1\n"
        "          AND (progress_offset IS NULL OR progress_offset < :offset)\n"
        "        RETURNING shard\n",
        "        WHERE shard = :shard AND acknowledged_sequence = :sequence - 1\n"
        "          AND (progress_offset IS NULL OR progress_offset < :offset)\n"
        "        RETURNING shard\n",
        f"{STORE}::test_without_the_lease_nothing_is_selected_acknowledged_marked_or_parked[postgresql]",
    ),
    Breakage(
        "the statement that marks acknowledges a record whose offset is not higher on PostgreSQL",
        "outbox/sql/flow.py",
        "          AND (progress_offset IS NULL OR progress_offset < :offset)\n        RETURNING shard\n",
        "        RETURNING shard\n",
        f"{STORE}::test_marking_acknowledges_nothing_if_kafka_went_back[postgresql]",
    ),
    Breakage(
        "the statement that marks makes no inference calls due on PostgreSQL",
        "outbox/sql/flow.py",
        "WHERE CAST(:inference AS boolean)",
        "WHERE false",
        f"{CALLS}::test_blocked_calls_are_deferred[postgresql]",
    ),
    Breakage(
        "a record older than the acknowledged one is accepted",
        "outbox/progress.py",
        "if found.sequence < acknowledged:",
        "if False:",
        f"{STORE}::test_a_sequence_without_a_record_accepts_one[sqlite]",
    ),
    Breakage(
        "any record of the acknowledged sequence is accepted as the acknowledged one",
        "outbox/progress.py",
        "found == record if",
        "True if",
        f"{STORE}::test_a_record_is_compared_with_the_acknowledged_one[sqlite-found4-kafka_went_back]",
    ),
    Breakage(
        "the offset of the next progress record is not compared",
        "outbox/progress.py",
        "else found.offset > record.offset",
        "else True",
        f"{LOST}::test_a_running_relay_notices_a_restored_broker_at_its_next_transaction[sqlite]",
    ),
    Breakage(
        "a record that shows that Kafka went back is acknowledged",
        "outbox/progress.py",
        "elif verdict is ProgressVerdict.IN_ORDER and found",
        "elif verdict in {ProgressVerdict.IN_ORDER, ProgressVerdict.KAFKA_WENT_BACK} and found",
        f"{STORE}::test_marking_acknowledges_nothing_if_kafka_went_back[sqlite]",
    ),
    Breakage(
        "the acknowledged record is kept when the progress topic is lost",
        "outbox/progress.py",
        "if verdict is ProgressVerdict.PROGRESS_LOST:",
        "if False:",
        f"{STORE}::test_a_record_is_compared_with_the_acknowledged_one[sqlite-None-progress_lost]",
    ),
    Breakage(
        "an idle shard does not check the last progress record",
        "relay/shard/worker.py",
        "if self._services.clock() >= self._check_at and",
        "if not owned and",
        f"{LOST}::test_an_idle_shard_checks_its_last_record_about_once_a_minute[sqlite]",
    ),
    Breakage(
        "a reconcile writes no progress record",
        "relay/process/lost_rows.py",
        "    record = _commit_record(maintenance, owned, acknowledged_sequence(outcome, ref))\n",
        "    record = progress.ref_of(acknowledged_sequence(outcome, ref), 99, b'')\n",
        f"{LOST}::test_a_reconcile_marks_what_the_last_record_proves[sqlite]",
    ),
    Breakage(
        "a reconcile clears the condition of its shard before it is done",
        "relay/process/maintenance.py",
        "self.services.leases.extend(lease)",
        "self.services.leases.renew(lease, 0.0)",
        f"{LOST}::test_an_interrupted_reconcile_can_be_repeated[sqlite-idle-sent_again]",
    ),
    Breakage(
        "a reconcile does not mark the rows in the last progress record",
        "relay/shard/takeover.py",
        "ref, refs = (record.ref, record.progress.refs) if record",
        "ref, refs = (record.ref, ()) if record",
        f"{LOST}::test_a_reconcile_marks_what_the_last_record_proves[sqlite]",
    ),
    Breakage(
        "a reconcile of lost rows does not check that its plan is still valid",
        "relay/process/lost_rows.py",
        "if found != loss.inspection.found:",
        "if False:",
        f"{LOST}::test_a_shard_that_sent_rows_since_the_plan_is_left_unchanged[sqlite]",
    ),
    Breakage(
        "records removed by retention are treated as lost",
        "relay/process/lost_rows.py",
        "row.received_at_ms >= kept_ms and ",
        "kept_ms >= 0 and ",
        f"{LOST}::test_a_row_whose_record_may_have_expired_does_not_count_as_lost",
    ),
    Breakage(
        "rows that Kafka may have lost are pruned while their shard waits",
        "outbox/sql/prune.py",
        "s.shard = o.shard AND s.condition LIKE",
        "false AND s.condition LIKE",
        f"{LOST}::test_rows_that_kafka_may_have_lost_are_not_pruned[sqlite]",
    ),
    Breakage(
        "the select reads only as many rows as fit the next transaction",
        "relay/shard/worker.py",
        "owned.lease, window, block",
        "owned.lease, limit, block",
        "tests/model/test_waiting_rows.py::test_a_waiting_row_does_not_block_a_small_batch[sqlite]",
    ),
    Breakage(
        "taking a lease does not increment the epoch",
        "outbox/sql/shards.py",
        "epoch = epoch + 1,\n        lease_expires_at = CAST((julianday",
        "epoch = epoch,\n        lease_expires_at = CAST((julianday",
        f"{STORE}::test_without_the_lease_nothing_is_selected_acknowledged_marked_or_parked[sqlite]",
    ),
    Breakage(
        "rows are selected although an earlier row of their interaction is parked",
        "outbox/sql/flow.py",
        "WHERE w.shard = :shard\n          AND (\n              NOT EXISTS (",
        "WHERE w.shard = :shard\n          AND (\n              true OR NOT EXISTS (",
        f"{STORE}::test_a_row_waits_only_behind_a_parked_row_of_its_interaction[sqlite]",
    ),
    Breakage(
        "every row of a rejected batch is parked",
        "relay/shard/worker.py",
        "if rejected is not None:\n            self._rejected = {rejected.ref: reason}",
        "if rows:\n            self._rejected = {row.ref: reason for row in rows}",
        "tests/faults/test_parking.py::test_a_relay_killed_before_it_parks_leaves_the_right_row_to_be_parked[sqlite]",
    ),
    Breakage(
        "a shard whose batch is refused makes no progress",
        "relay/shard/worker.py",
        "self.healthy_at = clock()",
        "pass",
        "tests/model/test_cycle.py::test_a_shard_whose_batch_is_refused_is_healthy[sqlite]",
    ),
    Breakage(
        "a shard keeps parking rows although the topic accepts none",
        "relay/shard/bisector.py",
        "        if self.probing:\n            raise",
        "        if False:\n            raise",
        "tests/unit/relay/shard/test_bisector.py::test_no_row_is_at_fault_when_kafka_refuses_every_row",
    ),
    Breakage(
        "a rejected progress record counts as a rejected row",
        "relay/kafka/producer.py",
        "if topic == self._progress.topic:",
        "if False:",
        "tests/faults/test_parking.py::test_a_rejected_progress_record_parks_no_row[sqlite]",
    ),
    Breakage(
        "a changed password is not read again",
        "relay/settings.py",
        'settings.current_secret("kafka_sasl_password")',
        "settings.kafka_sasl_password.get_secret_value()",
        "tests/unit/relay/kafka/test_shard_clients.py::test_a_changed_password_is_used_by_the_next_client",
    ),
    Breakage(
        "a client with an old login waits for an answer",
        "relay/kafka/producer.py",
        "elif self._last_error.text and self._outdated():",
        "elif False:",
        "tests/unit/relay/kafka/test_producer.py::test_a_client_with_an_old_login_is_given_up_at_once",
    ),
    Breakage(
        "a metadata request makes the broker create a topic",
        "relay/settings.py",
        'config["allow.auto.create.topics"] = False',
        'config["allow.auto.create.topics"] = True',
        "tests/unit/relay/test_settings.py::test_no_client_makes_a_broker_create_topics",
    ),
    Breakage(
        "rows are sent again on the same producer after an abort",
        "relay/kafka/producer.py",
        "            if not committing:\n                self._cancel()",
        "            if not committing:\n                self._abort()\n"
        "                self.publish(records, progress)\n                return",
        "tests/faults/test_parking.py::test_with_the_skip_policy_no_row_waits_behind_a_parked_one[sqlite]",
    ),
    Breakage(
        "a mark does not make inference calls due",
        "outbox/progress.py",
        "if inference and marked:",
        "if False:",
        f"{KILLS}::test_kill_between_commit_and_mark_makes_inference_calls_due[sqlite]",
    ),
    Breakage(
        "a call is claimed before earlier calls of its interaction",
        "outbox/sql/inference_queue.py",
        """
          AND c.row_id = (
              SELECT e.row_id FROM outbox_inference_call AS e
              WHERE e.state = 'due' AND e.interaction_id = c.interaction_id ORDER BY e.row_id LIMIT 1
          )
        LIMIT :limit
    )""",
        "\n        LIMIT :limit\n    )",
        f"{CALLS}::test_blocked_calls_are_deferred[sqlite]",
    ),
    Breakage(
        "a finished call does not make the next one of its interaction due",
        "outbox/inference_queue.py",
        "connection.execute(sql.WAKE_NEXT.on(connection), parameters)",
        "dict(parameters)",
        f"{CALLS}::test_the_end_of_a_call_makes_the_next_one_due[sqlite]",
    ),
    Breakage(
        "a late failure ends another worker's claim",
        "outbox/sql/inference_queue.py",
        "      AND outbox_inference_call.claimed_by = :owner AND outbox_inference_call.due_at = r.claimed_until_ms\n"
        '    RETURNING outbox_inference_call.interaction_id\n    """,\n)\n"""Records failed',
        '    RETURNING outbox_inference_call.interaction_id\n    """,\n)\n"""Records failed',
        f"{CALLS}::test_late_results_of_an_expired_claim_do_no_harm[sqlite]",
    ),
    Breakage(
        "a finished call makes a call due that is already claimed",
        "outbox/sql/inference_queue.py",
        "AND state = 'due' AND claimed_by IS NULL\n      AND due_at > (SELECT CAST((julianday",
        "AND state = 'due'\n      AND due_at > (SELECT CAST((julianday",
        f"{CALLS}::test_the_end_of_a_call_keeps_the_rest_of_its_batch_claimed[sqlite]",
    ),
    Breakage(
        "an outage of CXone counts against rows",
        "relay/enrichment/failures.py",
        "(successes > previous.successes_before)",
        "1",
        "tests/unit/relay/enrichment/test_failures.py"
        "::test_a_failure_counts_only_after_a_success_of_another_interaction",
    ),
    Breakage(
        "data from CXone overwrites data of the row",
        "outbox/sql/flow.py",
        "customer_email = COALESCE(customer_email, r.email), agent_id = COALESCE(agent_id, r.agent),\n"
        "        enriched_at = CAST((julianday",
        "customer_email = r.email, agent_id = r.agent,\n        enriched_at = CAST((julianday",
        "tests/integration/test_enrichment.py::test_fields_are_stored_once[sqlite]",
    ),
    Breakage(
        "an outage of inference counts against calls",
        "relay/inference/circuit_breaker.py",
        "        return before.is_closed",
        "        return True",
        "tests/integration/test_inference.py::test_a_failed_probe_is_not_charged[sqlite]",
    ),
    Breakage(
        "one invalid row fails its whole batch",
        "outbox/insert.py",
        "        if len(numbered) == 1:\n            return [RowRefused",
        "        if numbered:\n            return len(numbered) * [RowRefused",
        f"{STORE}::test_each_row_of_a_batch_has_its_own_outcome[sqlite]",
    ),
    Breakage(
        "an answer has the id of another row of its batch",
        "outbox/insert.py",
        "range(cursor.lastrowid - len(nonces) + 1, cursor.lastrowid + 1)",
        "range(cursor.lastrowid, cursor.lastrowid - len(nonces), -1)",
        f"{STORE}::test_each_outcome_has_the_id_of_its_row[sqlite-3]",
    ),
    Breakage(
        "a discard ignores the nonce of planned rows",
        "outbox/sql/change.py",
        " AND outbox_parked.nonce = r.nonce",
        "",
        f"{OPERATIONS}::test_a_row_that_changed_since_it_was_planned_is_left_alone[sqlite]",
    ),
    Breakage(
        "a discard ignores that a row was parked again",
        "outbox/sql/change.py",
        " AND outbox_parked.changed_at = r.changed_at",
        "",
        f"{OPERATIONS}::test_a_row_that_was_parked_again_since_it_was_planned_is_left_alone[sqlite]",
    ),
    Breakage(
        "a retry ignores the nonce of planned rows",
        "outbox/sql/change.py",
        " AND p.nonce = r.nonce AND p.changed_at = r.changed_at\n    WHERE",
        " AND p.changed_at = r.changed_at\n    WHERE",
        f"{NAMED}[sqlite-retry]",
    ),
    Breakage(
        "a retry ignores that a row was parked again",
        "outbox/sql/change.py",
        " AND p.changed_at = r.changed_at\n    WHERE",
        "\n    WHERE",
        f"{NAMED}[sqlite-retry]",
    ),
    Breakage(
        "a retry leaves rows parked",
        "outbox/sql/change.py",
        "DELETE FROM outbox_parked\n    WHERE",
        "DELETE FROM outbox_parked\n    WHERE false AND",
        f"{NAMED}[sqlite-retry]",
    ),
    Breakage(
        "a retry of a discarded row sends it",
        "outbox/sql/change.py",
        "WHERE p.state = 'parked' AND p.shard IN",
        "WHERE p.shard IN",
        f"{NAMED}[sqlite-retry]",
    ),
    Breakage(
        "a plan includes rows that were accepted after it",
        "outbox/sql/rows.py",
        "o.id > :after AND o.id <= :last AND {where}",
        "o.id > :after AND o.id <= :last + 1000 AND {where}",
        f"{OPERATIONS}::test_a_plan_excludes_rows_that_are_accepted_later[sqlite]",
    ),
    Breakage(
        "a plan replays its own replays",
        "outbox/sql/change.py",
        "WHERE o.replay_plan IS NOT :plan",
        "WHERE :plan <> ''",
        f"{OPERATIONS}::test_a_plan_that_is_run_again_does_not_replay_its_own_rows[sqlite]",
    ),
    Breakage(
        "the audit log does not list the changed rows",
        "outbox/operators/audit.py",
        '"row_ids": json.dumps(ids)',
        '"row_ids": "[]"',
        f"{OPERATIONS}::test_a_row_that_changed_since_it_was_planned_is_left_alone[sqlite]",
    ),
    Breakage(
        "the audit entries of a row are not found",
        "migrations/versions/0001_outbox.py",
        "op.execute(LIST_AUDITED_ROWS)",
        "pass",
        f"{OPERATIONS}::test_the_entries_of_a_row_are_found[sqlite]",
    ),
    Breakage(
        "the audit does not record the filter of a plan",
        "outbox/operators/apply.py",
        "replace(context, rows=change.rows)",
        "replace(context)",
        f"{PLANNED}::test_a_prune_takes_finished_rows[sqlite]",
    ),
    Breakage(
        "a stopped change continues with the next chunk",
        "outbox/operators/apply.py",
        "if stopped():",
        "if False:",
        f"{PLANNED}::test_a_change_stops_between_chunks[sqlite]",
    ),
    Breakage(
        "a relay takes a paused shard",
        "outbox/sql/shards.py",
        "(:paused_too = 1 OR NOT EXISTS (\n" + _PAUSED_SQLITE,
        "(:paused_too >= 0 OR NOT EXISTS (\n" + _PAUSED_SQLITE,
        f"{SHARDS}::test_no_relay_takes_a_paused_shard[sqlite]",
    ),
    Breakage(
        "a relay takes every free shard",
        "relay/process/assignment.py",
        "free[: max(0, wanted - len(kept))]",
        "free",
        "tests/unit/relay/process/test_assignment.py::test_shards_are_even_and_few_move_when_relays_come_and_go",
    ),
    Breakage(
        "a reshard does not recover the old shards",
        "relay/process/reshard.py",
        "maintenance.recover(shard)",
        "str(shard)",
        "tests/integration/test_many_relays.py::test_resharding_marks_what_a_dead_relay_committed[sqlite]",
    ),
    Breakage(
        "a reshard does not check its leases at its end",
        "outbox/operators/reshard.py",
        "            lock_shard(connection, lease)",
        "            str(lease)",
        f"{SHARDS}::test_a_reshard_needs_every_lease[sqlite]",
    ),
    Breakage(
        "a reshard leaves parked rows in their old shard",
        "outbox/operators/reshard.py",
        "for move in sql.MOVES)",
        "for move in sql.MOVES[:1])",
        f"{SHARDS}::test_unsent_rows_move_to_their_new_shard[sqlite-7]",
    ),
    Breakage(
        "a reshard does not wait for rows that are being accepted",
        "outbox/sql/reshard.py",
        "LOCK TABLE outbox IN SHARE ROW EXCLUSIVE MODE",
        "LOCK TABLE outbox IN ACCESS SHARE MODE",
        f"{MOVES}::test_a_reshard_waits_for_rows_that_are_being_accepted",
    ),
    Breakage(
        "a new row is not pending on SQLite",
        "migrations/versions/0001_outbox.py",
        "        op.execute(ADD_TO_PENDING)",
        "        pass",
        f"{IN_SHARD}[sqlite]",
    ),
    Breakage(
        "a new row is pending in the first shard on SQLite",
        "migrations/versions/0001_outbox.py",
        "SELECT NEW.interaction_hash % shards, NEW.id",
        "SELECT 0, NEW.id",
        f"{IN_SHARD}[sqlite]",
    ),
    Breakage(
        "a new row is not pending on PostgreSQL",
        "outbox/sql/insert.py",
        "FROM added AS a, outbox_identity AS i",
        "FROM added AS a, outbox_identity AS i WHERE false",
        f"{IN_SHARD}[postgresql]",
    ),
    Breakage(
        "a new row is pending in the first shard on PostgreSQL",
        "outbox/sql/insert.py",
        "SELECT mod(a.interaction_hash, i.shards), a.id",
        "SELECT 0, a.id",
        f"{IN_SHARD}[postgresql]",
    ),
    Breakage(
        "a replay is not pending on PostgreSQL",
        "outbox/sql/change.py",
        "FROM added AS a, outbox_identity AS i",
        "FROM added AS a, outbox_identity AS i WHERE false",
        f"{IN_SHARD}[postgresql]",
    ),
    Breakage(
        "rows that Kafka has lost are sent again without a comparison of the nonce",
        "outbox/sql/reconcile.py",
        " AND o.nonce = r.nonce\n    JOIN outbox_sent",
        "\n    JOIN outbox_sent",
        f"{NAMED}[sqlite-send_again]",
    ),
    Breakage(
        "rows that Kafka has lost stay sent when they are sent again",
        "outbox/sql/reconcile.py",
        "DELETE FROM outbox_sent WHERE id IN",
        "DELETE FROM outbox_sent WHERE false AND id IN",
        f"{NAMED}[sqlite-send_again]",
    ),
    Breakage(
        "a record of the topic is matched to a row by id alone",
        "outbox/sql/reconcile.py",
        "json_each(:rows)) AS r\n    JOIN outbox_rows AS o ON o.id = r.id AND o.interaction_id = r.interaction_id "
        "AND o.received_at = r.received_at",
        "json_each(:rows)) AS r\n    JOIN outbox_rows AS o ON o.id = r.id",
        f"{SHARDS}::test_a_record_matches_a_row_by_id_interaction_and_time[sqlite]",
    ),
    Breakage(
        "a reconcile does not check that its plan is still valid",
        "relay/process/reconcile.py",
        "if _sequence(record) != plan.sequences[shard]:  #",
        "if False:  #",
        f"{SHARDS}::test_a_shard_that_was_sent_since_the_plan_is_left_unchanged[sqlite]",
    ),
    Breakage(
        "a running relay binds an outbox that was replaced under it",
        "outbox/sql/flow.py",
        "WHERE topic IS NULL AND outbox_id = :outbox_id",
        "WHERE topic IS NULL AND :outbox_id <> ''",
        "tests/faults/test_time_travel.py::test_a_relay_leaves_an_outbox_replaced_under_it_to_the_next_relay[sqlite]",
    ),
    Breakage(
        "a row is pruned while its inference call is due",
        "outbox/sql/prune.py",
        "c.state NOT IN ('done', :given_up)\n          )\n    )\n    RETURNING id",
        "c.state = 'none' AND :given_up <> ''\n          )\n    )\n    RETURNING id",
        f"{RETENTION}::test_only_old_rows_whose_work_is_done_are_pruned[sqlite]",
    ),
    Breakage(
        "a pending row is pruned",
        "outbox/sql/prune.py",
        "(s.id IS NOT NULL OR p.state = 'discarded')",
        "coalesce(p.state, '') <> 'parked'",
        f"{RETENTION}::test_only_old_rows_whose_work_is_done_are_pruned[sqlite]",
    ),
    Breakage(
        "the state of a pruned row stays sent",
        "outbox/sql/prune.py",
        "DELETE FROM outbox_sent\n    WHERE",
        "DELETE FROM outbox_sent\n    WHERE false AND",
        f"{NAMED}[sqlite-prune]",
    ),
    Breakage(
        "the state of a pruned row stays discarded",
        "outbox/sql/prune.py",
        "DELETE FROM outbox_parked\n    WHERE",
        "DELETE FROM outbox_parked\n    WHERE false AND",
        f"{NAMED}[sqlite-prune]",
    ),
    Breakage(
        "pruning waits for a row that is moved at the same time",
        "outbox/sql/prune.py",
        "WHERE o.id = ANY(CAST(:ids AS bigint[])) FOR UPDATE SKIP LOCKED",
        "WHERE o.id = ANY(CAST(:ids AS bigint[])) FOR UPDATE OF o SKIP LOCKED",
        f"{MOVES}::test_pruning_skips_rows_that_are_moved_at_the_same_time",
    ),
    Breakage(
        "a row committed by a lost attempt is reported as a duplicate",
        "outbox/insert.py",
        "duplicate=stored.nonce != nonce",
        "duplicate=True",
        "tests/integration/test_webhook_faults.py::test_a_commit_whose_response_is_lost_is_found",
    ),
    Breakage(
        "a read-only session stays in the pool",
        "outbox/db/errors.py",
        '"25006": Fault.READ_ONLY',
        '"25006": Fault.UNAVAILABLE',
        "tests/contract/test_lost_connections.py::test_a_session_that_became_read_only_is_replaced",
    ),
    Breakage(
        "a transaction does not see what was committed while it waited for a lock",
        "outbox/db/statement_deadline.py",
        "if isolation not in _READ_COMMITTED:",
        "if False:",
        "tests/contract/test_engine.py::test_postgresql_with_another_isolation_level_is_refused",
    ),
    Breakage(
        "a pooled connection is used without a check",
        "outbox/db/engine.py",
        "            raise DisconnectionError",
        "            pass",
        "tests/contract/test_lost_connections.py::test_sessions_that_ended_while_idle_are_replaced",
    ),
    Breakage(
        "rows are acknowledged although the database file is gone",
        "outbox/db/sqlite_files.py",
        "if before is None or (now := _identity(name)) == before:",
        "if before is None or (now := _identity(name)) != name:",
        "tests/contract/test_sqlite_files.py::test_a_row_is_not_acknowledged_if_the_file_vanishes_during_its_commit",
    ),
    Breakage(
        "the log of a replaced database is applied to the new one",
        "outbox/db/sqlite_files.py",
        "            self._set_logs_aside()",
        "            pass",
        "tests/contract/test_sqlite_files.py::test_a_replaced_file_is_reopened",
    ),
    Breakage(
        "a repeated delivery restores an erased body",
        "outbox/insert.py",
        "in (_payload_digest(row), NO_DIGEST)",
        "in (_payload_digest(row), b'')",
        f"{RETENTION}::test_a_delivery_repeated_after_the_erasure_is_still_a_duplicate[sqlite]",
    ),
    Breakage(
        "a body with an escaped address is not erased",
        "outbox/sql/rows.py",
        "OR instr(b.payload, CAST(char(92) AS BLOB)) > 0",
        "",
        f"{RETENTION}::test_an_address_is_found_however_a_body_spells_it[sqlite-escaped]",
    ),
    Breakage(
        "other users can read the database file",
        "outbox/db/private_file.py",
        "0o600",
        "0o644",
        "tests/integration/test_data_at_rest.py::test_every_file_of_a_database_is_private_to_its_owner",
    ),
    Breakage(
        "a replay goes to a topic that is not allowed",
        "relay/kafka/encoder.py",
        "if row.topic not in self._prefixes:",
        "if row.topic not in self._prefixes and self._prefixes.update({row.topic: self._prefixes[None]}):",
        "tests/integration/test_operators_beside_relay.py::test_a_replay_goes_only_to_an_allowed_topic[sqlite]",
    ),
    Breakage(
        "a check uses the transactional id of a shard",
        "relay/check/transactions.py",
        'transactional_id = f"{settings.kafka_transactional_id_prefix}check"',
        'transactional_id = f"{settings.kafka_transactional_id_prefix}01"',
        "tests/integration/test_check.py::test_a_check_harms_no_running_relay[sqlite]",
    ),
    Breakage(
        "a payload is revealed without an audit entry",
        "outbox/operators/row_history.py",
        'audit.add(connection, "reveal", context, [row_id])',
        "0",
        "tests/integration/test_show.py::test_a_revealed_payload_is_audited[sqlite]",
    ),
    Breakage(
        "an unanswered commit counts as aborted and its rows are sent again",
        "relay/shard/worker.py",
        "        offset = self._commit(owned, batch, value)\n",
        "        try:\n"
        "            offset = self._commit(owned, batch, value)\n"
        "        except RelayError:\n"
        "            owned.publisher.close()\n"
        "            owned.publisher = self._services.clients.publisher(self.shard, self._stop.is_set)\n"
        "            owned.publisher.fence()\n"
        "            offset = self._commit(owned, batch, value)\n",
        "tests/faults/test_unknown_outcomes.py::test_a_relay_recovers_from_a_commit_that_is_not_answered_in_time"
        "[response-held]",
    ),
    Breakage(
        "a new owner does not fence the one before it",
        "relay/kafka/shard_clients.py",
        'return f"{prefix}{shard + 1:02d}"',
        'return f"{prefix}{shard + 1:02d}{__import__("os").getpid()}"',
        "tests/faults/test_frozen_owner.py::test_an_owner_frozen_in_its_cycle_resumes_after_a_takeover[sqlite-encoded]",
    ),
    Breakage(
        "a commit is not synced to disk",
        "outbox/db/engine.py",
        '"synchronous": 2',
        '"synchronous": 0',
        "tests/faults/test_lost_cache.py::test_accepted_rows_survive_a_lost_page_cache[all_lost]",
    ),
    Breakage(
        "a commit is synced to disk only at the next checkpoint",
        "outbox/db/engine.py",
        '"synchronous": 2',
        '"synchronous": 1',
        "tests/faults/test_lost_cache.py::test_accepted_rows_survive_a_lost_page_cache[all_lost]",
    ),
    Breakage(
        "the webhook answers before the commit",
        "app/group_commit.py",
        "        if not pending.done.acquire(timeout=seconds):",
        "        return __import__('outbox.models').models.Accepted(1, row.interaction_id, False)\n"
        "        if not pending.done.acquire(timeout=seconds):",
        "tests/integration/test_webhook.py::test_a_locked_database_answers_503_and_recovers",
    ),
    Breakage(
        "a batch waits for requests that were refused",
        "app/gunicorn_worker.py",
        "            self._webhook.committer.dismiss(connection.arrival)",
        "            pass",
        "tests/integration/test_under_way.py::test_a_refused_request_is_not_waited_for[invalid]",
    ),
    Breakage(
        "a batch does not wait for requests under way",
        "app/group_commit.py",
        "            self._changed.wait_for(self._is_complete, self._linger_seconds)\n",
        "",
        "tests/integration/test_group_commit.py::test_a_batch_waits_for_requests_under_way[sqlite]",
    ),
    Breakage(
        "a takeover fails while the coordinator moves",
        "relay/kafka/producer.py",
        "        KafkaError.NOT_COORDINATOR,\n",
        "",
        "tests/faults/test_kafka_failover.py::test_fencing_waits_while_the_coordinator_moves[16]",
    ),
    Breakage(
        "an unanswered commit counts as committed",
        "relay/kafka/producer.py",
        "            if not committing:\n                self._cancel()",
        "            if committing:\n                return\n"
        "            if not committing:\n                self._cancel()",
        f"{MACHINE}[sqlite]",
    ),
    Breakage(
        "the console checks no role",
        "console/access.py",
        "if user is None or user.role < role:",
        "if user is None:",
        f"{CONSOLE}/test_protection.py::test_a_role_is_checked_at_the_action[2]",
    ),
    Breakage(
        "a session outlives its user's line",
        "console/file_login.py",
        ' and kept.get("mark") == line.mark',
        "",
        f"{CONSOLE}/test_file_login.py::test_a_changed_line_ends_its_sessions[another password]",
    ),
    Breakage(
        "polling keeps a session alive",
        "console/sessions.py",
        'is_polled = request.method == "GET" and "HX-Request" in request.headers',
        "is_polled = False",
        f"{CONSOLE}/test_file_login.py::test_polling_does_not_keep_a_session_alive",
    ),
    Breakage(
        "the console accepts forms of other origins",
        "console/protection.py",
        'return origin in (f"http://{request.host}", f"https://{request.host}")',
        "return True",
        f"{CONSOLE}/test_protection.py::test_a_form_of_another_origin_does_nothing[headers10-403]",
    ),
    Breakage(
        "the console believes whoever knows the proxy's secret",
        "console/proxy_login.py",
        "return hmac.compare_digest(given, self._secret) and peer_is_listed(self._peers)",
        "return hmac.compare_digest(given, self._secret)",
        f"{CONSOLE}/test_proxy_login.py::test_anybody_else_is_refused[changed0-10.2.0.1]",
    ),
    Breakage(
        "the nonce of an ID token is not checked",
        "console/oidc_provider.py",
        '"nonce": nonce, "access_token"',
        '"access_token"',
        f"{CONSOLE}/test_oidc_provider.py::test_a_wrong_id_token_lets_nobody_in[another nonce]",
    ),
    Breakage(
        "an ID token for another client signs in",
        "console/oidc_provider.py",
        '                "aud": {"essential": True, "value": self.client_id},\n',
        "",
        f"{CONSOLE}/test_oidc_provider.py::test_a_wrong_id_token_lets_nobody_in[another audience, by us]",
    ),
    Breakage(
        "an OpenID provider's answer signs any browser in",
        "console/oidc_login.py",
        'login.take(state) if request.args.get("state") == state else None',
        'login.take(request.args.get("state", ""))',
        f"{CONSOLE}/test_oidc_login.py::test_an_answer_is_for_the_browser_that_asked",
    ),
    Breakage(
        "every user of the OpenID provider may read",
        "console/oidc_login.py",
        'return User(kept["name"], max(roles)) if roles else None',
        'return User(kept["name"], max(roles, default=Role.VIEWER))',
        f"{CONSOLE}/test_oidc_login.py::test_changed_settings_apply_to_sessions[before2-changed2-None]",
    ),
    Breakage(
        "a plan of the console can be taken twice",
        "console/plans.py",
        "return self._kept.pop(plan_id)",
        "return kept",
        f"{CONSOLE}/test_plans.py::test_a_plan_is_taken_once",
    ),
    Breakage(
        "the console confirms for any role",
        "console/pages/plans.py",
        "user = require_role(role_for(kept.change.verb))",
        "user = require_role(Role.VIEWER)",
        "tests/contract/test_console_changes.py::test_each_verb_takes_its_role[sqlite-viewer-retry]",
    ),
    Breakage(
        "the console does not compare the number that was typed",
        "console/pages/plans.py",
        "if kept.change.verb in COUNTED_VERBS and count != total:",
        "if False:",
        "tests/contract/test_console_changes.py::"
        "test_a_confirmation_that_cannot_be_used_changes_nothing[sqlite-fields5-type the number of rows, 2]",
    ),
    Breakage(
        "ticking nothing selects every row of the state",
        "console/pages/plans.py",
        'if "ids" in request.form:',
        'if request.form.get("ids"):',
        "tests/contract/test_console_plans.py::test_what_cannot_be_planned_is_said[sqlite-fields3-nothing is selected]",
    ),
    Breakage(
        "a change of the console cannot be stopped",
        "console/changes.py",
        "self._stop.is_set() or not",
        "not",
        "tests/contract/test_console_changes.py::test_a_change_is_stopped_and_its_rest_planned[sqlite]",
    ),
    Breakage(
        "the rest of a change takes what came later",
        "console/pages/changes.py",
        "change.asked.until(change.last_received_ms + 1)",
        "change.asked",
        "tests/contract/test_console_changes.py::test_a_change_is_stopped_and_its_rest_planned[sqlite]",
    ),
    Breakage(
        "a plan of the console is shown to other sessions",
        "console/plans.py",
        "return kept if kept is not None and kept.owner == owner else None",
        "return kept",
        f"{CONSOLE}/test_plans.py::test_a_plan_is_of_one_session",
    ),
    Breakage(
        "the console shows content to operators",
        "console/pages/reveal.py",
        "require_role(Role.CUSTODIAN)",
        "require_role(Role.OPERATOR)",
        f"{REVEAL}::test_nobody_else_sees_the_content[sqlite-operator]",
    ),
    Breakage(
        "the console shows content that is not on record",
        "outbox/operators/row_history.py",
        'audit.add(connection, "reveal", context, [row_id])',
        "0",
        f"{REVEAL}::test_a_custodian_sees_the_content_on_record[sqlite]",
    ),
    Breakage(
        "the console shows content without a reason",
        "console/pages/query.py",
        'self.errors["reason"] = str(error) if typed else "say why: the audit log keeps it"',
        "pass",
        f"{REVEAL}::test_without_a_reason_nothing_is_shown[sqlite--say why]",
    ),
    Breakage(
        "the console lets viewers resume",
        "console/pages/pauses.py",
        'of every shard."""\n    user = require_role(Role.OPERATOR)',
        'of every shard."""\n    user = require_role(Role.VIEWER)',
        "tests/contract/test_console_pauses.py::test_a_viewer_neither_pauses_nor_resumes[sqlite-/shards/resume]",
    ),
    Breakage(
        "a record is taken for that of any row with its id",
        "relay/verify/comparison.py",
        "                and identities[place] == hash((key, received, number)) & HASH_BITS\n",
        "",
        f"{VERIFICATION}::test_a_record_in_the_topic_of_replays_is_unknown[sqlite]",
    ),
    Breakage(
        "a verification does not notice a second record",
        "relay/verify/comparison.py",
        "self._verdict.found(Fault.DOUBLED, _sample(row_id, topic, message))",
        "pass",
        f"{VERIFICATION}::test_each_record_once_is_no_finding[sqlite]",
    ),
    Breakage(
        "a verification does not compare the order",
        "relay/verify/comparison.py",
        "found.late.append(_Late(of_partition[slot], _sample(row_id, topic, message)))",
        "pass",
        f"{VERIFICATION}::test_the_order_within_an_interaction_counts[sqlite]",
    ),
    Breakage(
        "a verification takes later rows of the same page for earlier ones",
        "relay/verify/comparison.py",
        "key=lambda row_id: place.get(row_id, -1)",
        "reverse=True",
        f"{VERIFICATION}::test_interactions_that_share_a_slot_are_told_apart[sqlite]",
    ),
    Breakage(
        "a verification takes an erased row for a changed one",
        "relay/verify/comparison.py",
        "Note.ERASED if sample.id in erased else Fault.CHANGED",
        "Fault.CHANGED",
        f"{VERIFICATION}::test_an_erased_row_is_not_compared[sqlite]",
    ),
    Breakage(
        "a verification takes pruned rows for unknown ones",
        "relay/verify/comparison.py",
        "return kept_ms is not None and",
        "return False and",
        f"{VERIFICATION}::test_a_pruned_row_is_not_unknown[sqlite]",
    ),
    Breakage(
        "a verification judges rows whose record may be behind the end of the topic",
        "relay/verify/comparison.py",
        " or sent_at_ms >= ends_at_ms",
        "",
        f"{VERIFICATION}::test_a_row_is_missing_only_if_its_record_must_have_been_read[sqlite]",
    ),
    Breakage(
        "a verification does not say which rows are missing",
        "relay/verify/verifier.py",
        "        self._judge_sent(admin)\n",
        "",
        f"{VERIFY}::test_each_planted_fault_is_found_with_its_kind[sqlite]",
    ),
    Breakage(
        "a verification takes records that the topic removed for missing ones",
        "relay/verify/verifier.py",
        "Note.EXPIRED if row_id in expired else Fault.MISSING",
        "Fault.MISSING",
        f"{VERIFY}::test_what_cannot_be_compared_is_told[sqlite]",
    ),
    Breakage(
        "a verification takes rows that were pruned meanwhile for missing ones",
        "relay/verify/verifier.py",
        "if kept_ms + MARGIN_MS > self._since_ms:",
        "if False:",
        f"{VERIFY}::test_a_row_that_is_pruned_meanwhile_is_not_missing[sqlite]",
    ),
    Breakage(
        "a verification compares the order of requests that overlap",
        "relay/verify/comparison.py",
        "return overlapping - retried | resent",
        "return resent",
        f"{VERIFICATION}::test_rows_of_requests_that_overlap_have_no_order[postgresql-1-900-reordered]",
    ),
    Breakage(
        "a verification excuses the order of requests that overlap where ids are in the order of commits",
        "relay/verify/comparison.py",
        "if not self._outbox.commits_by_id:",
        "if True:",
        f"{VERIFICATION}::test_rows_of_requests_that_overlap_have_no_order[sqlite-1-900-reordered]",
    ),
    Breakage(
        "a verification excuses a row that overlaps one of the later rows only",
        "relay/verify/comparison.py",
        "if all(_overlap(",
        "if any(_overlap(",
        f"{VERIFICATION}::test_a_row_has_to_overlap_all_later_ones_that_were_sent_before_it[postgresql]",
    ),
    Breakage(
        "a verification compares the order across partitions",
        "relay/verify/comparison.py",
        "read[self._table.partition_of(row_id)]",
        "read[0]",
        f"{VERIFICATION}::test_the_order_between_partitions_does_not_count_in_a_shared_slot[sqlite]",
    ),
    Breakage(
        "a record is changed because the registry is down",
        "relay/verify/content.py",
        "if error.refusal in LACKING:",
        "if True:",
        "tests/unit/relay/verify/test_content.py::test_a_registry_that_refuses_says_nothing_about_a_record[503-0]",
    ),
    Breakage(
        "a watch goes on in a topic that was created again",
        "relay/verify/verifier.py",
        "if self._topic_ids.setdefault(topic, found) != found:",
        "if False:",
        f"{VERIFY}::test_a_watch_begins_anew_in_a_topic_that_was_created_again[sqlite-8-True]",
    ),
    Breakage(
        "series of the webhook begin with their first event",
        "app/factory.py",
        "metrics.initialise(settings.secrets())",
        "pass",
        "tests/integration/test_metrics_page.py::test_every_series_of_the_webhook_exists_before_its_first_event",
    ),
    Breakage(
        "a new web process answers its first scrape without the backlog",
        "app/backlog_metrics.py",
        "self._has_tried.wait(FIRST_COUNT_SECONDS)",
        "pass",
        "tests/integration/test_backlog_metrics.py::test_a_replaced_process_leaves_no_gap",
    ),
    Breakage(
        "a row is accepted as a duplicate that only the primary has",
        "outbox/sql/insert.py",
        "    FOR KEY SHARE OF i\n",
        "",
        f"{ACCEPTED}[primary restarted]",
    ),
    Breakage(
        "a row is accepted although its commit is no longer waited for",
        "outbox/db/statement_deadline.py",
        "        if self._is_unreplicated:",
        "        if False:",
        f"{ACCEPTED}[cancelled]",
    ),
    Breakage(
        "a relay selects a row that only the primary has",
        "outbox/store.py",
        "            _require_replicated(connection)\n",
        "",
        "tests/faults/test_replicated.py::test_a_relay_selects_no_row_that_only_the_primary_has",
    ),
    Breakage(
        "a lone surrogate is accepted",
        "app/validation.py",
        "if _SURROGATE.search(text):",
        "if False:",
        f"{FUZZ}[webhook]",
    ),
    Breakage(
        "a schema id that does not fit into a record is used",
        "relay/kafka/schema_registry.py",
        "if type(found) is not int or not 0 <= found < 2**31:",
        "if type(found) is not int:",
        f"{FUZZ}[registry]",
    ),
    Breakage(
        "what an OpenID provider said of itself is kept after a login failed",
        "console/oidc_provider.py",
        "self._cache.clear()",
        "pass",
        f"{FUZZ}[oidc]",
    ),
    Breakage(
        "a record that was changed on its way is read",
        "relay/kafka/consumer.py",
        '"check.crcs": True,',
        '"check.crcs": False,',
        "tests/faults/test_changed_records.py::test_a_record_that_was_changed_on_its_way_is_not_read",
    ),
]


def link(source: str, target: str) -> None:
    """Link a file instead of copying it, if both are on one file system: a copy takes a second."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


@pytest.mark.parametrize("breakage", BREAKAGES, ids=lambda breakage: breakage.name.replace(" ", "-"))
def test_a_breakage_is_noticed(
    breakage: Breakage, kafka: Kafka | ExternalService, registry: Registry | ExternalService, tmp_path: Path
) -> None:
    """The named test fails on a copy of the product in which the rule is left out."""
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, copy / name, copy_function=link)  # compiled modules as well: each start is quicker
        else:
            shutil.copy(source, copy / name)
    file = copy / breakage.file
    original = file.read_text()
    file.unlink()  # not written to: it may be the original
    assert original.count(breakage.text) == 1, f"{breakage.file} does not hold the text once: {breakage.text}"
    file.write_text(original.replace(breakage.text, breakage.instead))
    environ = {
        **os.environ,
        "KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap_servers,
        "SCHEMA_REGISTRY_URL": registry.url,
        "SCHEMA_REGISTRY_USERNAME": registry.username,
        "SCHEMA_REGISTRY_PASSWORD": registry.password,
        "TEST_DEADLINE_SECONDS": "20",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # a third of the start
    }
    if breakage.file.startswith("migrations/"):
        del environ[TEMPLATES]  # databases of the original
    command = [
        *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "pytest_timeout"),
        f"--basetemp={tmp_path / 'temporary'}",  # in the shared one, sessions that end together fail on each other
        breakage.noticed_by,
    ]
    done = subprocess.run(command, cwd=copy, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 1, f"not noticed by {breakage.noticed_by}:\n{done.stdout[-2000:]}"
    assert "1 failed" in done.stdout, f"{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
