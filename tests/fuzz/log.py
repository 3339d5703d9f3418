"""Reads what a process logs while inputs are fed to it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from structlog.testing import capture_logs

_NEVER = (
    "Traceback (most recent call last)",
    '"action": "unexpected"',
    "unexpected error",
    "Exception in thread",
    '"action": "progress_lost"',  # no input removes a progress record
)


def assert_unquoted(secrets: Sequence[str], text: str) -> None:
    """Assert that none of these stands in a text."""
    for secret in secrets:
        assert secret not in text, f"{secret} is quoted: {text[:1000]}"


class LogWatch:
    """The log of a process.

    Args:
        path: its file.
        secrets: what may not stand in it.
    """

    def __init__(self, path: Path, secrets: Sequence[str]) -> None:
        self._path, self._secrets = path, secrets
        self._read = path.stat().st_size

    def check(self) -> None:
        """Assert that what was logged since the last call quotes no secret, and that no error was unexpected."""
        if self._path.stat().st_size == self._read:
            return
        with self._path.open(errors="replace") as file:
            file.seek(self._read)
            text = file.read()
        self._read = self._path.stat().st_size
        for never in _NEVER:
            assert never not in text, text[-3000:]
        assert_unquoted(self._secrets, text)


class CapturedLog:
    """What this process logs.

    Args:
        secrets: what may not stand in it.
    """

    def __init__(self, secrets: Sequence[str]) -> None:
        self._secrets = secrets
        self._lines: list[Any] = []

    def __enter__(self) -> Self:
        self._capture = capture_logs()
        self._lines = self._capture.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self._capture.__exit__(None, None, None)

    def check(self) -> None:
        """Assert that what was logged since the last call quotes no secret, and that no error was unexpected."""
        lines = self._lines[:]
        del self._lines[: len(lines)]
        unexpected = [line for line in lines if line.get("action") == "unexpected"]
        assert not unexpected, unexpected
        assert_unquoted(self._secrets, repr(lines))
