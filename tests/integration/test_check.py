"""``relay check`` on real services: what is wrong is named, with its cure, and nothing is harmed by looking."""

import json
import threading
import uuid
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psycopg
import pytest
import requests
import trustme
from confluent_kafka.admin import AclOperation, AdminClient, NewTopic, ResourceType

from testkit.command_line import command
from testkit.deployment import Deployment, NewDeployment
from testkit.rows import new_rows
from testkit.secure_kafka import CREATE, DESCRIBE, PASSWORD, READ, WRITE, NewSecureDeployment
from testkit.services import SecureKafka
from testkit.waiting import wait_until

TOPIC, TRANSACTIONAL_ID = ResourceType.TOPIC, ResourceType.TRANSACTIONAL_ID


def checked(environ: Mapping[str, str], **further: str) -> tuple[int, list[dict[str, str]]]:
    """Exit code and findings of ``relay check --json``."""
    ended = command(environ, "check", "--json", **further)
    return ended.returncode, [json.loads(line) for line in ended.stdout.splitlines()]


def failures(environ: Mapping[str, str], **further: str) -> dict[str, str]:
    """Subject of each failure to what was seen and the cure; the exit code says whether there are any."""
    code, findings = checked(environ, **further)
    failed = {f["subject"]: f"{f['seen']}; cure: {f['cure']}" for f in findings if f["verdict"] == "failure"}
    assert code == (4 if failed else 0)
    assert all(finding["cure"] for finding in findings if finding["verdict"] != "ok")
    return failed


def verdicts(environ: Mapping[str, str], **further: str) -> dict[str, str]:
    """Subject to verdict."""
    return {finding["subject"]: finding["verdict"] for finding in checked(environ, **further)[1]}


def make_topics(deployment: Deployment, shards: int = 1, **config: dict[str, str]) -> None:
    """Create both topics; ``topic`` and ``progress`` are further settings of theirs."""
    progress = {"cleanup.policy": "compact", **config.get("progress", {})}
    topics = [
        NewTopic(deployment.topic, 2, 1, config=config.get("topic", {})),
        NewTopic(deployment.environ["KAFKA_PROGRESS_TOPIC"], shards, 1, config=progress),
    ]
    admin = AdminClient(deployment.client_config)
    for future in admin.create_topics(topics).values():
        future.result(10)


def test_each_right_that_is_taken_away_is_named_with_its_cure(
    secure_kafka: SecureKafka, new_secure_deployment: NewSecureDeployment
) -> None:
    """With the documented rights nothing fails; without any one of them, that one does, and tells how to grant it."""
    deployment, user = new_secure_deployment(create_topics=True)
    environ, topic, progress = deployment.environ, deployment.topic, deployment.environ["KAFKA_PROGRESS_TOPIC"]
    prefix = environ["KAFKA_TRANSACTIONAL_ID_PREFIX"]
    bare = failures(environ)
    assert set(bare) == {f"topic {topic} rights", f"topic {progress} rights", "transactions"}
    secure_kafka.allow(user, TOPIC, topic, [WRITE, DESCRIBE], prefix=False)
    secure_kafka.allow(user, TOPIC, progress, [READ, WRITE, DESCRIBE], prefix=False)
    secure_kafka.allow(user, TRANSACTIONAL_ID, prefix, [WRITE, DESCRIBE], prefix=True)
    wait_until(lambda: not failures(environ), "nothing fails with the documented rights")
    assert verdicts(environ)[f"topic {topic} settings"] == "unknown"  # DescribeConfigs is not among them
    for kind, name, operation, subject, cure in (
        (TOPIC, topic, WRITE, f"topic {topic} rights", f"User:{user} --operation Write --topic {topic}"),
        (TOPIC, progress, WRITE, f"topic {progress} rights", f"--operation Write --topic {progress}"),
        (TOPIC, progress, READ, f"topic {progress} rights", f"--operation Read --topic {progress}"),
        (TRANSACTIONAL_ID, prefix, WRITE, "transactions", "not rights on __transaction_state"),
    ):
        secure_kafka.revoke(user, kind, name, operation)
        failed = wait_until(lambda: failures(environ), f"{operation} on {name} is missed")
        assert set(failed) == {subject}
        assert cure in failed[subject]
        secure_kafka.allow(user, kind, name, [operation], prefix=kind is TRANSACTIONAL_ID)
        wait_until(lambda: not failures(environ), f"{operation} on {name} is back")
    for operation in (READ, WRITE, DESCRIBE):
        secure_kafka.revoke(user, TOPIC, progress, operation)
    failed = wait_until(lambda: failures(environ), "all rights on the progress topic are missed")
    assert "Read and Write and Describe" in failed[f"topic {progress} rights"]
    secure_kafka.allow(user, TOPIC, topic, [AclOperation.DESCRIBE_CONFIGS], prefix=False)
    wait_until(lambda: f"topic {topic} settings" not in verdicts(environ), "the settings can be seen")
    elsewhere = failures(environ, KAFKA_REPLAY_TOPICS=f"{topic}-replay")
    assert f"--operation Describe --topic {topic}-replay" in elsewhere[f"topic {topic}-replay rights"]


