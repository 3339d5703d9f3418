"""``relay check`` on real services: each problem is named with its remedy, and the check changes nothing."""

import json
import threading
import uuid
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psycopg
import pytest
import requests
import trustme
from confluent_kafka.admin import AclOperation, NewTopic, ResourceType
from sqlalchemy import Engine

from outbox.db.engine import create_outbox_engine
from outbox.leases import Leases
from outbox.operators.audit import AuditContext
from outbox.operators.change import Operations
from outbox.operators.placement import misplaced_ids
from outbox.operators.rows import RowFilter
from outbox.store import Store
from testkit.command_line import command
from testkit.databases import NewDatabase
from testkit.deployment import Deployment, NewDeployment
from testkit.outbox import mark, planned, record, states
from testkit.rows import new_row, new_rows
from testkit.secure_kafka import CREATE, DESCRIBE, PASSWORD, READ, WRITE, NewSecureDeployment
from testkit.services import SecureKafka
from testkit.topic import create_topics
from testkit.waiting import wait_until

TOPIC, TRANSACTIONAL_ID = ResourceType.TOPIC, ResourceType.TRANSACTIONAL_ID


def run_check(environ: Mapping[str, str], **further: str) -> tuple[int, list[dict[str, str]]]:
    """Exit code and findings of ``relay check --json``."""
    result = command(environ, "check", "--json", **further)
    return result.returncode, [json.loads(line) for line in result.stdout.splitlines()]


def failures(environ: Mapping[str, str], **further: str) -> dict[str, str]:
    """Subject of each failure to what was seen and the remedy; the exit code says whether there are any."""
    code, findings = run_check(environ, **further)
    failed = {f["subject"]: f"{f['seen']}; {f['cure']}" for f in findings if f["verdict"] == "failure"}
    assert code == (4 if failed else 0), failed
    assert not [finding for finding in findings if finding["verdict"] != "ok" and not finding["cure"]]
    return failed


def statuses(environ: Mapping[str, str], **further: str) -> dict[str, str]:
    """Subject to status."""
    return {finding["subject"]: finding["verdict"] for finding in run_check(environ, **further)[1]}


def make_topics(deployment: Deployment, shards: int = 1, **config: dict[str, str]) -> None:
    """Create both topics. ``topic`` and ``progress`` are the settings of each."""
    progress = {"cleanup.policy": "compact", **config.get("progress", {})}
    create_topics(
        deployment.client_config,
        NewTopic(deployment.topic, 2, 1, config=config.get("topic", {})),
        NewTopic(deployment.environ["KAFKA_PROGRESS_TOPIC"], shards, 1, config=progress),
    )


def test_each_missing_right_is_named_with_its_remedy(
    secure_kafka: SecureKafka, new_secure_deployment: NewSecureDeployment
) -> None:
    """With the documented rights nothing fails. Without any one of them, the check names it and how to grant it."""
    deployment, user = new_secure_deployment(create_topics=True)
    environ, topic, progress = deployment.environ, deployment.topic, deployment.environ["KAFKA_PROGRESS_TOPIC"]
    prefix = environ["KAFKA_TRANSACTIONAL_ID_PREFIX"]
    bare = failures(environ)
    assert set(bare) == {f"topic {topic} rights", f"topic {progress} rights", "transactions"}
    secure_kafka.allow(user, TOPIC, topic, [WRITE, DESCRIBE], prefix=False)
    secure_kafka.allow(user, TOPIC, progress, [READ, WRITE, DESCRIBE], prefix=False)
    secure_kafka.allow(user, TRANSACTIONAL_ID, prefix, [WRITE, DESCRIBE], prefix=True)
    wait_until(lambda: not failures(environ), "nothing fails with the documented rights")
    assert statuses(environ)[f"topic {topic} settings"] == "unknown"  # DescribeConfigs is not among them
    for kind, name, operation, subject, remedy in (
        (TOPIC, topic, WRITE, f"topic {topic} rights", f"User:{user} --operation Write --topic {topic}"),
        (TOPIC, progress, WRITE, f"topic {progress} rights", f"--operation Write --topic {progress}"),
        (TOPIC, progress, READ, f"topic {progress} rights", f"--operation Read --topic {progress}"),
        (TRANSACTIONAL_ID, prefix, WRITE, "transactions", "not rights on __transaction_state"),
    ):
        secure_kafka.revoke(user, kind, name, operation)
        failed = wait_until(lambda: failures(environ), f"the check misses {operation} on {name}")
        assert set(failed) == {subject}
        assert remedy in failed[subject]
        secure_kafka.allow(user, kind, name, [operation], prefix=kind is TRANSACTIONAL_ID)
        wait_until(lambda: not failures(environ), f"{operation} on {name} is granted again")
    for operation in (READ, WRITE, DESCRIBE):
        secure_kafka.revoke(user, TOPIC, progress, operation)
    every_right, about = "Read and Write and Describe", f"topic {progress} rights"  # a broker revokes one by one
    wait_until(lambda: every_right in failures(environ).get(about, ""), f"the check misses {every_right}")
    secure_kafka.allow(user, TOPIC, topic, [AclOperation.DESCRIBE_CONFIGS], prefix=False)
    wait_until(lambda: f"topic {topic} settings" not in statuses(environ), "the settings can be read")
    other = failures(environ, KAFKA_REPLAY_TOPICS=f"{topic}-replay")
    assert f"--operation Describe --topic {topic}-replay" in other[f"topic {topic}-replay rights"]


