"""The pages of the console. Each module has the views of one page."""

from console.pages import (
    audit,
    calls,
    changes,
    check,
    overview,
    plans,
    problems,
    record_search,
    render,
    rows,
    shards,
)

BLUEPRINTS = tuple(
    module.blueprint
    for module in (render, record_search, overview, problems, rows, calls, plans, changes, shards, audit, check)
)
