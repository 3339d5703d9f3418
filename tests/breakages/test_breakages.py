"""Mutation tests: each breakage leaves one rule out of the product, and a named test must fail.

The product is copied, one piece of source text is replaced, and the test that guards the rule runs on the copy.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from testkit import ROOT
from testkit.services import ExternalService, Kafka, Registry

COPIED = (
    "app",
    "config",
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
SHARDS = "tests/contract/test_shards.py"
CALLS = "tests/contract/test_inference_queue.py"
MACHINE = "tests/model/test_state_machine.py::test_exactly_once_through_everything_that_may_happen"
LOST = "tests/model/test_lost_rows.py"
STORE, KILLS = "tests/contract/test_store.py", "tests/faults/test_kill_at_each_step.py"


class Breakage(NamedTuple):
    """One rule left out."""

    name: str
    """What the product does without the rule."""
    file: str
    text: str
    """Source text of the rule, which occurs once in the file."""
    instead: str
    """What replaces the text."""
    noticed_by: str
    """The test that must fail."""


BREAKAGES = [
    Breakage(
        "a new owner does not read back the last progress record",
        "relay/shard/worker.py",
        "record = self._services.read_back(self.shard)",
        "record = None",
        f"{KILLS}::test_kill_in_the_first_cycle[sqlite-committed]",
    ),
    Breakage(
        "a transaction has no progress record",
        "relay/kafka/producer.py",
        "[proof])",
        "[])",
        f"{KILLS}::test_kill_in_the_first_cycle[sqlite-committed]",
    ),
    Breakage(
        "rows are marked before their transaction is committed",
        "relay/shard/worker.py",
        'self._step("encoded")',
        'self._mark(held, progress.ref_of(sequence, 2**40, proof), refs); self._step("encoded")',
        f"{KILLS}::test_kill_in_the_first_cycle[sqlite-encoded]",
    ),
    Breakage(
        "a mark ignores the nonce of rows",
        "outbox/sql/flow.py",
        "outbox.nonce = r.nonce AND outbox.{_UNSENT}",
        "outbox.{_UNSENT}",
        f"{STORE}::test_a_mark_names_id_and_tag[sqlite]",
    ),
    Breakage(
        "parking ignores the nonce of rows",
        "outbox/sql/flow.py",
        "WHERE id = :id AND nonce = :nonce AND shard",
        "WHERE id = :id AND (nonce = :nonce OR true) AND shard",
        f"{STORE}::test_a_parked_row_names_id_and_tag[sqlite]",
    ),
    Breakage(
        "only pending rows are marked, not parked or discarded ones",
        "outbox/sql/flow.py",
        "state IN ('pending', 'parked', 'discarded')\"\n_SENT",
        "state IN ('pending')\"\n_SENT",
        f"{STORE}::test_what_a_progress_record_proves_is_marked_in_every_unsent_state[sqlite]",
    ),
    Breakage(
        "a mark acknowledges a record of any sequence",
        "outbox/store.py",
        "elif verdict is Verdict.IN_ORDER and found is not None and",
        "elif found is not None and",
        f"{STORE}::test_a_sequence_is_settled_only_from_the_one_before[sqlite]",
    ),
    Breakage(
        "a sequence that skips one is acknowledged",
        "outbox/verdicts.py",
        "if found.sequence > settled + 1:",
        "if False:",
        f"{STORE}::test_a_record_further_ahead_marks_nothing[sqlite]",
    ),
    Breakage(
        "a relay selects rows without comparing the acknowledged sequence of its lease",
        "outbox/store.py",
        "if row.acknowledged_sequence != lease.acknowledged_sequence:",
        "if False:",
        f"{STORE}::test_a_sequence_is_settled_only_from_the_one_before[sqlite]",
    ),
    Breakage(
        "the select statement ignores the acknowledged sequence",
        "outbox/sql/flow.py",
        "AND epoch = :epoch\n                    AND acknowledged_sequence = :acknowledged_sequence)",
        "AND epoch = :epoch)",
        f"{STORE}::test_rows_are_not_selected_when_another_sequence_is_settled[sqlite]",
    ),
    Breakage(
        "a mark of pending rows ignores the nonce",
        "outbox/sql/flow.py",
        "BETWEEN :first_id AND :last_id AND nonce {{nonces}}",
        "BETWEEN :first_id AND :last_id AND (true OR nonce {{nonces}})",
        f"{STORE}::test_a_mark_names_id_and_tag[sqlite]",
    ),
    Breakage(
        "the lease is not checked under the row lock",
        "outbox/store.py",
        "    _insist_on(lease, row.owner, row.epoch)\n    return _progress(row)",
        "    return _progress(row)",
        f"{STORE}::test_who_lost_the_lease_neither_selects_settles_marks_nor_parks[sqlite]",
    ),
    Breakage(
        "a mark needs no lease",
        "outbox/store.py",
        "            shard = _lock(connection, lease)\n"
        "            verdict = _settle(connection, lease.shard, shard, record)\n"
        "            marked = _mark(",
        "            shard = self.progress_of(lease.shard)\n"
        "            verdict = _settle(connection, lease.shard, shard, record)\n"
        "            marked = _mark(",
        f"{LOST}::test_a_commit_that_is_marked_too_late_is_read_back_by_whoever_has_the_shard[sqlite]",
    ),
    Breakage(
        "a record older than the acknowledged one is accepted",
        "outbox/verdicts.py",
        "if found.sequence < settled:",
        "if False:",
        f"{STORE}::test_a_record_that_the_release_before_has_settled_past_counts_for_nothing[sqlite]",
    ),
    Breakage(
        "any record of the acknowledged sequence is accepted as the acknowledged one",
        "outbox/verdicts.py",
        "found == known if",
        "True if",
        f"{STORE}::test_what_was_settled_has_to_be_the_last_record_or_the_one_before_it[sqlite-found4-kafka_went_back]",
    ),
    Breakage(
        "the offset of the next progress record is not compared",
        "outbox/verdicts.py",
        "else found.offset > known.offset",
        "else True",
        f"{LOST}::test_the_next_transaction_of_a_running_relay_stands_no_further_on[sqlite]",
    ),
    Breakage(
        "a record that shows that Kafka went back is acknowledged",
        "outbox/store.py",
        "elif verdict is Verdict.IN_ORDER and found",
        "elif verdict in {Verdict.IN_ORDER, Verdict.KAFKA_WENT_BACK} and found",
        f"{STORE}::test_a_mark_that_finds_kafka_gone_back_settles_nothing[sqlite]",
    ),
    Breakage(
        "the acknowledged record is kept when the progress topic is lost",
        "outbox/store.py",
        "if verdict is Verdict.PROGRESS_LOST:",
        "if False:",
        f"{STORE}::test_what_was_settled_has_to_be_the_last_record_or_the_one_before_it[sqlite-None-progress_lost]",
    ),
    Breakage(
        "an idle shard does not check the last progress record",
        "relay/shard/worker.py",
        "if monotonic() >= held.look_at and",
        "if not held and",
        f"{LOST}::test_an_idle_shard_looks_at_the_last_record_about_once_a_minute[sqlite]",
    ),
    Breakage(
        "a reconcile writes no progress record",
        "relay/process/lost_rows.py",
        "    record = _write(held, each, max(done.shard.acknowledged_sequence, ref.sequence if ref else 0))\n",
        "    record = progress.ref_of(max(done.shard.acknowledged_sequence, ref.sequence if ref else 0), 99, b'')\n",
        f"{LOST}::test_a_reconcile_marks_what_the_last_record_proves[sqlite]",
    ),
    Breakage(
        "a reconcile does not mark the rows in the last progress record",
        "relay/process/lost_rows.py",
        "ref, refs = (found.ref, found.progress.refs) if found",
        "ref, refs = (found.ref, ()) if found",
        f"{LOST}::test_a_reconcile_marks_what_the_last_record_proves[sqlite]",
    ),
    Breakage(
        "a reconcile of lost rows does not check that its plan is still valid",
        "relay/process/lost_rows.py",
        "if found != loss.look.found:",
        "if False:",
        f"{LOST}::test_a_shard_whose_last_record_is_another_one_than_planned_is_left_as_it_is[sqlite]",
    ),
    Breakage(
        "records removed by retention are treated as lost",
        "relay/process/lost_rows.py",
        "row.received_at_ms >= kept_ms and ",
        "kept_ms >= 0 and ",
        f"{LOST}::test_where_the_topic_was_cut_nothing_is_taken_for_lost",
    ),
    Breakage(
        "rows that Kafka may have lost are pruned while their shard waits",
        "outbox/sql/operators.py",
        "s.shard = o.shard AND s.condition LIKE",
        "false AND s.condition LIKE",
        f"{LOST}::test_rows_that_kafka_may_have_lost_are_not_pruned_while_their_shard_waits[sqlite]",
    ),
    Breakage(
        "the select reads only as many rows as fit the next transaction",
        "relay/shard/worker.py",
        "lease, self._batch.window, block",
        "lease, limit, block",
        "tests/model/test_waiting_rows.py::"
        "test_a_row_that_waits_at_the_head_of_a_small_batch_holds_up_no_other[sqlite]",
    ),
    Breakage(
        "taking a lease does not increment the epoch",
        "outbox/sql/shards.py",
        "epoch = epoch + 1",
        "epoch = epoch",
        f"{STORE}::test_who_lost_the_lease_neither_selects_settles_marks_nor_parks[sqlite]",
    ),
    Breakage(
        "rows are selected although an earlier row of their interaction is parked",
        "outbox/sql/flow.py",
        "AND p.id < o.id",
        "AND p.id < o.id AND false",
        f"{STORE}::test_a_row_waits_behind_a_parked_row_of_its_interaction_only[sqlite]",
    ),
    Breakage(
        "every row of a rejected batch is parked",
        "relay/shard/worker.py",
        "if culprit is not None:\n            self._suspects = {culprit.ref: reason}",
        "if rows:\n            self._suspects = {row.ref: reason for row in rows}",
        "tests/faults/test_parking.py::test_a_relay_killed_before_it_parks_leaves_the_right_row_to_be_parked[sqlite]",
    ),
    Breakage(
        "a shard keeps parking rows although the topic accepts none",
        "relay/shard/batch_size.py",
        "if self._parked >= MOST_PARKED:",
        "if False:",
        "tests/unit/relay/shard/test_batch_size.py::test_when_nothing_passes_no_row_is_at_fault",
    ),
    Breakage(
        "a rejected progress record counts as a rejected row",
        "relay/kafka/producer.py",
        "if topic == self._progress_topic:",
        "if False:",
        "tests/faults/test_parking.py::test_a_rejected_progress_record_parks_no_row[sqlite]",
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
        "            if not asked:\n                self._abort()",
        "            if not asked:\n                self._abort()\n                self.publish(records, progress)\n"
        "                return",
        "tests/faults/test_parking.py::test_with_the_skip_policy_no_row_waits_behind_a_parked_one[sqlite]",
    ),
    Breakage(
        "a mark does not make inference calls due",
        "outbox/store.py",
        "if inference and marked:",
        "if False:",
        f"{KILLS}::test_kill_between_commit_and_mark_makes_inference_calls_due[sqlite]",
    ),
    Breakage(
        "a call is claimed before earlier calls of its interaction",
        "outbox/sql/inference_queue.py",
        """AND c.row_id = {_FIRST.replace("{of}", "c.interaction_id")}""",
        "",
        f"{CALLS}::test_calls_behind_others_are_moved_out_of_the_way_of_claims[sqlite]",
    ),
    Breakage(
        "a finished call does not make the next one of its interaction due",
        "outbox/inference_queue.py",
        "connection.execute(sql.WAKE_NEXT.on(connection), parameters)",
        "dict(parameters)",
        f"{CALLS}::test_the_end_of_a_call_wakes_the_next_of_its_interaction[sqlite]",
    ),
    Breakage(
        "a late failure ends another worker's claim",
        "outbox/sql/inference_queue.py",
        "TRY_AGAIN = statement(*_settlement(_ANSWERED, _OURS))",
        'TRY_AGAIN = statement(*_settlement(_ANSWERED, ""))',
        f"{CALLS}::test_a_claim_that_ran_out_is_taken_up_and_its_late_results_do_no_harm[sqlite]",
    ),
    Breakage(
        "a finished call makes a call due that is already claimed",
        "outbox/sql/inference_queue.py",
        "AND state = 'due' AND claimed_by IS NULL AND due_at > (SELECT {{now}})",
        "AND state = 'due' AND due_at > (SELECT {{now}})",
        f"{CALLS}::test_the_end_of_a_call_leaves_the_rest_of_its_run_in_hand[sqlite]",
    ),
    Breakage(
        "an outage of CXone counts against rows",
        "relay/enrichment/enricher.py",
        "(told > before.told_before)",
        "1",
        "tests/unit/relay/enrichment/test_enricher.py::test_a_failure_counts_only_if_others_were_told_of_since_the_one_before",
    ),
    Breakage(
        "data from CXone overwrites data of the row",
        "outbox/sql/flow.py",
        "customer_email = COALESCE(customer_email, r.email), agent_id = COALESCE(agent_id, r.agent)",
        "customer_email = r.email, agent_id = r.agent",
        "tests/integration/test_enrichment.py::test_learning_names_the_row_and_is_done_once[sqlite]",
    ),
    Breakage(
        "an outage of inference counts against calls",
        "relay/inference/worker.py",
        "        return before.closed",
        "        return True",
        "tests/integration/test_inference.py::test_a_probe_that_fails_is_not_charged[sqlite]",
    ),
    Breakage(
        "one invalid row fails its whole batch",
        "outbox/insert.py",
        "        if len(rows) == 1:\n            return [RowRefused",
        "        if rows:\n            return len(rows) * [RowRefused",
        f"{STORE}::test_each_row_of_a_batch_keeps_its_own_outcome[sqlite]",
    ),
    Breakage(
        "an answer has the id of another row of its batch",
        "outbox/insert.py",
        "range(cursor.lastrowid - len(rows) + 1, cursor.lastrowid + 1)",
        "range(cursor.lastrowid, cursor.lastrowid - len(rows), -1)",
        f"{STORE}::test_each_answer_names_its_own_row[sqlite-3]",
    ),
    Breakage(
        "a retry ignores the nonce of planned rows",
        "outbox/sql/operators.py",
        '_AS_PLANNED = "outbox.id = r.id AND outbox.nonce = r.nonce AND',
        '_AS_PLANNED = "outbox.id = r.id AND',
        f"{OPERATIONS}::test_what_changed_since_the_plan_is_left_alone[sqlite]",
    ),
    Breakage(
        "a plan ignores that a row was parked again",
        "outbox/sql/operators.py",
        "AND coalesce(outbox.changed_at, 0) = r.changed_at",
        "",
        f"{OPERATIONS}::test_a_row_parked_again_since_the_plan_is_left_alone[sqlite]",
    ),
    Breakage(
        "a plan includes rows that were accepted after it",
        "outbox/sql/operators.py",
        "o.id > :after AND o.id <= :last {{conditions}}",
        "o.id > :after AND o.id <= :last + 1000 {{conditions}}",
        f"{OPERATIONS}::test_rows_accepted_after_the_plan_are_none_of_it[sqlite]",
    ),
    Breakage(
        "a plan replays its own replays",
        "outbox/sql/operators.py",
        "WHERE o.state IN ('sent', 'discarded') AND substr(o.key, 1, length(:prefix)) <> :prefix",
        "WHERE o.state IN ('sent', 'discarded') AND :prefix <> ''",
        f"{OPERATIONS}::test_a_plan_given_again_does_not_replay_itself[sqlite]",
    ),
    Breakage(
        "the audit log does not list the changed rows",
        "outbox/operators/audit.py",
        "context.reason, json.dumps(ids), os_user())",
        "order.reason, '[]', os_user())",
        f"{OPERATIONS}::test_what_changed_since_the_plan_is_left_alone[sqlite]",
    ),
    Breakage(
        "a relay takes a paused shard",
        "outbox/sql/shards.py",
        "(:paused_too = 1 OR",
        "(:paused_too >= 0 OR",
        f"{SHARDS}::test_a_paused_shard_is_taken_by_no_relay[sqlite]",
    ),
    Breakage(
        "a relay takes every free shard",
        "relay/process/assignment.py",
        "free[: max(0, wanted - len(kept))]",
        "free",
        "tests/unit/relay/process/test_assignment.py::test_shards_are_even_and_few_move_when_relays_come_and_go",
    ),
    Breakage(
        "a reshard does not mark what a dead relay had committed",
        "relay/cli/reshard.py",
        "worker.settle(each)",
        "str(each)",
        "tests/integration/test_many_relays.py::test_resharding_settles_what_a_dead_relay_had_committed[sqlite]",
    ),
    Breakage(
        "a reshard does not check its leases at its end",
        "outbox/operators/reshard.py",
        "            _lock(connection, lease)",
        "            str(lease)",
        f"{SHARDS}::test_a_reshard_needs_every_lease[sqlite]",
    ),
    Breakage(
        "a record of the topic is matched to a row by id alone",
        "outbox/sql/shards.py",
        "json_each(:records)) AS r\n    JOIN outbox AS o ON o.id = r.id AND o.interaction_id = r.interaction_id "
        "AND o.received_at = r.received_at",
        "json_each(:records)) AS r\n    JOIN outbox AS o ON o.id = r.id",
        f"{SHARDS}::test_a_record_is_a_row_only_if_id_interaction_and_time_match[sqlite]",
    ),
    Breakage(
        "a reconcile does not check that its plan is still valid",
        "relay/cli/reconcile.py",
        "if _sequence(record) != plan.sequences[shard]:  #",
        "if False:  #",
        f"{SHARDS}::test_a_shard_that_was_sent_since_the_plan_is_left_as_it_is[sqlite]",
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
        "outbox/sql/operators.py",
        "c.row_id = {row}.id AND c.state NOT IN ('done', :given_up)",
        "c.row_id = {row}.id AND c.state = 'none' AND :given_up <> ''",
        f"{RETENTION}::test_only_what_is_settled_and_old_is_pruned[sqlite]",
    ),
    Breakage(
        "a pending row is pruned",
        "outbox/sql/operators.py",
        "{row}.state IN ('sent', 'discarded') AND NOT EXISTS",
        "{row}.state <> 'parked' AND NOT EXISTS",
        f"{RETENTION}::test_only_what_is_settled_and_old_is_pruned[sqlite]",
    ),
    Breakage(
        "a row committed by a lost attempt is reported as a duplicate",
        "outbox/insert.py",
        "duplicate=found_nonce != nonce",
        "duplicate=True",
        "tests/integration/test_webhook_faults.py::test_a_commit_without_an_answer_is_found_and_accepted",
    ),
    Breakage(
        "a read-only session stays in the pool",
        "outbox/db/errors.py",
        '"25006": Fault.READ_ONLY',
        '"25006": Fault.UNAVAILABLE',
        "tests/contract/test_lost_connections.py::test_a_session_that_turned_read_only_costs_nobody",
    ),
    Breakage(
        "a pooled connection is used without a check",
        "outbox/db/engine.py",
        "            raise DisconnectionError",
        "            pass",
        "tests/contract/test_lost_connections.py::test_sessions_that_were_closed_while_idle_cost_nobody",
    ),
    Breakage(
        "rows are acknowledged although the database file is gone",
        "outbox/db/sqlite_files.py",
        "if before is None or (now := _identity(name)) == before:",
        "if before is None or (now := _identity(name)) != name:",
        "tests/contract/test_sqlite_files.py::test_a_file_that_vanishes_during_a_commit_is_not_acknowledged",
    ),
    Breakage(
        "the log of a replaced database is applied to the new one",
        "outbox/db/sqlite_files.py",
        "            self._set_logs_aside()",
        "            pass",
        "tests/contract/test_sqlite_files.py::test_a_file_that_is_replaced_is_opened_anew",
    ),
    Breakage(
        "a repeated delivery restores an erased body",
        "outbox/insert.py",
        "in (_digest(row), UNKNOWN_DIGEST)",
        "in (_digest(row), b'')",
        f"{RETENTION}::test_a_delivery_repeated_after_the_erasure_is_still_a_duplicate[sqlite]",
    ),
    Breakage(
        "a body with an escaped address is not erased",
        "outbox/sql/operators.py",
        "OR instr(o.payload, CAST(char(92) AS BLOB)) > 0",
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
        "tests/integration/test_operators_at_work.py::test_a_replay_goes_to_a_listed_topic_and_to_no_other[sqlite]",
    ),
    Breakage(
        "a check uses the transactional id of a shard",
        "relay/check/broker.py",
        'transactional_id = f"{settings.kafka_transactional_id_prefix}check"',
        'transactional_id = f"{settings.kafka_transactional_id_prefix}01"',
        "tests/integration/test_check.py::test_a_check_harms_no_running_relay[sqlite]",
    ),
    Breakage(
        "a payload is revealed without an audit entry",
        "outbox/operators/row_history.py",
        'audit.add(connection, "reveal", context, [row_id])',
        "pass",
        "tests/integration/test_show.py::test_the_payload_is_shown_only_on_the_record[sqlite]",
    ),
    Breakage(
        "an unanswered commit counts as aborted and its rows are sent again",
        "relay/shard/worker.py",
        "        offset = self._commit(rows, publish)\n",
        "        try:\n"
        "            offset = self._commit(rows, publish)\n"
        "        except RelayError:\n"
        "            held.publisher.close()\n"
        "            held.publisher = shard_services.publisher(self.shard)\n"
        "            held.publisher.fence()\n"
        "            offset = self._commit(rows, publish)\n",
        "tests/faults/test_unknown_outcomes.py::test_a_relay_recovers_from_a_commit_that_is_not_answered_in_time"
        "[response-held]",
    ),
    Breakage(
        "a new owner does not fence the one before it",
        "relay/process/services.py",
        'f"{settings.kafka_transactional_id_prefix}{shard + 1:02d}"',
        'f"{settings.kafka_transactional_id_prefix}{shard + 1:02d}{self.leases.owner[-6:]}"',
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
        "        self._queue.put(waiting)",
        "        self._queue.put(waiting)\n"
        "        return __import__('outbox.models').rows.Accepted(1, row.interaction_id, False)",
        "tests/integration/test_webhook.py::test_a_locked_database_answers_503_and_recovers",
    ),
    Breakage(
        "an unanswered commit counts as committed",
        "relay/kafka/producer.py",
        "            if not asked:\n                self._abort()",
        "            if asked:\n                return\n            if not asked:\n                self._abort()",
        f"{MACHINE}[sqlite]",
    ),
]


@pytest.mark.parametrize("breakage", BREAKAGES, ids=lambda breakage: breakage.name.replace(" ", "-"))
def test_a_breakage_is_noticed(
    breakage: Breakage, kafka: Kafka | ExternalService, registry: Registry | ExternalService, tmp_path: Path
) -> None:
    """The named test fails on a copy of the product that leaves the rule out."""
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, copy / name)  # with compiled modules, which speeds up each start
        else:
            shutil.copy(source, copy / name)
    file = copy / breakage.file
    original = file.read_text()
    assert original.count(breakage.text) == 1, f"the text must occur once in {breakage.file}: {breakage.text}"
    file.write_text(original.replace(breakage.text, breakage.instead))
    environ = {
        **os.environ,
        "KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap_servers,
        "SCHEMA_REGISTRY_URL": registry.url,
        "SCHEMA_REGISTRY_USERNAME": registry.username,
        "SCHEMA_REGISTRY_PASSWORD": registry.password,
        "TEST_DEADLINE_SECONDS": "20",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # a third of the start-up time
    }
    command = [
        *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "pytest_timeout"),
        breakage.noticed_by,
    ]
    done = subprocess.run(command, cwd=copy, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 1, f"not noticed by {breakage.noticed_by}:\n{done.stdout[-2000:]}"
    assert "1 failed" in done.stdout, done.stdout[-2000:]
