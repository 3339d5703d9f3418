"""``python -m testkit.services [--kafka] [--registry] [--postgres] [-- COMMAND…]``.

Starts what is asked for, runs the command with the variables that name the services, stops them, and
exits as the command did. Without a command they stay up until Ctrl-C. Nothing asked for means all three,
less those that variables name already and, outside CI, those that this machine cannot have.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from testkit.services import Kafka, Postgres, Registry, ServiceError

NAMED_BY = {
    "kafka": "KAFKA_BOOTSTRAP_SERVERS",
    "registry": "SCHEMA_REGISTRY_URL",
    "postgres": "TEST_POSTGRES_URL",
}
"""The variable that names a running service, which is then used instead."""


def main() -> int:
    """Run as the module's text tells."""
    parser = argparse.ArgumentParser(prog="python -m testkit.services", description=__doc__)
    for name in ("kafka", "registry", "postgres"):
        parser.add_argument(f"--{name}", action="store_true")
    parser.add_argument("command", nargs="*")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="outbox-services-"))
    kinds: dict[str, Kafka | Registry | Postgres] = {
        "kafka": Kafka(folder / "kafka"),
        "registry": Registry(folder / "registry"),
        "postgres": Postgres(folder / "postgres"),
    }
    asked = [kinds[name] for name in kinds if getattr(options, name)]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    started: list[Kafka | Registry | Postgres] = []
    try:
        for service in asked or [kinds[name] for name in kinds if not os.environ.get(NAMED_BY[name])]:
            _start(service, started, needed=bool(asked or os.environ.get("CI")))
        environ = {name: value for service in started for name, value in _variables(service).items()}
        if options.command:
            return subprocess.run(options.command, env={**os.environ, **environ}, check=False).returncode
        sys.stdout.write("".join(f"export {name}={value}\n" for name, value in environ.items()))
        sys.stdout.write("# these services stay up until Ctrl-C\n")
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


def _start(service: Kafka | Registry | Postgres, started: list[Kafka | Registry | Postgres], *, needed: bool) -> None:
    try:
        service.start()
    except ServiceError as error:
        if needed:
            raise
        name = type(service).__name__
        sys.stderr.write(f"{name} is not available here, so the tests that need it are skipped: {error}\n")
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