def test_a_missing_topic_needs_the_right_to_create_it(
    secure_kafka: SecureKafka, new_secure_deployment: NewSecureDeployment
) -> None:
    """Without Create it is a failure that names the command, with Create a warning. The check creates nothing."""
    deployment, user = new_secure_deployment(create_topics=False)
    prefix = deployment.environ["KAFKA_TRANSACTIONAL_ID_PREFIX"]
    secure_kafka.allow(user, TOPIC, deployment.topic, [READ, WRITE, DESCRIBE], prefix=True)
    secure_kafka.allow(user, TRANSACTIONAL_ID, prefix, [WRITE, DESCRIBE], prefix=True)

    def failures_of_topics() -> dict[str, str]:
        failed = failures(deployment.environ)
        return {} if "transactions" in failed else failed

    failed = wait_until(failures_of_topics, "only the topics are missing")
    assert f"--create --topic {deployment.topic}" in failed[f"topic {deployment.topic}"]
    secure_kafka.allow(user, TOPIC, deployment.topic, [CREATE], prefix=True)
    wait_until(lambda: not failures(deployment.environ), "the topics could be created")
    assert deployment.topic not in secure_kafka.admin().list_topics(timeout=10).topics


def test_a_wrong_password_authority_or_protocol_is_named(
    new_secure_deployment: NewSecureDeployment, tmp_path: Path
) -> None:
    """Each with the setting to correct, and without secrets."""
    deployment, user = new_secure_deployment(create_topics=True)
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "other.pem"))
    password = command(deployment.environ, "check", KAFKA_SASL_PASSWORD="wrong-canary")
    assert "KAFKA_SASL_PASSWORD" in password.stdout.split("broker login:")[1]
    assert "wrong-canary" not in password.stdout + password.stderr
    authority = failures(deployment.environ, KAFKA_SSL_CA_LOCATION=str(tmp_path / "other.pem"))
    assert "KAFKA_SSL_CA_LOCATION" in authority["broker TLS"]
    assert (
        "KAFKA_SSL_CA_LOCATION"
        in failures(deployment.environ, KAFKA_SSL_CA_LOCATION=str(tmp_path / "none.pem"))["settings"]
    )
    plain = failures(deployment.environ, KAFKA_SECURITY_PROTOCOL="SASL_PLAINTEXT")
    assert "KAFKA_SECURITY_PROTOCOL" in plain["broker protocol"]
    code, findings = run_check(deployment.environ)
    details = {finding["subject"]: finding["seen"] for finding in findings}
    assert code == 4
    assert user in details["broker login"]
    assert "verified" in details["broker TLS"]
    assert PASSWORD not in str(findings)


def test_a_check_harms_no_running_relay(deployment: Deployment) -> None:
    """A running relay keeps its shard and its producer during checks."""
    process = deployment.relay()
    ids = deployment.record(new_rows(50))
    deployment.wait_drained()
    ((epoch,),) = deployment.query("SELECT epoch FROM outbox_shard")
    assert failures(deployment.environ) == {}
    assert failures(deployment.environ) == {}
    ids += deployment.record(new_rows(50))
    deployment.wait_drained()
    assert deployment.query("SELECT epoch FROM outbox_shard") == [(epoch,)]
    assert process.degraded() == {}
    deployment.check_exactly_once(ids)
    assert statuses(deployment.environ)["schema"] == "ok"
    other = failures(deployment.environ, KAFKA_TRANSACTIONAL_ID_PREFIX="another-")
    assert "KAFKA_TRANSACTIONAL_ID_PREFIX was" in other["outbox"]


