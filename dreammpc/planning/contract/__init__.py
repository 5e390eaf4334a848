"""The contract of planners and models, as checks for anyone's test suite.

    def test_my_planner():
        check_planner(MyPlanner(action_dim=2))

    def test_my_model():
        check_model(MyModel())

The first promise that is broken raises `ContractError`, which says what was checked, what was expected and
what came. The checks draw from seeds of their own and leave the global random state as it was.

`graphable(planner, model)` says why a plan could not be captured as a CUDA graph.
"""

from dreammpc.planning.contract.common import ContractError
from dreammpc.planning.contract.model import check_model
from dreammpc.planning.contract.planner import check_planner
from dreammpc.planning.contract.watch import graphable

__all__ = ["ContractError", "check_model", "check_planner", "graphable"]
