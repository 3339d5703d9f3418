"""The webhook, whose processes die (-9) in traps at the steps of a commit."""

import os
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from random import Random
from typing import Any

from flask import Flask
from sqlalchemy import Engine

from app.dependencies import EXTENSION
from app.factory import create_app_from_environ
from app.group_commit import ANSWER_SECONDS, GroupCommitter
from app.notifier import Notifier
from outbox.db.engine import create_outbox_engine
from outbox.models import NewRow, RecordOutcome
from outbox.store import Store
from testkit.traps import Traps, die
from testkit.web_process import PATH

COMMIT_SECONDS = 0.005
"""Within this time of its begin a process dies during a commit."""


class TrappedStore(Store):
    """An outbox with traps before, during and after each commit."""

    def __init__(self, engine: Engine, traps: Traps) -> None:
        super().__init__(engine)
        self._traps = traps

    def record(self, rows: Sequence[NewRow]) -> list[RecordOutcome]:
        """Commit rows."""
        self._traps.reach("recording")
        if self._traps.is_deadly("committing"):
            threading.Timer(Random().uniform(0, COMMIT_SECONDS), die).start()
        outcomes = super().record(rows)
        self._traps.reach("recorded")
        return outcomes


class TrappedAnswers:
    """WSGI middleware with a trap before the answer to an interaction is sent."""

    def __init__(self, app: Callable[..., Iterable[bytes]], traps: Traps) -> None:
        self._app, self._traps = app, traps

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Handle a request."""
        answer = self._app(environ, start_response)
        if environ["PATH_INFO"] == PATH:
            self._traps.reach("answering")
        return answer


def create_app() -> Flask:
    """Create the application with the settings of the environment."""
    app, traps, url = create_app_from_environ(), Traps.from_environ(), os.environ["DATABASE_URL"]
    store = TrappedStore(create_outbox_engine(url, answer_seconds=ANSWER_SECONDS, may_create=False), traps)
    committer = GroupCommitter(store, notifier=None if url.startswith("sqlite") else Notifier(store))
    app.extensions[EXTENSION] = replace(app.extensions[EXTENSION], committer=committer)
    app.wsgi_app = TrappedAnswers(app.wsgi_app, traps)  # type: ignore[method-assign]
    return app
