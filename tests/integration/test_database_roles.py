"""Each process with a PostgreSQL role of its own that has what ``outbox/roles.sql`` grants, and nothing else."""

import json
import secrets
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import psycopg
import pytest
from psycopg.errors import InsufficientPrivilege

from outbox.db import rights
from outbox.db.engine import create_outbox_engine
from outbox.errors import NotAllowedError
from outbox.models import Accepted, KeyReused, NewRow
from outbox.store import Store
from testkit import ROOT
from testkit.command_line import Ended, command
from testkit.databases import migrate
from testkit.deployment import settings_for
from testkit.relay_process import RelayProcess
from testkit.rows import new_row
from testkit.services import ExternalService, Kafka, Postgres, Registry
from testkit.simulator import Simulator
from testkit.waiting import wait_until
from testkit.web_process import WebProcess

ROLES = ("migrate", "web", "relay", "operator", "console_read", "console_act")


@dataclass
class Roles:
    """A database, and a login for each role; names and passwords are this test's own."""

    server_url: str
    name: str

    def __post_init__(self) -> None:
        self.password = f"canary{secrets.token_hex(8)}"
        info = psycopg.conninfo.conninfo_to_dict(self.server_url)
        self.place = f"{info['host']}:{info['port']}/{self.name}"

    def role(self, name: str) -> str:
        """The role's name on this server."""
        return f"{self.name}_{name}"

    def named(self, documented: str) -> str:
        """SQL of the documentation with this test's names."""
        return (
            documented.replace("cxone_", f"{self.name}_")
            .replace("DATABASE outbox", f"DATABASE {self.name}")
            .replace("connect outbox", f"connect {self.name}")
        )

    def url(self, name: str) -> str:
        """The database, as this role."""
        return f"postgresql+psycopg://{self.role(name)}:{self.password}@{self.place}"

    def admin(self, *statements: str) -> None:
        """Run statements as the server's owner."""
        with psycopg.connect(self.server_url, dbname=self.name, autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement)

    def query(self, statement: str, *, role: str | None = None) -> list[tuple[object, ...]]:
        """Rows of a query, as the server's owner or as a role."""
        url = self.url(role).replace("+psycopg", "") if role else self.server_url
        with psycopg.connect(url, dbname=self.name) as connection:
            done = connection.execute(statement)
            return done.fetchall() if done.description else []

    def command(self, role: str, *arguments: str, **environ: str) -> Ended:
        """An operator's command, as this role."""
        return command({"DATABASE_URL": self.url(role), **environ}, *arguments)


@pytest.fixture
def roles(postgres: Postgres | ExternalService) -> Iterator[Roles]:
    """A migrated database, set up as docs/postgresql-roles.md says: the owner of its tables is the migrations' role."""
    made = Roles(postgres.url, f"roles_{uuid.uuid4().hex[:8]}")
    documented = (ROOT / "docs/postgresql-roles.md").read_text().split("```sql\n")[1].split("```")[0]
    once, connected = made.named(documented).split(f"\\connect {made.name}\n")
    try:
        with psycopg.connect(made.server_url, autocommit=True) as connection:
            for statement in filter(None, map(str.strip, once.split(";"))):
                connection.execute(statement)
            for name in ROLES:  # as \password does
                connection.execute(f"ALTER ROLE {made.role(name)} PASSWORD '{made.password}'")
        made.admin(connected)
        migrate(made.url("migrate"), 2)
        with psycopg.connect(made.url("migrate").replace("+psycopg", "")) as connection:
            connection.execute(made.named(files("outbox").joinpath("roles.sql").read_text()))
        yield made
    finally:
        with psycopg.connect(made.server_url, autocommit=True) as connection:
            connection.execute(f"ALTER DATABASE {made.name} OWNER TO CURRENT_USER")
        listed = ", ".join(map(made.role, ROLES))
        made.admin(f"DROP OWNED BY {listed}", f"DROP ROLE {listed}")  # the database stays, as those of other tests


