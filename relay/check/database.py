"""The database: reachable, durable, at the right schema, writable, with free disk and a correct clock."""

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
from relay.check.placement import check_placement
from relay.check.replication import check_replication

MIN_POSTGRESQL = (14, 0)
"""Older versions are neither maintained nor tested with."""
MIN_SQLITE = (3, 38)
"""The first version with the operator ``->>``."""
LOW_DISK_BYTES, FULL_DISK_BYTES = 2_000_000_000, 100_000_000
MAX_CLOCK_SKEW_SECONDS = 5.0
"""With more, the times of rows and of logs cannot be compared."""
INSTALL_SQLITE = "install the pysqlite3 wheel, or Python with SQLite 3.51.3 or later"
RESTORE_DATABASE = (
    "make the database answer and accept writes, or correct DATABASE_URL; the webhook answers 503 meanwhile, and "
    "nothing is lost"
)
RESTORE_WRITES = "free the disk, end what holds its lock, and grant the role what it needs on the tables of the outbox"
USE_DURABLE_COMMITS = (
    "set fsync = on, and synchronous_commit to anything but off, for the server, the database and the role"
)


def check_database(url: str) -> tuple[list[Finding], Identity | None]:
    """Check the database; return the identity of the outbox in it as well if there is one."""
    parts = make_url(url)
    shown = parts.set(username=None, password=None, query={}).render_as_string()
    if parts.get_backend_name() == "sqlite" and not Path(parts.database or "").exists():
        return [failure("database", f"{shown} does not exist", f"run {MIGRATE}, or correct DATABASE_URL")], None
    try:
        engine = create_outbox_engine(url, may_create=False)
    except UnsafeDatabaseError as error:
        return [failure("database", str(error), "use a database that keeps what it acknowledges")], None
    try:
        info, findings = _inspect(engine, shown)
        if info is None:
            return findings, None
        schema, identity = _check_outbox(engine)
        return [*findings, *judge_database(info), *_check_file(engine), *schema], identity
    finally:
        engine.dispose()


def _inspect(engine: Engine, shown: str) -> tuple[DatabaseInfo | None, list[Finding]]:
    """None: nothing else can be checked."""
    reached = ok("database", f"{shown} answers")
    try:
        return diagnostics.inspect(engine), [reached]
    except UnfitEncodingError as error:
        remedy = "create a database with the encoding UTF8, migrate it, and set DATABASE_URL to it"
        return None, [reached, failure("database encoding", str(error), remedy)]
    except UnsafeDatabaseError as error:
        return None, [reached, failure("database durability", str(error), USE_DURABLE_COMMITS)]
    except OutboxError as error:
        return None, [failure("database", f"{shown}: {error}", RESTORE_DATABASE)]


def _check_outbox(engine: Engine) -> tuple[list[Finding], Identity | None]:
    """Schema, write access and identity."""
    try:
        revision = diagnostics.revision(engine)
    except SchemaOutdatedError:
        revision = None
    except DatabaseUnavailableError as error:
        return [failure("database schema", str(error), RESTORE_WRITES)], None
    schema = judge_revision(revision, head())
    if revision is None:
        return [schema], None
    findings = [schema, _check_write(engine)]
    try:
        identity = Store(engine).identity()
    except OutboxError as error:
        return [*findings, failure("database identity", str(error), MIGRATE)], None
    return [*findings, check_placement(engine), *check_replication(engine)], identity


def _check_file(engine: Engine) -> list[Finding]:
    if engine.dialect.name != "sqlite":
        return []
    path = Path(engine.url.database or "").resolve()
    if found := open_to_others(path):
        files = ", ".join(f"{file} (mode {mode:04o})" for file, mode in found.items())
        remedy = f"chmod 600 {shlex.join(map(str, found))}; rows contain addresses and bodies"
        return [warning("database file", f"other users than the owner have access to {files}", remedy)]
    return [ok("database file", f"only the owner has access to {path}")]


def _check_write(engine: Engine) -> Finding:
    try:
        Store(engine).check_writable(RELAY)
    except SchemaOutdatedError as error:
        return failure("database write", str(error), MIGRATE)
    except DatabaseUnavailableError as error:
        return failure("database write", str(error), RESTORE_WRITES)
    return ok("database write", "a write was committed")


