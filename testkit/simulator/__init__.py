"""A real local HTTP server that plays CXone (tokens, contacts) and the scoring container, well and badly."""

from testkit.simulator.behaviour import BEHAVIOURS, Script
from testkit.simulator.sender import deliver
from testkit.simulator.server import Simulator

__all__ = ["BEHAVIOURS", "Script", "Simulator", "deliver"]
