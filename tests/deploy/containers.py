"""The image, and containers of it, with podman: as locked down as a cluster runs them."""

import json
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Any

import psutil
import requests
from confluent_kafka import KafkaException

from testkit import ROOT
from testkit.deployment import settings_for
from testkit.services import ExternalService
from testkit.topic import read_topic
from testkit.waiting import wait_until
from testkit.web_process import PATH, SECRET

IMAGE = "localhost/cxone-outbox-relay"
DEBIAN = "localhost/debian-python"
LIMITS = ["--ulimit", "nofile=1024:1024"]
PODMAN = ["podman", "--cgroup-manager", "cgroupfs", "--runtime", "runc"]
LOCKED_DOWN = [
    *("--read-only", "--read-only-tmpfs=false", "--tmpfs", "/tmp:mode=1777"),  # noqa: S108 - in the container
    *("--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
    *("--network", "host", *LIMITS, "--ulimit", "nproc=4096:4096"),
]


def call(command: Sequence[str], **options: Any) -> str:
    """Run a command, fail if it fails, and return its output. What it writes to stderr is shown if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    if done.returncode:
        sys.exit(f"{' '.join(command)} ended with exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return str(done.stdout).strip()


def make_debian_base() -> str:
    """Make an image from Debian's packages, for machines that reach no registry of images, and return its name."""
    if subprocess.run(["podman", "image", "exists", DEBIAN], check=False).returncode:
        with tempfile.TemporaryDirectory() as folder:
            archive = f"{folder}/base.tar"
            packages = "--include=python3,python3-venv,ca-certificates"
            call(["mmdebstrap", "--mode=root", "--variant=minbase", packages, "bookworm", archive])
            call(["podman", "import", "--quiet", archive, DEBIAN])
    return DEBIAN


def build(base: str | None) -> None:
    """Build the image.

    Args:
        base: image to build on; None for the Dockerfile's own.
    """
    options = ["--isolation", "chroot", "--network", "host", *LIMITS]
    for path in ("/etc/ssl/certs", "/etc/pip.conf"):  # how this machine reaches PyPI
        options += ["--volume", f"{path}:{path}:ro"] if Path(path).exists() else []
    if base:
        options += ["--build-arg", f"BASE={base}"]
    call(["buildah", "build", *options, "--file", "deploy/Dockerfile", "--tag", IMAGE, "."], cwd=ROOT)


def inspect(name: str, template: str) -> Any:
    """Return a part of what podman knows of an image or a container."""
    return json.loads(call([*PODMAN, "inspect", "--format", f"{{{{json {template}}}}}", name]))


def podman_run(*arguments: str) -> str:
    """Run a container to its end, and return its output."""
    return call([*PODMAN, "run", "--rm", *LOCKED_DOWN, *arguments])


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Print how long a step took."""
    start = monotonic()
    yield
    sys.stdout.write(f"{what} in {monotonic() - start:.1f} s\n")
    sys.stdout.flush()


def settings_on_services() -> dict[str, str]:
    """Return settings on a new database, new topics and the services that run on this machine."""
    postgres, kafka, registry = ExternalService.postgres(), ExternalService.kafka(), ExternalService.registry()
    if not (postgres and kafka and registry):
        sys.exit("run it by python -m testkit.services -- COMMAND")
    return settings_for(kafka, registry, postgres.create_database(f"deploy_{uuid.uuid4().hex[:8]}"))


def check_delivery(environ: dict[str, str], port: int) -> None:
    """What is posted to web is in the topic."""
    headers = {"X-CXone-Webhook-Secret": SECRET}
    body = {"id": "image-1", "channel": "voice"}
    answer = requests.post(f"http://127.0.0.1:{port}{PATH}", json=body, headers=headers, timeout=30)
    assert answer.status_code == 202, answer.text
    with timed("delivered"):
        wait_until(lambda: count_records(environ) == 1, "the interaction is in the topic")


def count_records(environ: dict[str, str]) -> int:
    """Return how many records are in the topic, none while it is being created."""
    try:
        return len(read_topic({"bootstrap.servers": environ["KAFKA_BOOTSTRAP_SERVERS"]}, environ["KAFKA_TOPIC"]))
    except (KafkaException, KeyError):
        return 0


class Container:
    """A container of one process, running.

    Args:
        process: what the entry point starts.
        environ: settings.
        folder: of the files in /run/secrets.
    """

    def __init__(self, process: str, environ: Mapping[str, str], folder: Path) -> None:
        options = [option for name, value in environ.items() for option in ("--env", f"{name}={value}")]
        mount = ["--volume", f"{folder}:/run/secrets:ro"]
        self.name = call([*PODMAN, "run", "--detach", *LOCKED_DOWN, *mount, *options, IMAGE, process])

    def process(self) -> psutil.Process:
        """Return its first process, as the host sees it."""
        return psutil.Process(inspect(self.name, ".State.Pid"))

    def running(self) -> bool:
        """Return whether it runs."""
        return bool(inspect(self.name, ".State.Running"))

    def wait(self) -> int:
        """Wait until it ends, and return its exit code."""
        return int(call([*PODMAN, "wait", self.name]))

    def stop(self) -> int:
        """Send SIGTERM, wait for at most 30 seconds, and return its exit code."""
        call([*PODMAN, "stop", "--time", "30", self.name])
        return self.wait()

    def log(self) -> str:
        """Return what it wrote."""
        return subprocess.run([*PODMAN, "logs", self.name], capture_output=True, text=True, check=False).stderr

    def remove(self) -> None:
        """Remove it."""
        subprocess.run([*PODMAN, "rm", "--force", self.name], capture_output=True, check=False)
