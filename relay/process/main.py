"""The relay process: reads the settings, sets up logging and signals, and runs the supervisor."""

import gc
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType

import click
import structlog

from config.logging import configure_logging, frames, log_uncaught
from config.settings import SettingsError, load, unknown_names
from config.tracing import check_tracing
from outbox.errors import OutboxError
from relay.enrichment.failures import FailurePolicy
from relay.errors import RelayError
from relay.settings import RelaySettings
from relay.shard.services import ignore_steps

log = structlog.get_logger(__name__)

OBJECTS_BETWEEN_COLLECTIONS = 50_000
"""A batch creates tens of thousands of short-lived tuples without reference cycles. With Python's default of 700
objects, garbage collection takes as long as encoding them."""


def run_relay(step: Callable[[str, int], None] = ignore_steps, failure_policy: FailurePolicy | None = None) -> int:
    """Run the relay in this process until a signal. Returns the exit code.

    Args:
        step: called at each step of each shard (see ``ShardServices``).
        failure_policy: when enrichment gives an interaction up.
    """
    try:
        settings = load(RelaySettings, os.environ)
        check_tracing(os.environ)
    except SettingsError as error:
        click.echo(str(error), err=True)
        return 1
    configure_logging(settings, "relay")
    log_uncaught()
    for warning in unknown_names(os.environ):
        log.warning(warning, action="unknown_setting")
    gc.freeze()
    gc.set_threshold(OBJECTS_BETWEEN_COLLECTIONS)
    if not _supervise(settings, _stop_at_signal(), step, failure_policy):
        return 1
    sys.stdout.flush()
    sys.stderr.flush()
    # Threads that hang in a client's call must not delay the exit; nothing is left to save.
    os._exit(0)


def _stop_at_signal() -> threading.Event:
    """An event that SIGTERM and SIGINT set; the second signal ends the process at once."""
    stop = threading.Event()

    def handle(signum: int, _frame: FrameType | None) -> None:
        if stop.is_set():
            os._exit(128 + signum)
        stop.set()

    signal.signal(signal.SIGTERM, handle)
    signal.signal(signal.SIGINT, handle)
    return stop


def _supervise(
    settings: RelaySettings,
    stop: threading.Event,
    step: Callable[[str, int], None],
    failure_policy: FailurePolicy | None,
) -> bool:
    """Run the supervisor until the stop; False if it ended with an error."""
    from relay.process.supervisor import Supervisor

    try:
        Supervisor(settings, stop, step, failure_policy=failure_policy).run()
    except (RelayError, OutboxError) as error:
        log.error("relay cannot start or continue: %s", error, action="cannot_run")  # noqa: TRY400 - no trace needed
        return False
    except Exception as error:  # noqa: BLE001 - its text may quote a row
        kind = type(error).__name__
        log.error("relay ends: unexpected %s", kind, action="crashed", frames=frames(error))  # noqa: TRY400
        return False
    return True
