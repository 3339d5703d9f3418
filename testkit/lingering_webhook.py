"""The webhook, whose batches wait for requests under way for longer than any request may take."""

from dataclasses import replace

from flask import Flask

from app.dependencies import EXTENSION
from app.factory import create_app_from_environ
from app.group_commit import GroupCommitter


def create_app() -> Flask:
    """Create the application with the settings of the environment."""
    app = create_app_from_environ()
    webhook = app.extensions[EXTENSION]
    app.extensions[EXTENSION] = replace(webhook, committer=GroupCommitter(webhook.committer.store, linger_seconds=600))
    return app