def judge_database(info: DatabaseInfo) -> list[Finding]:
    """Judge version, durability, disk and clock."""
    durability = _sqlite_durability(info) if info.kind == "sqlite" else _postgresql_durability(info)
    return [_version(info), *durability, _disk(info), _clock(info.clock_ahead_seconds)]


def judge_revision(revision: str | None, newest: str) -> Finding:
    """Compare the schema with the one of this release. Revisions are numbered, so they compare as text."""
    if revision is None:
        return failure("database schema", "no migration has run", MIGRATE)
    if revision < newest:
        needed = f", and at least {REQUIRED_REVISION} is needed" if revision < REQUIRED_REVISION else ""
        detail = f"at revision {revision}, this release has {newest}{needed}"
        return failure("database schema", detail, MIGRATE)
    if revision > newest:
        detail = f"at revision {revision}, newer than this release's {newest}"
        return warning("database schema", detail, "run the release that migrated it, unless this is a rollback")
    return ok("database schema", f"at revision {revision}, the newest")


def _version(info: DatabaseInfo) -> Finding:
    subject = "database version"
    detail = f"{'SQLite' if info.kind == 'sqlite' else 'PostgreSQL'} {'.'.join(map(str, info.version))}"
    if info.kind == "sqlite":
        if info.version < MIN_SQLITE:
            return failure(subject, detail, INSTALL_SQLITE)
        if not wal_is_safe(info.version):
            remedy = f"{INSTALL_SQLITE}: this version has the WAL bug"
            return warning(subject, f"{detail}, with the slower rollback journal", remedy)
    elif info.version < MIN_POSTGRESQL:
        return warning(subject, detail, "upgrade to PostgreSQL 14 or later: this version is not tested with")
    return ok(subject, detail)


def _sqlite_durability(info: DatabaseInfo) -> list[Finding]:
    modes = f"journal_mode = {info.settings['journal_mode']}, synchronous = {info.settings['synchronous']}"
    remedy = "replicate the file (snapshots, Litestream), or move to PostgreSQL with a synchronous standby"
    return [warning("database durability", f"{modes}; there is one file on one disk, and no other copy", remedy)]


def _postgresql_durability(info: DatabaseInfo) -> list[Finding]:
    findings = []
    if info.standby:
        remedy = "set DATABASE_URL to the primary (with several hosts: target_session_attrs=read-write)"
        findings.append(failure("database role", "a standby, which accepts no writes", remedy))
    return [*findings, _postgresql_commits(info.settings)]


def _postgresql_commits(settings: dict[str, str]) -> Finding:
    subject, detail = "database durability", ", ".join(f"{n} = {value or 'none'}" for n, value in settings.items())
    if settings["full_page_writes"] != "on":
        return warning(subject, detail, "set full_page_writes = on, unless the file system writes whole pages or none")
    if not settings["synchronous_standby_names"]:
        remedy = "set up a synchronous standby, unless the storage itself is replicated"
        return warning(subject, f"{detail}: there is no copy of this server's data", remedy)
    if settings["synchronous_commit"] == "local":
        return warning(subject, detail, "set synchronous_commit = on, so that a commit waits for the standby")
    return ok(subject, detail)


def _disk(info: DatabaseInfo) -> Finding:
    size = f"the database takes {info.size_bytes / 1e6:,.0f} MB"
    if info.free_bytes is None:
        return unknown("database disk", f"{size}; the server does not report free space", "monitor the server's disk")
    detail = f"{size}, {info.free_bytes / 1e9:,.1f} GB are free"
    if info.free_bytes < FULL_DISK_BYTES:
        return failure("database disk", detail, "free disk space: the webhook refuses what it cannot store")
    if info.free_bytes < LOW_DISK_BYTES:
        return warning("database disk", detail, "free disk space, or shorten OUTBOX_RETENTION")
    return ok("database disk", detail)


def _clock(ahead_seconds: float) -> Finding:
    direction = "ahead of" if ahead_seconds >= 0 else "behind"
    detail = f"the database's clock is {abs(ahead_seconds):.1f} s {direction} this machine's"
    if abs(ahead_seconds) > MAX_CLOCK_SKEW_SECONDS:
        remedy = "synchronize both with NTP: leases use the database's clock, logs and tokens this machine's"
        return warning("clock", detail, remedy)
    return ok("clock", detail)
