"""A thread pool whose threads do not outlive the process."""

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any


class DaemonThreadPool:
    """A fixed number of daemon threads that take work from one queue.

    Unlike ``concurrent.futures.ThreadPoolExecutor``, it does not wait at exit for work that hangs.

    Args:
        name: Prefix of the threads' names.
        threads: Number of threads.
    """

    def __init__(self, name: str, threads: int) -> None:
        self._queue: SimpleQueue[tuple[Callable[[Any], None], Any]] = SimpleQueue()
        for number in range(threads):
            threading.Thread(target=self._run, name=f"{name}-{number}", daemon=True).start()

    def submit(self, function: Callable[[Any], None], argument: object) -> None:
        """Call ``function(argument)`` in one of the threads; it must not raise."""
        self._queue.put((function, argument))

    def shutdown(self, *, wait: bool) -> None:
        """Do nothing; gunicorn calls it at exit."""

    def _run(self) -> None:
        while True:
            function, argument = self._queue.get()
            function(argument)
            del argument  # an idle thread must not keep a closed connection alive
