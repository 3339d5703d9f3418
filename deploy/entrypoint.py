"""The image's entry point: ``web``, ``relay`` or ``console`` starts a process, anything else is a command of ``relay``.

It replaces itself by the process, which so gets the signals. No shell takes part.
"""

import os
import sys

PROCESSES = {
    "web": ["gunicorn", "-c", "python:app.gunicorn_conf", "app.factory:create_app_from_environ()"],
    "relay": ["relay", "run"],
    "console": ["gunicorn", "-c", "python:console.gunicorn_conf", "console.factory:create_app_from_environ()"],
}

if __name__ == "__main__":
    given = sys.argv[1:]
    command = PROCESSES[given[0]] if len(given) == 1 and given[0] in PROCESSES else ["relay", *given]
    os.execvp(command[0], command)  # noqa: S606 - the command is the container's own
