"""The audit trail's hashes in the relay's log, out of reach of anyone who can change the table."""

from testkit.command_line import command
from testkit.deployment import Deployment
from testkit.waiting import wait_until


def test_the_relay_logs_each_new_hash_and_notices_a_rewritten_trail(deployment: Deployment) -> None:
    """An entry that was logged and is missing now is an error in the log."""
    relay = deployment.relay()
    command(deployment.environ, "pause", "--shard", "0", "--for", "1s", "--reason", "looking")
    ((entry, entry_hash),) = deployment.query("SELECT id, hash FROM outbox_audit")

    def logged(action: str) -> list[dict[str, object]]:
        return [line for line in relay.lines() if line.get("action") == action]

    wait_until(lambda: logged("audit"), f"the hash is logged ({relay.log})")
    assert [(line["entry"], line["hash"]) for line in logged("audit")] == [(entry, entry_hash)]
    deployment.execute("DELETE FROM outbox_audit")
    (noticed,) = wait_until(lambda: logged("audit_rewritten"), "the missing entry is noticed")
    assert noticed["level"] == "error"
    assert noticed["hash"] == entry_hash


def test_the_relay_counts_changes_by_operators(deployment: Deployment) -> None:
    """From the audit trail, those of other processes and of earlier times too."""
    command(deployment.environ, "pause", "--shard", "0", "--for", "1s", "--reason", "looking")
    relay = deployment.relay()
    wait_until(lambda: 'outbox_operator_changes_total{verb="pause"} 1.0' in relay.get("/metrics"), "it is counted")
    assert 'outbox_operator_rows_total{verb="pause"} 0.0' in relay.get("/metrics")
    assert 'outbox_operator_changes_total{verb="replay"} 0.0' in relay.get("/metrics")
