"""The database: reachable, its version, whether it keeps what it acknowledged, its schema, its disk, its clock."""

import shlex
from pathlib import Path

from sqlalchemy import Engine, make_url

from migrations.run import head
from outbox.db import diagnostics
from outbox.db.diagnostics import DatabaseInfo
from outbox.db.engine import create_outbox_engine, wal_is_safe
from outbox.db.private_file import open_to_others
from outbox.db.rights import RELAY
from outbox.errors import (
    MIGRATE,
    DatabaseUnavailableError,
    OutboxError,
    SchemaOutdatedError,
    UnfitEncodingError,
    UnsafeDatabaseError,
)
from outbox.models import Identity
from outbox.store import REQUIRED_REVISION, Store
from relay.check.finding import Finding, failure, ok, unknown, warning

OLDEST_POSTGRESQL = (14, 0)
"""Older ones are no longer maintained, and not tested with."""
OLDEST_SQLITE = (3, 38)
"""The first that knows ``->>``."""
LOW_DISK_BYTES, FULL_DISK_BYTES = 2_000_000_000, 100_000_000
CLOCK_SECONDS = 5.0
"""Further apart, times of rows and times in logs tell different stories."""
LET_WRITE = "free its disk, end whatever holds its lock, and grant the role what it needs on the tables of the outbox"
RECOVER = (
    "let the database answer and take writes again, or correct DATABASE_URL; the webhook answers 503 meanwhile, and "
    "nothing is lost"
)


def check_database(url: str) -> tuple[list[Finding], Identity | None]:
    """What can be said of the database, and the identity of the outbox in it, if there is one."""
    place = make_url(url)
    shown = place.set(username=None, password=None, query={}).render_as_string()
    if place.get_backend_name() == "sqlite" and not Path(place.database or "").exists():
        return [failure("database", f"{shown} does not exist", f"run {MIGRATE}, or correct DATABASE_URL")], None
    try:
        engine = create_outbox_engine(url, may_create=False)
    except UnsafeDatabaseError as error:
        return [failure("database", str(error), "name a database that the outbox can rest on")], None
    try:
        return _look(engine, shown)
    finally:
        engine.dispose()


def _look(engine: Engine, shown: str) -> tuple[list[Finding], Identity | None]:
    try:
        seen = diagnostics.inspect(engine)
    except UnfitEncodingError as error:
        cure = "make a database with the encoding UTF8, migrate it, and name it in DATABASE_URL"
        return [ok("database", f"{shown} answers"), failure("database encoding", str(error), cure)], None
    except UnsafeDatabaseError as error:
        cure = "set fsync = on, and synchronous_commit to anything but off, for the server, the database and the role"
        return [ok("database", f"{shown} answers"), failure("database durability", str(error), cure)], None
    except OutboxError as error:
        return [failure("database", f"{shown}: {error}", RECOVER)], None
    findings = [ok("database", f"{shown} answers"), *judge_vitals(seen), *_files(engine)]
    try:
        revision = diagnostics.revision(engine)
    except SchemaOutdatedError:
        revision = None
    except DatabaseUnavailableError as error:
        return [*findings, failure("database schema", str(error), LET_WRITE)], None
    findings.append(judge_revision(revision, head()))
    if revision is None:
        return findings, None
    findings.append(_write(engine))
    try:
        return findings, Store(engine).identity()
    except OutboxError as error:
        return [*findings, failure("database identity", str(error), MIGRATE)], None


def _files(engine: Engine) -> list[Finding]:
    if engine.dialect.name != "sqlite":
        return []
    path = Path(engine.url.database or "").resolve()
    if found := open_to_others(path):
        seen = ", ".join(f"{file} (mode {mode:04o})" for file, mode in found.items())
        cure = f"chmod 600 {shlex.join(map(str, found))}; rows hold addresses and bodies"
        return [warning("database file", f"others than the owner have rights on {seen}", cure)]
    return [ok("database file", f"{path} is the owner's alone")]


def _write(engine: Engine) -> Finding:
    try:
        Store(engine).check_writable(RELAY)
    except SchemaOutdatedError as error:
        return failure("database write", str(error), MIGRATE)
    except DatabaseUnavailableError as error:
        return failure("database write", str(error), LET_WRITE)
    return ok("database write", "a write is committed")


