"""The text that an error of Kafka's client gets."""

import pytest
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from relay.errors import TransactionFailedError
from relay.kafka.errors import LastError, describe, explain, translate_errors


def test_a_time_out_has_a_remedy() -> None:
    """It names the settings of the broker that make commits time out."""
    assert "transaction.state.log.min.isr" in explain(KafkaError(KafkaError._TIMED_OUT))


@pytest.mark.parametrize("value", ["canary", "canary 7"])
def test_a_refused_value_is_masked(value: str) -> None:
    """KAFKA_CONFIG may contain secrets: the message names the property, without its value."""
    with pytest.raises(KafkaException) as refused:
        AdminClient({"security.protocol": value})
    text = describe(refused.value.args[0])
    assert "security.protocol" in text
    assert "canary" not in text


@pytest.mark.parametrize(
    "counters",
    [
        "(after 0ms in state CONNECT)",
        "(after 17ms in state CONNECT, 5 identical error(s) suppressed)",
        "(after 301ms in state AUTH_REQ, 30 identical error(s) suppressed)",
    ],
)
def test_an_outage_has_the_same_text_each_time(counters: str) -> None:
    """The client's counters would make each attempt a new message, and log a line for every shard."""
    message = "localhost:9/bootstrap: Connect to ipv4#127.0.0.1:9 failed: Connection refused"
    error = KafkaError(KafkaError._TRANSPORT, f"{message} {counters}")
    assert describe(error) == f"{message} (_TRANSPORT)"


def test_the_last_error_explains_a_time_out() -> None:
    """The error that all brokers are down follows the actual cause, and does not replace it."""
    last_error = LastError()
    assert last_error.add_to("no answer") == "no answer"
    last_error(KafkaError(KafkaError._TRANSPORT, "connection refused"))
    last_error(KafkaError(KafkaError._ALL_BROKERS_DOWN, "1/1 brokers are down"))
    assert last_error.add_to("no answer") == "no answer; before that: connection refused (_TRANSPORT)"


def test_what_is_no_text_fails_the_transaction() -> None:
    """The client logs what a broker sent; if it is not UTF-8, the call in progress raises this."""
    expected = pytest.raises(TransactionFailedError, match="failed to commit: UnicodeDecodeError")
    with expected, translate_errors("commit", LastError()):
        b"\xff".decode()
