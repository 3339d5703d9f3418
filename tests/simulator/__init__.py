"""A real local HTTP server that plays CXone (tokens, contacts) and the scoring container, well and badly."""

from tests.simulator.behaviour import BEHAVIOURS, Script
from tests.simulator.sender import deliver
from tests.simulator.server import Simulator

__all__ = ["BEHAVIOURS", "Script", "Simulator", "deliver"]
