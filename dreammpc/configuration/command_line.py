"""The words of a recipe's command line, from users' spelling to Hydra's."""

import re
import shlex
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException

from dreammpc.interfaces import UsageError
from dreammpc.sweeps import expand
from dreammpc.tracking.addresses import store_address

COMPARE = ("evaluate", "pendulum")
"""Recipes that play several planners, with settings for all of them."""
LITERAL = (
    "folder",
    "output",
    "video",
    "record",
    "resume",
    "replay.folder",
    "tracking.uri",
    "tracking.experiment",
    "tracking.run_name",
    "tracking.parent",
    "tracking.register",
    "data.path",
    "init",
)
"""Keys whose values, paths and names, are taken as they are typed."""
FIRST = "cartpole-swingup"
"""The experiment that `train` runs by itself, a first look within minutes."""
CHOICES = {
    "data.path",
    "init",
    "task",
    "experiment",
    "model",
    "algorithm",
    "learning",
    "planner",
    "env.obs",
    "resume",
}


QUOTED = r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\""""
"""A value in quotes, of the one kind or the other."""


def rewrite(arguments: list[str], recipe: str) -> list[str]:
    """Users' spellings in Hydra's: `tracking=none`, `collector=async`, `data=PATH`, `obs=pixels`,
    `data.columns.ROLE=NAME`, `planner._target_=PATH`,
    `eval_planner=a,b`, `evaluation.planners=a,b`; in `COMPARE` `planner=a,b` too, and in `evaluate`
    `checkpoint=a,b`, `task=a,b`, `seeds=1,2` and `algorithm=PATH`.

    Raises:
        UsageError: the planner is chosen twice; a path or a name is empty.
    """
    if recipe == "sweep":
        return _sweep_words(arguments)
    chosen = [argument for argument in arguments if argument.startswith(("planner=", "planner._target_="))]
    if len(chosen) > 1:
        raise UsageError(f"the planner is chosen twice: {' '.join(chosen)}")
    # Options first: Hydra's parser takes no option between two overrides.
    ordered = sorted(
        arguments, key=lambda word: not word.startswith("-") and ("=" in word or word[:1] == "~")
    )
    multirun = bool({"-m", "--multirun"} & set(arguments))
    return [_rewritten(argument, recipe, multirun) for argument in ordered]


def concealed(word: str) -> str:
    """`tracking.uri=ADDRESS` with passwords and tokens redacted; other words as they are.

    So they are in nothing that Hydra, a run's files or a message hold; who calls it up finds it whole.
    """
    key, _, value = word.partition("=")
    if key.lstrip("+") != "tracking.uri" or "://" not in value:
        return word
    return f"{key}={quoted(store_address(unquoted(value)))}"


def _rewritten(argument: str, recipe: str, multirun: bool = False) -> str:
    key, equals, value = argument.partition("=")
    if key == "data" and recipe == "train":
        key, argument = "data.path", f"data.path={value}"
    if key.startswith("data.columns.") and equals:
        columns = list(map(quoted, _parts(_unbracketed(value))))
        return f"++{key}=" + (columns[0] if len(columns) == 1 else f"[{','.join(columns)}]")
    if key.lstrip("+") in (*LITERAL, "checkpoint") and equals and value in ("", "''", '""', "[]"):
        raise UsageError(
            f"{key}= is empty (a variable of the shell that is not set?); leave it out, or give a value"
        )
    if key in ("tracking", "collector") and equals:
        return f"{key}.kind={value}"
    if key == "obs" and equals:
        return f"env.obs={value}"
    if key == "planner._target_" and equals:
        key, argument = "planner", f"planner={value}"
    if recipe in COMPARE and key in ("planner", "planners"):
        return f"planners=[{value.strip('[]')}]"
    if recipe in COMPARE and key.startswith("planner."):
        return f"++settings.{key.removeprefix('planner.')}={value}"
    if recipe == "evaluate" and key == "checkpoint":
        return f"checkpoint=[{','.join(map(quoted, _parts(_unbracketed(value))))}]"
    if recipe == "evaluate" and key == "task" and value != "null":
        tasks = _parts(_unbracketed(value))
        return "task=" + (",".join(f"[{each}]" for each in tasks) if multirun else f"[{','.join(tasks)}]")
    if recipe == "evaluate" and key == "algorithm":  # by itself it is a group of Hydra's
        return f"trained_by={value}"
    if recipe == "evaluate" and key == "seeds":
        return f"seeds=[{value.strip('[]')}]"
    if key.startswith("env.kwargs."):  # the names are the environment's own
        return f"++{argument}"
    if key.lstrip("+") in LITERAL and not (multirun and "(" in value):
        return f"{key}={','.join(map(literal, _parts(value))) if multirun else literal(value)}"
    if key in ("eval_planner", "evaluation.planners"):
        return f"{key}=[{value.strip('[]')}]"
    if key.startswith("eval_planner."):
        return f"++eval_settings.{key.removeprefix('eval_planner.')}={value}"
    return argument


def _unbracketed(value: str) -> str:
    return value[1:-1] if value[:1] == "[" and value[-1:] == "]" else value


def _parts(value: str) -> list[str]:
    """What stands between commas; none divides what is in quotes."""
    return re.findall(rf"(?:{QUOTED})(?=,|$)|[^,]+", value) or [value]


def _sweep_words(arguments: list[str]) -> list[str]:
    """`tasks=a,b` as lists, and the words that are not `sweep`'s own in its list `train`.

    With `-m`, where Hydra makes a job of each value, sets of tasks are spelled out.
    """
    multirun = bool({"-m", "--multirun"} & set(arguments))
    lists = ("tasks", "seeds", "planners", "evaluate")
    own, options, train = [], [], []
    for word in arguments:
        key, equals, value = word.partition("=")
        if not equals or key.startswith("-"):
            options.append(word)
        elif key in lists:
            values = [text for text in value.strip("[]").split(",") if text]
            if multirun and key != "evaluate":
                values = expand(values)[0] if key == "tasks" else values
                own.append(f"{key}=" + ",".join(f"[{text}]" for text in values))
            else:
                own.append(f"{key}=[{','.join(values)}]")
        elif key in ("jobs", "folder", "dry") or key.startswith(("hydra.", "hydra/")):
            own.append(_rewritten(word, "sweep", multirun))
        else:
            train.append(word)
    if train:
        own.append(f"train=[{','.join(map(quoted, train))}]")
    return own + options


def quoted(text: str) -> str:
    """A word as Hydra's grammar takes it; a plain path, and what is quoted already, stays as it is."""
    plain = re.fullmatch(rf"{QUOTED}|[\w.@:+-]*/[\w./@:+-]*", text, re.ASCII)
    return text if plain else QuotedString(text, Quote.single).with_quotes()


