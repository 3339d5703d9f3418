"""Whether requests waited, judged so that a pause of a busy machine does not count."""

from collections.abc import Iterable


def assert_none_waited(seconds: Iterable[float], what: str, median_below: float = 0.2) -> None:
    """Assert that requests did not wait for what occupies a process for seconds, such as stalled clients.

    A machine may pause for seconds between any two instructions, but does so rarely: it delays few requests, and none
    for as long as they would wait. Where threads are occupied, one request in as many as there are threads waits.

    Args:
        seconds: that each request took.
        what: requests they were, for the failure message.
        median_below: limit of half of them, in seconds.
    """
    ranked = sorted(seconds)
    assert ranked[len(ranked) // 2] < median_below, f"half of {what} are slow: {ranked}"
    assert ranked[len(ranked) * 9 // 10] < 1, f"a tenth of {what} waits: {ranked}"
    assert ranked[-1] < 5, f"one of {what} waits: {ranked}"
