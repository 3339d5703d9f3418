"""Explore the protocol: ``python -m tests.model``. Exit code 1 if an invariant breaks or a mutation is not caught."""

import argparse
import multiprocessing
import sys

from tests.model.configurations import DEEP, MUTATIONS, QUICK, USUAL
from tests.model.explore import Job, Result, explore
from tests.model.states import LIMIT


def main() -> int:
    """Explore what the command line names."""
    parser = argparse.ArgumentParser(prog="python -m tests.model", description="Explore the delivery protocol.")
    parser.add_argument(
        "--deep", action="store_true", help="also explore larger configurations: minutes, 1 GiB per process"
    )
    parser.add_argument("--only", default="", metavar="TEXT", help="only only names that contain TEXT")
    parser.add_argument("--trace", action="store_true", help="also print the traces of mutations")
    parser.add_argument("--jobs", type=int, default=2, help="number of processes (default: 2)")
    options = parser.parse_args()
    jobs: list[Job] = [(config, "") for config in USUAL + QUICK + (DEEP if options.deep else ())]
    jobs += [(mutation.config, mutation.rule) for mutation in MUTATIONS]
    jobs = [job for job in jobs if options.only in (job[1] or job[0].name)]
    if not jobs:
        parser.error(f"no configuration or mutation matches {options.only!r}")
    with multiprocessing.Pool(options.jobs, maxtasksperchild=1) as pool:
        reported = [_report(result, trace=options.trace) for result in pool.imap(explore, jobs, chunksize=1)]
    return int(not all(reported))


def _report(result: Result, *, trace: bool) -> bool:
    """Print a result; returns whether it is the expected one."""
    broken, mutation = result.invariant, result.mutation
    expected = broken not in ("", LIMIT) if mutation else not broken
    verdict = f"{broken} ({len(result.trace)} steps)" if broken else "all invariants hold"
    verdict = verdict if expected or not mutation else f"NOT CAUGHT: {verdict}"
    name = f"without: {mutation}" if mutation else result.config.name
    out = sys.stdout.write
    out(f"{name:55} {result.states:>9,} states {result.seconds:5.0f} s  {verdict}\n")
    if broken and (trace or not expected):
        out("".join(f"    {number:2} {step}\n" for number, step in enumerate(result.trace, 1)))
    sys.stdout.flush()
    return expected


if __name__ == "__main__":
    sys.exit(main())
