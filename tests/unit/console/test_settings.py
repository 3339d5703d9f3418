"""Settings of the console: what is required, and what is refused with a reason."""

from pathlib import Path

import pytest

from config.settings import SettingsError, load
from console.access import Role
from console.settings import ConsoleSettings

FILE = {"CONSOLE_AUTH": "file", "CONSOLE_USERS_FILE": "/etc/users", "CONSOLE_SECRET_KEY": "k" * 32}
PROXY = {
    "CONSOLE_AUTH": "proxy",
    "CONSOLE_SECRET_KEY": "k" * 32,
    "CONSOLE_PROXY_USER_HEADER": "X-User",
    "CONSOLE_PROXY_ROLES": "ann=operator, bob@x=viewer",
    "CONSOLE_PROXY_SECRET": "s" * 16,
    "CONSOLE_PROXY_PEERS": "10.0.0.7, fd00::/8",
}

OIDC = {
    "CONSOLE_AUTH": "oidc",
    "CONSOLE_SECRET_KEY": "k" * 32,
    "CONSOLE_OIDC_ISSUER": "https://login.example.com/",
    "CONSOLE_OIDC_CLIENT_ID": "console",
    "CONSOLE_OIDC_CLIENT_SECRET": "s",
    "CONSOLE_OIDC_ROLES": "ann=operator",
    "CONSOLE_PUBLIC_URL": "https://console.example.com/",
}


@pytest.mark.parametrize(
    ("given", "changed", "message"),
    [
        (FILE, {"CONSOLE_AUTH": ""}, "CONSOLE_AUTH is not set: expected `file`, `proxy` or `oidc`"),
        (FILE, {"CONSOLE_AUTH": "none"}, "CONSOLE_AUTH='none'"),
        (FILE, {"CONSOLE_USERS_FILE": ""}, "CONSOLE_AUTH=file also needs CONSOLE_USERS_FILE"),
        (FILE, {"CONSOLE_SECRET_KEY": ""}, "CONSOLE_SECRET_KEY is not set"),
        (FILE, {"CONSOLE_SECRET_KEY": "k" * 31}, "CONSOLE_SECRET_KEY=***: expected 32 bytes or more"),
        (FILE, {"CONSOLE_PREFIX": "console"}, "expected a path such as /console"),
        (FILE, {"CONSOLE_PREFIX": "/console/"}, "expected a path such as /console"),
        (FILE, {"CONSOLE_PREFIX": "/a/../b"}, "expected a path such as /console"),
        (FILE, {"CONSOLE_PORT": "0"}, "CONSOLE_PORT='0'"),
        (PROXY, {"CONSOLE_PROXY_SECRET": ""}, "CONSOLE_AUTH=proxy also needs CONSOLE_PROXY_SECRET"),
        (PROXY, {"CONSOLE_PROXY_PEERS": ""}, "CONSOLE_AUTH=proxy also needs CONSOLE_PROXY_PEERS"),
        (PROXY, {"CONSOLE_PROXY_PEERS": "10.0.0.1/8"}, "expected addresses or networks"),
        (PROXY, {"CONSOLE_PROXY_ROLES": "ann=boss"}, "expected a role: viewer, operator, custodian"),
        (PROXY, {"CONSOLE_PROXY_ROLES": "ann"}, "expected name=role"),
        (PROXY, {"CONSOLE_PROXY_ROLES": "a=viewer,a=operator"}, "each name once"),
        (PROXY, {"CONSOLE_PROXY_SECRET": "short"}, "CONSOLE_PROXY_SECRET=***: expected 16 bytes or more"),
        (PROXY, {"CONSOLE_PROXY_USER_HEADER": "X_User"}, "expected the name of a header"),
        (PROXY, {"CONSOLE_PROXY_USER_HEADER": "X-Console-Proxy-Secret"}, "must differ"),
        *((OIDC, {name: ""}, f"CONSOLE_AUTH=oidc also needs {name}") for name in list(OIDC)[2:]),
        (OIDC, {"CONSOLE_OIDC_ISSUER": "http://login.example.com"}, "expected an https URL"),
        (OIDC, {"CONSOLE_OIDC_ISSUER": "login.example.com"}, "expected an http or https URL"),
        (OIDC, {"CONSOLE_OIDC_ISSUER": "https://ann:pw@login.example.com"}, "expected a URL without a login"),
        (OIDC, {"CONSOLE_OIDC_ISSUER": "https://login.example.com/?a=b"}, "without a query or fragment"),
        (OIDC, {"CONSOLE_OIDC_ROLES": "ann=boss"}, "expected a role: viewer, operator, custodian"),
        (OIDC, {"CONSOLE_OIDC_SCOPE": "profile"}, "openid among them"),
        (OIDC, {"CONSOLE_PUBLIC_URL": "http://console.example.com"}, "expected an https URL"),
        (OIDC, {"CONSOLE_PUBLIC_URL": "https://console.example.com/console"}, "a path is in CONSOLE_PREFIX"),
        (OIDC, {"CONSOLE_PUBLIC_URL": "https://console.example.com?x"}, "a path is in CONSOLE_PREFIX"),
        (OIDC, {"HTTP_CA_LOCATION": "/no/such/file"}, "expected a file of PEM certificates"),
    ],
)
def test_a_wrong_setting_is_refused(given: dict[str, str], changed: dict[str, str], message: str) -> None:
    """The line names it and what is expected; nothing starts without authentication."""
    with pytest.raises(SettingsError) as refused:
        load(ConsoleSettings, {**given, **changed})
    assert message in str(refused.value)


def test_roles_and_networks_are_parsed() -> None:
    """Spaces around the parts do not matter."""
    settings = load(ConsoleSettings, PROXY)
    assert settings.console_proxy_roles == {"ann": Role.OPERATOR, "bob@x": Role.VIEWER}
    assert [str(network) for network in settings.console_proxy_peers] == ["10.0.0.7/32", "fd00::/8"]


def test_it_listens_on_this_machine_only() -> None:
    """By default only this machine can connect."""
    settings = load(ConsoleSettings, FILE)
    assert (settings.bind, settings.is_local) == ("127.0.0.1:8080", True)


def test_an_issuer_is_kept_as_it_is_spelled() -> None:
    """Its discovery document has to name the same; the console's address is a host, or one of this machine."""
    settings = load(ConsoleSettings, OIDC)
    assert settings.console_oidc_issuer == "https://login.example.com/"
    assert settings.console_public_url == "https://console.example.com"
    here = load(ConsoleSettings, {**OIDC, "CONSOLE_OIDC_ISSUER": "http://127.0.0.1:8081/realms/ops"})
    assert here.console_oidc_issuer == "http://127.0.0.1:8081/realms/ops"


def test_the_clients_secret_can_be_a_file(tmp_path: Path) -> None:
    """As any other secret."""
    path = tmp_path / "secret"
    path.write_text("from a file\n")
    without = {name: value for name, value in OIDC.items() if name != "CONSOLE_OIDC_CLIENT_SECRET"}
    settings = load(ConsoleSettings, {**without, "CONSOLE_OIDC_CLIENT_SECRET_FILE": str(path)})
    assert settings.console_oidc_client_secret is not None
    assert settings.console_oidc_client_secret.get_secret_value() == "from a file"