def test_a_missing_topic_needs_the_right_to_create_it(
    secure_kafka: SecureKafka, new_secure_deployment: NewSecureDeployment
) -> None:
    """Without Create it is a failure with the command, with it a warning; looking creates nothing."""
    deployment, user = new_secure_deployment(create_topics=False)
    prefix = deployment.environ["KAFKA_TRANSACTIONAL_ID_PREFIX"]
    secure_kafka.allow(user, TOPIC, deployment.topic, [READ, WRITE, DESCRIBE], prefix=True)
    secure_kafka.allow(user, TRANSACTIONAL_ID, prefix, [WRITE, DESCRIBE], prefix=True)
    failed = wait_until(
        lambda: (f := failures(deployment.environ)) and "transactions" not in f and f, "the topics alone are missed"
    )
    assert f"--create --topic {deployment.topic}" in failed[f"topic {deployment.topic}"]
    secure_kafka.allow(user, TOPIC, deployment.topic, [CREATE], prefix=True)
    wait_until(lambda: not failures(deployment.environ), "they could be created")
    assert deployment.topic not in secure_kafka.admin().list_topics(timeout=10).topics


def test_what_people_get_wrong_with_a_secured_broker(
    new_secure_deployment: NewSecureDeployment, tmp_path: Path
) -> None:
    """Password, authority and protocol are each named; secrets are not."""
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
    code, findings = checked(deployment.environ)
    told = {finding["subject"]: finding["seen"] for finding in findings}
    assert (code, user in told["broker login"], "verified" in told["broker TLS"]) == (4, True, True)
    assert PASSWORD not in str(findings)


def test_a_check_harms_no_running_relay(deployment: Deployment) -> None:
    """A relay that holds its shard goes on with the same producer while checks run beside it, one after the other."""
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
    assert verdicts(deployment.environ)["schema"] == "ok"
    other = failures(deployment.environ, KAFKA_TRANSACTIONAL_ID_PREFIX="another-")
    assert "KAFKA_TRANSACTIONAL_ID_PREFIX was" in other["outbox"]


def test_settings_of_the_topics_that_break_the_promise(new_deployment: NewDeployment) -> None:
    """Each setting that the relay or the promise rests on is judged, and the command that mends it is told."""
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
    assert verdicts(deployment.environ)[f"topic {topic} replicas"] == "warning"


def test_the_database_is_behind_the_code(deployment: Deployment) -> None:
    """A schema that is not at head, and one that is not there at all, are named with the command."""
    make_topics(deployment)
    deployment.execute("UPDATE alembic_version SET version_num = '0001'")
    assert "relay migrate" in failures(deployment.environ)["database schema"]
    deployment.execute("DROP TABLE alembic_version")
    assert "no migration has run" in failures(deployment.environ)["database schema"]


def plain(url: str) -> str:
    """The address as psycopg itself takes it."""
    return url.replace("postgresql+psycopg://", "postgresql://")


