"""The relay process: settings, logging, signals, and the supervisor until it is told to stop."""

import gc
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType

import click

from config.logging import configure_logging, frames
from config.settings import SettingsError, load, unknown_names
from outbox.errors import OutboxError
from relay.enrichment.failures import FailurePolicy
from relay.errors import RelayError
from relay.settings import RelaySettings
from relay.shard.worker import ignore_steps

OBJECTS_BETWEEN_COLLECTIONS = 50_000
"""A batch makes tens of thousands of short-lived tuples, none of them in a cycle: looking for cycles at
Python's usual pace (700) takes as long as encoding them."""


def run_relay(step: Callable[[str, int], None] = ignore_steps, failure_policy: FailurePolicy | None = None) -> int:
    """Run the relay in this process until a signal; returns the exit code.

    Args:
        step: told each step of each shard as it is reached.
        failure_policy: when enrichment gives an interaction up.
    """
    import structlog

    from relay.process.supervisor import Supervisor

    try:
        settings = load(RelaySettings, os.environ)
    except SettingsError as error:
        click.echo(str(error), err=True)
        return 1
    configure_logging(settings)
    log = structlog.get_logger("relay")
    for warning in unknown_names(os.environ):
        log.warning(warning, action="unknown_setting")
    stop = threading.Event()

    def stop_once(signum: int, _frame: FrameType | None) -> None:
        if stop.is_set():  # whoever signals twice does not want to wait
            os._exit(128 + signum)
        stop.set()

    gc.freeze()
    gc.set_threshold(OBJECTS_BETWEEN_COLLECTIONS)
    signal.signal(signal.SIGTERM, stop_once)
    signal.signal(signal.SIGINT, stop_once)
    try:
        Supervisor(settings, stop, step, failure_policy=failure_policy).run()
    except (RelayError, OutboxError) as error:
        log.error("the relay cannot run: %s", error, action="refused")  # noqa: TRY400 - a message, not a trace
        return 1
    except Exception as error:  # noqa: BLE001 - its text may quote a row
        kind = type(error).__name__
        log.error("the relay ends: unexpected %s", kind, action="crashed", frames=frames(error))  # noqa: TRY400
        return 1
    sys.stdout.flush()
    sys.stderr.flush()
    # Threads that hang in a client's call must not hold up the exit; nothing is left to save.
    os._exit(0)
