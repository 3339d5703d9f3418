"""Base class for sampling in a background thread."""

import threading
from typing import Self


class Sampler:
    """A context manager that runs ``_run`` in a thread within the block; subclasses sample there."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        """Sample until ``_stop`` is set."""
        raise NotImplementedError
