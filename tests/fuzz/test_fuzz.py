"""The short form of ``make fuzz``: the whole corpus, and some mutations of it that are always the same."""

from pathlib import Path

import pytest

from tests.fuzz.target import Fuzzer, log_to_stderr
from tests.fuzz.targets import TARGETS

SEED = 1
COUNTS = {"webhook": 100, "registry": 150, "inference": 100, "cxone": 100, "oidc": 50}


# A console logs nothing of weak keys in a provider's answer: it uses none.
@pytest.mark.filterwarnings("ignore:Key size should be:UserWarning")
@pytest.mark.parametrize("name", TARGETS)
def test_no_input_breaks_a_rule(name: str, tmp_path: Path) -> None:
    """An input that does is kept in the corpus; ``tests/fuzz`` states the rules of each target."""
    with TARGETS[name](tmp_path) as target:
        fuzzer = Fuzzer(name, target, log_to_stderr)
        fuzzer.replay()
        fuzzer.mutate(SEED, COUNTS[name])
        report = fuzzer.finish()
    assert not report.findings
