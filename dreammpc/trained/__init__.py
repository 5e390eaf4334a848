"""Trained agents that come with the package, and how a run or a published checkpoint becomes one.

library           names → files and cards              export        a run's checkpoint → weights and card
mlflow_download   MLflow's addresses → checkpoints     mlflow_model  a checkpoint → a model at MLflow (served)
initial           weights of another run to begin with
agents/           TASK/ALGORITHM-seedN.ckpt, .json
"""

from typing import Any

from dreammpc.trained.export import export_agent
from dreammpc.trained.initial import initialize
from dreammpc.trained.library import agent_names, find_agent, locate, read_card

__all__ = ["agent_names", "export_agent", "find_agent", "initialize", "locate", "read_card", "register"]


def register(*arguments: Any, **options: Any) -> str:
    """See `mlflow_model.register`, which is imported when it is called."""
    from dreammpc.trained.mlflow_model import register as call

    return call(*arguments, **options)
