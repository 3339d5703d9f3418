"""``python -m tests.services [--kafka] [--registry] [--postgres] [-- COMMAND…]``.

Starts what is asked for (all three by default), runs the command with the variables that name the
services, stops them, and exits as the command did. Without a command they stay up until Ctrl-C.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from tests.services import Kafka, Postgres, Registry, ServiceError


def main() -> int:
    """Run as the module's text tells."""
    parser = argparse.ArgumentParser(prog="python -m tests.services", description=__doc__)
    for name in ("kafka", "registry", "postgres"):
        parser.add_argument(f"--{name}", action="store_true")
    parser.add_argument("command", nargs="*")
    options = parser.parse_args()
    everything = not (options.kafka or options.registry or options.postgres)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    folder = Path(tempfile.mkdtemp(prefix="outbox-services-"))
    wanted: list[Kafka | Registry | Postgres] = []
    if options.kafka or everything:
        wanted.append(Kafka(folder / "kafka"))
    if options.registry or everything:
        wanted.append(Registry(folder / "registry"))
    if options.postgres or everything:
        wanted.append(Postgres(folder / "postgres"))
    try:
        for service in wanted:
            service.start()
        environ = {name: value for service in wanted for name, value in _variables(service).items()}
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
        for service in wanted:
            service.stop()
    return 0


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
