"""What the commands around trained agents do; imported when one is called."""

import shlex
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from dreammpc import trained
from dreammpc.agent import Agent
from dreammpc.algorithms.losses import heuristic_discount
from dreammpc.configuration import assembly
from dreammpc.configuration.command_line import override_text, read_value
from dreammpc.configuration.planners import build_planner, planner_name, planners_for
from dreammpc.envs.families import check_task
from dreammpc.evaluation import Evaluator
from dreammpc.evaluation.film import video_path
from dreammpc.evaluation.rows import Row, write_rows
from dreammpc.interfaces import UsageError
from dreammpc.models import LatentModel
from dreammpc.plugins.registry import named_by
from dreammpc.plugins.settings import Count, NumEpisodes, Seed, fitted
from dreammpc.runtime.devices import choose_device, where
from dreammpc.runtime.threads import set_threads
from dreammpc.support.names import file_name, printable
from dreammpc.trained import loading
from dreammpc.trained.compare import compare
from dreammpc.trained.export import MODEL, write_card
from dreammpc.trained.library import PREFIX, find_agent, folders, hides_packaged, planner_meant
from dreammpc.trained.mlflow_download import is_address
from dreammpc.trained.published import read_published
from dreammpc.training import open_folder, open_target
from dreammpc.training.checkpoint_format import DESCRIPTION, FORMAT
from dreammpc.training.files import save_atomically

PACKAGED_BYTES = 3_000_000
"""An agent that comes with the package is no larger."""
CHOICES = ("planner", "planner.name", "planner._target_")
"""Keys that choose a planner."""


def print_agents(name: str | None = None) -> None:
    """Print a line for every trained agent; or of one, all that its card says, then its curve."""
    if name is None:
        names = trained.agent_names()
        width = max(map(len, names), default=0)
        for each in names:
            path = find_agent(each)
            try:
                text = in_short(trained.read_card(path))
            except UsageError as error:  # a card that cannot be read must not hide the others
                text = f"unusable: {error}"
            own = " (yours, before the package's)" if hides_packaged(path) else ""
            print(printable(f"{each:<{width}}  {text}{own}"))
        for folder in folders():
            if not folder.is_dir():
                print(f"DREAMMPC_AGENTS: there is no folder {folder}", file=sys.stderr)
        print("\nOf one: dreammpc agents NAME. Play it: dreammpc demo NAME" if names else "no agents")
        return
    path = find_agent(name.removeprefix(PREFIX))
    card = trained.read_card(path)
    for key, value in card.items():
        if key not in ("curve", "evaluations", "versions"):
            print(printable(f"{key}: {'not recorded' if value is None else value}"))
    for row in card["evaluations"]:
        line = f"  {row['planner']}: {row['return']:.1f} in {row['episodes']} episodes, {row['dtype']}"
        print(printable(line))
    print("curve: " + ", ".join(f"{steps:,}: {value:.0f}" for steps, value in card["curve"]))
    print(printable(f"file: {path}"))


def in_short(card: dict[str, Any]) -> str:
    """Size and returns of an agent in one line."""
    steps = "unknown" if card["env_steps"] is None else f"{card['env_steps']:,}"
    size = f"{card['model'] or 'unknown size'}, {steps} env steps, {card['bytes'] / 1e6:.1f} MB"
    rows = ", ".join(f"{row['planner']} {row['return']:.0f}" for row in card["evaluations"])
    return f"{size}: {rows or 'not evaluated'}"