def test_unsuitable_settings_of_topics_are_failures(new_deployment: NewDeployment) -> None:
    """Each setting that the relay or the delivery guarantee depends on, with the command that corrects it."""
    deployment = new_deployment(shards=2)
    make_topics(
        deployment,
        topic={"max.message.bytes": "500", "min.insync.replicas": "2", "unclean.leader.election.enable": "true"},
        progress={"cleanup.policy": "compact,delete", "max.message.bytes": "20000"},
    )
    failed = failures(deployment.environ)
    topic, progress = deployment.topic, deployment.environ["KAFKA_PROGRESS_TOPIC"]
    assert set(failed) == {
        f"topic {topic} max.message.bytes",
        f"topic {topic} min.insync.replicas",
        f"topic {topic} unclean.leader.election.enable",
        f"topic {progress} cleanup.policy",
        f"topic {progress} max.message.bytes",
        f"topic {progress} partitions",
    }
    assert "--add-config max.message.bytes=" in failed[f"topic {topic} max.message.bytes"]
    assert "--partitions 2" in failed[f"topic {progress} partitions"]
    assert statuses(deployment.environ)[f"topic {topic} replicas"] == "warning"


def test_an_outdated_schema_is_a_failure(deployment: Deployment) -> None:
    """A schema that is not at the newest revision, and a missing one, with the command that migrates it."""
    make_topics(deployment)
    deployment.execute("UPDATE alembic_version SET version_num = '0000'")
    assert "relay migrate" in failures(deployment.environ)["database schema"]
    deployment.execute("DROP TABLE alembic_version")
    assert "no migration has run" in failures(deployment.environ)["database schema"]


@pytest.fixture
def placed(new_database: NewDatabase) -> Iterator[tuple[Engine, list[int]]]:
    """An outbox of two shards with rows in every state, and the ids of two pending, a sent and a parked row."""
    engine = create_outbox_engine(new_database(2))
    store, operations = Store(engine), Operations(engine)
    pending, sent, parked, discarded = (record(store, [new_row(f"i-{n}") for n in range(2)]) for _ in range(4))
    rows = {row.id: row for row in operations.find(RowFilter())}
    for shard in range(2):
        own = [row_id for row_id in sent if rows[row_id].shard == shard]
        mark(store, 1, [rows[row_id].ref for row_id in own], shard=shard)
        lease = Leases(engine, "relay-1", 10).take(shard)
        assert lease is not None
        store.park(lease, {rows[i].ref: "too large" for i in parked + discarded if rows[i].shard == shard})
    operations.discard(planned(operations, ids=tuple(discarded)), AuditContext("ann", "a test", RowFilter()))
    yield engine, [*pending, sent[0], parked[0]]
    engine.dispose()


def rows_finding(engine: Engine) -> dict[str, str]:
    """What the check says about the rows; it needs no broker for that."""
    url = engine.url.render_as_string(hide_password=False)
    environ = {"KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:9", "SCHEMA_REGISTRY_URL": "http://127.0.0.1:9/"}
    (found,) = (each for each in run_check({"DATABASE_URL": url, **environ})[1] if each["subject"] == "rows")
    return found


def test_a_row_without_exactly_one_state_is_a_failure(placed: tuple[Engine, list[int]]) -> None:
    """Ids in no table, in two, in the wrong shard, under another nonce or without a row; a sound outbox is ok."""
    engine, (first, second, sent, parked) = placed
    assert states(engine)[first] == "pending"
    assert (states(engine)[sent], states(engine)[parked]) == ("sent", "parked")
    assert rows_finding(engine)["verdict"] == "ok"
    wanted: set[int] = set()
    for damage, misplaced in (
        (f"DELETE FROM outbox_pending WHERE id = {first}", {first}),
        (f"INSERT INTO outbox_pending (shard, id, nonce) SELECT shard, id, nonce FROM outbox_rows WHERE id = {sent}",
         {sent}),
        (f"UPDATE outbox_pending SET shard = 1 - shard WHERE id = {second}", {second}),
        (f"UPDATE outbox_parked SET nonce = nonce - 1 WHERE id = {parked}", {parked}),
        ("INSERT INTO outbox_pending (shard, id, nonce) VALUES (0, 1001, 1)", {1001}),
        ("INSERT INTO outbox_sent (id, shard, sequence, sent_at) VALUES (1002, 0, 1, 1)", {1002}),
    ):  # fmt: skip
        wanted |= misplaced
        with engine.begin() as connection:
            connection.exec_driver_sql(damage)
        assert misplaced_ids(engine, 1_000) == sorted(wanted), damage
    found = rows_finding(engine)
    assert found["verdict"] == "failure"
    assert (
        f"6 ids are in none of the tables of states, in two, or without a fitting row: {first}, {second}, {sent}, "
        in found["seen"]
    )
    assert "restore all tables of the outbox from one backup" in found["cure"]
    with engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE outbox_parked RENAME TO elsewhere")
    assert rows_finding(engine)["verdict"] == "unknown"


