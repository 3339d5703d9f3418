"""Connections to PostgreSQL with a time limit for each statement, and a check before they are reused."""

import select
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg.pq import TransactionStatus

from outbox.errors import DatabaseUnavailableError, UnfitEncodingError, UnsafeDatabaseError

IDLE_SECONDS = 1.0
"""A connection that was idle for longer is pinged before it is used: the network may have dropped it silently."""
PING_TIMEOUT_SECONDS = 3.0

_SETTINGS = """
    SELECT current_setting('fsync'), current_setting('synchronous_commit'), current_setting('server_encoding'),
           current_setting('transaction_read_only'), pg_is_in_recovery(), current_setting('transaction_isolation')
"""
_READ_COMMITTED = ("read committed", "read uncommitted")
"""Isolation levels in which each statement sees what was committed before it; to PostgreSQL the two are the same."""


class DeadlineConnection(psycopg.Connection[Any]):
    """Gives up on a silent server: the network drops everything, or the server is frozen.

    Then the server's own timeouts have no effect. Nor do TCP's, if a load balancer or the frozen server's kernel
    still acknowledges packets: the thread would wait forever.
    """

    answer_seconds: float
    """Time limit for each statement; set after connecting."""
    _is_unreplicated = False
    """Whether a commit was not waited for until the synchronous standby had it; PostgreSQL only warns."""

    def require_replication(self) -> None:
        """From now on, fail a commit whose wait for the synchronous standby was cancelled."""
        self.add_notice_handler(self._note_cancelled_wait)

    def _note_cancelled_wait(self, notice: psycopg.errors.Diagnostic) -> None:
        # Recognized by its function: the text depends on lc_messages. After its other warnings the session ends.
        if notice.source_function == "SyncRepWaitForLSN":
            self._is_unreplicated = True

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        """Wait as psycopg does for every statement, commit and rollback, but with a time limit."""
        if timeout is not None:  # waiting for notifications has its own
            return super().wait(gen, interval, timeout)
        try:
            result = super().wait(gen, interval, self.answer_seconds)
        except psycopg.errors._WaitTimeout:  # noqa: SLF001 - documented as what the method raises
            self.close()
            raise psycopg.OperationalError(f"the server did not answer in {self.answer_seconds:.0f} s") from None
        if self._is_unreplicated:
            self.close()
            raise psycopg.OperationalError(
                "the commit's wait for the synchronous standby was cancelled: only the primary has it"
            )
        return result

    @contextmanager
    def pipeline(self) -> Iterator[psycopg.Pipeline]:
        """Send the statements of the block together; close the connection if it ends within them.

        A pooler that loses its server answers with an error before it hangs up. psycopg then fails to leave the
        pipeline, hides that error, and keeps a connection that cannot be used.
        """
        try:
            with super().pipeline() as pipeline:
                yield pipeline
        except psycopg.OperationalError as error:
            if self.pgconn.transaction_status != TransactionStatus.ACTIVE:
                raise
            self.close()
            hidden = error.__context__
            raise (hidden if isinstance(hidden, psycopg.Error) else error) from None

    def is_usable(self, idle_seconds: float) -> bool:
        """Return whether the connection is open and accepts writes; pings the server only if that is in doubt.

        Args:
            idle_seconds: time since the last use.
        """
        if self.closed:
            return False
        poller = select.poll()
        poller.register(self.fileno(), select.POLLIN)
        nothing_arrived = not poller.poll(0)  # not even the end of the connection
        if idle_seconds < IDLE_SECONDS and nothing_arrived:
            return True
        usual, self.answer_seconds = self.answer_seconds, min(PING_TIMEOUT_SECONDS, self.answer_seconds)
        try:
            return self.execute("SHOW transaction_read_only").fetchone() == ("off",)
        except psycopg.Error:
            return False
        finally:
            self.answer_seconds = usual

    def require_safe_server(self) -> None:
        """Return if commits are durable and seen, every character can be stored, and the server accepts writes.

        Raises:
            UnsafeDatabaseError: waiting does not help.
            DatabaseUnavailableError: the server accepts no writes now.
        """
        fsync, synchronous_commit, encoding, read_only, standby, isolation = self.execute(_SETTINGS).fetchall()[0]
        if fsync != "on" or synchronous_commit == "off":
            raise UnsafeDatabaseError(
                f"PostgreSQL runs with fsync = {fsync} and synchronous_commit = {synchronous_commit}: it may lose "
                "committed rows. Set fsync = on, and synchronous_commit to anything but off"
            )
        if isolation not in _READ_COMMITTED:
            raise UnsafeDatabaseError(
                f"PostgreSQL runs with default_transaction_isolation = {isolation}: a statement that waited for a lock "
                "would not see what changed meanwhile. Set it to read committed"
            )
        if encoding != "UTF8":
            raise UnfitEncodingError(
                f"the database {self.info.dbname} has the encoding {encoding}, which cannot store every character: "
                "let DATABASE_URL name one created with CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0"
            )
        if standby or read_only != "off":
            why = "a standby" if standby else "default_transaction_read_only is on"
            raise DatabaseUnavailableError(
                f"the server {self.info.host}:{self.info.port} accepts no writes ({why}): let DATABASE_URL name the "
                "one that does (several hosts: ?host=a&host=b), or end its read-only mode"
            )

    def is_direct(self) -> bool:
        """Return whether the session is this connection's own: a pooler reports another process id than the server."""
        return self.execute("SELECT pg_backend_pid()").fetchone() == (self.info.backend_pid,)

    def drop_notifications(self) -> None:
        """Drop all notifications: behind a pooler a session may receive those of others, and psycopg collects them."""
        self.add_notify_handler(_drop)

    def keep_notifications(self) -> None:
        """Collect notifications for ``notifies``."""
        self.remove_notify_handler(_drop)


def _drop(_notification: psycopg.Notify) -> None:
    pass
