"""The short form of ``make fuzz``: the whole corpus, and some mutations of it that are always the same."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from testkit.services import ServiceError
from testkit.services.fixtures import skip_or_fail
from tests.fuzz.parsers import PARSERS, seeds
from tests.fuzz.target import Fuzzer, OpenTarget, Target, log_to_stderr
from tests.fuzz.targets import TARGETS

SEED = 1
COUNTS = {"webhook": 100, "registry": 150, "inference": 100, "cxone": 100, "oidc": 50}


@contextmanager
def open_or_skip(open_target: OpenTarget, folder: Path) -> Iterator[Target]:
    """Open a target; without the service that it needs, skip the test, or in CI fail."""
    with ExitStack() as stack:
        try:
            target = stack.enter_context(open_target(folder))
        except ServiceError as error:
            skip_or_fail(error)
        yield target


# A console logs nothing of weak keys in a provider's answer: it uses none.
@pytest.mark.filterwarnings("ignore:Key size should be:UserWarning")
@pytest.mark.parametrize("name", TARGETS)
def test_no_input_breaks_a_rule(name: str, tmp_path: Path) -> None:
    """An input that does is kept in the corpus; ``tests/fuzz`` states the rules of each target."""
    with open_or_skip(TARGETS[name], tmp_path) as target:
        fuzzer = Fuzzer(name, target, log_to_stderr)
        fuzzer.replay(slow=False)
        if count := COUNTS.get(name):
            fuzzer.mutate(SEED, count)
        report = fuzzer.finish()
    assert not report.findings


@pytest.mark.parametrize("name", PARSERS)
def test_no_input_breaks_a_parser(name: str) -> None:
    """The corpus of the parsers; the other targets mutate inputs of them as well."""
    for data in seeds(name):
        PARSERS[name](data)
