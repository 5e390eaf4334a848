"""The contract of planners, models and objective terms, as checks for anyone's test suite.

    def test_my_planner():
        check_planner(MyPlanner(action_dim=2))

    def test_my_model():
        check_model(MyModel())

    def test_my_objective_term():
        check_term(MyTerm(weight=0.1))

The first promise that is broken raises `ContractError`, which says what was checked, what was expected and
what came. The checks draw from seeds of their own and leave the global random state as it was.

`graphable(planner, model)` says why a plan could not be captured as a CUDA graph.
"""

from dreammpc.planning.contract.common import ContractError
from dreammpc.planning.contract.model import check_model
from dreammpc.planning.contract.planner import check_planner
from dreammpc.planning.contract.term import check_term
from dreammpc.planning.contract.watch import graphable

__all__ = ["ContractError", "check_model", "check_planner", "check_term", "graphable"]
