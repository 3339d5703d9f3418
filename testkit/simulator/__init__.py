"""A local HTTP server that simulates CXone (tokens, contacts) and the scoring container, and their failures."""

from testkit.simulator.behaviour import BEHAVIOURS, Script
from testkit.simulator.sender import deliver
from testkit.simulator.server import Simulator

__all__ = ["BEHAVIOURS", "Script", "Simulator", "deliver"]
