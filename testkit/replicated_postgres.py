"""A PostgreSQL primary and its synchronous standby, each on a small disk, at the addresses that applications use."""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

from testkit.proxied_services import ProxiedPostgres, restart_service
from testkit.proxy import Proxy
from testkit.services import ServiceError
from testkit.waiting import wait_until

DISK_MEGABYTES = 300
SETTINGS = {
    "max_connections": "60",
    "max_wal_size": "64MB",
    "min_wal_size": "32MB",
    "wal_keep_size": "64MB",
    "wal_retrieve_retry_interval": "200ms",
}
PRIVILEGED = () if os.getuid() == 0 else ("sudo", "-n")
RESTORE_SECONDS = 120.0


class SmallDiskPostgres(ProxiedPostgres):
    """A PostgreSQL server behind a proxy, with its data in a small file system of its own, which can be filled.

    Args:
        directory: folder for its log.
    """

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, **SETTINGS)
        self._disk: Path | None = None

    def _new_folder(self, user: int | None) -> Path:
        self._disk = Path(tempfile.mkdtemp(prefix="outbox-disk-"))
        owner = os.getuid() if user is None else user
        options = f"size={DISK_MEGABYTES}m,mode=700,uid={owner}"
        _run("mount", "-t", "tmpfs", "-o", options, "tmpfs", str(self._disk))
        return self._disk

    def _remove_data(self) -> None:
        if self._disk is not None:
            _run("umount", "--lazy", str(self._disk))
            self._disk.rmdir()
            self._disk = None

    @contextmanager
    def disk_full(self) -> Iterator[None]:
        """Leave no space on the disk within the block."""
        if self._disk is None:
            raise ServiceError("PostgreSQL is not started")
        ballast = self._disk / "ballast"
        try:
            with suppress(OSError), ballast.open("wb", buffering=0) as file:
                while file.write(bytes(2**16)):
                    pass
            yield
        finally:
            ballast.unlink()

    def ensure_running(self) -> None:
        """Wait until the server answers, and restart it, as a supervisor would, if its process has ended."""

        def answers() -> bool:
            if not self.running:
                restart_service(self.start)
            return self.answers()

        wait_until(answers, "the server answers", RESTORE_SECONDS)


class ReplicatedPostgres:
    """A primary and a synchronous standby that can take its place.

    Args:
        folder: for logs.
    """

    def __init__(self, folder: Path) -> None:
        self.primary, self.standby = SmallDiskPostgres(folder / "one"), SmallDiskPostgres(folder / "other")
        self.address = Proxy(self.primary.proxy.port)
        """One address that leads to the current primary, as a load balancer's or a virtual one."""

    def start(self) -> Self:
        """Start both servers, and wait until the standby is synchronous."""
        self.primary.start()
        self.rebuild_standby()
        return self

    def stop(self) -> None:
        """Stop both servers and the proxies."""
        self.primary.stop()
        self.standby.stop()
        self.address.close()

    def direct_url(self, database: str) -> str:
        """Return a URL that names both servers, without proxies."""
        return _url_of_both(database, [self.primary.port, self.standby.port])

    def proxied_url(self, database: str) -> str:
        """Return a URL that names both servers, through their proxies."""
        return _url_of_both(database, [self.primary.proxy.port, self.standby.proxy.port])

    def promote_standby(self, *, cut: bool = True) -> None:
        """Make the standby the primary, which needs no standby yet, and lead the address to it.

        Args:
            cut: whether to end the address's connections to the old primary.
        """
        self.standby.promote()
        self.primary, self.standby = self.standby, self.primary
        self.address.target_port = self.primary.proxy.port
        if cut:
            self.address.cut()

    def rebuild_standby(self) -> None:
        """Make the other server the synchronous standby, from a new base backup, whatever it was before."""
        if self.standby.running:
            self.standby.kill()
        restart_service(lambda: self.standby.follow(self.primary))
        self.primary.require_standby()  # after the backup: a promoted standby does not wait for one
        self.wait_until_synchronous()

    @contextmanager
    def without_standby(self) -> Iterator[None]:
        """Kill (-9) the standby, so that no commit is acknowledged within the block, and start it again."""
        self.standby.kill()
        try:
            yield
        finally:
            restart_service(self.standby.start)
            self.wait_until_synchronous()

    def wait_until_synchronous(self) -> None:
        """Wait until the standby is synchronous."""
        wait_until(self.primary.has_standby, "the standby is synchronous", RESTORE_SECONDS)


def _url_of_both(database: str, ports: list[int]) -> str:
    hosts = "&".join(f"host=127.0.0.1:{port}" for port in ports)
    return f"postgresql+psycopg://outbox@/{database}?{hosts}"


def _run(*command: str) -> None:
    done = subprocess.run([*PRIVILEGED, *command], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ServiceError(f"a disk of limited size needs root: {' '.join(command)} failed: {done.stderr.strip()}")
