"""What `dreammpc export`, `verify` and `loop` do; imported when one is called."""

from collections.abc import Sequence
from math import isfinite
from pathlib import Path
from typing import Annotated, Any

import torch

from dreammpc.agent import Agent
from dreammpc.cli.commands import load_checked, planner_choices, split_confirmations
from dreammpc.configuration.planners import build_planner, planner_name
from dreammpc.deploy import check
from dreammpc.deploy.control_loop import ControlLoop, RealClock, Tick, TooSlow
from dreammpc.deploy.export import check_kind
from dreammpc.deploy.export import export as export_file
from dreammpc.deploy.exported import ExportedAgent
from dreammpc.deploy.formats import ENDINGS, check_needs
from dreammpc.deploy.plant import Plant, simulate
from dreammpc.envs import make_env
from dreammpc.envs.families import check_task
from dreammpc.interfaces import RunError, UsageError
from dreammpc.plugins.settings import Count, NonNegative, Positive, Seed, between, fitted
from dreammpc.runtime.threads import set_threads
from dreammpc.support.atomic import write_text
from dreammpc.support.names import file_name, printable
from dreammpc.trained import locate
from dreammpc.trained.loading import action_repeat_of, model_options, model_width
from dreammpc.trained.mlflow_download import is_address
from dreammpc.training import open_target

