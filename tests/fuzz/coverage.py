"""``python -m tests.fuzz.coverage --minutes 10``: fuzz the parsers, guided by their coverage.

Atheris (libFuzzer) feeds a parser thousands of inputs a second, and mutates those that reach new code. Each parser
has a process of its own and a share of the time, and ends at its first finding.
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.fuzz.corpus import FOLDER, Input, save

INSTRUMENTED = ["app", "relay", "json.decoder", "json.scanner", "email._parseaddr", "email.utils", "fastavro"]
MAX_BYTES = 4096
CRASH = "crash-"
"""Prefix of the file in which libFuzzer leaves a finding."""


def fuzz(name: str, seed: int, seconds: int, folder: Path) -> None:
    """Fuzz one parser in this process, which ends with it."""
    import atheris

    with atheris.instrument_imports(include=INSTRUMENTED):
        from tests.fuzz.parsers import PARSERS, seeds
    inputs = folder / "inputs"
    inputs.mkdir()
    for number, data in enumerate(seeds(name)):
        (inputs / str(number)).write_bytes(data)
    options = [f"-seed={seed}", f"-max_total_time={seconds}", f"-max_len={MAX_BYTES}", f"-artifact_prefix={folder}/"]
    atheris.Setup([sys.argv[0], *options, "-print_final_stats=1", "-verbosity=1", str(inputs)], PARSERS[name])
    atheris.Fuzz()


def fuzz_in_a_process(name: str, seed: int, seconds: int) -> bool:
    """Fuzz one parser in another process; return whether anything was found, which is then kept."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        command = [sys.executable, "-m", "tests.fuzz.coverage", "--only", name, folder, str(seed), str(seconds)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        statistics = [line for line in done.stderr.splitlines() if line.startswith("stat::number_of_executed_units")]
        sys.stderr.write(f"{name}: {' '.join(statistics)}{os.linesep}")
        crashes = [path.read_bytes() for path in Path(folder).glob(f"{CRASH}*")]
        for data in crashes:
            sys.stderr.write(f"{save('parsers', Input(name, data)).relative_to(FOLDER)}\n{done.stdout[-3000:]}\n")
        assert crashes or done.returncode == 0, done.stderr[-3000:]
    return bool(crashes)


def main() -> None:
    """Fuzz each parser; exit with 1 if anything was found."""
    if sys.argv[1:2] == ["--only"]:
        name, folder, *numbers = sys.argv[2:]
        seed, seconds = map(int, numbers)
        fuzz(name, seed, seconds, Path(folder))
        return
    from tests.fuzz.parsers import PARSERS

    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.coverage", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, help="repeats a run (default: drawn and printed)")
    options = parser.parse_args()
    seed = random.randrange(1, 2**31) if options.seed is None else options.seed
    sys.stderr.write(f"fuzzing the parsers for {options.minutes:g} minutes with seed {seed}\n")
    seconds = max(1, round(options.minutes * 60 / len(PARSERS)))
    found = [fuzz_in_a_process(name, seed, seconds) for name in PARSERS]
    sys.exit(any(found))


if __name__ == "__main__":
    main()
