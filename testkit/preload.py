"""Build a library from C to preload (LD_PRELOAD) into a process."""

import shutil
import subprocess
import sys
from pathlib import Path

from testkit.services import ServiceError
from testkit.services.fixtures import skip_or_fail


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
