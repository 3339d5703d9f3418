"""nginx and Caddy accept their configurations, and serve the product as these say."""

import http.client
import json
import re
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from testkit.console import PASSWORD
from testkit.databases import migrate
from testkit.web_process import PATH, SECRET
from tests.deploy.proxies import Configured, Site, caddy, nginx

BODY = {"id": "deploy-1", "channel": "voice"}
HIDDEN = [
    "/",
    "/metrics",
    "/healthz",
    "/readyz",
    "/webhook/../metrics",
    f"{PATH}/../../metrics",
    "/console/metrics",
    "/console//metrics",
    "//console/metrics",
    "/console/./metrics",
    "/console/x/../metrics",
    "/console/%6detrics",
    "/console/metrics/",
    "/console/METRICS",
    "/console/../metrics",
    "/console/readyz",
]


@pytest.fixture(scope="module", params=[nginx, caddy], ids=["nginx", "caddy"])
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The product behind each of the proxies."""
    yield from serve(tmp_path_factory.mktemp("site"), request.param)


@pytest.fixture(params=[nginx, caddy], ids=["nginx", "caddy"])
def own_site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    """The same for one test, which may end processes."""
    yield from serve(tmp_path, request.param)


def serve(folder: Path, configure: Configured) -> Iterator[Site]:
    """Serve the product for a fixture."""
    url = f"sqlite:///{folder}/outbox.db"
    migrate(url, 1)
    running = Site(folder, url, configure)
    yield running
    running.close()


def post(site: Site, body: bytes, secret: str = SECRET) -> int:
    """Post to the webhook and return the status."""
    headers = {"X-CXone-Webhook-Secret": secret, "Content-Type": "application/json"}
    return site.session().post(f"{site.base}{PATH}", data=body, headers=headers, timeout=30).status_code


def test_the_webhook_is_served(site: Site) -> None:
    """Interactions are accepted, with the right secret, by POST, and up to the size that web accepts."""
    body = json.dumps(BODY).encode()
    assert post(site, body) == 202
    assert post(site, body, "not the secret of the tests") == 401
    assert site.session().get(f"{site.base}{PATH}", timeout=30).status_code in (403, 404)
    padded = json.dumps({**BODY, "id": "deploy-2", "notes": "x" * 2**20}).encode()
    assert post(site, padded[: 2**20]) == 400  # reached web: cut off, it is no JSON
    assert post(site, padded) == 413


def test_a_slow_body_does_not_reach_web(site: Site) -> None:
    """While a body is incomplete, the proxy has no connection to web for it; when it is complete, web accepts it."""
    body = json.dumps({**BODY, "id": "deploy-slow"}).encode()
    before = site.connections_to_web()
    context = ssl.create_default_context(cafile=str(site.session().verify))
    slow = http.client.HTTPSConnection("localhost", site.ports.proxy, timeout=30, context=context)
    slow.putrequest("POST", PATH)
    slow.putheader("X-CXone-Webhook-Secret", SECRET)
    slow.putheader("Content-Length", str(len(body)))
    slow.endheaders(body[:10])
    assert site.session().get(f"{site.base}/", timeout=30).status_code == 404  # meanwhile the proxy read what it has
    assert site.connections_to_web() <= before
    slow.send(body[10:])
    assert slow.getresponse().status == 202
    slow.close()


def test_the_console_is_served_below_a_path(site: Site) -> None:
    """One signs in over HTTPS and stays below the path, and the session's cookie is for HTTPS only."""
    browser = site.session()
    page = browser.get(f"{site.base}/console", timeout=30)
    assert page.url.startswith(f"{site.base}/console/login")
    (token,) = set(re.findall(r'name="csrf_token" value="([^"]+)"', page.text))
    form = {"csrf_token": token, "username": "viewer", "password": PASSWORD}
    origin = {"Origin": site.base, "Sec-Fetch-Site": "same-origin"}
    page = browser.post(f"{site.base}/console/login", data=form, headers=origin, timeout=30)
    assert page.status_code == 200
    assert page.url.startswith(f"{site.base}/console/")
    assert "login" not in page.url
    (cookie,) = list(iter(browser.cookies))
    assert (cookie.name, cookie.secure) == ("console", True)
    addresses = set(re.findall(r'(?:href|src|action)="(/[^"]*)"', page.text))
    assert addresses
    assert all(address.startswith("/console/") for address in addresses)
    assert browser.get(f"{site.base}/console/static/console.css", timeout=30).status_code == 200


@pytest.mark.parametrize("path", HIDDEN)
def test_nothing_else_is_served(site: Site, path: str) -> None:
    """Metrics and readiness are not reached, however the path is spelled."""
    context = ssl.create_default_context(cafile=str(site.session().verify))
    connection = http.client.HTTPSConnection("localhost", site.ports.proxy, timeout=30, context=context)
    connection.putrequest("GET", path)
    connection.endheaders()
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    assert answer.status in (303, 308, 400, 404), text
    assert "outbox_" not in text


def test_a_proxy_logs_no_secret_and_no_interaction(own_site: Site) -> None:
    """Not even when nothing answers behind it, which it reports."""
    own_site.web.kill()
    own_site.console.terminate()
    own_site.console.wait(30)
    assert post(own_site, json.dumps(BODY).encode()) == 502
    address = f"{own_site.base}/console/rows?interaction=deploy-canary"
    assert own_site.session().get(address, timeout=30).status_code == 502
    own_site.close()
    log = own_site.log.read_text()
    assert "refused" in log
    assert SECRET not in log
    assert "deploy-canary" not in log
