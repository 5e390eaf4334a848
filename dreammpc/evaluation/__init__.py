"""Episodes of a trained agent → scores."""

from dreammpc.evaluation.episodes import Episodes, run_episodes

__all__ = ["Episodes", "run_episodes"]