def export_agent(
    checkpoint: str,
    output: str,
    dtype: str,
    name: str | None,
    hardware: str | None,
    here: bool,
    planners: str,
    episodes: int,
    seed: int,
    device: str = "auto",
    choices: Sequence[str] = (),
) -> None:
    """Make an agent of a run's checkpoint, play it with `planners` and say how large it is.

    The episodes are noted on its card, and one by one in a CSV file beside (see `dreammpc.evaluation.rows`).
    `choices`, `algorithm=PATH` and `task=NAME`, confirm what the checkpoint alone does not have imported.

    Raises:
        UsageError: any other choice; see `trained.export_agent`; or an unknown planner, before anything
            is written.
    """
    choose_device(device)  # to be refused before anything is written
    fitted("--episodes", episodes, NumEpisodes)
    fitted("--seed", seed, Seed)
    confirmed, rest = split_confirmations(choices)
    if rest:
        raise UsageError(f"{rest[0]!r}: expected algorithm=PATH or task=NAME")
    names = [name for name in planners.split(",") if name]
    if not names:
        raise UsageError(f"--planners {planners!r}: expected at least one name, such as policy,dream_mpc")
    model, facts = load_checked(checkpoint, "cpu", choices)
    chosen = planners_for(names, {}, model.action_dim)
    path = trained.export_agent(checkpoint, open_folder(output), dtype, name, hardware, here)
    card = trained.read_card(path)
    rows: list[Row] = []
    starts = range(seed, seed + episodes)
    played_as = {"task": facts["task"], "algorithm": confirmed, "device": device}
    for played in compare([str(path)], list(chosen), seeds=starts, **played_as):
        rows += [{**row, "checkpoint": f"{PREFIX}{card['name']}"} for row in played.rows]
        write_rows(rows, path.with_suffix(".csv"))
        others = [row for row in card["evaluations"] if row["planner"] != played.planner]
        card["evaluations"] = [*others, scores(played.rows, dtype)]
        write_card(path, card)
    print(f"{card['name']}: {card['bytes']:,} bytes, {path} and {path.with_suffix('.json').name}")
    for row in card["evaluations"]:
        print(f"  {row['planner']}: {row['return']:.1f} ({row['dtype']})")
    if hides_packaged(path):
        print("  the package has one of this name: yours comes first where DREAMMPC_AGENTS has its folder")
    if card["bytes"] > PACKAGED_BYTES:
        print(f"  too large for the package, whose agents have {PACKAGED_BYTES:,} bytes at most")


def import_checkpoint(
    file: str, task: str, output: str | None, size: str | None, seed: int | None, env_steps: int | None
) -> None:
    """Make one of our checkpoints of a published one of TD-MPC2 or BMPC.

    Raises:
        UsageError: see `read_published`; another task's spaces, or another size than `size`; a negative
            number; `output` is `file`.
    """
    fitted("--seed", seed, Seed | None)
    fitted("--env-steps", env_steps, Count | None)
    found = read_published(file)
    if size not in (None, found.size):
        widths = ", ".join(f"{key} {value}" for key, value in found.widths.items())
        raise UsageError(f"checkpoint {file} is of size {found.size} ({widths}), not {size}")
    with closing(assembly.build_env(task, 0)) as env:
        observations, actions = env.observation_spec["observation"].shape[-1], env.action_spec.shape[-1]
        discount = heuristic_discount(assembly.episode_length(env))
    if found.action_dim != actions or (found.obs == "state" and found.obs_dim != observations):
        sees = f"{found.obs_dim} observations" if found.obs == "state" else "pixels"
        raise UsageError(
            f"checkpoint {file} was trained with {sees} and {found.action_dim} actions, but task {task} has"
            f" {observations} and {actions}"
        )
    model = found.model(discount)
    settings = {
        "task": task,
        "seed": seed,
        "env": {"num_envs": 1, "action_repeat": None},
        "model": {"name": found.size, **found.widths},
        "algorithm": {"name": found.algorithm},
    }
    facts = assembly.describe(task, model, settings, [], format=FORMAT, env_steps=env_steps)
    path = open_target(output or f"{file_name(task)}-{found.algorithm}-{found.size}.ckpt", [file])
    weights = {f"{MODEL}{key}": weight for key, weight in model.state_dict().items()}
    save_atomically({"state_dict": weights, DESCRIPTION: facts}, path)
    print(f"{task}: {found.algorithm} of size {found.size}, {found.obs}: {path}")
    word = override_text("checkpoint", path)
    print(f"play it: dreammpc demo {shlex.quote(str(path))}; compare planners: lightning run evaluate {word}")


def scores(rows: Sequence[Row], dtype: str) -> dict[str, Any]:
    """What a card says of a planner's episodes."""
    first, returns = rows[0], [row["return"] for row in rows]
    return {
        "planner": first["planner"],
        "return": sum(returns) / len(returns),
        "episodes": len(rows),
        "seed": first["episode_seed"],
        "ms_per_action": round(first["ms_per_action"], 3),
        "batch": first["batch"],
        "mode": first["mode"],
        "device": where(first["device"], first["threads"]),
        "dtype": dtype,
    }


