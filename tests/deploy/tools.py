"""The tools that check what is in deploy/."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from testkit.services import ServiceError
from testkit.services.fixtures import skip_or_fail

DIRECTORIES = ("/usr/sbin", "/usr/local/sbin")
"""Where packages install servers; these need not be on the PATH."""


def tool(name: str, package: str) -> str:
    """Return the path of a tool. Without it the test fails in CI, and is skipped elsewhere."""
    found = shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), *DIRECTORIES]))
    return found or skip_or_fail(ServiceError(f"{name} is missing: apt-get install {package}"))


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
