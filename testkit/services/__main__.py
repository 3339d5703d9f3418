"""``python -m testkit.services [--kafka] [--registry] [--postgres] [-- COMMAND…]``.

Start services, run a command with the environment variables that name them, stop them, and exit with the
command's exit code. Without a command the services run until Ctrl-C.

Without options all three are started, except those that environment variables already name. Outside CI, a
service that cannot run on this machine is then left out with a message.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from pathlib import Path

from testkit.services import Kafka, Postgres, Registry, ServiceError

VARIABLES = {
    "kafka": "KAFKA_BOOTSTRAP_SERVERS",
    "registry": "SCHEMA_REGISTRY_URL",
    "postgres": "TEST_POSTGRES_URL",
}
"""The variable that names a service that is already running."""


def main() -> int:
    """Start the services, run the command, and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m testkit.services", description=__doc__)
    for name in ("kafka", "registry", "postgres"):
        parser.add_argument(f"--{name}", action="store_true", help=f"start {name}; fail if it cannot run here")
    parser.add_argument("command", nargs="*", help="command to run while the services are up")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="outbox-services-"))
    kinds: dict[str, Kafka | Registry | Postgres] = {
        "kafka": Kafka(folder / "kafka"),
        "registry": Registry(folder / "registry"),
        "postgres": Postgres(folder / "postgres"),
    }
    requested = [kinds[name] for name in kinds if getattr(options, name)]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    started: list[Kafka | Registry | Postgres] = []
    try:
        for service in requested or [kinds[name] for name in kinds if not os.environ.get(VARIABLES[name])]:
            _start(service, started, required=bool(requested or os.environ.get("CI")))
        environ = {name: value for service in started for name, value in _variables(service).items()}
        if options.command:
            return _run(options.command, {**os.environ, **environ})
        sys.stdout.write("".join(f"export {name}={value}\n" for name, value in environ.items()))
        sys.stdout.write("# these services run until Ctrl-C\n")
        sys.stdout.flush()
        threading.Event().wait()
    except ServiceError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        for service in started:
            service.stop()
    return 0


def _run(command: list[str], environ: dict[str, str]) -> int:
    """Run a command to its end, and return its exit code."""
    process = subprocess.Popen(command, env=environ)
    try:
        while True:
            with suppress(KeyboardInterrupt):  # Ctrl-C reaches the command, too, which ends in its own time
                return process.wait()
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()


def _start(service: Kafka | Registry | Postgres, started: list[Kafka | Registry | Postgres], *, required: bool) -> None:
    try:
        service.start()
    except ServiceError as error:
        if required:
            raise
        name = type(service).__name__
        sys.stderr.write(f"{name} is not available, so tests that need it are skipped: {error}\n")
    else:
        started.append(service)


def _variables(service: Kafka | Registry | Postgres) -> dict[str, str]:
    if isinstance(service, Kafka):
        return {"KAFKA_BOOTSTRAP_SERVERS": service.bootstrap_servers}
    if isinstance(service, Postgres):
        return {"TEST_POSTGRES_URL": service.url}
    return {
        "SCHEMA_REGISTRY_URL": service.url,
        "SCHEMA_REGISTRY_USERNAME": service.username,
        "SCHEMA_REGISTRY_PASSWORD": service.password,
    }


if __name__ == "__main__":
    sys.exit(main())
