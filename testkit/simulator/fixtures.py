"""A simulator for one test."""

from collections.abc import Iterator

import pytest

from testkit.simulator.server import Simulator


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    """CXone and the scoring container; they behave well until told otherwise."""
    served = Simulator()
    yield served
    served.close()
