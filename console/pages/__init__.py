"""The pages of the console. Each module has the views of one page."""

from console.pages import (
    audit,
    calls,
    changes,
    check,
    overview,
    pauses,
    plans,
    problems,
    record_search,
    render,
    reveal,
    rows,
    shards,
)

BLUEPRINTS = tuple(
    module.blueprint
    for module in (
        render,
        record_search,
        overview,
        problems,
        rows,
        reveal,
        calls,
        plans,
        changes,
        shards,
        pauses,
        audit,
        check,
    )
)
