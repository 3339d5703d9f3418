"""Each process with its own PostgreSQL role, which has only the rights that ``outbox/roles.sql`` grants."""

import secrets
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import psycopg
import pytest
from psycopg.errors import InsufficientPrivilege
from structlog.testing import capture_logs

from outbox.db import rights
from outbox.db.engine import create_outbox_engine
from outbox.errors import NotAllowedError
from outbox.leases import Leases
from outbox.models import Accepted, KeyReused, NewRow, StoredVerdict
from outbox.operators import reconcile
from outbox.operators.audit import AuditContext
from outbox.operators.reshard import reshard_rows
from outbox.operators.rows import RowFilter
from outbox.store import Store
from testkit import ROOT
from testkit.command_line import Ended, command
from testkit.console import form_token, sign_in, start_console
from testkit.databases import migrate
from testkit.deployment import settings_for
from testkit.outbox import states
from testkit.relay_process import RelayProcess
from testkit.rows import new_row
from testkit.services import ExternalService, Kafka, Postgres, Registry
from testkit.simulator import Simulator
from testkit.waiting import wait_until
from testkit.web_process import WebProcess

READY = b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n"
PARK_ALL = """
    WITH moved AS (DELETE FROM outbox_pending RETURNING id, nonce, shard)
    INSERT INTO outbox_parked (id, nonce, shard, interaction_id, state, error, changed_at)
    SELECT m.id, m.nonce, m.shard, o.interaction_id, 'parked', 'too large', 1
    FROM moved AS m JOIN outbox AS o ON o.id = m.id
"""
PRIVATE = ("payload", "customer_email", "agent_id", "payload_digest")
ROLES = ("migrate", "web", "relay", "operator", "console_read", "console_act")


@dataclass
class Roles:
    """A database with a login for each role; names and password are unique to the test."""

    server_url: str
    name: str

    def __post_init__(self) -> None:
        self.password = f"canary{secrets.token_hex(8)}"
        info = psycopg.conninfo.conninfo_to_dict(self.server_url)
        self._address = f"{info['host']}:{info['port']}/{self.name}"

    def role(self, name: str) -> str:
        """Return a role's name on the server."""
        return f"{self.name}_{name}"

    def rename(self, sql: str) -> str:
        """Return the documented SQL with the names of this test."""
        return (
            sql.replace("cxone_", f"{self.name}_")
            .replace("DATABASE outbox", f"DATABASE {self.name}")
            .replace("connect outbox", f"connect {self.name}")
        )

    def url(self, name: str) -> str:
        """Return the database's URL with a role's login."""
        return f"postgresql+psycopg://{self.role(name)}:{self.password}@{self._address}"

    def admin(self, *statements: str) -> None:
        """Run statements as the server's superuser."""
        with psycopg.connect(self.server_url, dbname=self.name, autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement)

    def query(self, statement: str, *, role: str | None = None) -> list[tuple[object, ...]]:
        """Return the rows of a query, run as the server's superuser or as a role."""
        url = self.url(role).replace("+psycopg", "") if role else self.server_url
        with psycopg.connect(url, dbname=self.name) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def command(self, role: str, *arguments: str, **environ: str) -> Ended:
        """Run a command of the command line as a role."""
        return command({"DATABASE_URL": self.url(role), **environ}, *arguments)


@pytest.fixture
def roles(postgres: Postgres | ExternalService) -> Iterator[Roles]:
    """A migrated database, set up as in docs/postgresql-roles.md; the migration role owns its tables."""
    created = Roles(postgres.url, f"roles_{uuid.uuid4().hex[:8]}")
    documented = (ROOT / "docs/postgresql-roles.md").read_text().split("```sql\n")[1].split("```")[0]
    on_server, in_database = created.rename(documented).split(f"\\connect {created.name}\n")
    try:
        with psycopg.connect(created.server_url, autocommit=True) as connection:
            for statement in filter(None, map(str.strip, on_server.split(";"))):
                connection.execute(statement)
            for name in ROLES:  # the documentation uses \password
                connection.execute(f"ALTER ROLE {created.role(name)} PASSWORD '{created.password}'")
        created.admin(in_database)
        migrate(created.url("migrate"), 2)
        with psycopg.connect(created.url("migrate").replace("+psycopg", "")) as connection:
            connection.execute(created.rename(files("outbox").joinpath("roles.sql").read_text()))
        yield created
    finally:
        with psycopg.connect(created.server_url, autocommit=True) as connection:
            connection.execute(f"ALTER DATABASE {created.name} OWNER TO CURRENT_USER")
        listed = ", ".join(map(created.role, ROLES))
        created.admin(f"DROP OWNED BY {listed}", f"DROP ROLE {listed}")


