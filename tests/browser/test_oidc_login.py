"""Signing in by an OpenID provider of another site, with the cookies that a real browser sends."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import expect

from testkit.browser import Complaints
from testkit.oidc_provider import OidcProvider, oidc_environ, start_provider
from testkit.ports import free_port
from tests.browser.conftest import NewContext, StartConsole


@pytest.fixture
def provider() -> Iterator[OidcProvider]:
    """Return a provider that asks ann; for browsers, ``localhost`` is another site than ``127.0.0.1``."""
    with start_provider("", host="localhost") as provider:
        provider.user, provider.asks = {"sub": "248289761001", "preferred_username": "ann"}, True
        yield provider


@pytest.mark.parametrize("script", [True, False], ids=["script", "no script"])
def test_the_provider_leads_back_to_the_page_that_was_asked_for(
    provider: OidcProvider, start_console: StartConsole, new_context: NewContext, *, script: bool
) -> None:
    """The callback comes without the session's cookie, and the page after it with it; nothing is blocked."""
    port = free_port()
    origin = f"http://127.0.0.1:{port}"
    provider.redirect_uri = f"{origin}/login/callback"
    environ = oidc_environ(provider, "248289761001=operator", CONSOLE_PUBLIC_URL=origin, CONSOLE_PORT=str(port))
    start_console(**environ)
    page = new_context(origin, java_script_enabled=script).new_page()
    complaints = Complaints(page)
    page.goto("/problems?error=too+large")
    page.get_by_role("button", name="Sign in with localhost").click()
    with page.expect_request(lambda request: "/login/callback" in request.url) as callback:
        page.get_by_role("button", name="Allow").click()
    cookies = [cookie.partition("=")[0] for cookie in callback.value.all_headers()["cookie"].split("; ")]
    assert cookies == ["console-login"]
    expect(page).to_have_url(f"{origin}/problems?error=too+large")
    expect(page.get_by_text("Signed in as ann [248289761001], operator")).to_be_visible()
    page.get_by_role("button", name="Sign out").click()
    expect(page).to_have_url(f"{origin}/login")
    page.goto("/problems")
    expect(page).to_have_url(f"{origin}/login")
    assert complaints.seen == []
