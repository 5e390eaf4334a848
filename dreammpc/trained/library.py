"""Names of trained agents → their files.

An agent is two files, `TASK/ALGORITHM-seedN.ckpt` with its weights and the same name with `.json`, its card;
a third, `.csv`, holds the episodes that it was evaluated on.
The weights are one of our checkpoints without what training needs, so that whatever takes a checkpoint takes
an agent; the card tells where they come from and what they reach (see `dreammpc.trained.export`).
"""

import os
import reprlib
import sys
from collections.abc import Sequence
from pathlib import Path
from types import NoneType
from typing import Any

from dreammpc.interfaces import UsageError
from dreammpc.planning.factory import PLANNERS
from dreammpc.plugins.registry import choices, unknown
from dreammpc.support.atomic import from_json
from dreammpc.support.names import file_name
from dreammpc.trained.mlflow_download import download, is_address

PREFIX = "agent:"
BEST = "best"
"""In place of a planner's name: the one that an agent's card has the highest return of."""
PACKAGED = Path(__file__).resolve().parent / "agents"

NUMBER = (int, float)
LARGEST = sys.float_info.max
FIELDS: dict[str, tuple[type, ...]] = {
    "name": (str,),
    "model": (str, NoneType),
    "env_steps": (int, NoneType),
    "bytes": (int,),
    "curve": (list,),
    "evaluations": (list,),
}
"""What every card has, and of which types."""
OF_EVALUATION: dict[str, tuple[type, ...]] = {
    "planner": (str,),
    "return": NUMBER,
    "episodes": (int, NoneType),
    "dtype": (str,),
}


def folders() -> list[Path]:
    """Where agents lie: in each folder of the variable DREAMMPC_AGENTS, then in the package."""
    own = [Path(folder) for folder in os.environ.get("DREAMMPC_AGENTS", "").split(os.pathsep) if folder]
    return [*own, PACKAGED]


def agent_files() -> dict[str, Path]:
    """Weights by name, sorted; of two agents with one name the first folder's."""
    found: dict[str, Path] = {}
    for folder in folders():
        for path in folder.glob("*/*.ckpt"):
            found.setdefault(f"{path.parent.name}/{path.stem}", path)
    return dict(sorted(found.items()))


def agent_names() -> list[str]:
    """Names of all agents, such as `walker-walk/bmpc-seed1`."""
    return list(agent_files())


def find_agent(name: str) -> Path:
    """The weights of an agent; a task's name alone means the agent of that task that scores best.

    Raises:
        UsageError: there is none.
    """
    files = agent_files()
    for text in spellings(name):
        of_task = [path for key, path in files.items() if key.startswith(f"{text}/")]
        if of_task:
            return max(of_task, key=score)
        if text in files:
            return files[text]
    raise UsageError(unknown(f"agent {name!r}", name, files))


def spellings(name: str) -> list[str]:
    """An agent's name, or its task's, as it is and as folders are named."""
    task, _, word = name.rpartition("/")
    return [name, file_name(name), *([f"{file_name(task)}/{word}"] if task else [])]


def hides_packaged(weights: Path) -> bool:
    """Whether an agent of one's own bears the name of one that comes with the package."""
    weights = weights.resolve()
    return PACKAGED not in weights.parents and (PACKAGED / weights.parent.name / weights.name).exists()


def locate(checkpoint: str | Path) -> Path:
    """The file that a user means: a path, `agent:NAME`, NAME where no file is called so, or MLflow's address.

    Raises:
        UsageError: nothing, `agent:` before a name that no agent has, or neither a file nor an agent; see
            `download`.
        RunError: see `download`.
    """
    text = str(checkpoint)
    if not text:
        raise UsageError("the checkpoint's name is empty (a variable of the shell that is not set?)")
    if is_address(text):
        return download(text)
    if text.startswith(PREFIX):
        return find_agent(text.removeprefix(PREFIX))
    if Path(text).is_file():
        return Path(text)
    names = agent_names()
    for spelling in spellings(text):
        if any(name == spelling or name.startswith(f"{spelling}/") for name in names):
            return find_agent(spelling)
    if not Path(text).suffix and not Path(text).exists():
        known = choices(text, {*names, *(name.partition("/")[0] for name in names)})
        raise UsageError(f"checkpoint {text} does not exist, nor does an agent of that name; {known}")
    return Path(text)