def test_a_database_that_may_lose_commits_is_a_failure(
    new_deployment: NewDeployment, request: pytest.FixtureRequest
) -> None:
    """PostgreSQL with synchronous_commit = off is reachable, and not durable."""
    deployment = new_deployment()
    if deployment.engine.dialect.name == "sqlite":
        missing = failures(deployment.environ, DATABASE_URL="sqlite:////nowhere/outbox.db")
        assert "does not exist" in missing["database"]
        return
    deployment.execute(f"ALTER DATABASE {deployment.engine.url.database} SET synchronous_commit = off")
    assert "synchronous_commit" in failures(deployment.environ)["database durability"]
    deployment.execute(f"ALTER DATABASE {deployment.engine.url.database} RESET synchronous_commit")
    deployment.execute(f"ALTER DATABASE {deployment.engine.url.database} SET default_transaction_read_only = on")
    assert "let DATABASE_URL name the server that takes writes" in failures(deployment.environ)["database"]
    latin = f"{deployment.engine.url.database}_latin1"
    deployment.engine.dispose()
    with psycopg.connect(plain(deployment.url), autocommit=True) as connection:
        connection.execute("SET default_transaction_read_only = off")
        connection.execute(f"CREATE DATABASE {latin} ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0")
    url = str(deployment.engine.url.set(database=latin))
    assert "LATIN1" in failures(deployment.environ, DATABASE_URL=url)["database encoding"]
    away = failures(deployment.environ, DATABASE_URL="postgresql://someone:secret-canary@127.0.0.1:9/x")
    assert "127.0.0.1:9/x" in away["database"]
    assert "secret-canary" not in str(away)


def test_a_database_elsewhere_is_spoken_to_over_tls_or_not_at_all(new_deployment: NewDeployment) -> None:
    """A server without TLS under another machine's name: refused, and warned of once a setting allows it."""
    deployment = new_deployment()
    if deployment.engine.dialect.name == "sqlite":
        return
    elsewhere = deployment.engine.url.set(host="db.example").update_query_dict({"hostaddr": "127.0.0.1"})
    environ = {**deployment.environ, "DATABASE_URL": elsewhere.render_as_string(hide_password=False)}
    assert "does not support SSL" in failures(environ)["database"]
    allowed = {**environ, "ALLOW_PLAINTEXT_CREDENTIALS": "true"}
    found = verdicts(allowed)
    assert (found["database"], found["database TLS"]) == ("ok", "warning")


def test_a_database_role_without_rights_is_told_to_be_one(new_deployment: NewDeployment) -> None:
    """Read rights, then write rights are missed, each with what to grant; no migration is blamed."""
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
            assert ("grant the role" in failed[subject], "relay migrate" in failed[subject]) == (True, False)
        deployment.execute(f"GRANT INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {role}")
        assert not [subject for subject in failures(environ) if subject.startswith("database")]
    finally:
        deployment.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_the_registry_refuses_the_login_or_the_schema(deployment: Deployment) -> None:
    """401 names the login; versions that are not compatible name the schema; nothing is registered by looking."""
    make_topics(deployment)
    subject = f"{deployment.environ['SCHEMA_REGISTRY_URL']}/subjects/{deployment.topic}-value"
    login = (deployment.environ["SCHEMA_REGISTRY_USERNAME"], deployment.environ["SCHEMA_REGISTRY_PASSWORD"])
    assert "SCHEMA_REGISTRY_USERNAME" in failures(deployment.environ, SCHEMA_REGISTRY_PASSWORD="no")["schema registry"]
    assert verdicts(deployment.environ)["schema"] == "warning"
    assert requests.get(f"{subject}/versions", auth=login, timeout=10).status_code == 404
    schemas = [
        f["seen"] for f in checked(deployment.environ, KAFKA_REPLAY_TOPICS="other")[1] if f["subject"] == "schema"
    ]
    assert [seen.split()[0] for seen in schemas] == [f"{deployment.topic}-value", "other-value"]
    record = {"type": "record", "name": "CXoneInteraction", "namespace": "com.cxone.ml"}
    other = json.dumps({**record, "fields": [{"name": "interactionId", "type": "bytes"}]})
    requests.post(f"{subject}/versions", json={"schema": other}, auth=login, timeout=10).raise_for_status()
    assert "do not go with" in failures(deployment.environ)["schema"]
    away = failures(deployment.environ, SCHEMA_REGISTRY_URL="http://127.0.0.1:9/")
    assert "does not answer" in away["schema registry"]


def test_a_time_out_that_the_broker_refuses(deployment: Deployment) -> None:
    """transaction.timeout.ms above the broker's transaction.max.timeout.ms is named."""
    make_topics(deployment)
    failed = failures(deployment.environ, KAFKA_CONFIG='{"transaction.timeout.ms": 3600000}')
    assert "transaction.max.timeout.ms" in failed["transactions"]
    assert "KAFKA_CONFIG" in failures(deployment.environ, KAFKA_CONFIG='{"no.such": 1}')["broker settings"]


