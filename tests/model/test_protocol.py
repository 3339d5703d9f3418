"""The protocol's invariants hold in every reachable state, and each of its rules is necessary."""

import pytest

from tests.model.configurations import MUTATIONS, QUICK, Mutation
from tests.model.explore import explore
from tests.model.states import LIMIT, Config

pytestmark = pytest.mark.no_cover  # explores the model, none of the product's code, and tracing would double its time


@pytest.mark.parametrize("config", QUICK, ids=lambda config: config.name.replace(" ", "-"))
def test_every_invariant_holds(config: Config) -> None:
    """In each state that steps and faults can lead to; ``make model`` explores larger configurations."""
    result = explore((config, ""))
    assert not result.invariant, "\n".join((result.invariant, *result.trace))


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.rule.replace(" ", "-"))
def test_omitting_a_rule_breaks_an_invariant(mutation: Mutation) -> None:
    """Otherwise the rule is not necessary, or the model lacks a fault."""
    assert explore((mutation.config, mutation.rule)).invariant not in ("", LIMIT)
