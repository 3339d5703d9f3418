"""Connections to PostgreSQL that wait for its answer, but not for ever, and that are looked at before they are used."""

import select
from typing import Any

import psycopg

from outbox.errors import DatabaseUnavailableError, UnfitEncodingError, UnsafeDatabaseError

IDLE_SECONDS = 1.0
"""After how long in the pool a connection is asked before it is used: a link may have dropped it silently."""
PING_SECONDS = 3.0
"""How long it may take to answer."""

_SETTINGS = """
    SELECT current_setting('fsync'), current_setting('synchronous_commit'), current_setting('server_encoding'),
           current_setting('transaction_read_only'), pg_is_in_recovery()
"""


class DeadlineConnection(psycopg.Connection[Any]):
    """Gives up a server that is silent: a link that swallows everything, or a server that is frozen.

    The server's own time-outs do not reach here then, and TCP's do not either where a balancer or the
    frozen server's kernel goes on acknowledging: the thread would wait for ever.
    """

    answer_seconds: float
    """How long; told by whoever connects."""

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        """As psycopg's, which every statement, commit and rollback goes through, but not for ever."""
        if timeout is not None:  # who waits for notifications says how long
            return super().wait(gen, interval, timeout)
        try:
            return super().wait(gen, interval, self.answer_seconds)
        except psycopg.errors._WaitTimeout:  # noqa: SLF001 - what the method is documented to raise
            self.close()
            raise psycopg.OperationalError(f"the server did not answer in {self.answer_seconds:.0f} s") from None

    def serves(self, idle_seconds: float) -> bool:
        """Whether the connection is there and takes writes; the server is asked only if there is reason to doubt it.

        Args:
            idle_seconds: for how long it was not used.
        """
        if self.closed:
            return False
        poller = select.poll()
        poller.register(self.fileno(), select.POLLIN)
        if idle_seconds < IDLE_SECONDS and not poller.poll(0):  # nothing has arrived, its end neither
            return True
        usual, self.answer_seconds = self.answer_seconds, min(PING_SECONDS, self.answer_seconds)
        try:
            return self.execute("SHOW transaction_read_only").fetchone() == ("off",)
        except psycopg.Error:
            return False
        finally:
            self.answer_seconds = usual

    def refuse_unfit(self) -> None:
        """Return if the server keeps what it acknowledges, stores every character, and takes writes now.

        Raises:
            UnsafeDatabaseError: waiting does not help.
            DatabaseUnavailableError: the server takes no writes now.
        """
        fsync, synchronous_commit, encoding, read_only, standby = self.execute(_SETTINGS).fetchall()[0]
        if fsync != "on" or synchronous_commit == "off":
            raise UnsafeDatabaseError(
                f"PostgreSQL runs with fsync = {fsync} and synchronous_commit = {synchronous_commit}: it may lose "
                "what it acknowledged. Set fsync = on, and synchronous_commit to anything but off"
            )
        if encoding != "UTF8":
            raise UnfitEncodingError(
                f"the database {self.info.dbname} has the encoding {encoding}, which cannot store every character: "
                "name another one in DATABASE_URL, made with CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0"
            )
        if standby or read_only != "off":
            why = "a standby" if standby else "default_transaction_read_only is on"
            raise DatabaseUnavailableError(
                f"the server {self.info.host}:{self.info.port} takes no writes ({why}): let DATABASE_URL name the one "
                "that does (several hosts: ?host=a&host=b), or end its read-only mode"
            )

    def is_direct(self) -> bool:
        """Whether the server's session is this connection's own: a pooler tells another process id than the server."""
        return self.execute("SELECT pg_backend_pid()").fetchone() == (self.info.backend_pid,)

    def drop_notifications(self) -> None:
        """Keep none: behind a pooler, whoever does not listen gets what others listen for, and psycopg collects it."""
        self.add_notify_handler(_drop)

    def keep_notifications(self) -> None:
        """Collect them for ``notifies``, as a connection that listens wants it."""
        self.remove_notify_handler(_drop)


def _drop(_notification: psycopg.Notify) -> None:
    pass
