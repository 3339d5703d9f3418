"""The incidents of docs/incident.md, clicked on a running product as docs/console.md describes it."""

import base64
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from playwright.sync_api import Page, expect

from testkit.browser import sign_in
from testkit.console_process import ConsoleProcess
from testkit.deployment import Deployment
from testkit.inference_endpoint import InferenceEndpoint
from testkit.topic import alter_topic
from testkit.waiting import wait_until
from testkit.web_process import WebProcess
from tests.browser.conftest import NewContext


class Stack(NamedTuple):
    """The product, as it runs in production, and an operator's page of its console."""

    deployment: Deployment
    web: WebProcess
    page: Page

    def post(self, interaction: str, *, long: bool = False) -> None:
        """Post an interaction; the record of a long one takes more than 500 bytes, however it is compressed."""
        body: dict[str, object] = {"id": interaction, "channel": "voice", "timestamp": next(_times)}
        if long:
            body["agent"] = {"id": base64.b64encode(os.urandom(96)).decode()}
            body["customer"] = {"email": f"{base64.urlsafe_b64encode(os.urandom(216)).decode()}@example.com"}
        assert self.web.post(body).status_code == 202

    def limit_records(self, size: int) -> None:
        """Set the largest record that the topic takes, in bytes."""
        alter_topic(self.deployment.client_config, self.deployment.topic, "max.message.bytes", str(size))

    def wait_for_states(self, states: dict[int, str]) -> None:
        """Wait until rows have these states."""

        def reached() -> bool:
            found = dict(self.deployment.query("SELECT id, state FROM outbox_rows"))
            return all(found.get(row_id) == state for row_id, state in states.items())

        wait_until(reached, f"rows are {states}")

    def go(self, page: str) -> None:
        """Click on a page of the navigation."""
        self.page.get_by_label("Pages").get_by_role("link", name=page).click()

    def see_again(self, test_id: str, text: str) -> None:
        """Load the page again until a part of it has a text."""

        def seen() -> bool:
            self.page.reload()
            return text in (self.page.get_by_test_id(test_id).first.text_content() or "")

        wait_until(seen, f"{test_id} is {text}")

    def confirm(self, reason: str, count: str | None = None) -> None:
        """Type a reason, confirm, and see that all rows were changed."""
        self.page.get_by_label("Why").fill(reason)
        if count is not None:
            self.page.get_by_label("Number of rows").fill(count)
        self.page.get_by_test_id("confirm").click()
        expect(self.page.get_by_test_id("result")).to_contain_text("1 of 1 rows done")
        expect(self.page.get_by_test_id("audit")).to_contain_text("entry")


_times = iter(range(1, 1_000))


@pytest.fixture
def stack(
    deployment: Deployment, inference: InferenceEndpoint, new_context: NewContext, tmp_path: Path
) -> Iterator[Stack]:
    """Run web, relay, inference and console."""
    inference.start()
    deployment.environ["INFERENCE_URL"] = inference.url
    web = deployment.web()
    deployment.relay()
    console = ConsoleProcess(deployment.url, tmp_path, **deployment.environ).start()
    page = new_context(console.origin).new_page()
    sign_in(page, "operator")
    yield Stack(deployment, web, page)
    console.stop()


def test_a_row_that_kafka_refuses(stack: Stack) -> None:
    """From the alarm to the cause, the plan, the act and the proof; the order of the interaction is kept."""
    page = stack.page
    stack.post("call-7")
    stack.wait_for_states({1: "sent"})
    stack.limit_records(500)
    stack.post("call-7", long=True)
    stack.wait_for_states({2: "parked"})
    stack.post("call-7")

    stack.go("Overview")
    stack.see_again("health", "degraded")
    stack.go("Problems")
    problem = page.get_by_test_id("problem")
    expect(problem).to_contain_text("MSG_SIZE_TOO_LARGE")
    problem.get_by_role("link").first.click()
    page.get_by_role("link", name="2", exact=True).click()
    expect(page.get_by_test_id("row-2")).to_contain_text("parked")
    expect(page.get_by_test_id("kafka")).to_contain_text("not in")
    stack.go("Check")
    page.get_by_role("button", name="Run the checks").click()
    expect(page.get_by_test_id("finding").filter(has_text="500, but a record may take")).to_contain_text("failure")

    stack.limit_records(1_048_588)
    stack.go("Problems")
    page.get_by_role("button", name="Plan to retry").click()
    expect(page.get_by_test_id("plan-count")).to_have_text("1")
    expect(page.get_by_test_id("consequence")).to_contain_text("1 now")
    stack.confirm("topic limit raised")
    page.get_by_test_id("verify").click()
    stack.see_again("verified", "the record matches the row")
    stack.deployment.wait_drained()
    assert [record.outbox_id for record in stack.deployment.seen()] == [1, 2, 3]


def test_inference_is_down_for_a_while(stack: Stack, inference: InferenceEndpoint) -> None:
    """The row is sent; its page and the check say what is wrong; once the endpoint is back, the call is made."""
    page = stack.page
    inference.stop()
    stack.post("call-9")
    stack.wait_for_states({1: "sent"})
    stack.go("Rows")
    page.get_by_role("link", name="1", exact=True).click()
    stack.see_again("call", "ConnectionError")
    stack.go("Check")
    page.get_by_role("button", name="Run the checks").click()
    expect(page.get_by_test_id("finding").filter(has_text="does not answer")).to_contain_text("inference")
    inference.start()
    page.goto("/rows/1")
    stack.see_again("call", "done")


def test_a_mistaken_discard(stack: Stack) -> None:
    """The discarded row stays discarded; its replay is sent, and the audit log has who did both, and why."""
    page = stack.page
    stack.limit_records(500)
    stack.post("call-9", long=True)
    stack.wait_for_states({1: "parked"})
    page.goto("/rows/1")
    page.get_by_role("button", name="Plan to discard").click()
    stack.confirm("a test call", count="1")

    stack.limit_records(1_048_588)
    page.goto("/rows?state=discarded")
    page.get_by_role("link", name="1", exact=True).click()
    expect(page.get_by_test_id("event").filter(has_text="a test call")).to_be_visible()
    page.get_by_role("button", name="Plan to replay").click()
    stack.confirm("discarded by mistake")
    page.get_by_test_id("verify").click()
    stack.see_again("verified", "the record matches the row")
    page.goto("/rows/1")
    expect(page.get_by_test_id("row-1")).to_contain_text("discarded")
    page.get_by_role("link", name="row 2").click()
    expect(page.get_by_test_id("row-2")).to_contain_text("sent")
    stack.go("Audit")
    expect(page.get_by_test_id("entry-1")).to_contain_text("operator (console)")
    expect(page.get_by_test_id("entry-2")).to_contain_text("discarded by mistake")
    page.get_by_role("button", name="Verify").click()
    expect(page.get_by_test_id("result")).to_contain_text("2")
