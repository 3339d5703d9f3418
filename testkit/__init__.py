"""What tests and benches share: services, processes, clients, simulators."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
"""The checkout."""
