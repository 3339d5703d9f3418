"""The installed version."""

from importlib.metadata import PackageNotFoundError, version


def _installed() -> str:
    try:
        return version("cxone-outbox-relay")
    except PackageNotFoundError:  # runs from a checkout that is not installed
        return "unknown"


VERSION = _installed()