def judge_vitals(seen: DatabaseInfo) -> list[Finding]:
    """Version, durability, disk and clock."""
    durable = _sqlite_durability(seen) if seen.kind == "sqlite" else _postgresql_durability(seen)
    return [_version(seen), *durable, _disk(seen), _clock(seen.clock_ahead_seconds)]


def judge_revision(revision: str | None, newest: str) -> Finding:
    """Whether the schema is what this code brings; revisions are numbered, so they compare as text."""
    if revision is None:
        return failure("database schema", "no migration has run", MIGRATE)
    if revision < newest:
        needed = f", needs at least {REQUIRED_REVISION}" if revision < REQUIRED_REVISION else ""
        return failure("database schema", f"at revision {revision}, this code brings {newest}{needed}", MIGRATE)
    if revision > newest:
        seen = f"at revision {revision}, newer than this code's {newest}"
        return warning("database schema", seen, "run the release that made it, unless you are on the way back")
    return ok("database schema", f"at revision {revision}, the newest")


def _version(seen: DatabaseInfo) -> Finding:
    told = f"{'SQLite' if seen.kind == 'sqlite' else 'PostgreSQL'} {'.'.join(map(str, seen.version))}"
    if seen.kind == "sqlite":
        if seen.version < OLDEST_SQLITE:
            return failure(
                "database version", told, "install the pysqlite3 wheel, or Python with SQLite 3.51.3 or later"
            )
        if not wal_is_safe(seen.version):
            cure = "install the pysqlite3 wheel, or Python with SQLite 3.51.3 or later: this one has the WAL bug"
            return warning("database version", f"{told}, with the slower rollback journal", cure)
    elif seen.version < OLDEST_POSTGRESQL:
        return warning("database version", told, "move to PostgreSQL 14 or later: this one is not tested with")
    return ok("database version", told)


def _sqlite_durability(seen: DatabaseInfo) -> list[Finding]:
    told = f"journal_mode = {seen.settings['journal_mode']}, synchronous = {seen.settings['synchronous']}"
    cure = "replicate the file (a snapshot, Litestream), or move to PostgreSQL with a synchronous standby"
    return [warning("database durability", f"{told}; one file on one disk, and what that disk loses is lost", cure)]


def _postgresql_durability(seen: DatabaseInfo) -> list[Finding]:
    told = ", ".join(f"{name} = {value or 'none'}" for name, value in seen.settings.items())
    findings = []
    if seen.standby:
        cure = "let DATABASE_URL name the primary (target_session_attrs=read-write with several hosts)"
        findings.append(failure("database role", "a standby, which takes no writes", cure))
    if seen.settings["full_page_writes"] != "on":
        cure = "set full_page_writes = on, unless the file system writes whole pages or none"
        findings.append(warning("database durability", told, cure))
    elif not seen.settings["synchronous_standby_names"]:
        cure = "set up a synchronous standby, unless the storage itself is replicated"
        findings.append(warning("database durability", f"{told}: what this one server loses is lost", cure))
    elif seen.settings["synchronous_commit"] == "local":
        cure = "set synchronous_commit = on, so that a commit waits for the standby"
        findings.append(warning("database durability", told, cure))
    else:
        findings.append(ok("database durability", told))
    return findings


def _disk(seen: DatabaseInfo) -> Finding:
    size = f"the database takes {seen.size_bytes / 1e6:,.0f} MB"
    if seen.free_bytes is None:
        return unknown(
            "database disk", f"{size}; the server does not tell what is free", "watch its disk where it runs"
        )
    told = f"{size}, {seen.free_bytes / 1e9:,.1f} GB are free"
    if seen.free_bytes < FULL_DISK_BYTES:
        return failure("database disk", told, "free the disk: the webhook refuses what it cannot store")
    if seen.free_bytes < LOW_DISK_BYTES:
        return warning("database disk", told, "free the disk, or shorten OUTBOX_RETENTION")
    return ok("database disk", told)


def _clock(ahead: float) -> Finding:
    told = f"the database's clock is {abs(ahead):.1f} s {'ahead of' if ahead >= 0 else 'behind'} this machine's"
    if abs(ahead) > CLOCK_SECONDS:
        return warning(
            "clock", told, "let both follow NTP: leases go by the database's clock, logs and tokens by this one"
        )
    return ok("clock", told)
