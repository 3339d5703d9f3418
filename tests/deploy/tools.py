"""The tools that check what is in deploy/."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from testkit.services import ServiceError
from testkit.services.fixtures import skip_or_fail

DIRECTORIES = (str(Path(sys.executable).parent), "/usr/sbin", "/usr/local/sbin")
"""Where pip installs tools, and packages servers; these need not be on the PATH."""


def tool(name: str, remedy: str) -> str:
    """Return the path of a tool. Without it the test fails in CI, and is skipped elsewhere."""
    found = shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), *DIRECTORIES]))
    return found or skip_or_fail(ServiceError(f"{name} is missing: {remedy}"))


def run(command: Sequence[str | Path], **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a command and return its exit code, and standard output and error together."""
    return subprocess.run(
        command,
        env={**os.environ, **environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=120,
    )
