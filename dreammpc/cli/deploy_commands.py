"""What `dreammpc export` and `verify` do; imported when one is called."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dreammpc.agent import Agent
from dreammpc.cli.commands import confirmations, planner_choices
from dreammpc.configuration.planners import build_planner, planner_name
from dreammpc.deploy import check
from dreammpc.deploy.export import check_kind
from dreammpc.deploy.export import export as export_file
from dreammpc.deploy.exported import ExportedAgent
from dreammpc.deploy.formats import ENDINGS
from dreammpc.envs import make_env
from dreammpc.envs.families import check_task
from dreammpc.interfaces import RunError, UsageError
from dreammpc.plugins.registry import named_by
from dreammpc.plugins.settings import Count, Positive, Seed, fitted
from dreammpc.runtime.threads import set_threads
from dreammpc.support.names import file_name, printable
from dreammpc.trained import loading, locate
from dreammpc.trained.compare import model_width
from dreammpc.trained.loading import action_repeat_of, model_options
from dreammpc.training import open_target


def export(
    agent: str,
    planner: str | None,
    kind: str,
    output: str | None,
    ahead: int,
    seed: int,
    steps: int | None,
    choices: Sequence[str] = (),
) -> None:
    """Write an agent and its planner as one file; print its actions against the agent's.

    Raises:
        UsageError: no such agent, planner, format or folder; a planner that cannot be exported in it.
        RunError: see `dreammpc.deploy.export.export`.
    """
    check_kind(kind, Path(f"agent{ENDINGS.get(kind, '')}"))
    fitted("--ahead", ahead, Count)
    fitted("--seed", seed, Seed)
    fitted("--steps", steps, Positive | None)
    _, words = confirmations(choices)
    settings = {"name": "policy" if kind == "policy-onnx" else "dream_mpc"}
    settings |= planner_choices([*([f"planner={planner}"] if planner else []), *words])
    if kind == "policy-onnx" and settings["name"] != "policy":
        raise UsageError(
            f"format policy-onnx has the policy alone, not planner {settings['name']}; --format onnx has both"
        )
    path = locate(agent)
    model, facts = loading.load_model(path, "cpu", named_by(choices))
    check_task(facts["task"], f"checkpoint {path}", named_by(choices), model_options(facts).get("kwargs"))
    set_threads(model_width(facts))
    player = Agent(model, build_planner(settings, model.action_dim))
    name = planner_name(settings)
    target = open_target(output or f"{file_name(facts['task'])}-{file_name(name)}{ENDINGS[kind]}")
    check_kind(kind, target)
    env = task_env(facts["task"], facts, seed)
    about = {
        "agent": path.stem if path.suffix else agent,
        "task": facts["task"],
        "algorithm": facts["config"]["algorithm"]["name"],
        "model": facts["model"].get("name"),
        "planner": {**settings, "name": name},
    }
    try:
        file, record, found = export_file(player, target, kind, about, env, seed, ahead, steps)
        value = check.play_file(file, env, seed, steps)
    finally:
        env.close()
    print(check.table(check.row(file, found, target.stat().st_size)))
    print(f"return from start {seed}: {record.value:.1f} of the agent, {value:.1f} of the file")
    print(printable(f"{facts['task']}, {agent}, planned by {name}: {target}"))


def task_env(task: str, facts: Any, seed: int, action_repeat: int | None = None) -> Any:
    """One environment of a checkpoint's description, as in training."""
    options = {"obs": facts.get("obs", "state"), **model_options(facts)}
    return make_env(task, 1, seed, action_repeat or action_repeat_of(facts), **options)


def verify(file: str) -> None:
    """Play the episode that a file holds again, and print its actions against those of its agent.

    Raises:
        UsageError: see `ExportedAgent`.
        RunError: more of them differ than rounding explains.
    """
    path = Path(file)
    agent = ExportedAgent(path)
    found = check.compare(agent, check.Record.of(agent.description.get("record", {})))
    print(check.table(check.row(agent, found, path.stat().st_size)))
    about = agent.description
    planner = about["planner"]["name"]
    if not found.passed:
        raise RunError(
            f"file {path} acts otherwise than its agent did: {100 * found.equal:.1f} % of"
            f" {len(found.differences)} actions are equal"
        )
    print(printable(f"{path} acts as its agent did: {about['task']}, {about['agent']}, planned by {planner}"))