def record(roles: Roles, *rows: NewRow) -> list[int]:
    """Store rows as the web process does, with its role."""
    engine = create_outbox_engine(roles.url("web"))
    outcomes = Store(engine).record(list(rows))
    engine.dispose()
    return [outcome.outbox_id for outcome in outcomes if isinstance(outcome, Accepted)]


def test_the_web_process_stores_and_reads_no_body(roles: Roles, tmp_path: Path) -> None:
    """New, repeated, reused with another body, counted; ready; a body is not to be had with its rights."""
    web = WebProcess({"DATABASE_URL": roles.url("web"), "WEBHOOK_BACKLOG_LIMIT": "2"}, tmp_path / "web.log")
    try:
        body = {"id": "1", "channel": "voice", "customer": {"email": "someone@example.com"}}
        assert web.post(body, Idempotency_Key="a").status_code == 202
        assert web.post(body, Idempotency_Key="a").json()["duplicate"]
        assert web.post({**body, "id": "2"}, Idempotency_Key="a").status_code == 409
        assert web.post({**body, "id": "2"}).status_code == 202
        wait_until(lambda: web.post({**body, "id": "3"}).status_code == 503, "the backlog is counted")
        assert web.raw(b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n").status == 200
    finally:
        web.stop()
    assert "permission denied" not in web.log.read_text()
    for column in ("payload", "customer_email", "agent_id"):
        with pytest.raises(InsufficientPrivilege):
            roles.query(f"SELECT {column} FROM outbox", role="web")
    with pytest.raises(InsufficientPrivilege):
        roles.query("UPDATE outbox SET state = 'discarded' RETURNING id", role="web")


def test_a_right_that_the_web_process_lacks_is_in_its_log(roles: Roles, tmp_path: Path) -> None:
    """Not ready, without a word of roles to whoever asks; ready again once it is granted."""
    roles.admin(f"REVOKE INSERT (payload) ON outbox FROM {roles.role('web')}")
    web = WebProcess({"DATABASE_URL": roles.url("web")}, tmp_path / "web.log")
    try:
        answer = web.raw(b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (answer.status, b"INSERT" in answer.body) == (503, False)
        assert f"the database role {roles.role('web')} lacks INSERT (payload) ON outbox" in web.log.read_text()
        roles.admin(f"GRANT INSERT (payload) ON outbox TO {roles.role('web')}")
        ready = b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n"
        wait_until(lambda: web.raw(ready).status == 200, "it is ready")
    finally:
        web.stop()


def test_the_relay_does_all_its_work_and_reads_no_body(
    roles: Roles,
    kafka: Kafka | ExternalService,
    registry: Registry | ExternalService,
    simulator: Simulator,
    tmp_path: Path,
) -> None:
    """Sends, completes from CXone, calls inference, parks, prunes, is paused; and waits for a right, by name."""
    environ = {
        **settings_for(kafka, registry, roles.url("relay")),
        **simulator.enrichment,
        **simulator.inference,
        "OUTBOX_RETENTION": "1m",
        "RELAY_LEASE_SECONDS": "3",
    }
    roles.admin(f"REVOKE UPDATE (sent_at) ON outbox FROM {roles.role('relay')}")
    ids = record(roles, *(new_row(f"i-{n}", customer_email=None) for n in range(20)))
    relay = RelayProcess(environ, tmp_path / "relay.log")
    try:
        relay.wait_degraded("database", f"{roles.role('relay')} lacks UPDATE (sent_at) ON outbox")
        roles.admin(f"GRANT UPDATE (sent_at) ON outbox TO {roles.role('relay')}")
        done = "SELECT count(*) FROM outbox_inference_call WHERE state = 'done'"
        wait_until(lambda: roles.query(done) == [(len(ids),)], f"all are sent and called ({relay.log})")
        assert roles.query("SELECT count(*) FROM outbox WHERE enriched_at IS NOT NULL") == [(20,)]
        assert roles.command("operator", "pause", "--for", "1s", "--reason", "looking").returncode == 0
        record(roles, new_row("i-x", customer_email="x" * 2_000_000))
        roles.admin("UPDATE outbox SET received_at = 0, sent_at = 0 WHERE state = 'sent'")
        gone = "SELECT count(*) FROM outbox WHERE state = 'sent'"
        wait_until(
            lambda: roles.query("SELECT state FROM outbox WHERE interaction_id = 'i-x'") == [("parked",)],
            "it is parked",
        )
        wait_until(lambda: roles.query(gone) == [(0,)], f"what is old is pruned ({relay.log})")
        assert not relay.degraded()
        checked = command(environ, "check")
        assert "ok       database write: a write is committed" in checked.stdout
        assert "permission denied" not in checked.stdout
    finally:
        relay.stop()
    assert not [line for line in relay.lines() if "permission denied" in str(line) and "sent_at" not in str(line)]
    with pytest.raises(InsufficientPrivilege):
        roles.query("SELECT payload FROM outbox", role="relay")


def test_an_operator_does_everything_but_change_the_audit(
    roles: Roles, kafka: Kafka | ExternalService, registry: Registry | ExternalService
) -> None:
    """Each command works with the operator's rights; entries of the audit can be added, and nothing else."""
    ids = record(roles, *(new_row(f"i-{n}") for n in range(6)))
    roles.admin("UPDATE outbox SET state = 'parked', error = 'too large'")
    done = [
        ("retry", "--id", str(ids[0])), ("discard", "--id", str(ids[1])), ("discard", "--id", str(ids[2])),
        ("replay", "--id", str(ids[1]), "--state", "discarded"), ("erase", "--email", "someone@example.com"),
        ("prune", "--id", str(ids[2])),
    ]  # fmt: skip
    for changing in done:
        ended = roles.command("operator", *changing, "--reason", "a test", "--yes")
        assert ended.returncode == 0, (changing, ended)
    for verb in ("pause", "resume"):
        assert roles.command("operator", verb, "--reason", "a test").returncode == 0
    roles.admin("UPDATE outbox_inference_call SET state = 'parked', error = 'HTTP 422'")
    environ = settings_for(kafka, registry, roles.url("operator"))
    assert command(environ, "pause", "--reason", "a test").returncode == 0
    for shards in (("reshard", "3"), ("reconcile", "--accept-duplicates")):
        ended = command(environ, *shards, "--reason", "a test", "--yes")
        assert "permission denied" not in ended.stderr, ended
        assert ended.returncode in (0, 3), ended
    for arguments in (
        ("status",),
        ("list", "--all"),
        ("show", str(ids[0])),
        ("audit", "--verify"),
        ("inference", "list", "--all"),
    ):
        assert roles.command("operator", *arguments).returncode in (0, 3), arguments
    shown = roles.command("operator", "show", str(ids[3]), "--reveal", "--reason", "a test")
    assert shown.returncode == 0, shown
    for forbidden in ("UPDATE outbox_audit SET actor = 'bob' RETURNING id", "DELETE FROM outbox_audit RETURNING id",
                      "TRUNCATE outbox_audit", "LOCK TABLE outbox_audit IN EXCLUSIVE MODE"):  # fmt: skip
        with pytest.raises(InsufficientPrivilege):
            roles.query(forbidden, role="operator")


def test_a_right_that_an_operator_lacks_is_in_the_error(roles: Roles) -> None:
    """The command changes nothing, and names what to grant."""
    (row_id,) = record(roles, new_row())
    roles.admin("UPDATE outbox SET state = 'parked', error = 'too large'")
    roles.admin(f"REVOKE INSERT ON outbox_audit FROM {roles.role('operator')}")
    ended = roles.command("operator", "retry", "--id", str(row_id), "--reason", "a test", "--yes")
    assert ended.returncode == 1
    assert f"{roles.role('operator')} lacks INSERT ON outbox_audit: grant the role" in ended.stderr
    assert roles.password not in ended.stderr
    assert roles.query("SELECT state FROM outbox") == [("parked",)]


def test_the_console_looks_without_bodies_and_acts_without_shards(roles: Roles) -> None:
    """Reading: lists, status and the audit; acting: what an operator does to rows, and no reshard."""
    ids = record(roles, *(new_row(f"i-{n}") for n in range(3)))
    roles.admin("UPDATE outbox SET state = 'parked', error = 'too large'")
    for looking in ("status", "list --all", "list --group-by error", "audit"):
        assert roles.command("console_read", *looking.split()).returncode in (0, 3), looking
    refused = roles.command("console_read", "retry", "--all", "--reason", "a test", "--yes")
    assert (refused.returncode, "permission denied" in refused.stderr) == (1, True)
    with pytest.raises(InsufficientPrivilege):
        roles.query("SELECT payload FROM outbox", role="console_read")
    for arguments in (
        ("retry", "--id", str(ids[0])), ("discard", "--id", str(ids[1])),
        ("replay", "--id", str(ids[1]), "--state", "discarded"), ("erase", "--interaction", "i-0"),
        ("prune", "--id", str(ids[1])), ("inference", "retry", "--all"),
    ):  # fmt: skip
        ended = roles.command("console_act", *arguments, "--reason", "a test", "--yes")
        assert ended.returncode in (0, 3), (arguments, ended)
    assert roles.command("console_act", "show", str(ids[2]), "--reveal", "--reason", "a test").returncode == 0
    assert roles.command("console_act", "pause", "--reason", "a test").returncode == 0
    for forbidden in ("UPDATE outbox_identity SET shards = 1 RETURNING id", "DELETE FROM outbox_audit RETURNING id"):
        with pytest.raises(InsufficientPrivilege):
            roles.query(forbidden, role="console_act")


@pytest.mark.parametrize("name", [name for name in ROLES if name != "migrate"])
def test_each_right_that_is_taken_away_is_named(name: str, roles: Roles) -> None:
    """One after the other; with all of them nothing is missing. So the file and what is looked at are one."""
    role = roles.role(name)
    engine = create_outbox_engine(roles.url(name))
    with engine.connect() as connection, connection.begin():
        rights.insist(connection, name)
    for right in rights.needed(name):
        column = f" ({right.column})" if right.column else ""
        roles.query(f"REVOKE {right.privilege}{column} ON {right.object} FROM {role}", role="migrate")
        if right.object.startswith("SCHEMA"):
            with pytest.raises(NotAllowedError, match=r"lacks USAGE ON SCHEMA public"):
                Store(engine).check_writable(name)
        else:
            with pytest.raises(NotAllowedError) as missing, engine.connect() as connection, connection.begin():
                rights.insist(connection, name)
            assert f"{role} lacks {rights.text_of([right])}: grant" in str(missing.value)
        roles.query(f"GRANT {right.privilege}{column} ON {right.object} TO {role}", role="migrate")
    engine.dispose()


def test_a_role_that_may_not_migrate_is_told_so_in_one_line(roles: Roles) -> None:
    """The web's role cannot change the schema, whatever reaches it."""
    roles.admin("UPDATE alembic_version SET version_num = '0005'")
    ended = roles.command("web", "migrate")
    assert ended.returncode == 1
    assert "must be owner of table outbox" in ended.stderr or "permission denied" in ended.stderr
    assert roles.password not in ended.stderr


def test_a_repeated_key_is_told_from_a_reused_one_without_the_body(roles: Roles) -> None:
    """By digest, with the rights of the web process alone."""
    row = new_row(key="key:1")
    engine = create_outbox_engine(roles.url("web"))
    first, same, other = Store(engine).record([row, row, row._replace(payload=b"{}")])
    engine.dispose()
    assert isinstance(same, Accepted)
    assert (same.duplicate, other, json.dumps(isinstance(first, Accepted))) == (True, KeyReused(), "true")
