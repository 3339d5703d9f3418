"""Which version of the product runs."""

from importlib.metadata import PackageNotFoundError, version


def _installed() -> str:
    try:
        return version("cxone-outbox-relay")
    except PackageNotFoundError:  # run from its files, without having been installed
        return "unknown"


VERSION = _installed()
