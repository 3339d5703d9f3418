"""nginx in front of one server, which it serves below a path."""

import os
import shutil
import socket
from pathlib import Path
from typing import Self

from testkit.ports import free_port
from testkit.services.process import Process, ServiceError

DIRECTORIES = ("/usr/sbin", "/usr/local/sbin", "/opt/homebrew/bin")
"""Where packages install it; these need not be on the PATH."""
CONFIGURATION = """
daemon off;
master_process off;
pid nginx.pid;
error_log stderr;
events {{ }}
http {{
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    server {{
        listen 127.0.0.1:{port};
        location {path}/ {{
            proxy_pass {upstream};
            proxy_set_header Host $http_host;
            proxy_set_header X-Forwarded-For $remote_addr;
        }}
    }}
}}
"""


class Nginx:
    """A reverse proxy that passes the Host header on.

    Args:
        directory: folder for its files.
        upstream: origin of the server behind it.
        path: below which it serves the server.
        keeps_path: whether the server sees the path, or nginx removes it.
    """

    def __init__(self, directory: Path, upstream: str, path: str, *, keeps_path: bool) -> None:
        self._directory, self._path = directory, path
        self._upstream = upstream if keeps_path else f"{upstream}/"
        self._port = free_port()
        self._process: Process | None = None

    @property
    def origin(self) -> str:
        """The origin of what it serves."""
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> Self:
        """Start it and wait until it accepts connections.

        Raises:
            ServiceError: it is not installed or does not start.
        """
        found = shutil.which("nginx", path=os.pathsep.join([os.environ.get("PATH", ""), *DIRECTORIES]))
        if found is None:
            raise ServiceError("nginx is missing: apt-get install nginx-light, or brew install nginx")
        self._directory.mkdir(parents=True, exist_ok=True)
        file = self._directory / "nginx.conf"
        file.write_text(CONFIGURATION.format(port=self._port, path=self._path, upstream=self._upstream))
        command = [found, "-p", str(self._directory), "-c", str(file), "-e", "stderr"]
        self._process = Process(command, self._directory / "nginx.log", self._accepts)
        self._process.start()
        return self

    def _accepts(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self._port)) == 0

    def stop(self) -> None:
        """Stop it."""
        if self._process is not None:
            self._process.stop()