def record(roles: Roles, *rows: NewRow) -> list[int]:
    """Record rows with the web role."""
    engine = create_outbox_engine(roles.url("web"))
    outcomes = Store(engine).record(list(rows))
    engine.dispose()
    return [outcome.outbox_id for outcome in outcomes if isinstance(outcome, Accepted)]


def test_the_web_role_suffices_for_the_web_process_and_cannot_read_bodies(roles: Roles, tmp_path: Path) -> None:
    """The web process accepts, detects duplicates and reused keys, and counts the backlog; bodies are unreadable."""
    web = WebProcess({"DATABASE_URL": roles.url("web"), "WEBHOOK_BACKLOG_LIMIT": "2"}, tmp_path / "web.log")
    try:
        body = {"id": "1", "channel": "voice", "customer": {"email": "someone@example.com"}}
        assert web.post(body, Idempotency_Key="a").status_code == 202
        assert web.post(body, Idempotency_Key="a").json()["duplicate"]
        assert web.post({**body, "id": "2"}, Idempotency_Key="a").status_code == 409
        assert web.post({**body, "id": "2"}).status_code == 202
        wait_until(lambda: web.post({**body, "id": "3"}).status_code == 503, "the backlog limit is enforced")
        assert web.raw(READY).status == 200
    finally:
        web.stop()
    assert "permission denied" not in web.log.read_text()
    for column in ("payload", "customer_email", "agent_id"):
        with pytest.raises(InsufficientPrivilege):
            roles.query(f"SELECT {column} FROM outbox", role="web")
    for forbidden in (
        "UPDATE outbox SET channel = 'x' RETURNING id",
        "DELETE FROM outbox RETURNING id",
        "DELETE FROM outbox_pending RETURNING id",
        "INSERT INTO outbox_sent (id, shard, sequence, sent_at) VALUES (1, 0, 1, 1) RETURNING id",
        "DELETE FROM outbox_parked RETURNING state",
        "SELECT id FROM outbox_rows",
    ):
        with pytest.raises(InsufficientPrivilege):
            roles.query(forbidden, role="web")


def test_a_second_login_with_the_rights_of_a_role_replaces_the_first(roles: Roles, tmp_path: Path) -> None:
    """As docs/rotate-secrets.md says: while both exist, the process changes over; then the first may not log in."""
    second = f"{roles.role('web')}_2"
    roles.admin(f"CREATE ROLE {second} LOGIN IN ROLE {roles.role('web')} PASSWORD 'second'")
    url = roles.url("web").replace(f"{roles.role('web')}:{roles.password}", f"{second}:second")
    old, new = (WebProcess({"DATABASE_URL": each}, tmp_path / "web.log") for each in (roles.url("web"), url))
    try:
        assert old.post({"id": 1, "channel": "voice"}).status_code == 202
        old.stop()
        roles.admin(f"ALTER ROLE {roles.role('web')} NOLOGIN PASSWORD NULL")
        assert new.post({"id": 2, "channel": "voice"}).status_code == 202
        assert new.raw(READY).status == 200
    finally:
        old.kill()
        new.kill()
        roles.admin(f"DROP ROLE {second}")


def test_a_right_that_the_web_role_lacks_is_logged(roles: Roles, tmp_path: Path) -> None:
    """``/readyz`` is 503 and does not name the right, the log does; once it is granted, ``/readyz`` is 200."""
    roles.admin(f"REVOKE INSERT (payload) ON outbox FROM {roles.role('web')}")
    web = WebProcess({"DATABASE_URL": roles.url("web")}, tmp_path / "web.log")
    try:
        answer = web.raw(READY)
        assert answer.status == 503
        assert b"INSERT" not in answer.body
        assert f"the database role {roles.role('web')} lacks INSERT (payload) ON outbox" in web.log.read_text()
        roles.admin(f"GRANT INSERT (payload) ON outbox TO {roles.role('web')}")
        wait_until(lambda: web.raw(READY).status == 200, "the web process is ready")
    finally:
        web.stop()


