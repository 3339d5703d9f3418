"""Faults of a secured and administered broker under load: nobody restarts web or relay."""

from pathlib import Path

import pytest

from testkit.services import ExternalService, Registry
from tests.faults.outcome import markdown_table
from tests.faults.secured import secured_services
from tests.faults.system import RELAYS
from tests.faults.torture import inject_faults

INJECTED = (
    "every right revoked",
    "password changed",
    "address moved, the old one is silent",
    "authority replaced",
    "clock of database behind",
    "clock of broker behind",
)
"""One of each kind, and those that no other test covers."""


@pytest.mark.timeout(900)
def test_an_administered_broker_under_load(registry: Registry | ExternalService, tmp_path: Path) -> None:
    """Rights, password, address, authority and clocks change while rows arrive; each is sent once and in order."""
    seed, progress = 4, list[str]()
    with secured_services(registry, tmp_path, RELAYS, only=lambda fault: fault.name in INJECTED) as system:
        *by_fault, total = inject_faults(system, seed, 20, progress.append)
        running = [relay.running() for relay in system.deployment.relays]
        parked = system.deployment.query("SELECT count(*) FROM outbox_parked")
    outcome = f"seed {seed}\n{''.join(progress)}\n{markdown_table([*by_fault, total])}"
    assert running == [True] * RELAYS, outcome
    assert parked == [(0,)], outcome
    assert all(each.exact for each in by_fault), outcome
    assert total.exact, outcome
    assert total.rows > 100, outcome
