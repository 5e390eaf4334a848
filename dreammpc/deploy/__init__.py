"""Agents that run elsewhere: exported to one file, checked against the agent, and run at a fixed rate."""

from dreammpc.deploy.exported import ExportedAgent

__all__ = ["ExportedAgent"]
