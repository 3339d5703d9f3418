"""A backup of a broker's disk, to let the broker come back with an older one."""

import shutil
from pathlib import Path

from testkit.services import Kafka


class BrokerBackup:
    """A copy of a broker's data; the broker is stopped while it is made.

    Args:
        kafka: the broker.
        folder: of the copy.
    """

    def __init__(self, kafka: Kafka, folder: Path) -> None:
        self._kafka, self._copy = kafka, folder / "copy"
        kafka.process.stop()
        shutil.copytree(self._data, self._copy)
        kafka.start()

    @property
    def _data(self) -> str:
        return self._kafka.settings["log.dirs"]

    def restore(self) -> None:
        """Stop the broker, restore the copy, and start the broker."""
        self._kafka.process.stop()
        shutil.rmtree(self._data)
        shutil.copytree(self._copy, self._data)
        self._kafka.start()
