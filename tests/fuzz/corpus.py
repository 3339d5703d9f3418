"""The corpus: one file for each input, in a folder for each part of a target."""

import hashlib
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).parent / "corpus"
LENGTH = b"Content-Length: *"
"""Becomes the length of what follows the head."""


class Input(NamedTuple):
    """What is fed to a target.

    Attributes:
        part: which of its inputs, such as ``head``; a folder's name.
        data: the bytes.
    """

    part: str
    data: bytes


def fill_length(data: bytes) -> bytes:
    """Return a request or an answer with the length of what follows its head, if it leaves that open."""
    head, separator, body = data.partition(b"\r\n\r\n")
    return head.replace(LENGTH, b"Content-Length: %d" % len(body)) + separator + body


def load(target: str) -> list[Input]:
    """Return the corpus of a target, in the order of the names."""
    files = sorted(path for path in (FOLDER / target).glob("*/*") if path.is_file())
    assert files, f"no corpus for {target}"
    return [Input(path.parent.name, path.read_bytes()) for path in files]


def save(target: str, found: Input) -> Path:
    """Write an input into the corpus under its hash; return the file."""
    path = FOLDER / target / found.part / hashlib.sha256(found.data).hexdigest()[:16]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(found.data)
    return path
