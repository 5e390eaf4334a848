"""Trained agents that come with the package, and how a run or a published checkpoint becomes one.

library    names → files and cards         export    a run's checkpoint → weights and card
agents/    TASK/ALGORITHM-seedN.ckpt, .json
"""

from dreammpc.trained.export import export_agent
from dreammpc.trained.library import agent_names, find_agent, locate, read_card

__all__ = ["agent_names", "export_agent", "find_agent", "locate", "read_card"]