def test_the_relay_role_suffices_for_the_relay_and_cannot_read_bodies(
    roles: Roles,
    kafka: Kafka | ExternalService,
    registry: Registry | ExternalService,
    simulator: Simulator,
    tmp_path: Path,
) -> None:
    """The relay sends, enriches, calls inference, parks, prunes and is paused; it names a right that it lacks."""
    environ = {
        **settings_for(kafka, registry, roles.url("relay")),
        **simulator.enrichment,
        **simulator.inference,
        "OUTBOX_RETENTION": "1m",
        "RELAY_LEASE_SECONDS": "3",
    }
    roles.admin(f"REVOKE INSERT ON outbox_sent FROM {roles.role('relay')}")
    ids = record(roles, *(new_row(f"i-{n}", customer_email=None) for n in range(20)))
    relay = RelayProcess(environ, tmp_path / "relay.log")
    try:
        relay.wait_degraded("database", f"{roles.role('relay')} lacks INSERT ON outbox_sent")
        roles.admin(f"GRANT INSERT ON outbox_sent TO {roles.role('relay')}")
        done = "SELECT count(*) FROM outbox_inference_call WHERE state = 'done'"
        wait_until(
            lambda: roles.query(done) == [(len(ids),)], f"all rows are sent and their calls are done ({relay.log})"
        )
        assert roles.query("SELECT count(*) FROM outbox WHERE enriched_at IS NOT NULL") == [(20,)]
        paused = roles.command("operator", "pause", "--for", "1s", "--reason", "a test")
        assert paused.returncode == 0, paused
        record(roles, new_row("i-x", customer_email="x" * 2_000_000))
        roles.admin(
            "UPDATE outbox SET received_at = 0 WHERE id IN (SELECT id FROM outbox_sent)",
            "UPDATE outbox_sent SET sent_at = 0",
        )
        sent = "SELECT count(*) FROM outbox_rows WHERE state = 'sent'"
        wait_until(
            lambda: roles.query("SELECT state FROM outbox_rows WHERE interaction_id = 'i-x'") == [("parked",)],
            "the row is parked",
        )
        wait_until(lambda: roles.query(sent) == [(0,)], f"old rows are pruned ({relay.log})")
        assert relay.degraded() == {}
        check = command(environ, "check")
        assert "ok       database write: a write was committed" in check.stdout
        assert "ok       change data capture: no logical replication slot" in check.stdout
        assert "permission denied" not in check.stdout
    finally:
        relay.stop()
    denied = [line for line in relay.lines() if "permission denied" in str(line) and "outbox_sent" not in str(line)]
    assert denied == []
    for forbidden in (
        "SELECT payload FROM outbox",
        "INSERT INTO outbox_pending (shard, id, nonce) VALUES (0, 1, 1) RETURNING id",
        "UPDATE outbox_sent SET sent_at = 0 RETURNING id",
    ):
        with pytest.raises(InsufficientPrivilege):
            roles.query(forbidden, role="relay")


def test_the_operator_role_suffices_for_every_command_and_cannot_change_the_audit_log(
    roles: Roles, kafka: Kafka | ExternalService, registry: Registry | ExternalService
) -> None:
    """Every command works with the operator role, which can only add entries to the audit log."""
    ids = record(roles, *(new_row(f"i-{n}") for n in range(6)))
    roles.admin(PARK_ALL)
    first, second, third, fourth, *_ = ids
    for change in (
        f"retry --id {first}",
        f"discard --id {second}",
        f"discard --id {third}",
        f"replay --id {second} --state discarded",
        "erase --email someone@example.com",
        f"prune --id {third}",
    ):
        ended = roles.command("operator", *change.split(), "--reason", "a test", "--yes")
        assert ended.returncode == 0, (change, ended)
    for audited in ("pause", "resume", f"show {fourth} --reveal"):
        ended = roles.command("operator", *audited.split(), "--reason", "a test")
        assert ended.returncode == 0, (audited, ended)
    for read in ("status", "list --all", f"show {first}", "audit --verify", "inference list --all"):
        ended = roles.command("operator", *read.split())
        assert ended.returncode in (0, 3), (read, ended)
    environ = settings_for(kafka, registry, roles.url("operator"))
    verified = command(environ, "verify")
    assert "permission denied" not in verified.stderr, verified
    engine = create_outbox_engine(roles.url("operator"))
    Store(engine).store_verdict(StoredVerdict(3, 1, 2, False, 6, {}))
    engine.dispose()
    paused = command(environ, "pause", "--reason", "a test")
    assert paused.returncode == 0, paused
    for change in ("reshard 3", "reconcile --accept-duplicates"):
        ended = command(environ, *change.split(), "--reason", "a test", "--yes")
        assert "permission denied" not in ended.stderr, ended
        assert ended.returncode in (0, 3), (change, ended)
    for forbidden in ("UPDATE outbox_audit SET actor = 'bob' RETURNING id", "DELETE FROM outbox_audit RETURNING id",
                      "TRUNCATE outbox_audit", "LOCK TABLE outbox_audit IN EXCLUSIVE MODE",
                      "DELETE FROM outbox_audit_row RETURNING row_id"):  # fmt: skip
        with pytest.raises(InsufficientPrivilege):
            roles.query(forbidden, role="operator")


