"""Episodes of a trained agent → scores."""

from dreammpc.evaluation.episodes import Episodes, run_episodes
from dreammpc.evaluation.evaluator import Evaluator, finals, table

__all__ = ["Episodes", "Evaluator", "finals", "run_episodes", "table"]
