"""Looking at something again and again in a thread of its own, while a block runs."""

import threading
from typing import Self


class Sampler:
    """Looks until the block ends; what it looks at is told by whoever inherits."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        """Runs in the thread, until the stop is set."""
        raise NotImplementedError
