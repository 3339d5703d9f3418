"""Removals of the SQLite database file, which is the only database in its folder."""

import shutil
from pathlib import Path


def delete(path: Path) -> None:
    """Delete the database with its log: ``rm outbox.db*``."""
    for file in path.parent.iterdir():
        file.unlink()


def delete_alone(path: Path) -> None:
    """Delete the database file only: ``rm outbox.db``."""
    path.unlink()


def delete_folder(path: Path) -> None:
    """Delete the folder: ``rm -r``."""
    shutil.rmtree(path.parent)
