"""Work in a background thread while a block runs."""

import threading
from typing import Self


class BackgroundTask:
    """A context manager that runs ``_run``, which a subclass defines, in a thread within the block."""

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
        """Work until ``_stop`` is set at the end of the block."""
        raise NotImplementedError