def test_the_operator_role_suffices_to_reconcile_and_to_reshard(roles: Roles) -> None:
    """It marks rows sent that the topic has, makes rows pending again that it lacks, and moves unsent rows."""
    record(roles, *(new_row(f"i-{n}") for n in range(6)))
    engine, relay = create_outbox_engine(roles.url("operator")), create_outbox_engine(roles.url("relay"))
    lease, other = (Leases(engine, "an operator", 10).take(shard) for shard in range(2))
    assert lease is not None
    assert other is not None
    pending, parked, *_ = rows = [row.ref for row in Store(engine).pending(lease, 10, block_behind_parked=True)]
    Store(relay).park(lease, {parked: "too large"})
    context = AuditContext("ann", "restored", RowFilter())
    assert reconcile.mark_published(engine, lease, 1, [pending, parked], context, inference=True) == 2
    assert states(engine)[parked.id] == "sent"
    assert reconcile.send_again(engine, lease, [parked], context) == 1
    assert {states(engine)[ref.id] for ref in rows} == {"pending", "sent"}
    Store(relay).park(lease, {parked: "too large"})
    assert reshard_rows(engine, [lease, other], {}, 3, context) > 0
    engine.dispose()
    relay.dispose()


def test_a_right_that_the_operator_role_lacks_is_in_the_error(roles: Roles) -> None:
    """The command changes nothing, and its error names what to grant."""
    (row_id,) = record(roles, new_row())
    roles.admin(PARK_ALL)
    roles.admin(f"REVOKE INSERT ON outbox_audit FROM {roles.role('operator')}")
    ended = roles.command("operator", "retry", "--id", str(row_id), "--reason", "a test", "--yes")
    assert ended.returncode == 1, ended
    assert f"{roles.role('operator')} lacks INSERT ON outbox_audit: grant the role" in ended.stderr
    assert roles.password not in ended.stderr
    assert roles.query("SELECT state FROM outbox_rows") == [("parked",)]


def test_the_console_roles_cannot_read_bodies_or_change_shards(roles: Roles) -> None:
    """``console_read`` lists rows, status and audit log; ``console_act`` also changes rows, but does not reshard."""
    ids = record(roles, *(new_row(f"i-{n}") for n in range(3)))
    roles.admin(PARK_ALL)
    first, second, third = ids
    reads = ("status", "list --all", "list --group-by error", "list --idempotency-key k", "audit", f"show {first}")
    for read in reads:
        ended = roles.command("console_read", *read.split())
        assert ended.returncode in (0, 3), (read, ended)
    for change in ("retry --all --yes", f"show {first} --reveal"):
        refused = roles.command("console_read", *change.split(), "--reason", "a test")
        assert refused.returncode == 1, refused
        assert "permission denied" in refused.stderr
    for forbidden in (
        *(f"SELECT {column} FROM outbox" for column in PRIVATE),
        "UPDATE outbox_parked SET state = 'discarded' RETURNING id",
        "INSERT INTO outbox_pending (shard, id, nonce) VALUES (0, 1, 1) RETURNING id",
    ):
        with pytest.raises(InsufficientPrivilege):
            roles.query(forbidden, role="console_read")
    columns = "SELECT column_name FROM information_schema.columns WHERE table_name = 'outbox_rows'"
    assert {name for (name,) in roles.query(columns, role="console_read")} & {*PRIVATE, "key"} == set()
    for change in (
        f"retry --id {first}",
        f"discard --id {second}",
        f"replay --id {second} --state discarded",
        "erase --interaction i-0",
        f"prune --id {second}",
        "inference retry --all",
    ):
        ended = roles.command("console_act", *change.split(), "--reason", "a test", "--yes")
        assert ended.returncode in (0, 3), (change, ended)
    for audited in (f"show {third} --reveal", "pause"):
        ended = roles.command("console_act", *audited.split(), "--reason", "a test")
        assert ended.returncode == 0, (audited, ended)
    for forbidden in (
        "UPDATE outbox_identity SET shards = 1 RETURNING id",
        "DELETE FROM outbox_audit RETURNING id",
        "UPDATE outbox_pending SET shard = 1 RETURNING id",
        "INSERT INTO outbox_sent (id, shard, sequence, sent_at) VALUES (1, 0, 1, 1) RETURNING id",
    ):
        with pytest.raises(InsufficientPrivilege):
            roles.query(forbidden, role="console_act")


