"""Ways in which people remove the file of a SQLite database that is alone in its folder."""

import shutil
from pathlib import Path


def delete(path: Path) -> None:
    """As ``rm outbox.db*``."""
    for file in path.parent.iterdir():
        file.unlink()


def delete_alone(path: Path) -> None:
    """As ``rm outbox.db``."""
    path.unlink()


def delete_folder(path: Path) -> None:
    """As ``rm -r`` of the folder."""
    shutil.rmtree(path.parent)
