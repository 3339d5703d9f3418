"""What the gunicorn configurations of web and console share."""

import logging
import socket
from typing import Any

from gunicorn import glogging  # type: ignore[import-untyped]

from config.settings import SettingsError


class RoutedLogger(glogging.Logger):  # type: ignore[misc] # gunicorn has no types
    """Sends gunicorn's log lines to the root logger.

    Never below INFO: its debug lines quote what clients send, secrets included.
    """

    def setup(self, cfg: Any) -> None:
        """Remove gunicorn's own handlers."""
        super().setup(cfg)
        self.error_log.handlers.clear()
        self.error_log.propagate = True
        self.error_log.setLevel(max(self.error_log.level, logging.INFO))


def require_address(setting: str, host: str, examples: str) -> None:
    """Fail if this machine does not have an address: gunicorn would retry, and not name the setting.

    Args:
        setting: its name.
        host: its value.
        examples: addresses that are often right.

    Raises:
        SettingsError: nothing can listen there.
    """
    try:
        socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except OSError as error:
        raise SettingsError(
            f"{setting}={host}: expected an address of this machine, such as {examples} ({error.strerror})"
        ) from None