@pytest.mark.parametrize("name", [name for name in ROLES if name != "migrate"])
def test_each_revoked_right_is_named(name: str, roles: Roles) -> None:
    """With all rights nothing is missing; each one revoked is reported. So roles.sql and the check agree."""
    role = roles.role(name)
    engine = create_outbox_engine(roles.url(name))
    with engine.connect() as connection, connection.begin():
        rights.require(connection, name)
    for right in rights.required_by(name):
        column = f" ({right.column})" if right.column else ""
        roles.query(f"REVOKE {right.privilege}{column} ON {right.object} FROM {role}", role="migrate")
        if right.object.startswith("SCHEMA"):
            with pytest.raises(NotAllowedError, match=r"lacks USAGE ON SCHEMA public"):
                Store(engine).check_writable(name)
        else:
            with pytest.raises(NotAllowedError) as missing, engine.connect() as connection, connection.begin():
                rights.require(connection, name)
            assert f"{role} lacks {rights.format_rights([right])}: grant" in str(missing.value)
        roles.query(f"GRANT {right.privilege}{column} ON {right.object} TO {role}", role="migrate")
    engine.dispose()


def test_a_role_that_may_not_migrate_gets_an_error_without_the_password(roles: Roles) -> None:
    """The web role cannot change the schema."""
    roles.admin("DELETE FROM alembic_version")
    ended = roles.command("web", "migrate")
    assert ended.returncode == 1, ended
    assert "must be owner of table outbox" in ended.stderr or "permission denied" in ended.stderr
    assert roles.password not in ended.stderr


def test_the_web_role_distinguishes_a_repeated_key_from_a_reused_one(roles: Roles) -> None:
    """The web role compares digests of bodies, since it cannot read the bodies."""
    row = new_row(key="key:1")
    engine = create_outbox_engine(roles.url("web"))
    first, same, other = Store(engine).record([row, row, row._replace(payload=b"{}")])
    engine.dispose()
    assert isinstance(first, Accepted)
    assert not first.duplicate
    assert isinstance(same, Accepted)
    assert same.duplicate
    assert other == KeyReused()


CONSOLE_PAGES = ("/", "/problems", "/rows", "/rows/1", "/rows/1/kafka", "/calls", "/shards", "/audit", "/check")


def test_the_role_that_reads_suffices_to_look_around(roles: Roles) -> None:
    """Each page of the console is shown; the content of a row is not, and no shard is paused."""
    record(roles, new_row("i-1"))
    roles.admin(PARK_ALL)
    with start_console(roles.url("console_read")) as app:
        client = app.test_client()
        sign_in(client, "custodian")
        for path in CONSOLE_PAGES:
            assert client.get(path).status_code == 200, path
        fields = {"csrf_token": form_token(client, "/"), "shard": "all", "for": "1m", "reason": "a test"}
        for path in ("/rows/1/reveal", "/shards/pause"):
            assert client.post(path, data=fields).status_code == 503, path
    assert roles.query("SELECT count(*) FROM outbox_audit") == [(0,)]


def test_the_consoles_role_suffices_for_its_pages(roles: Roles) -> None:
    """Each page is shown; a missing right is named in the log, and the page says that the database cannot be used."""
    record(roles, new_row("i-1"))
    roles.admin(PARK_ALL)
    with start_console(roles.url("console_act")) as app:
        client = app.test_client()
        sign_in(client, "custodian")
        for path in (*CONSOLE_PAGES, "/readyz"):
            assert client.get(path).status_code == 200, path
        fields = {"csrf_token": form_token(client, "/"), "shard": "all", "for": "1m", "reason": "a test"}
        assert "someone@example.com" in client.post("/rows/1/reveal", data=fields).get_data(as_text=True)
        for path in ("/shards/pause", "/shards/resume"):
            assert client.post(path, data=fields).status_code == 303, path
        roles.admin(f"REVOKE SELECT ON outbox_audit FROM {roles.role('console_act')}")
        with capture_logs() as lines:
            assert client.get("/audit").status_code == 503
    assert f"{roles.role('console_act')} lacks SELECT ON outbox_audit" in repr(lines)
    assert roles.password not in repr(lines)
