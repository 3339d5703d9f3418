"""Options that several verbs share mean the same with each of them, and are judged before anything is asked."""

from pathlib import Path

import pytest

from outbox.errors import DatabaseUnavailableError
from relay.cli import shared
from tests.command_line import command

CHANGING = (
    ("retry", "--all"),
    ("discard", "--all"),
    ("replay", "--all"),
    ("inference", "retry", "--all"),
    ("prune",),
    ("erase", "--interaction", "i-1"),
    ("pause",),
    ("resume",),
    ("reshard", "2"),
    ("reconcile", "--since", "2h"),
    ("show", "1", "--reveal"),
)


def nowhere(folder: Path) -> dict[str, str]:
    """Settings of an outbox that is not there."""
    return {"DATABASE_URL": f"sqlite:///{folder}/none.db"}


@pytest.mark.parametrize("verb", CHANGING, ids=" ".join)
def test_no_reason_holds_an_address(tmp_path: Path, verb: tuple[str, ...]) -> None:
    """What goes on record stays there, so no verb takes a person's address into it."""
    ended = command(nowhere(tmp_path), *verb, "--reason", "asked for by someone@example.com")
    assert (ended.returncode, "not by an e-mail address" in ended.stderr) == (2, True)


@pytest.mark.parametrize("verb", CHANGING, ids=" ".join)
def test_a_reason_has_an_end(tmp_path: Path, verb: tuple[str, ...]) -> None:
    """It is refused at once, however long it is, and not quoted."""
    ended = command(nowhere(tmp_path), *verb, "--reason", "r" * 100_000)
    assert (ended.returncode, "takes up to 1000" in ended.stderr) == (2, True)
    assert len(ended.stderr) < 500


def test_an_actor_is_one_line_wherever_it_comes_from(tmp_path: Path) -> None:
    """RELAY_ACTOR is judged as --as is."""
    (tmp_path / "none.db").touch()
    given = command(nowhere(tmp_path), "pause", "--reason", "looking", RELAY_ACTOR="ann\nbob")
    assert (given.returncode, "RELAY_ACTOR" in given.stderr) == (2, True)


@pytest.mark.parametrize("verb", [("list", "--all"), ("status",), ("audit",), ("show", "1")], ids=" ".join)
def test_looking_for_rows_makes_no_database(tmp_path: Path, verb: tuple[str, ...]) -> None:
    """In the wrong folder, the operator hears that the file is not there."""
    ended = command(nowhere(tmp_path), *verb)
    assert (ended.returncode, "none.db, which does not exist" in ended.stderr) == (1, True)
    assert not (tmp_path / "none.db").exists()


@pytest.mark.parametrize("span", ["0s", "5x", "-1m", ""])
def test_a_pause_has_a_length(tmp_path: Path, span: str) -> None:
    """Ages and spans are written alike; none of nothing."""
    ended = command(nowhere(tmp_path), "pause", "--for", span, "--reason", "looking")
    assert (ended.returncode, "no time span" in ended.stderr) == (2, True)


@pytest.mark.parametrize(("verb", "seconds"), [(("status",), 20), (("pause",), 20), (("reshard", "2"), 600)])
def test_only_a_reshard_waits_long(monkeypatch: pytest.MonkeyPatch, verb: tuple[str, ...], seconds: float) -> None:
    """Whoever looks at a silent database hears of it soon."""
    asked: list[float] = []

    def refuse(_url: str, *, answer_seconds: float) -> None:
        asked.append(answer_seconds)
        raise DatabaseUnavailableError("silent")

    monkeypatch.setattr(shared, "create_outbox_engine", refuse)
    further = () if verb == ("status",) else ("--reason", "looking")
    environ = {"KAFKA_BOOTSTRAP_SERVERS": "localhost:1", "SCHEMA_REGISTRY_URL": "http://localhost:2"}
    assert command(environ, *verb, *further).returncode == 1
    assert asked == [seconds]
