"""The pages of the console. Each module has the views of one page."""

from console.pages import audit, calls, check, overview, problems, render, rows, shards

BLUEPRINTS = tuple(module.blueprint for module in (render, overview, problems, rows, calls, shards, audit, check))
"""In the order of the navigation."""
