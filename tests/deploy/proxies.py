"""nginx and Caddy with the configurations of deploy/, in front of a web process and a console."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Protocol

import psutil
import requests
import trustme

from testkit import ROOT
from testkit.console import KEY, write_users
from testkit.ports import free_port
from testkit.waiting import wait_until
from testkit.web_process import WebProcess
from tests.deploy.tools import run, tool

NGINX = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log {folder}/proxy.log info;
events {{}}
http {{
    access_log {folder}/proxy.log;
    client_body_temp_path {folder}/bodies;
    proxy_temp_path {folder}/proxied;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/cxone-outbox.conf;
}}
"""
"""What surrounds the file in /etc/nginx/conf.d."""


class Ports(NamedTuple):
    """Where each listens."""

    proxy: int
    web: int
    console: int


class Configured(Protocol):
    """Writes a configuration for a test, and returns the commands that check it and that serve it."""

    def __call__(self, folder: Path, ports: Ports) -> tuple[Sequence[str], Sequence[str]]:
        """Use these ports, and the certificate ``tls.pem`` with ``tls.key`` in the folder."""


def replaced(text: str, changes: Mapping[str, str]) -> str:
    """Return a text with each of these parts, which occur in it, replaced."""
    for old, new in changes.items():
        assert old in text, old
        text = text.replace(old, new)
    return text


def nginx(folder: Path, ports: Ports) -> tuple[Sequence[str], Sequence[str]]:
    """Configure nginx."""
    program = tool("nginx", "apt-get install nginx-light")
    text = replaced(
        (ROOT / "deploy/nginx/cxone-outbox.conf").read_text(),
        {
            "listen 443 ssl": f"listen 127.0.0.1:{ports.proxy} ssl",
            "listen [::]:443 ssl;": "",
            "/var/log/nginx/error.log": f"{folder}/proxy.log",
            "/etc/nginx/tls/hooks.example.com": f"{folder}/tls",
            "127.0.0.1:8000": f"127.0.0.1:{ports.web}",
            "127.0.0.1:8080": f"127.0.0.1:{ports.console}",
        },
    )
    (folder / "cxone-outbox.conf").write_text(text)
    (folder / "nginx.conf").write_text(NGINX.format(folder=folder))
    command = [program, "-p", str(folder), "-e", f"{folder}/proxy.log", "-c", f"{folder}/nginx.conf"]
    return [*command, "-t", "-q"], command


def caddy(folder: Path, ports: Ports) -> tuple[Sequence[str], Sequence[str]]:
    """Configure Caddy."""
    program = tool("caddy", "make install")
    text = replaced(
        (ROOT / "deploy/caddy/Caddyfile").read_text(),
        {
            "\n{\n\tservers": "\n{\n\tadmin off\n\tauto_https disable_redirects\n\tservers",
            "hooks.example.com {": f"https://localhost:{ports.proxy} {{\n\ttls {folder}/tls.pem {folder}/tls.key",
            "127.0.0.1:8000": f"127.0.0.1:{ports.web}",
            "127.0.0.1:8080": f"127.0.0.1:{ports.console}",
        },
    )
    (folder / "Caddyfile").write_text(text)
    arguments = ["--config", f"{folder}/Caddyfile", "--adapter", "caddyfile"]
    return [program, "validate", *arguments], [program, "run", *arguments]


class Site:
    """A web process and a console behind a proxy.

    Args:
        folder: for files and logs.
        url: of a migrated database.
        configure: writes the proxy's configuration.
    """

    def __init__(self, folder: Path, url: str, configure: Configured) -> None:
        self.log, self._folder = folder / "proxy.log", folder
        self.web = WebProcess({"DATABASE_URL": url}, folder / "web.log")
        self.ports = Ports(free_port(), self.web.port, free_port())
        self.base = f"https://localhost:{self.ports.proxy}"
        authority = trustme.CA()
        certificate = authority.issue_cert("localhost")
        authority.cert_pem.write_to_path(str(folder / "ca.pem"))
        certificate.private_key_pem.write_to_path(str(folder / "tls.key"))
        certificate.cert_chain_pems[0].write_to_path(str(folder / "tls.pem"))
        self.console = self._start_console(url)
        check, serve = configure(folder, self.ports)
        checked = run(check, **self._homes())
        assert checked.returncode == 0, checked.stdout
        self.proxy = self._spawn(serve, self.log, self._homes())
        wait_until(self._answers, f"proxy and console are up ({folder})")

    def _start_console(self, url: str) -> subprocess.Popen[bytes]:
        """Start the console as its systemd unit does."""
        settings = {
            "DATABASE_URL": url,
            "CONSOLE_AUTH": "file",
            "CONSOLE_USERS_FILE": str(write_users(self._folder)),
            "CONSOLE_SECRET_KEY": KEY,
            "CONSOLE_PREFIX": "/console",
            "CONSOLE_PROXY_PEERS": "127.0.0.1",
            "CONSOLE_PORT": str(self.ports.console),
            "LOG_FORMAT": "json",
        }
        gunicorn = [sys.executable, "-m", "gunicorn", "-c", "python:console.gunicorn_conf"]
        return self._spawn(
            [*gunicorn, "console.factory:create_app_from_environ()"], self._folder / "console.log", settings
        )

    def _homes(self) -> dict[str, str]:
        """Return variables that keep Caddy's files in the folder."""
        return dict.fromkeys(("HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"), str(self._folder))

    def _spawn(self, command: Sequence[str], log: Path, environ: Mapping[str, str]) -> subprocess.Popen[bytes]:
        with log.open("ab") as file:
            return subprocess.Popen(command, cwd=ROOT, env={**os.environ, **environ}, stdout=file, stderr=file)

    def _answers(self) -> bool:
        assert self.proxy.poll() is None, self.log.read_text()
        assert self.console.poll() is None, (self._folder / "console.log").read_text()
        try:
            return self.session().get(f"{self.base}/console/login", timeout=5).ok
        except requests.RequestException:
            return False

    def session(self) -> requests.Session:
        """Return a client that trusts the proxy's certificate."""
        client = requests.Session()
        client.verify = str(self._folder / "ca.pem")
        client.trust_env = False
        return client

    def connections_to_web(self) -> int:
        """Return the number of connections that the proxy has opened to the web process."""
        found = psutil.Process(self.proxy.pid).net_connections("tcp")
        return sum(bool(each.raddr) and each.raddr.port == self.ports.web for each in found)

    def close(self) -> None:
        """End all processes."""
        for process in (self.proxy, self.console):
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(30)
        self.web.kill()
