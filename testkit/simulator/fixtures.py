"""A simulator for one test."""

from collections.abc import Iterator

import pytest

from testkit.simulator.server import Simulator


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    """CXone and the scoring container, without failures at first."""
    simulator = Simulator()
    yield simulator
    simulator.close()
