"""A clock that a test sets."""


class ManualClock:
    """Stands still until the test changes ``now``.

    Args:
        now: seconds at first.
    """

    def __init__(self, now: float = 100.0) -> None:
        self.now = now

    def __call__(self) -> float:
        """The time in seconds."""
        return self.now
