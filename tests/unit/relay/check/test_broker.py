"""What ``relay check`` decides about a broker; no broker is queried."""

import pytest
from confluent_kafka import KafkaError

from relay.check.broker import ClientErrors, Cluster, judge_cluster, judge_no_answer
from relay.check.broker_clock import judge_clock
from relay.check.finding import Status
from relay.check.transactions import judge_transactions
from relay.settings import RelaySettings
from testkit.findings import problems

SETTINGS = RelaySettings(kafka_bootstrap_servers="broker.example:9092", schema_registry_url="http://registry.example")


@pytest.mark.parametrize(
    ("error", "subject", "remedy"),
    [
        (None, "broker protocol", "KAFKA_SECURITY_PROTOCOL"),
        (KafkaError(KafkaError._AUTHENTICATION), "broker login", "KAFKA_SASL_PASSWORD"),
        (KafkaError(KafkaError._SSL), "broker TLS", "KAFKA_SSL_CA_LOCATION"),
        (
            KafkaError(KafkaError._TRANSPORT, "SSL handshake failed: connecting to a PLAINTEXT broker listener?"),
            "broker protocol",
            "KAFKA_SECURITY_PROTOCOL",
        ),
    ],
)
def test_a_broker_that_does_not_answer(error: KafkaError | None, subject: str, remedy: str) -> None:
    """The client's error determines which setting to check."""
    found = judge_no_answer(SETTINGS, error)
    assert found.status == Status.FAILURE
    assert found.subject == subject
    assert remedy in found.remedy


def test_the_error_of_login_or_tls_is_the_main_one() -> None:
    """Whenever it came; otherwise the first error that says more than "all brokers are down"."""
    down, transport, login = map(
        KafkaError, (KafkaError._ALL_BROKERS_DOWN, KafkaError._TRANSPORT, KafkaError._AUTHENTICATION)
    )
    errors = ClientErrors()
    errors(down)
    assert errors.main is None
    errors(transport)
    assert errors.main == transport
    errors(login)
    assert errors.main == login


def test_brokers_must_be_reachable_as_they_advertise_themselves() -> None:
    """The bootstrap server may be reachable although the advertised addresses are not."""
    cluster = Cluster("c", [("one", 9092), ("two", 9092)])
    assert problems(judge_cluster(SETTINGS, cluster, [None, None])) == {"broker TLS": "warning"}
    found = judge_cluster(SETTINGS, cluster, [None, "no connection"])
    assert problems(found) == {"broker TLS": "warning", "brokers": "failure"}
    assert "advertised.listeners" in found[-1].remedy


@pytest.mark.parametrize(
    ("server", "advertised", "warned"),
    [
        ("localhost:9092", "127.0.0.1", False),
        ("[::1]:9092", "::1", False),
        ("localhost:9092", "broker.example", True),
        ("localhost.example:9092", "localhost", True),
        ("127.example:9092", "127.0.0.1", True),
    ],
)
def test_plain_text_is_in_order_only_on_this_machine(server: str, advertised: str, *, warned: bool) -> None:
    """A tunnel ends on this machine, but the client then connects to the advertised addresses."""
    settings = RelaySettings(kafka_bootstrap_servers=server, schema_registry_url="http://registry.example")
    found = judge_cluster(settings, Cluster("c", [(advertised, 9092)]), [None])
    assert problems(found) == ({"broker TLS": "warning"} if warned else {})


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        (KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED, "not rights on __transaction_state"),
        (KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED, "--transactional-id"),
        (KafkaError.INVALID_TRANSACTION_TIMEOUT, "transaction.max.timeout.ms"),
        (KafkaError._TIMED_OUT, "transaction.state.log.replication.factor"),
    ],
)
def test_each_error_of_transactions_has_its_remedy(code: int, remedy: str) -> None:
    """Rights, timeout and coordinator."""
    found = judge_transactions(SETTINGS, KafkaError(code), None)
    assert found.status == Status.FAILURE
    assert remedy in found.remedy


def test_the_earlier_error_explains_why_there_is_no_coordinator() -> None:
    """A timeout does not say why."""
    cause = KafkaError(KafkaError._TRANSPORT, "connection refused")
    found = judge_transactions(SETTINGS, KafkaError(KafkaError._TIMED_OUT), cause)
    assert found.detail == "no transaction coordinator; before that: connection refused (_TRANSPORT)"


@pytest.mark.parametrize(
    ("code", "status"),
    [(None, "ok"), (KafkaError.INVALID_TIMESTAMP, "failure"), (KafkaError._TIMED_OUT, "unknown")],
)
def test_a_refused_timestamp_shows_that_the_clocks_differ(code: int | None, status: str) -> None:
    """Any other error says nothing about clocks."""
    assert judge_clock(None if code is None else KafkaError(code)).status == status
