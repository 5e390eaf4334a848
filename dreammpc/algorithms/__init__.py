"""LightningModules: losses and updates only."""

from dreammpc.algorithms.tdmpc2 import TDMPC2

__all__ = ["TDMPC2"]
