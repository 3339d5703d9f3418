"""Connections to PostgreSQL that wait for its answer, but not for ever."""

from typing import Any

import psycopg


class ImpatientConnection(psycopg.Connection[Any]):
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