def plain(url: str) -> str:
    """The URL as psycopg accepts it."""
    return url.replace("postgresql+psycopg://", "postgresql://")


def test_a_database_that_may_lose_commits_is_a_failure(
    new_deployment: NewDeployment, request: pytest.FixtureRequest
) -> None:
    """PostgreSQL with synchronous_commit = off, read-only transactions, or another encoding than UTF-8."""
    deployment = new_deployment()
    if deployment.engine.dialect.name == "sqlite":
        missing = failures(deployment.environ, DATABASE_URL="sqlite:////nowhere/outbox.db")
        assert "does not exist" in missing["database"]
        return
    deployment.execute(f"ALTER DATABASE {deployment.engine.url.database} SET synchronous_commit = off")
    assert "synchronous_commit" in failures(deployment.environ)["database durability"]
    deployment.execute(f"ALTER DATABASE {deployment.engine.url.database} RESET synchronous_commit")
    deployment.execute(f"ALTER DATABASE {deployment.engine.url.database} SET default_transaction_read_only = on")
    assert "let DATABASE_URL name the server that accepts writes" in failures(deployment.environ)["database"]
    latin = f"{deployment.engine.url.database}_latin1"
    deployment.engine.dispose()
    with psycopg.connect(plain(deployment.url), autocommit=True) as connection:
        connection.execute("SET default_transaction_read_only = off")
        connection.execute(f"CREATE DATABASE {latin} ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0")
    url = str(deployment.engine.url.set(database=latin))
    assert "LATIN1" in failures(deployment.environ, DATABASE_URL=url)["database encoding"]
    unreachable = failures(deployment.environ, DATABASE_URL="postgresql://someone:secret-canary@127.0.0.1:9/x")
    assert "127.0.0.1:9/x" in unreachable["database"]
    assert "secret-canary" not in str(unreachable)


def test_a_database_on_another_machine_requires_tls(new_deployment: NewDeployment) -> None:
    """A server without TLS on another machine is a failure, and a warning if a setting allows it."""
    deployment = new_deployment()
    if deployment.engine.dialect.name == "sqlite":
        return
    elsewhere = deployment.engine.url.set(host="db.example").update_query_dict({"hostaddr": "127.0.0.1"})
    environ = {**deployment.environ, "DATABASE_URL": elsewhere.render_as_string(hide_password=False)}
    assert "does not support SSL" in failures(environ)["database"]
    allowed = {**environ, "ALLOW_PLAINTEXT_CREDENTIALS": "true"}
    found = statuses(allowed)
    assert found["database"] == "ok"
    assert found["database TLS"] == "warning"


