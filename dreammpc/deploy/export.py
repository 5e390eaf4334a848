"""An agent → one file that needs no dreammpc where it runs."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dreammpc.agent import Agent
from dreammpc.deploy import check
from dreammpc.deploy.description import describe
from dreammpc.deploy.exported import ExportedAgent
from dreammpc.deploy.formats import ENDINGS, FORMATS, check_needs, write
from dreammpc.deploy.graph import program
from dreammpc.interfaces import RunError, UsageError
from dreammpc.planning import make_planner
from dreammpc.plugins.registry import unknown
from dreammpc.support.atomic import write_bytes


def export(
    agent: Agent,
    path: Path,
    kind: str,
    about: Mapping[str, Any],
    env: Any,
    seed: int = 0,
    ahead: int = 0,
    steps: int | None = None,
) -> tuple[ExportedAgent, check.Record, check.Comparison]:
    """Write `path` once it has been seen to act as the agent does.

    Args:
        agent: acts greedily, on the CPU. For `policy-onnx` its planner is left out.
        path: ends as `ENDINGS` says.
        kind: one of `FORMATS`.
        about: `task`, `planner` (plain settings with its name) and what else the file should say.
        env: the task, a batch of one.
        seed: of the episode that is compared.
        ahead: see `program`.
        steps: of that episode, at most; None is all.

    Returns:
        The file, the agent's episode, and the file's actions against it.

    Raises:
        UsageError: no such format, another ending; a planner that cannot be exported in it, or not `ahead`.
        RunError: a compiler failed, or the file acts otherwise than the agent; nothing is written then.
    """
    check_kind(kind, path)
    check_needs(kind)
    if kind == "policy-onnx":
        agent = Agent(agent.model, make_planner("policy", agent.model.action_dim))
        about = {**about, "planner": {"name": "policy"}}
    if ahead and getattr(agent.planner, "measured_trust", False):
        raise UsageError(
            "--ahead: a planner with measured_trust holds predictions against what is observed right after,"
            " and a file that plans ahead does not observe that; export it without one of them"
        )
    agent.eval()
    made = program(agent, ahead, portable=kind.endswith("onnx"))
    record = check.play_agent(agent, env, seed, steps)
    description = describe(agent, made, kind, about, env) | {"record": record.plain()}
    data = write(made, kind, description)
    with tempfile.TemporaryDirectory() as folder:
        draft = Path(folder) / path.name
        draft.write_bytes(data)
        found = check.compare(ExportedAgent(draft), record)
    if not found.passed:
        raise RunError(
            f"the exported file acts otherwise than the agent: {found.told}; {path} is not written"
        )
    write_bytes(path, data)
    return ExportedAgent(path), record, found


def check_kind(kind: str, path: Path) -> None:
    """Raise UsageError unless there is such a format, and `path` ends as its files do."""
    if kind not in FORMATS:
        raise UsageError(unknown(f"format {kind!r}", kind, list(FORMATS)))
    if path.suffix != ENDINGS[kind]:
        raise UsageError(f"output {path}: a file of format {kind} ends in {ENDINGS[kind]}")