def test_wrong_settings_are_told_and_the_rest_is_still_looked_at(deployment: Deployment) -> None:
    """Each wrong value is a failure, each unknown name a warning; the database is checked all the same."""
    found = verdicts(deployment.environ, KAFKA_BOOTSTRAP_SERVERS="", RELAY_BATCH_SIZE="many", KAFKA_TOPICS="x")
    assert found["settings"] == "warning"  # the last of them
    assert (found["database"], found["broker"]) == ("ok", "unknown")
    failed = failures(deployment.environ, KAFKA_BOOTSTRAP_SERVERS="", RELAY_BATCH_SIZE="many")
    assert set(failed) == {"settings"}
    away = failures(deployment.environ, KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:9,nowhere.invalid:9092")
    assert "nowhere.invalid:9092: the name cannot be resolved" in away["broker"]


class Endpoints:
    """Inference and OAuth on one server: answers as told, and remembers what was asked."""

    def __init__(self) -> None:
        endpoints = self
        self.status, self.contact, self.asked = 200, 404, list[str]()

        class Handler(BaseHTTPRequestHandler):
            def _answer(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                endpoints.asked.append(f"{self.command} {self.path}")
                body = b'{"access_token": "token-canary", "expires_in": 3600}'
                self.send_response(endpoints.contact if self.command == "GET" else endpoints.status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_OPTIONS = do_POST = do_GET = _answer  # noqa: N815

            def log_message(self, *_args: object) -> None:
                """Quiet."""

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


def test_inference_is_reached_without_a_call(endpoints: Endpoints, tmp_path: Path) -> None:
    """An OPTIONS request is all that the endpoint sees; a token is asked for and tried, and never told."""
    environ: dict[str, Any] = {
        "DATABASE_URL": f"sqlite:///{tmp_path}/none.db",
        "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:9",
        "SCHEMA_REGISTRY_URL": "http://127.0.0.1:9/",
        "INFERENCE_URL": f"{endpoints.url}/score",
        "CXONE_ENRICH_URL": f"{endpoints.url}/contacts/{{interactionId}}",
        "CXONE_OAUTH_URL": f"{endpoints.url}/token",
        "CXONE_CLIENT_ID": "id",
        "CXONE_CLIENT_SECRET": "secret-canary",
    }
    told = command(environ, "check").stdout
    assert "ok       inference: 127.0.0.1 answers OPTIONS with 200" in told
    assert "ok       oauth: 127.0.0.1 gives a token" in told
    assert "ok       enrichment: 127.0.0.1 takes the token" in told
    assert endpoints.asked == ["OPTIONS /score", "POST /token", "GET /contacts/0"]
    assert "canary" not in told
    for endpoints.contact, seen in ((403, "the client lacks scope interaction:read"), (401, "of the same region")):
        assert seen in failures(environ)["enrichment"]
    endpoints.contact = 429
    assert verdicts(environ)["enrichment"] == "warning"
    endpoints.status = 401
    failed = failures(environ)
    assert "INFERENCE_TOKEN" in failed["inference"]
    assert "CXONE_CLIENT_SECRET" in failed["oauth"]
    endpoints.status = 503
    found = verdicts(environ)
    assert (found["inference"], found["oauth"]) == ("warning", "failure")
    assert "enrichment" not in found
    endpoints.status = 429
    found = verdicts(environ)
    assert (found["inference"], found["oauth"]) == ("warning", "warning")
    refused = failures(environ, INFERENCE_ALLOWED_HOSTS="elsewhere.example")
    assert "INFERENCE_ALLOWED_HOSTS" in refused["inference"]
    assert "correct the host" in failures(environ, INFERENCE_URL="http://nowhere.invalid/")["inference"]
    tls = failures(environ, INFERENCE_URL=endpoints.url.replace("http", "https"))
    assert "HTTP_CA_LOCATION" in tls["inference"]


def test_a_login_that_is_not_encrypted_is_a_failure_and_allowed_a_warning(tmp_path: Path) -> None:
    """Each variable has its line; the secret is in none."""
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
    code, findings = checked(environ)
    refused = [finding["seen"].split(":")[0] for finding in findings if finding["subject"] == "settings"]
    assert (code, refused) == (4, ["INFERENCE_URL", "KAFKA_SECURITY_PROTOCOL"])
    _, findings = checked(environ, ALLOW_PLAINTEXT_CREDENTIALS="true")
    warned = [f["seen"].split(":")[0] for f in findings if f["subject"] == "unencrypted login"]
    assert warned == ["INFERENCE_URL", "KAFKA_SECURITY_PROTOCOL"]
    assert "canary" not in str(findings)