def test_missing_rights_of_the_database_role_are_named(new_deployment: NewDeployment) -> None:
    """First the rights to read, then those to write, with what to grant. No migration is suggested."""
    deployment = new_deployment()
    if deployment.engine.dialect.name == "sqlite":
        return
    role = f"role_{uuid.uuid4().hex[:8]}"
    environ = {**deployment.environ, "DATABASE_URL": str(deployment.engine.url.set(username=role, password=None))}
    deployment.execute(f"CREATE ROLE {role} LOGIN")
    try:
        for granted, subject in (
            ("USAGE ON SCHEMA public", "database schema"),
            ("SELECT ON ALL TABLES IN SCHEMA public", "database write"),
        ):
            deployment.execute(f"GRANT {granted} TO {role}")
            failed = failures(environ)
            assert "permission denied" in failed[subject]
            assert "grant the role" in failed[subject]
            assert "relay migrate" not in failed[subject]
        deployment.execute(f"GRANT INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {role}")
        assert not [subject for subject in failures(environ) if subject.startswith("database")]
    finally:
        deployment.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_a_registry_that_refuses_the_login_or_the_schema(deployment: Deployment) -> None:
    """401 names the login, incompatible versions the schema. The check registers nothing."""
    make_topics(deployment)
    subject = f"{deployment.environ['SCHEMA_REGISTRY_URL']}/subjects/{deployment.topic}-value"
    login = (deployment.environ["SCHEMA_REGISTRY_USERNAME"], deployment.environ["SCHEMA_REGISTRY_PASSWORD"])
    assert "SCHEMA_REGISTRY_USERNAME" in failures(deployment.environ, SCHEMA_REGISTRY_PASSWORD="no")["schema registry"]
    assert statuses(deployment.environ)["schema"] == "warning"
    assert requests.get(f"{subject}/versions", auth=login, timeout=10).status_code == 404
    schemas = [
        f["seen"] for f in run_check(deployment.environ, KAFKA_REPLAY_TOPICS="other")[1] if f["subject"] == "schema"
    ]
    assert [detail.split()[0] for detail in schemas] == [f"{deployment.topic}-value", "other-value"]
    record = {"type": "record", "name": "CXoneInteraction", "namespace": "com.cxone.ml"}
    other = json.dumps({**record, "fields": [{"name": "interactionId", "type": "bytes"}]})
    requests.post(f"{subject}/versions", json={"schema": other}, auth=login, timeout=10).raise_for_status()
    assert "not compatible with the relay's schema" in failures(deployment.environ)["schema"]
    unreachable = failures(deployment.environ, SCHEMA_REGISTRY_URL="http://127.0.0.1:9/")
    assert "does not answer" in unreachable["schema registry"]


def test_producer_settings_that_are_refused(deployment: Deployment) -> None:
    """By the broker, as a transaction.timeout.ms above its maximum, or by the client."""
    make_topics(deployment)
    failed = failures(deployment.environ, KAFKA_CONFIG='{"transaction.timeout.ms": 3600000}')
    assert "transaction.max.timeout.ms" in failed["transactions"]
    assert "KAFKA_CONFIG" in failures(deployment.environ, KAFKA_CONFIG='{"no.such": 1}')["broker settings"]


def test_the_database_is_checked_although_settings_are_wrong(deployment: Deployment) -> None:
    """Each wrong value is a failure, each unknown name a warning."""
    found = statuses(deployment.environ, KAFKA_BOOTSTRAP_SERVERS="", RELAY_BATCH_SIZE="many", KAFKA_TOPICS="x")
    assert found["settings"] == "warning"  # the last of them
    assert found["database"] == "ok"
    assert found["broker"] == "unknown"
    failed = failures(deployment.environ, KAFKA_BOOTSTRAP_SERVERS="", RELAY_BATCH_SIZE="many")
    assert set(failed) == {"settings"}


def test_the_last_line_counts_each_status(deployment: Deployment) -> None:
    """What could not be checked is no warning."""
    done = command(deployment.environ, "check", KAFKA_BOOTSTRAP_SERVERS="")
    lines = [line.split()[0] for line in done.stdout.splitlines() if not line.startswith(" ")]
    counts = {status: lines.count(status) for status in ("ok", "warning", "unknown", "failure")}
    assert counts["unknown"] > 1
    noun = "warning" if counts["warning"] == 1 else "warnings"
    expected = (
        f"{counts['ok']} ok, {counts['warning']} {noun}, {counts['unknown']} unknown, {counts['failure']} failure"
    )
    assert done.stderr.splitlines()[-1].startswith(expected)


