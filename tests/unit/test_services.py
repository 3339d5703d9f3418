"""``python -m testkit.services``, by which ``make up KAFKA=real`` runs the demo."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from testkit import ROOT
from testkit.services.__main__ import VARIABLES
from testkit.waiting import wait_until

CHILD = """
import pathlib, signal, sys, threading
folder = pathlib.Path(sys.argv[1])
(folder / "started").touch()
try:
    signal.pause()
except KeyboardInterrupt:
    threading.Event().wait(1)  # longer than subprocess.run waits for a child after Ctrl-C
    (folder / "cleaned").touch()
    sys.exit(7)
"""


def test_ctrl_c_lets_the_command_end_in_its_own_time(tmp_path: Path) -> None:
    """The command finishes what it does on Ctrl-C, and its exit code counts."""
    environ = {**os.environ, **dict.fromkeys(VARIABLES.values(), "runs already")}
    command = [sys.executable, "-m", "testkit.services", "--", sys.executable, "-c", CHILD, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, env=environ, start_new_session=True) as process:
        wait_until((tmp_path / "started").exists, "the command runs")
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(30) == 7
    assert (tmp_path / "cleaned").exists()
