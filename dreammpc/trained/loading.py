"""Checkpoints → world models and agents, and the words that name one."""

import dataclasses
import shlex
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from dreammpc.agent import Agent
from dreammpc.algorithms import ALGORITHMS, algorithm_class
from dreammpc.configuration.assembly import without_name
from dreammpc.configuration.command_line import override_text as word_for
from dreammpc.configuration.planners import build_planner
from dreammpc.configuration.schemas import TrainConfig
from dreammpc.envs.families import check_task
from dreammpc.interfaces import UsageError
from dreammpc.models import EnsembleModel, LatentModel
from dreammpc.runtime.devices import choose_device
from dreammpc.trained import locate
from dreammpc.trained.export import MODEL, with_targets
from dreammpc.trained.library import planner_meant
from dreammpc.training import DESCRIPTION, load_checkpoint

NEEDED = ("state_dict", "config", "model", "obs_dim", "action_dim", "discount", "task")
"""Of a checkpoint and of its description, what a model is made from."""


def load_model(
    checkpoint: str | Path, device: Any = "cpu", named: Collection[str] = ()
) -> tuple[LatentModel, dict[str, Any]]:
    """The world model of a checkpoint, and the checkpoint's description.

    Args:
        checkpoint: a path; a trained agent: `agent:NAME`, or NAME where no file is called so; or an address
            of MLflow: `models:/NAME/VERSION`, `runs:/ID/PATH`.
        device: where the model goes, whatever it was trained on (see `runtime.devices.choose_device`).
        named: dotted paths of algorithms that the file may have imported (docs/security.md).

    Raises:
        UsageError: no such file, agent or device, a damaged one, weights that do not fit the algorithm, or an
            algorithm that is a dotted path and not `named`.
    """
    content = load_checkpoint(locate(checkpoint))
    facts = content[DESCRIPTION]
    for part, keys in ((content, NEEDED[:1]), (facts, NEEDED[1:])):
        if missing := [key for key in keys if key not in part]:
            raise UsageError(f"checkpoint {checkpoint} describes no model: {missing[0]} is missing")
    algorithm = facts["config"].get("algorithm", {}).get("name")
    ALGORITHMS.check_stored(algorithm, f"checkpoint {checkpoint}", named, f"algorithm={algorithm}")
    model_class, widths = algorithm_class(algorithm).model_class, without_name(facts["model"])
    widths |= {"episodic": facts.get("episodic", False), "obs": facts.get("obs", "state")}
    if facts.get("normalize", False):
        widths["normalize"] = True
    if facts.get("channels", 3) != 3:
        widths["channels"] = facts["channels"]
    try:
        model = model_class(facts["obs_dim"], facts["action_dim"], facts["discount"], **widths)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UsageError(f"checkpoint {checkpoint} describes no {model_class.__name__}: {error}") from error
    items = content["state_dict"].items()
    weights = {key.removeprefix(MODEL): weight for key, weight in items if key.startswith(MODEL)}
    try:
        model.load_state_dict(with_targets(weights))
    except RuntimeError as error:
        raise UsageError(
            f"checkpoint {checkpoint} says algorithm {algorithm}, but its weights are not those of a"
            f" {model_class.__name__} of size {facts['model'].get('name')}"
        ) from error
    return model.to(choose_device(device)), facts


def load_ensemble(
    checkpoints: Sequence[str | Path], device: Any = "cpu", named: Collection[str] = ()
) -> tuple[EnsembleModel, dict[str, Any]]:
    """The world models of several checkpoints as one, and a description of them all, without a seed.

    Arguments and errors as in `load_model`.

    Raises:
        UsageError: fewer than two checkpoints, or checkpoints of different tasks, settings of the environment
            (such as its action repeat) or spaces.
    """
    if len(checkpoints) < 2:
        raise UsageError(f"an ensemble is of at least two checkpoints, got {len(checkpoints)}")
    loaded = [load_model(path, device, named) for path in checkpoints]
    made = [
        {"task": facts["task"], "action_repeat": action_repeat_of(facts), **model_options(facts)}
        for _, facts in loaded
    ]
    for path, own in zip(checkpoints, made, strict=True):
        for name in [name for name in made[0] | own if own.get(name) != made[0].get(name)]:
            raise UsageError(
                f"an ensemble is of agents of one task: checkpoint {checkpoints[0]} has {name}"
                f" {made[0].get(name)}, checkpoint {path} has {own.get(name)}"
            )
    facts = loaded[0][1]
    algorithms = dict.fromkeys(facts["config"]["algorithm"]["name"] for _, facts in loaded)
    sizes = dict.fromkeys(str(facts["model"].get("name")) for _, facts in loaded)
    steps = {facts.get("env_steps") for _, facts in loaded}
    config = {**facts["config"], "seed": None, "algorithm": {"name": "+".join(algorithms)}}
    size = {**facts["model"], "name": f"{len(loaded)} x {'+'.join(sizes)}"}
    more = {"config": config, "model": size, "env_steps": steps.pop() if len(steps) == 1 else None}
    return EnsembleModel([model for model, _ in loaded]), {**facts, **more}


