"""Parsing and comparing webhook secrets."""

import pytest

from app.authentication import matching_label, parse_secrets

LONG = "0123456789abcdef"


def test_a_bare_secret_is_labelled_default() -> None:
    """One secret needs no label."""
    assert parse_secrets(LONG) == {"default": LONG.encode()}


def test_several_secrets_have_labels() -> None:
    """A secret may contain = after its label."""
    assert parse_secrets(f"old={LONG},new={LONG}==") == {"old": LONG.encode(), "new": f"{LONG}==".encode()}


@pytest.mark.parametrize(
    "value", ["short", f"a=short,b={LONG}", f"{LONG}==", f"{LONG},{LONG}", f"a={LONG},a={LONG}x", ""]
)
def test_an_invalid_value_is_refused_without_showing_it(value: str) -> None:
    """Too short, ambiguous or repeated: the message says what to do, and does not quote the value."""
    with pytest.raises(ValueError, match=r"expected|label=secret") as caught:
        parse_secrets(value)
    assert not value or value not in str(caught.value)
    assert LONG not in str(caught.value)


def test_secrets_are_compared_as_bytes() -> None:
    """Non-ASCII secrets and headers are compared, not refused."""
    secrets = {"a": "gehéim-gehéim-geh".encode(), "b": LONG.encode()}
    assert matching_label(secrets, LONG) == "b"
    assert matching_label(secrets, "gehéim-gehéim-geh".encode().decode("latin-1")) == "a"
    assert matching_label(secrets, "ÿ" * 20) is None
    assert matching_label(secrets, f"{LONG},{LONG}") is None
    assert matching_label(secrets, None) is None
