"""Agents that run elsewhere: exported to one file, checked against the agent, and run at a fixed rate."""

from dreammpc.deploy.control_loop import ControlLoop, RealClock, TooSlow
from dreammpc.deploy.exported import ExportedAgent

__all__ = ["ControlLoop", "ExportedAgent", "RealClock", "TooSlow"]