def full_name(checkpoint: str | Path) -> str:
    """`agent:TASK/NAME` of an agent, however it is called; any other file's path or address as it is.

    Raises:
        UsageError: see `locate`.
    """
    path = locate(checkpoint)
    as_it_is = path == Path(checkpoint) or is_address(str(checkpoint))
    return str(checkpoint) if as_it_is else f"{PREFIX}{path.parent.name}/{path.stem}"


def read_card(weights: Path) -> dict[str, Any]:
    """The card beside an agent's weights.

    Raises:
        UsageError: it is missing or damaged, or lacks one of `FIELDS`.
    """
    path = weights.with_suffix(".json")
    try:
        card = from_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"card {path} is missing or damaged") from error
    check(card, FIELDS, f"card {path}")
    for row in card["evaluations"]:
        check(row, OF_EVALUATION, f"card {path}, evaluations")
    for point in card["curve"]:
        if not (isinstance(point, list) and [fits(x, NUMBER) for x in point] == [True, True]):
            raise UsageError(f"card {path}: expected steps and return as a point of its curve, got {point}")
    return card


def check(found: Any, fields: dict[str, tuple[type, ...]], where: str) -> None:
    """Raise UsageError unless `found` is a dictionary with all `fields`, each of one of its types."""
    if not isinstance(found, dict):
        raise UsageError(f"{where}: expected entries by name, got {found!r}")
    for name, types in fields.items():
        if name not in found:
            raise UsageError(f"{where}: {name!r} is missing; expected: {', '.join(fields)}")
        if not fits(found[name], types):
            expected = " or ".join("null" if each is NoneType else each.__name__ for each in types)
            raise UsageError(f"{where}: {name} must be {expected}, got {found[name]!r}")


def fits(value: Any, types: tuple[type, ...]) -> bool:
    """Whether it is of one of `types`, and a number one that can be computed with."""
    if isinstance(value, bool) and bool not in types:
        return False
    return isinstance(value, types) and (not isinstance(value, NUMBER) or abs(value) <= LARGEST)


def planner_meant(name: str, checkpoint: str | Path | Sequence[str | Path]) -> str:
    """A planner's name as it is; in place of `best`, that with the highest mean return on the card.

    Of equals it is the first on the card. The card's episodes chose it, so that returns from other starts
    (`seed`) say what it is worth.

    Raises:
        UsageError: `best` of several checkpoints, or of one without a card or an evaluation on it, or whose
            best is no planner that is registered: a card has nothing imported.
    """
    if name != BEST:
        return name
    if not isinstance(checkpoint, str | Path):
        raise UsageError(f"planner {BEST} is chosen by one agent's card; several agents as one have none")
    weights = locate(checkpoint)
    if not weights.is_file():
        raise UsageError(f"checkpoint {checkpoint} does not exist")
    try:
        evaluations = read_card(weights)["evaluations"]
    except UsageError as error:
        raise UsageError(f"planner {BEST}: {error}; dreammpc export-agent makes one") from error
    if not evaluations:
        raise UsageError(
            f"planner {BEST}: card {weights.with_suffix('.json')} has no evaluation; dreammpc export-agent"
            " --planners makes some"
        )
    chosen: str = max(evaluations, key=lambda row: row["return"])["planner"]
    if chosen not in PLANNERS:
        raise UsageError(
            f"planner {BEST}: on card {weights.with_suffix('.json')} it is {reprlib.repr(chosen)}, which is"
            f" not registered; there are: {', '.join(PLANNERS)}"
        )
    return chosen


def score(weights: Path) -> float:
    """The best mean return among an agent's evaluations; -inf where its card has none or cannot be read."""
    try:
        evaluations = read_card(weights)["evaluations"]
    except UsageError:
        return float("-inf")
    return max((row["return"] for row in evaluations), default=float("-inf"))
