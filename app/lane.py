"""Threads that take work from one queue."""

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any


class Lane:
    """A number of threads for one kind of request: what one kind occupies, another does not lack.

    They end with the process: work that hangs does not hold up its exit.

    Args:
        name: of the threads.
        threads: how many.
    """

    def __init__(self, name: str, threads: int) -> None:
        self._queue: SimpleQueue[tuple[Callable[[Any], None], Any]] = SimpleQueue()
        for number in range(threads):
            threading.Thread(target=self._run, name=f"{name}-{number}", daemon=True).start()

    def submit(self, work: Callable[[Any], None], what: object) -> None:
        """Have ``work(what)`` done; it must not raise."""
        self._queue.put((work, what))

    def shutdown(self, *, wait: bool) -> None:
        """Take no notice: the threads end with the process."""

    def _run(self) -> None:
        while True:
            work, what = self._queue.get()
            work(what)
            del what  # a connection that is over is not kept by a thread that waits
