"""A producer gives a client up that cannot reach Kafka any more."""

from itertools import count

import pytest

from relay.errors import TransactionFailedError
from relay.kafka.producer import ANSWER_TIMEOUT_SECONDS, Publisher
from relay.kafka.progress import ProgressDestination
from testkit.ports import free_port


def new_publisher(step_seconds: float, *, outdated: bool) -> Publisher:
    """A publisher without a broker, whose clock advances at each look at it."""
    return Publisher(
        {"bootstrap.servers": f"127.0.0.1:{free_port()}"},
        "id",
        "topic",
        ProgressDestination("progress", 0, b"key"),
        lambda: False,
        clock=count(0, step_seconds).__next__,
        outdated=lambda: outdated,
    )


def test_a_client_with_an_old_login_is_given_up_at_once() -> None:
    """A password or certificate that has changed is used by the next client; this one would wait in vain."""
    with pytest.raises(TransactionFailedError, match="the password or certificates have changed: connecting anew"):
        new_publisher(0.1, outdated=True).fence()


def test_a_broker_that_does_not_answer_is_given_up() -> None:
    """The message has the client's last error."""
    with pytest.raises(TransactionFailedError, match=f"Kafka did not answer in {ANSWER_TIMEOUT_SECONDS:.0f} s"):
        new_publisher(ANSWER_TIMEOUT_SECONDS, outdated=False).fence()
