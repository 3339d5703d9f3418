"""PgBouncer in transaction mode, otherwise with its defaults."""

import os
import shutil
import tempfile
from pathlib import Path
from typing import Self

import psycopg
from sqlalchemy import make_url

from testkit.ports import free_port
from testkit.services.postgres import unprivileged_user
from testkit.services.process import Process, ServiceError

DIRECTORIES = ("/usr/sbin", "/usr/local/sbin", "/opt/homebrew/bin")
"""Where packages install it; these need not be on the PATH."""


class PgBouncer:
    """A connection pooler in front of a PostgreSQL server.

    Args:
        directory: folder for its log.
        server_url: URL of the PostgreSQL server.
        settings: settings that override the defaults.
    """

    def __init__(self, directory: Path, server_url: str, **settings: str) -> None:
        self._directory, self._server, self._settings = directory, make_url(server_url), settings
        self._port = free_port()
        self._config: Path | None = None
        self._process: Process | None = None

    def url(self, database_url: str) -> str:
        """Return the URL of a database of the server, through the pooler."""
        return make_url(database_url).set(host="127.0.0.1", port=self._port).render_as_string(hide_password=False)

    def start(self) -> Self:
        """Start it and wait until it answers.

        Raises:
            ServiceError: it is not installed or does not start.
        """
        found = shutil.which("pgbouncer", path=os.pathsep.join([os.environ.get("PATH", ""), *DIRECTORIES]))
        if found is None:
            raise ServiceError("PgBouncer is missing: apt-get install pgbouncer, or brew install pgbouncer")
        self._directory.mkdir(parents=True, exist_ok=True)
        self._config = self._config or self._write_config()
        log = self._directory / "pgbouncer.log"
        self._process = Process([found, str(self._config)], log, self._answers, user=unprivileged_user())
        self._process.start()
        return self

    def _write_config(self) -> Path:
        # Not in the test's folder, which other users cannot read.
        folder = Path(tempfile.mkdtemp(prefix="outbox-pgbouncer-"))
        server = self._server
        login = f"user='{server.username}'" + (f" password='{server.password}'" if server.password else "")
        settings = {
            "listen_addr": "127.0.0.1",
            "listen_port": str(self._port),
            "unix_socket_dir": "",
            "pool_mode": "transaction",
            "auth_type": "any",  # every client connects as the user in [databases]
            **self._settings,
        }
        file = folder / "pgbouncer.ini"
        lines = ["[databases]", f"* = host={server.host} port={server.port} {login}", "[pgbouncer]"]
        file.write_text("\n".join([*lines, *(f"{name} = {value}" for name, value in settings.items())]) + "\n")
        if (user := unprivileged_user()) is not None:
            os.chown(folder, user, -1)
            os.chown(file, user, -1)
        return file

    @property
    def process(self) -> Process:
        """The pooler's process, to kill, stop and start."""
        if self._process is None:
            raise ServiceError("PgBouncer is not started")
        return self._process

    def administer(self, command: str) -> None:
        """Run a command of the admin console, such as ``RELOAD``, and wait until it is done."""
        console = f"postgresql://outbox@127.0.0.1:{self._port}/pgbouncer"
        with psycopg.connect(console, autocommit=True, connect_timeout=10) as connection:
            connection.execute(command)

    def _answers(self) -> bool:
        address = self.url(self._server.set(drivername="postgresql").render_as_string(hide_password=False))
        try:
            psycopg.connect(address, connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def stop(self) -> None:
        """Stop it."""
        if self._process is not None:
            self._process.stop()
        if self._config is not None:
            shutil.rmtree(self._config.parent, ignore_errors=True)
