"""What `dreammpc sync` and `dreammpc register` do; imported when one is called."""

from collections.abc import Sequence

from dreammpc import tracking
from dreammpc.cli.commands import planner_choices, split_confirmations
from dreammpc.plugins.registry import named_by
from dreammpc.support.names import printable
from dreammpc.trained.mlflow_model import register as register_agent
from dreammpc.training.owner import ended


def sync(paths: Sequence[str], uri: str | None) -> None:
    """Send what is left of runs to MLflow; a line for each. See `dreammpc.tracking.sync`."""
    for line in tracking.sync(paths, uri, ended):
        print(printable(line), flush=True)


def register(agent: str, name: str, choices: Sequence[str], uri: str | None, experiment: str) -> None:
    """Make an agent a version of a registered model. See `dreammpc.trained.mlflow_model`."""
    settings = planner_choices(split_confirmations(choices)[1], agent)
    print(printable(register_agent(agent, name, settings, uri, experiment, named_by(choices))))
