"""Episodes of a trained agent → scores."""

from dreammpc.evaluation.episodes import Episodes, run_episodes
from dreammpc.evaluation.evaluator import Evaluator, table

__all__ = ["Episodes", "Evaluator", "run_episodes", "table"]