def action_repeat_of(facts: Mapping[str, Any]) -> int | None:
    """The one of training; None for the task family's own."""
    return facts["config"].get("env", {}).get("action_repeat")


def model_width(facts: Mapping[str, Any]) -> int:
    """Of the hidden layers of a checkpoint's model."""
    return facts["model"].get("mlp_dim", 0)


def model_options(facts: Mapping[str, Any]) -> dict[str, Any]:
    """What the environments of training were made with besides, see `make_env`."""
    names = ("kwargs", "max_episode_steps", "action_bound")
    made = facts["config"].get("env", {})
    return {name: made[name] for name in names if made.get(name)}


def load_agent(
    checkpoint: str | Path | Sequence[str | Path],
    planner: Any = "dream_mpc",
    device: Any = "cpu",
    algorithm: str | None = None,
    **settings: Any,
) -> Agent:
    """A trained agent that acts greedily on `device` with `planner`, by name and settings or as an object.

    Several checkpoints of one task become one agent (see `dreammpc.models.EnsembleModel`), whose value is the
    mean of all heads unless `value_reduction` says otherwise. `best` is the planner that the agent's card has
    the highest return of (see `dreammpc.trained.library.planner_meant`).
    `algorithm` is the dotted path of the one that trained it, which a file alone does not have imported; the
    package's own, and those of installed packages, need none.

    Example::

        agent = load_agent("runs/cartpole-swingup/…/checkpoints/best.ckpt", "mppi", num_samples=256)
        agent = load_agent("cartpole-swingup/tdmpc2-seed1")  # one that comes with the package
        agent = load_agent("walker-walk.ckpt", "mppi", device="cuda")
        agent = load_agent("models:/walker/3")  # of MLFLOW_TRACKING_URI
        agent = load_agent([f"cheetah-run/tdmpc2-seed{k}" for k in (1, 2, 3)])
    """
    several = not isinstance(checkpoint, str | Path)
    load: Any = load_ensemble if several else load_model
    model, facts = load(checkpoint, device, [algorithm] if algorithm else ())
    if isinstance(planner, str):
        planner = planner_meant(planner, checkpoint)
        planner = build_planner({"name": planner, **settings}, facts["action_dim"])
        if several and "value_reduction" not in settings:
            planner = averaged(planner)
    return Agent(model, planner)


def averaged(planner: Any) -> Any:
    """A planner for several agents as one: with the mean of their value heads where its default is the least.

    The least of all agents' heads is far below what each of them says (docs/ablations.md).
    """
    least = getattr(planner, "value_reduction", None) == "min"
    return dataclasses.replace(planner, value_reduction="mean") if least else planner


def evaluate_command(checkpoint: Path, config: TrainConfig, planners: str) -> str:
    """What one types to have the checkpoint of a training evaluated with other planners."""
    needed = confirmations(config.task, config.algorithm.name, config.env.kwargs)
    words = [word_for("checkpoint", checkpoint), *map(shlex.quote, needed), f"planner={planners}"]
    return f"lightning run evaluate {' '.join(words)}"


def confirmations(task: str, algorithm: str, kwargs: object = None) -> list[str]:
    """The words that let a checkpoint of this task and algorithm be evaluated; often none.

    `kwargs` are the arguments that the environment was made with.
    """
    words = []
    try:
        check_task(task, "", kwargs=kwargs)
    except UsageError:
        words.append(f"task={task}")
    try:
        ALGORITHMS.check_stored(algorithm, "", (), "")
    except UsageError:
        words.append(f"algorithm={algorithm}")
    return words
