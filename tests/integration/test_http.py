"""The client of other people's services, against one that misbehaves: what it does not do, and where it stops."""

import socket
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from relay.http import ANSWER_BYTES, READ_SECONDS, Answer, Client
from tests.services.process import free_port
from tests.simulator import Simulator


def test_the_environment_names_no_proxy_and_no_login(
    simulator: Simulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What is set for other programs of the machine sends no call elsewhere, and adds no header."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login someone password canary\n")
    monkeypatch.setenv("NETRC", str(netrc))
    assert Client(1).request("POST", f"{simulator.base}/score", json={}).status == 200
    assert "Authorization" not in simulator.requests["score"][0].headers


def test_an_answer_that_is_too_large_is_not_kept(simulator: Simulator) -> None:
    """The status decides; of the body there is nothing."""
    simulator.tokens["t"] = time.time() + 60
    simulator.contacts = {"large": {"x": "x" * ANSWER_BYTES}, "small": {"x": "x"}}
    client = Client(1, {"Authorization": "Bearer t"})
    answer = client.request("GET", f"{simulator.base}/contacts/large")
    assert (answer.status, answer.body) == (200, None)
    assert client.request("GET", f"{simulator.base}/contacts/small").body == b'{"x": "x"}'


def test_a_connection_is_watched_for_one_answer_only(simulator: Simulator) -> None:
    """It is kept for the next one: its time must not run out in the middle of that. So, too, after a failure."""
    client = Client(1)
    for behaviour in ("ok", "drop", "cut"):
        simulator.behave("score", behaviour)
        client.request("POST", f"{simulator.base}/score", json={})
        assert not client._watch._sockets, behaviour


def test_retry_after_is_taken_from_those_who_ask_for_patience(simulator: Simulator) -> None:
    """429 and 503: beside another status it says nothing, so a call that fails with it is charged as any other."""
    simulator.behave("score", "429:7", "503:7", "500:7", "502:7", "408:7", "400:7", "301:7")
    client = Client(1)
    named = [client.request("POST", f"{simulator.base}/score", json={}).retry_after_seconds for _ in range(7)]
    assert named == [7, 7, None, None, None, None, None]


def test_who_says_nothing_is_not_waited_for(simulator: Simulator) -> None:
    """A request that is taken and not answered ends as a time-out; one that nobody takes, at once."""
    simulator.behave("score", "hang")
    client, began = Client(1, answer_seconds=0.5), time.monotonic()
    assert client.request("POST", f"{simulator.base}/score", json={}) == Answer(None, "no answer in time")
    assert time.monotonic() - began < 3
    assert client.request("POST", f"http://127.0.0.1:{free_port()}/score", json={}).error == "ConnectionError"


def test_a_connection_that_does_not_come_about_is_waited_for_less_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that takes no more connections, as one behind a firewall, is found out long before an answer is due."""
    monkeypatch.setattr("relay.http.CONNECT_SECONDS", 0.5)
    with socket.socket() as full, ExitStack() as queued:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(3):  # fill what waits to be accepted
            waiting = queued.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        began = time.monotonic()
        url = f"http://127.0.0.1:{full.getsockname()[1]}/"
        assert Client(1).request("GET", url) == Answer(None, "no answer in time")
        assert time.monotonic() - began < READ_SECONDS / 2