MAX_AHEAD = 100
"""Pending actions that a file may plan for: each is a step of the model in its graph."""


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
    fitted("--ahead", ahead, Annotated[int, between(0, MAX_AHEAD)])
    fitted("--seed", seed, Seed)
    fitted("--steps", steps, Positive | None)
    _, words = split_confirmations(choices)
    words = [*([f"planner={planner}"] if planner else []), *words]
    settings = planner_choices(words, agent, "policy" if kind == "policy-onnx" else "dream_mpc")
    if kind == "policy-onnx" and settings["name"] != "policy":
        raise UsageError(
            f"format policy-onnx has the policy alone, not planner {settings['name']}; --format onnx has both"
        )
    check_needs(kind)
    path = locate(agent)
    model, facts = load_checked(path, "cpu", choices)
    set_threads(model_width(facts))
    player = Agent(model, build_planner(settings, model.action_dim))
    name = planner_name(settings)
    target = open_target(output or f"{file_name(facts['task'])}-{file_name(name)}{ENDINGS[kind]}", [path])
    check_kind(kind, target)
    env = task_env(facts, seed)
    about = {
        "agent": agent if Path(agent).exists() or is_address(agent) else f"{path.parent.name}/{path.stem}",
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
    print(f"return from start {seed}: {record.score:.1f} of the agent, {value:.1f} of the file")
    print(printable(f"{facts['task']}, {agent}, planned by {name}: {target}"))


def task_env(facts: Any, seed: int) -> Any:
    """One environment of a checkpoint's description, as in training."""
    options = {"obs": facts.get("obs", "state"), **model_options(facts)}
    return make_env(facts["task"], 1, seed, action_repeat_of(facts), **options)


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
        raise RunError(f"file {path} acts otherwise than its agent did: {found.told}")
    print(
        printable(
            f"{path} acts as its agent did: {about['task']}, {about.get('agent')}, planned by {planner}"
        )
    )


def loop(
    file: str,
    task: str | None,
    hz: float,
    seconds: float,
    ahead: int,
    on_miss: str,
    policy: str | None,
    max_rate: float | None,
    watchdog: float | None,
    latency: float | None,
    seed: int,
    log: str | None,
) -> None:
    """Run an exported file at a fixed rate on a simulated machine; print what the loop reports.

    Args:
        file: of `dreammpc export`.
        task: that is simulated; by default the file's own. A tick is an action of the task, whose simulation
            takes part of the tick's time.
        hz, ahead, on_miss, max_rate: see `ControlLoop`.
        watchdog: see `ControlLoop`; 0 is never, None half a second or two periods, whichever is longer.
        seconds: how long.
        policy: another file, for `on_miss="policy"`.
        latency: milliseconds from an observation to its action, on a simulated clock, for an episode; None is
            this machine's.
        seed: of the start and of the planner's noise.
        log: a CSV file for the ticks.

    Raises:
        UsageError: a number out of range; a file or task that does not fit.
        RunError: the machine cannot keep the rate.
    """
    fitted("--hz", hz, NonNegative)
    fitted("--seconds", seconds, NonNegative)
    fitted("--ahead", ahead, Count)
    fitted("--seed", seed, Seed)
    if not 1 <= hz * seconds < 1e9:
        raise UsageError(f"--hz {hz:g} --seconds {seconds:g}: expected at least one tick, and below 1e9")
    if log and Path(log).suffix != ".csv":
        raise UsageError(f"--log {log}: expected a name that ends in .csv")
    if latency is not None and (policy or log or max_rate or on_miss != "plan"):
        raise UsageError(
            "--latency simulates the clock, and no plan is missed there: leave out --on-miss, --policy,"
            " --max-rate and --log"
        )
    if (policy is None) == (on_miss == "policy"):
        raise UsageError("--on-miss policy and --policy FILE go together; dreammpc export --planner policy")
    agent, spare = ExportedAgent(file), None if policy is None else ExportedAgent(policy)
    if ahead > agent.ahead:
        raise UsageError(
            f"file {file} plans {agent.ahead} ahead, got --ahead {ahead}: export it with --ahead {ahead}"
        )
    target = open_target(log, filter(None, [file, policy])) if log else None
    set_threads(0)  # one, unless a user says otherwise: the other core simulates
    torch.manual_seed(seed)
    name = task or agent.description["task"]
    check_task(name, f"file {file}", [task] if task else [])
    seen = [entry["name"] for entry in agent.observed]
    obs = "both" if len(seen) == 2 else "pixels" if seen == ["pixels"] else "state"
    env = make_env(name, 1, seed, 1, obs=obs)
    try:
        for one in filter(None, (agent, spare)):
            check_sizes(one, env, name)
        repeats, ticks = agent.description["action_repeat"] or 1, round(hz * seconds)
        if latency is not None:
            value = simulate(agent, env, repeats, hz, 1e-3 * latency, ahead > 0, seed, ticks)
            told = "plan-ahead" if ahead else "no plan-ahead"
            print(f"{name}: return {value:.1f} from start {seed}, {latency:g} ms late, {told}")
            return
        clock = RealClock()
        plant = Plant(env, 1 / hz / repeats, clock, seed)
        plant.restarted = agent.reset
        for one in filter(None, (agent, spare)):  # a first call is slow
            one(plant.seen())
            one.reset()
        try:
            control = ControlLoop(
                agent,
                plant.observe,
                plant.act,
                hz,
                ahead,
                on_miss=on_miss,
                policy=None if spare is None else lambda seen: spare(seen)[0],
                max_rate=max_rate,
                watchdog=max(0.5, 2 / hz) if watchdog is None else watchdog or None,
                clock=clock,
                keep=None,
            )
        except ValueError as error:
            raise UsageError(f"loop: {error}") from error
        try:
            control.run(ticks)
        except TooSlow as error:
            slow = not control.log or not control.log[-1].plan_s < (control.deadline or control.period)
            advice = (
                "try fewer, a file of format aoti, or one that plans ahead, by --ahead 1"
                if slow
                else "plans are fast enough, but ticks begin late: try fewer, or a machine that is less busy"
            )
            raise RunError(f"{name}: the rate of {hz:g} Hz cannot be kept: {error}; {advice}") from error
        finally:
            if target is not None:
                write_ticks(target, control.log)
    finally:
        env.close()
    found = control.report()
    values = plant.returns or [plant.rewards]
    print(f"{name}: {found['ticks']:.0f} ticks at {hz:g} Hz, {100 * found['missed']:.2f} % without a plan")
    for what in ("jitter", "plan"):
        median, worst = found[f"{what}_ms median"], found[f"{what}_ms 99.9 %"]
        known = f"median {median:.3f} ms, 99.9 % {worst:.3f} ms" if isfinite(median) else "none was finished"
        print(f"  {what}: {known}")
    over = "" if plant.returns else " so far"
    print(f"  return {sum(values) / len(values):.1f}{over} in {len(values)} episodes")


def write_ticks(path: Path, log: Sequence[Tick]) -> None:
    """A loop's log as CSV, times in seconds."""
    lines = [f"{one.number},{one.jitter:.9f},{one.plan_s:.9f},{int(one.missed)}\n" for one in log]
    write_text(path, "tick,jitter_s,plan_s,missed\n" + "".join(lines))


def check_sizes(agent: ExportedAgent, env: Any, task: str) -> None:
    """Raise UsageError if a task has other observations or actions than a file."""
    found = {entry["name"]: entry["shape"][1:] for entry in agent.observed} | {"action": [agent.action_dim]}
    for name, shape in found.items():
        spec = env.action_spec if name == "action" else env.observation_spec.get(name, None)
        own = None if spec is None else list(spec.shape[1:])
        if own != shape:
            raise UsageError(
                f"task {task}: {name} has the shape {own}, but file {agent.path}, made for"
                f" {agent.description['task']}, expects {shape}"
            )