def literal(value: str) -> str:
    """A value of one of the keys `LITERAL`; what is nothing to Hydra (`null`) stays that."""
    word = re.fullmatch(r"[A-Za-z_][\w.-]*", value, re.ASCII) and value.lower() not in WORDS
    return value if word or value in ("", "null") else quoted(value)


WORDS = ("null", "true", "false", "inf", "nan")
"""Not text to Hydra."""


def unreadable(word: str) -> str:
    """What to say of a word that Hydra's grammar does not take."""
    key, equals, value = word.partition("=")
    mark = Quote.single if '"' in value else Quote.double  # the one that is easier to read
    better = f"{key}={QuotedString(value, mark).with_quotes()}"
    try:
        OverridesParser.create().parse_override(better)
    except HydraException:
        return f"{word!r} cannot be read; expected key=value"
    advice = "quote it, for Hydra and for the shell" if equals else "give a value"
    return f"{word}: the value cannot be read as it is; {advice}: {shlex.quote(better)}"


def unquoted(text: str) -> str:
    """A word without the quotes of Hydra's grammar."""
    if not re.fullmatch(QUOTED, text):
        return text
    try:
        value = read_value(text)
    except ValueError:
        return text
    return value if isinstance(value, str) else text


def read_value(text: str) -> Any:
    """What `KEY=text` says by Hydra's grammar: a number, a word, a list, a dictionary …

    Raises:
        ValueError: it cannot be read, or it is several values.
    """
    try:
        override = OverridesParser.create().parse_override(f"x={text}")
    except HydraException as error:
        raise ValueError(f"{text!r} cannot be read") from error
    if override.is_sweep_override():
        raise ValueError(f"{text!r}: expected one value")
    return override.value()


def override_text(key: str, value: object) -> str:
    """`key=value` as one types it: quoted for Hydra and the shell where it must be."""
    text = "null" if value is None else str(value)
    try:
        plain = read_value(text) == (text if isinstance(value, str | PurePath) else value) and "$" not in text
    except ValueError:
        plain = False
    return shlex.quote(f"{key}={text if plain else quoted(text)}")


def words(**values: object) -> str:
    """`override_text` of all that are given, one after the other."""
    return " ".join(override_text(key, value) for key, value in values.items() if value is not None)


def unused_experiment(arguments: Sequence[str]) -> list[str]:
    """A line where `with_first_experiment` adds none though no task is chosen; else nothing."""
    found = [key for argument in arguments if (key := argument.partition("=")[0].lstrip("+~")) in CHOICES]
    if not found or {"task", "experiment", "resume"} & set(found):
        return []
    typed = {"data.path": "data", "env.obs": "obs"}.get(found[0], found[0])
    return [f"experiment={FIRST} is not used, as {typed}= is given; add it to keep its settings"]


def with_first_experiment(arguments: list[str]) -> list[str]:
    """The words of `train`, with `FIRST` where they choose no task, no planner and nothing of what learns."""
    keys = {argument.partition("=")[0].lstrip("+~") for argument in arguments}
    return arguments if keys & CHOICES else [*arguments, f"experiment={FIRST}"]
