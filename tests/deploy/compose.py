"""``python -m tests.deploy.compose``: run the product's part of ``deploy/compose.yaml`` with podman-compose.

The images of Kafka, registry and PostgreSQL are replaced by containers that do nothing: the product uses those services
on this machine, as ``python -m testkit.services`` starts them. Its own image must be there: ``make image``.
"""

import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import requests
import yaml

from testkit import ROOT
from testkit.console import KEY, write_users
from testkit.ports import free_port
from testkit.waiting import wait_until
from testkit.web_process import SECRET
from tests.deploy.containers import IMAGE, PODMAN, call, check_delivery, settings_on_services, timed

FILE = ROOT / "deploy" / "compose.yaml"
PROJECT = "cxone-outbox-check"
OURS = ("web", "relay", "console")
RESET = "reset"
"""podman 4.3 cannot start what requires a container that has ended and itself requires one that runs."""
WAITING = ["python", "-c", "import time; time.sleep(3600)"]


def main() -> None:
    """Start everything, post an interaction, see it in Kafka, and take everything down."""
    given = settings_on_services()
    ports = {"web": free_port(), "console": free_port(), "relay": free_port()}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        override = folder / "override.yaml"
        text = yaml.safe_dump(overrides(folder, given, ports))
        override.write_text(text.replace(f"depends_on: {RESET}", "depends_on: !reset null"))
        compose = [
            *(str(Path(sys.executable).parent / "podman-compose"), "--in-pod", "false", "--project-name", PROJECT),
            *(f"--podman-args={' '.join(PODMAN[1:])}", "--file", str(FILE), "--file", str(override)),
        ]
        try:
            with timed("ready"):
                call([*compose, "up", "--detach"])
                for process, port in ports.items():
                    wait_until(partial(is_ready, port), f"{process} is ready")
            check_delivery(given, ports["web"])
        finally:
            call([*compose, "down", "--volumes"])


def overrides(folder: Path, given: dict[str, str], ports: dict[str, int]) -> dict[str, Any]:
    """Return a compose file that adds to the real one, with secrets in a folder."""
    secrets = {
        "database_url": given.pop("DATABASE_URL"),
        "postgres_password": "unused",
        "webhook_secrets": f"tests={SECRET}",
        "console_secret_key": KEY,
    }
    for name, value in secrets.items():
        (folder / name).write_text(value)
    write_users(folder).rename(folder / "console_users")
    ours = {"PORT": ports["web"], "CONSOLE_PORT": ports["console"], "RELAY_METRICS_PORT": ports["relay"]}
    host = {"network_mode": "host", "ulimits": {"nofile": 1024, "nproc": 4096}}
    product = {**host, "ports": [], "environment": {**given, **{k: str(v) for k, v in ours.items()}}}
    stub = {
        "image": IMAGE,
        **host,
        "entrypoint": WAITING,
        "stop_grace_period": "1s",
        "healthcheck": {"test": ["CMD", "true"]},
    }
    return {
        "services": {
            **dict.fromkeys(OURS, product),
            "migrate": {**product, "depends_on": RESET},
            **dict.fromkeys(("postgres", "kafka", "registry"), stub),
        },
        "secrets": {name: {"file": str(folder / name)} for name in (*secrets, "console_users")},
    }


def is_ready(port: int) -> bool:
    """Return whether a process answers that it is ready."""
    try:
        return requests.get(f"http://127.0.0.1:{port}/readyz", timeout=5).ok
    except requests.RequestException:
        return False


if __name__ == "__main__":
    main()
