"""Build a library from C to preload (LD_PRELOAD) into a process, and control what it does there."""

import shutil
import struct
import subprocess
import sys
from pathlib import Path

from testkit import ROOT
from testkit.services import ServiceError
from testkit.services.fixtures import skip_or_fail

FAULTS = ROOT / "tests/faults"


def build_preload_library(source: Path, folder: Path) -> Path:
    """Compile a C file into a shared library and return its path; skip the test where that is impossible."""
    if sys.platform != "linux":
        skip_or_fail(ServiceError("Linux, whose dynamic linker supports LD_PRELOAD"))
    compiler = shutil.which("cc")
    if compiler is None:
        skip_or_fail(ServiceError("a C compiler (cc): apt-get install gcc"))
    library = folder / f"{source.stem}.so"
    flags = ["-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-Werror"]
    subprocess.run([compiler, *flags, "-o", str(library), str(source), "-ldl"], check=True)
    return library


class Clock:
    """The clock of the processes that preload ``wrong_clock.c`` with it.

    Args:
        file: through which they learn how wrong it is.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        file.write_bytes(bytes(8))
        self.environ = {"WRONG_CLOCK_FILE": str(file)}

    def set_ahead(self, seconds: int) -> None:
        """Step the clock to this many seconds ahead of the right time; negative: behind."""
        with self._file.open("r+b") as file:  # the processes have mapped it, so it must keep its length
            file.write(struct.pack("@q", seconds))


class HostNames:
    """Host names that change their addresses, for the processes that preload ``host_names.c`` with them.

    Args:
        file: lists them.
    """

    def __init__(self, file: Path) -> None:
        self._file, self._addresses = file, dict[str, str]()
        self.environ = {"HOST_NAMES_FILE": str(file)}

    def point(self, name: str, address: str | None) -> None:
        """Let a name resolve to an address; None: let it not resolve."""
        self._addresses[name] = address or "-"
        following = self._file.with_suffix(".new")
        following.write_text("".join(f"{each} {at}\n" for each, at in self._addresses.items()))
        following.replace(self._file)
