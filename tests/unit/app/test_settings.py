"""The web process's settings."""

import pytest

from app.settings import WebSettings
from config.settings import SettingsError, load

SECRET = "0123456789abcdef"


@pytest.mark.parametrize(
    "environ", [{}, {"CXONE_WEBHOOK_SECRETS": f"a={SECRET}", "CXONE_WEBHOOK_SECRET": SECRET}], ids=["none", "both"]
)
def test_exactly_one_of_the_two_secret_settings_is_required(environ: dict[str, str]) -> None:
    """No secret, or two settings that may contradict each other: the message names both."""
    with pytest.raises(SettingsError, match="CXONE_WEBHOOK_SECRETS or CXONE_WEBHOOK_SECRET"):
        load(WebSettings, environ)


@pytest.mark.parametrize("name", ["CXONE_WEBHOOK_SECRETS", "CXONE_WEBHOOK_SECRET"])
def test_either_setting_accepts_either_format(name: str) -> None:
    """One bare secret, or several with labels."""
    assert load(WebSettings, {name: SECRET}).secrets() == {"default": SECRET.encode()}
    assert load(WebSettings, {name: f"a={SECRET},b={SECRET}x"}).secrets().keys() == {"a", "b"}


@pytest.mark.parametrize(
    "value",
    [
        "canary",
        "canary=canary,",
        "ab,cd" * 5,
        f"canary {SECRET}=x",
        f"a={SECRET}\ncanary",
        f'"canary{SECRET}"',
        f"a='canary{SECRET}'",
        f"a={SECRET},b=canary\u200b{SECRET}",
    ],
)
@pytest.mark.parametrize("name", ["CXONE_WEBHOOK_SECRETS", "CXONE_WEBHOOK_SECRET"])
def test_an_invalid_secret_is_not_shown(name: str, value: str) -> None:
    """The message names the setting, and quotes nothing of the value."""
    with pytest.raises(SettingsError) as caught:
        load(WebSettings, {name: value})
    assert str(caught.value).startswith(f"{name}=***: ")
    assert "canary" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("WEBHOOK_MAX_BYTES", "0"),
        ("WEBHOOK_MAX_BYTES", "1MB"),
        ("WEBHOOK_RATE_LIMIT", "-1"),
        ("WEBHOOK_RATE_LIMIT", "nan"),
        ("WEBHOOK_RATE_LIMIT", "inf"),
        ("WEBHOOK_BACKLOG_LIMIT", "0.5"),
        ("PORT", "70000"),
        ("WEB_CONCURRENCY", "0"),
        ("WEB_THREADS", "x"),
        ("WEB_KEEPALIVE_SECONDS", "0"),
        ("WEB_HOST", "localhost:8000"),
        ("WEB_HOST", "http://localhost"),
        ("WEB_HOST", "::g"),
    ],
)
def test_an_invalid_value_is_refused(name: str, value: str) -> None:
    """The message starts with the setting and its value."""
    with pytest.raises(SettingsError) as caught:
        load(WebSettings, {"CXONE_WEBHOOK_SECRETS": SECRET, name: value})
    assert str(caught.value).startswith(f"{name}='{value}': ")


@pytest.mark.parametrize(
    ("host", "bind"),
    [("::", "[::]:9"), ("[::1]", "[::1]:9"), ("0.0.0.0", "0.0.0.0:9"), ("localhost", "localhost:9")],
)
def test_it_listens_on_ipv4_or_ipv6(host: str, bind: str) -> None:
    """Gunicorn gets an IPv6 address in brackets."""
    assert load(WebSettings, {"CXONE_WEBHOOK_SECRETS": SECRET, "WEB_HOST": host, "PORT": "9"}).bind == bind


def test_the_default_keepalive_is_longer_than_that_of_load_balancers() -> None:
    """They close idle connections after 60 s, and must be the side that closes first."""
    assert load(WebSettings, {"CXONE_WEBHOOK_SECRETS": SECRET}).web_keepalive_seconds > 60


def test_the_default_number_of_processes_depends_on_the_database() -> None:
    """One on SQLite, two on PostgreSQL, unless WEB_CONCURRENCY is set."""
    secret = {"CXONE_WEBHOOK_SECRETS": SECRET}
    assert load(WebSettings, secret).processes == 1
    assert load(WebSettings, {**secret, "DATABASE_URL": "postgres://u@h/d"}).processes == 2
    assert load(WebSettings, {**secret, "WEB_CONCURRENCY": "3"}).processes == 3
