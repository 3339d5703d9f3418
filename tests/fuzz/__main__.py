"""``python -m tests.fuzz --target webhook --minutes 10``: fuzz one target; a finding is kept in its corpus."""

import argparse
import random
import signal
import sys
import tempfile
from pathlib import Path
from time import monotonic

from tests.fuzz.target import Fuzzer, log_to_stderr
from tests.fuzz.targets import TARGETS


def main() -> None:
    """Fuzz a target; exit with 1 if anything was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--target", choices=TARGETS, default="webhook")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, help="repeats a run (default: drawn and printed)")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is stopped
    seed = random.randrange(2**32) if options.seed is None else options.seed
    log_to_stderr(f"fuzzing {options.target} for {options.minutes:g} minutes with seed {seed}")
    began = monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="fuzz-") as folder,
        TARGETS[options.target](Path(folder)) as target,
    ):
        fuzzer = Fuzzer(options.target, target, log_to_stderr)
        fuzzer.run(seed, options.minutes * 60)
        report = fuzzer.finish()
    minutes = (monotonic() - began) / 60
    log_to_stderr(f"{report.inputs:,} inputs in {minutes:.1f} minutes, {len(report.findings)} findings")
    sys.exit(bool(report.findings))


if __name__ == "__main__":
    main()
