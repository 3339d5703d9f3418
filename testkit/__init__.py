"""Helpers shared by tests and benchmarks: services, processes, clients, simulators."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
"""The root folder of the checkout."""