def demo(
    agent: str, choices: Sequence[str], seed: int, video: str | None, show: bool, device: str = "auto"
) -> None:
    """Play one episode of an agent and write its video.

    Args:
        agent: name, task or path of a checkpoint.
        choices: `planner=NAME` and `planner.KEY=VALUE`; `algorithm=PATH` and `task=NAME` confirm what the
            file alone does not have imported.
        seed: of the start and of the planner's noise.
        video: where to write it, mp4 or gif; by default `TASK-PLANNER.mp4` in the working folder.
        show: whether to write a video at all.
        device: that plans.

    Raises:
        UsageError: no such agent, planner, setting, folder or device.
    """
    _, of_planner = split_confirmations(choices)
    settings = planner_choices(of_planner, agent)
    path = trained.locate(agent)
    fitted("--seed", seed, Seed)
    if video:
        video_path(video)
    model, facts = load_checked(path, device, choices)
    set_threads(loading.model_width(facts))
    player = Agent(model, build_planner(settings, model.action_dim))
    task, planner = facts["task"], planner_name(settings)
    arguments: dict[str, Any] = {"obs": model.obs, "options": loading.model_options(facts)}
    evaluator = Evaluator(task, 1, seed, loading.action_repeat_of(facts), **arguments)
    target = Path(video or f"{file_name(f'{task}-{planner}')}.mp4")
    if show:
        open_target(target, [path])
    filmed = evaluator.film(player, target) if show else None
    result = filmed or evaluator.play(player)
    assert result is not None
    shown = agent if is_address(agent) else path.stem
    print(
        f"{task}, {shown}, planned by {planner}: return {result.mean:.1f} in {result.lengths[0]} actions,"
        f" {result.ms_per_action:.2f} ms each on {result.where}"
    )
    if filmed:
        print(f"video: {target}")


def load_checked(path: str | Path, device: str, choices: Sequence[str]) -> tuple[LatentModel, dict[str, Any]]:
    """`loading.load_model` for the words of a command line.

    Raises:
        UsageError: see there; a task that must be confirmed (see `check_task`), or another algorithm than is.
    """
    named, (confirmed, _) = named_by(choices), split_confirmations(choices)
    model, facts = loading.load_model(path, device, named)
    check_task(facts["task"], f"checkpoint {path}", named, loading.model_options(facts).get("kwargs"))
    if confirmed not in (None, own := facts["config"]["algorithm"]["name"]):
        raise UsageError(f"algorithm={confirmed} did not train checkpoint {path}, which names {own}")
    return model, facts


def split_confirmations(words: Sequence[str]) -> tuple[str | None, list[str]]:
    """The value of `algorithm=`, and all words but that and `task=`."""
    values = dict(word.split("=", 1) for word in words if word.startswith(("algorithm=", "task=")))
    return values.get("algorithm"), [word for word in words if word.partition("=")[0] not in values]


def planner_choices(words: Sequence[str], agent: str, default: str = "dream_mpc") -> dict[str, Any]:
    """`planner=NAME planner.KEY=VALUE …` as settings; NAME may be the dotted path of a class, or `best`.

    Raises:
        UsageError: any other word, or the planner is chosen twice; see `library.planner_meant`.
    """
    settings: dict[str, Any] = {"name": default}
    chosen = [word for word in words if word.partition("=")[0] in CHOICES]
    if len(chosen) > 1:
        raise UsageError(f"the planner is chosen twice: {' '.join(chosen)}")
    for word in words:
        key, _, value = word.partition("=")
        if not value or (key != "planner" and not key.startswith("planner.")):
            raise UsageError(f"{word!r}: expected planner=NAME or planner.KEY=VALUE")
        if key in CHOICES:
            settings["name"] = value
            continue
        try:
            settings[key.removeprefix("planner.")] = read_value(value)
        except ValueError as error:
            raise UsageError(f"{word!r}: {error}") from error
    return {**settings, "name": planner_meant(settings["name"], agent)}