def test_unreachable_brokers_are_named(deployment: Deployment) -> None:
    """Each bootstrap server with its reason."""
    failed = failures(deployment.environ, KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:9,nowhere.invalid:9092")
    assert "127.0.0.1:9: no connection" in failed["broker"]
    assert "nowhere.invalid:9092: the name cannot be resolved" in failed["broker"]


class Endpoints:
    """Inference, OAuth and CXone on one server, which answers with a given status and records the requests."""

    def __init__(self) -> None:
        endpoints = self
        self.status, self.interaction_status, self.requests = 200, 404, list[str]()

        class Handler(BaseHTTPRequestHandler):
            def _answer(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                endpoints.requests.append(f"{self.command} {self.path}")
                body = b'{"access_token": "token-canary", "expires_in": 3600}'
                self.send_response(endpoints.interaction_status if self.command == "GET" else endpoints.status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_OPTIONS = do_POST = do_GET = _answer  # noqa: N815

            def log_message(self, *_args: object) -> None:
                """Do not log requests."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def endpoints() -> Iterator[Endpoints]:
    """Endpoints for one test."""
    served = Endpoints()
    yield served
    served.server.shutdown()
    served.server.server_close()


@pytest.fixture
def http_environ(endpoints: Endpoints, tmp_path: Path) -> dict[str, str]:
    """Settings that name the endpoints, and neither a database nor a broker."""
    return {
        "DATABASE_URL": f"sqlite:///{tmp_path}/none.db",
        "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:9",
        "SCHEMA_REGISTRY_URL": "http://127.0.0.1:9/",
        "INFERENCE_URL": f"{endpoints.url}/score",
        "CXONE_ENRICH_URL": f"{endpoints.url}/contacts/{{interactionId}}",
        "CXONE_OAUTH_URL": f"{endpoints.url}/token",
        "CXONE_CLIENT_ID": "id",
        "CXONE_CLIENT_SECRET": "secret-canary",
    }


def test_inference_and_cxone_are_checked_without_a_call(endpoints: Endpoints, http_environ: dict[str, str]) -> None:
    """Inference receives only an OPTIONS request. A token is requested and tried, and never shown."""
    output = command(http_environ, "check").stdout
    assert "ok       inference: 127.0.0.1 answers OPTIONS with 200" in output
    assert "ok       oauth: 127.0.0.1 issues a token" in output
    assert "ok       enrichment: 127.0.0.1 accepts the token" in output
    assert endpoints.requests == ["OPTIONS /score", "POST /token", "GET /contacts/0"]
    assert "canary" not in output


def test_cxone_refuses_the_token(endpoints: Endpoints, http_environ: dict[str, str]) -> None:
    """A missing scope and a wrong region are failures; a rate limit is a warning."""
    for endpoints.interaction_status, detail in (
        (403, "the client lacks scope interaction:read"),
        (401, "of the same region"),
    ):
        assert detail in failures(http_environ)["enrichment"]
    endpoints.interaction_status = 429
    assert statuses(http_environ)["enrichment"] == "warning"


def test_inference_and_oauth_refuse_or_fail(endpoints: Endpoints, http_environ: dict[str, str]) -> None:
    """A refused login is a failure. Rows wait for OAuth, so its outage is one as well. Without a token CXone is not
    called.
    """
    endpoints.status = 401
    failed = failures(http_environ)
    assert "INFERENCE_TOKEN" in failed["inference"]
    assert "CXONE_CLIENT_SECRET" in failed["oauth"]
    for endpoints.status, oauth in ((503, "failure"), (429, "warning")):
        found = statuses(http_environ)
        assert found["inference"] == "warning"
        assert found["oauth"] == oauth
        assert "enrichment" not in found


def test_wrong_settings_of_inference_are_named(endpoints: Endpoints, http_environ: dict[str, str]) -> None:
    """A host that is not allowed, one that does not exist, and a port that does not use TLS."""
    not_allowed = failures(http_environ, INFERENCE_ALLOWED_HOSTS="elsewhere.example")
    assert "INFERENCE_ALLOWED_HOSTS" in not_allowed["inference"]
    assert "correct the host" in failures(http_environ, INFERENCE_URL="http://nowhere.invalid/")["inference"]
    tls = failures(http_environ, INFERENCE_URL=endpoints.url.replace("http", "https"))
    assert "HTTP_CA_LOCATION" in tls["inference"]


def test_an_unencrypted_login_is_a_failure_or_if_allowed_a_warning(tmp_path: Path) -> None:
    """With a finding for each variable, and without the secrets."""
    environ = {
        "DATABASE_URL": f"sqlite:///{tmp_path}/none.db",
        "KAFKA_BOOTSTRAP_SERVERS": "nowhere.invalid:9",
        "KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT",
        "KAFKA_SASL_USERNAME": "user",
        "KAFKA_SASL_PASSWORD": "canary",
        "SCHEMA_REGISTRY_URL": "http://127.0.0.1:9/",
        "INFERENCE_URL": "http://nowhere.invalid/score",
        "INFERENCE_TOKEN": "canary",
    }
    code, findings = run_check(environ)
    refused = [finding["seen"].split(":")[0] for finding in findings if finding["subject"] == "settings"]
    assert code == 4
    assert refused == ["INFERENCE_URL", "KAFKA_SECURITY_PROTOCOL"]
    _, findings = run_check(environ, ALLOW_PLAINTEXT_CREDENTIALS="true")
    warned = [f["seen"].split(":")[0] for f in findings if f["subject"] == "unencrypted login"]
    assert warned == ["INFERENCE_URL", "KAFKA_SECURITY_PROTOCOL"]
    assert "canary" not in str(findings)
