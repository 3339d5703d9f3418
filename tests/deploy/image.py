"""``python -m tests.deploy.image [--base IMAGE]``: build the image, and run each process of it as a cluster would.

Needs buildah, podman and runc, and Kafka, a registry and PostgreSQL as ``python -m testkit.services`` starts them.
``--base debian`` makes the base from Debian's packages, on a machine that reaches no registry of images.
"""

import argparse
import sys
import tempfile
from functools import partial
from pathlib import Path

import requests

from testkit.console import KEY, write_users
from testkit.ports import free_port
from testkit.waiting import wait_until
from testkit.web_process import SECRET
from tests.deploy.containers import (
    IMAGE,
    Container,
    build,
    check_delivery,
    inspect,
    make_debian_base,
    podman_run,
    settings_on_services,
    timed,
)

UID = 10001


def main() -> None:
    """Build and check the image."""
    parser = argparse.ArgumentParser(prog="python -m tests.deploy.image", description=__doc__)
    parser.add_argument("--base", help="image to build on, or debian; unset: the one in the Dockerfile")
    parser.add_argument("--no-build", action="store_true", help="check the image that is there")
    options = parser.parse_args()
    if not options.no_build:
        with timed("built"):
            build(make_debian_base() if options.base == "debian" else options.base)
    check_contents()
    check_demo()
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        check_processes(Path(folder))


def check_contents() -> None:
    """The image runs as nobody else's user, says what it is, and contains its licence and nothing of the tests."""
    assert inspect(IMAGE, ".Config.User") == f"{UID}:{UID}"
    assert inspect(IMAGE, ".Config.Labels")["org.opencontainers.image.licenses"] == "Apache-2.0"
    listing = "import os, sysconfig as s; print(*os.listdir('/opt/outbox'), *os.listdir(s.get_path('purelib')))"
    found = podman_run("--entrypoint", "python", IMAGE, "-c", listing).split()
    assert {"LICENSE", "app", "relay", "console"} <= set(found)
    assert not {"tests", "testkit", "setuptools", "pip"} & set(found)
    assert "migrate" in podman_run(IMAGE, "--help")
    sys.stdout.write(f"{inspect(IMAGE, '.Size') / 1e6:.0f} MB\n")


def check_demo() -> None:
    """The image shows what it does without any service, from the first row to a count of the topic."""
    with timed("demo"):
        seen = podman_run(IMAGE, "demo")
    assert "Each accepted interaction is in the topic exactly once." in seen, seen


def check_processes(folder: Path) -> None:
    """An interaction goes from HTTP to Kafka through containers that may do nothing else, and these end when told."""
    environ = settings(folder)
    web, console, metrics = free_port(), free_port(), free_port()
    environ |= {"PORT": str(web), "CONSOLE_PORT": str(console), "RELAY_METRICS_PORT": str(metrics)}
    with timed("migrated"):
        assert Container("migrate", environ, folder).wait() == 0
    containers = {name: Container(name, environ, folder) for name in ("web", "relay", "console")}
    try:
        for name, port in (("web", web), ("relay", metrics), ("console", console)):
            with timed(f"{name} ready"):
                wait_until(partial(is_ready, containers[name], port), f"{name} is ready")
            check_confinement(name, containers[name])
        check_delivery(environ, web)
        for name, container in containers.items():
            with timed(f"{name} stopped"):
                assert container.stop() == 0, f"{name}: {container.log()}"
    finally:
        for container in containers.values():
            container.remove()


def settings(folder: Path) -> dict[str, str]:
    """Return settings on a new database, with the secrets as files in a folder."""
    given = settings_on_services()
    secrets = {
        "DATABASE_URL": given.pop("DATABASE_URL"),
        "SCHEMA_REGISTRY_PASSWORD": given.pop("SCHEMA_REGISTRY_PASSWORD"),
        "CXONE_WEBHOOK_SECRETS": f"tests={SECRET}",
        "CONSOLE_SECRET_KEY": KEY,
    }
    for name, value in secrets.items():
        (folder / name).write_text(value)
    write_users(folder)
    files = {f"{name}_FILE": f"/run/secrets/{name}" for name in secrets}
    return {**given, **files, "CONSOLE_AUTH": "file", "CONSOLE_USERS_FILE": "/run/secrets/users"}


def is_ready(container: Container, port: int) -> bool:
    """Return whether it answers; fail if it has ended."""
    assert container.running(), container.log()
    try:
        return requests.get(f"http://127.0.0.1:{port}/readyz", timeout=5).ok
    except requests.RequestException:
        return False


def check_confinement(name: str, container: Container) -> None:
    """It is the process itself, not a shell's child, without privileges, and cannot get any."""
    process = container.process()
    assert name == "relay" or "gunicorn" in " ".join(process.cmdline()), process.cmdline()
    assert {each.uids().effective for each in [process, *process.children(recursive=True)]} == {UID}
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    status = {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}
    assert int(status["CapBnd"], 16) == int(status["CapEff"], 16) == 0
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")


if __name__ == "__main__":
    main()
