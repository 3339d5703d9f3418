"""What the worker overrides in gunicorn is listed, and still exists."""

import inspect

import pytest
from gunicorn.workers.gthread import ThreadWorker  # type: ignore[import-untyped]

from app import gunicorn_worker
from app.gunicorn_worker import Worker

OVERRIDDEN = sorted(name for name in vars(Worker) if not name.startswith("__") and hasattr(ThreadWorker, name))


def test_overridden_methods_are_listed() -> None:
    """The module's docstring is the list to check before the version's bound is raised."""
    listed = (gunicorn_worker.__doc__ or "").partition("Overridden")[2].partition("Used unchanged")[0]
    assert OVERRIDDEN
    assert [name for name in OVERRIDDEN if f"``{name}``" not in listed] == []


@pytest.mark.parametrize("name", OVERRIDDEN)
def test_an_overridden_method_has_gunicorns_parameters(name: str) -> None:
    """It has as many parameters as in gunicorn, with the same defaults."""
    ours, theirs = inspect.signature(getattr(Worker, name)), inspect.signature(getattr(ThreadWorker, name))
    assert len(ours.parameters) == len(theirs.parameters)
    assert [p.default for p in ours.parameters.values()] == [p.default for p in theirs.parameters.values()]


def test_inherited_methods_that_are_used_exist() -> None:
    """The base class has the methods that the module's docstring lists as used unchanged."""
    listed = (gunicorn_worker.__doc__ or "").partition("- of ``ThreadWorker``:")[2].partition("- of the HTTP parser")[0]
    methods = [name.strip("` ,.\n") for name in listed.split("``")[1::2]]
    instance_attributes = {"method_queue", "poller", "tpool", "nr_conns", "worker_connections", "alive", "wsgi"}
    assert methods
    assert [name for name in methods if name not in instance_attributes and not hasattr(ThreadWorker, name)] == []
