"""The API server of Kubernetes, without nodes and controllers: it validates, admits and keeps objects."""

import shutil
from pathlib import Path
from typing import Any, Self

import requests
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from testkit.ports import free_port
from testkit.services.process import Process, ServiceError

TOKEN = "administrator-of-tests"


class ApiServer:
    """An API server that starts empty.

    Args:
        directory: folder for its data, keys and logs; it must be empty.

    Attributes:
        kubeconfig: file with which ``helm`` and ``kubectl`` reach it.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._port = free_port()
        self.kubeconfig = directory / "kubeconfig.yaml"
        self._process: Process | None = None
        self._session = requests.Session()
        self._session.trust_env = False  # its authority is its own certificate, whatever REQUESTS_CA_BUNDLE says
        self._session.headers["Authorization"] = f"Bearer {TOKEN}"
        self._session.verify = str(directory / "apiserver.crt")

    def start(self) -> Self:
        """Start it and wait until it is ready.

        Raises:
            ServiceError: it is missing or does not start.
        """
        found = shutil.which("kube-apiserver")
        if found is None:
            raise ServiceError("kube-apiserver is missing: make kubernetes builds it")
        command = [found, str(self._directory), *self._flags()]
        self._process = Process(command, self._directory / "apiserver.log", self._answers)
        self._process.start()
        self._write_kubeconfig()
        return self

    def stop(self) -> None:
        """Stop it."""
        if self._process:
            self._process.stop()
        self._session.close()

    def send(self, method: str, path: str, body: dict[str, Any] | None = None, **query: str) -> requests.Response:
        """Send a request and return the answer, whatever its status. Unknown fields of an object are refused.

        Args:
            method: HTTP method; a body of ``PATCH`` is merged.
            path: such as ``/api/v1/namespaces``.
            body: an object of Kubernetes.
            query: parameters, such as ``dryRun="All"``.
        """
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        parameters = {"fieldValidation": "Strict", **query} if body else query
        headers = {"Content-Type": kind}
        return self._session.request(
            method, self._url + path, json=body, params=parameters, headers=headers, timeout=30
        )

    @property
    def _url(self) -> str:
        return f"https://127.0.0.1:{self._port}"

    def _answers(self) -> bool:
        try:
            return self._session.get(f"{self._url}/readyz", timeout=5).ok
        except (requests.RequestException, OSError):  # OSError: the certificate is not written yet
            return False

    def _flags(self) -> list[str]:
        key = self._directory / "service-accounts.pem"
        private = rsa.generate_private_key(65537, 2048)
        key.write_bytes(
            private.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        tokens = self._directory / "tokens.csv"
        tokens.write_text(f"{TOKEN},administrator,administrator,system:masters\n")
        return [
            *("--bind-address=127.0.0.1", f"--secure-port={self._port}", f"--cert-dir={self._directory}"),
            f"--token-auth-file={tokens}",
            "--service-cluster-ip-range=10.0.0.0/24",
            *("--service-account-issuer=https://kubernetes.default.svc", f"--service-account-key-file={key}"),
            f"--service-account-signing-key-file={key}",
            "--disable-admission-plugins=ServiceAccount",  # a controller would make the accounts
        ]

    def _write_kubeconfig(self) -> None:
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "tests",
            "contexts": [{"name": "tests", "context": {"cluster": "tests", "user": "administrator"}}],
            "clusters": [
                {
                    "name": "tests",
                    "cluster": {"server": self._url, "certificate-authority": str(self._directory / "apiserver.crt")},
                }
            ],
            "users": [{"name": "administrator", "user": {"token": TOKEN}}],
        }
        self.kubeconfig.write_text(yaml.safe_dump(config))
