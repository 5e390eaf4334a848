"""The settings in a checkpoint as words for Hydra, before those of today's command line.

A file is not trusted (docs/security.md). Of its settings only those count that our schemas know, with values
of the right type, and the words are written here. Its own text never reaches Hydra, and where a run logs or
keeps its files is said by today's command line alone.
"""

import dataclasses
import os
import re
import shlex
from collections.abc import Callable, Iterator
from typing import Any, get_type_hints

from hydra.core.override_parser.types import Quote, QuotedString

from dreammpc.algorithms import ALGORITHMS
from dreammpc.configuration.command_line import LITERAL
from dreammpc.configuration.groups import algorithm_content
from dreammpc.configuration.schemas import TrainConfig
from dreammpc.envs.families import check_task
from dreammpc.interfaces import UsageError
from dreammpc.planning import PLANNERS
from dreammpc.planning.factory import planner_settings
from dreammpc.plugins.registry import named_by
from dreammpc.plugins.settings import converted
from dreammpc.support.nested import chosen_name, flattened

GROUPS = ("planner", "algorithm", "model")
SETS = ("experiment", "learning")
"""Groups that are sets of other settings, and that a run does not store by their names."""
PLACES = ("folder", "resume", "replay.folder", "tracking.uri", "tracking.register", "data.path", "init")
"""Settings that no file decides: folders, addresses and files, and what is written there."""

Compose = Callable[[list[str]], dict[str, Any]]
"""From words to the settings that they make, with today's options; nothing is resolved."""


def stored_words(
    facts: dict[str, Any], where: str, words: list[str], compose: Compose
) -> tuple[list[str], list[str]]:
    """The settings of a run that goes on.

    Args:
        facts: a checkpoint's description.
        where: what messages call it.
        words: today's `key=value`; what they say is left out. The choice of a planner, algorithm or model
            replaces the stored one with all its settings, unless it only confirms a dotted path. What an
            `experiment` sets that the run did not have is given now as well, and so is what `learning` sets.
        compose: see `Compose`.

    Returns:
        Words that make them; and lines that say what could not be taken from the file.

    Raises:
        UsageError: a value of a wrong type, something to import or an address that today's words do not name.
    """
    reader = _Reader(facts, where, words)
    chosen = [word for word in words if _key(word) in (*GROUPS, *SETS, "hydra.searchpath")]
    now = compose(chosen)
    reader.take_set("experiment", chosen, now, compose)
    groups = reader.groups(now)
    chosen += groups
    now = compose(chosen) if groups else now
    reader.take_set("learning", chosen, now, compose)
    settings = list(reader.settings(now))
    reader.check_address(now)
    reader.check_data()
    return [*groups, *settings], reader.notes()


class _Reader:
    def __init__(self, facts: dict[str, Any], where: str, words: list[str]):
        self.where, self.config = where, facts.get("config", {})
        self.given = {_key(word): word.partition("=")[2].strip("'\"") for word in words}
        paths = (*LITERAL, "checkpoint")  # a file of that name is no choice of what to import
        self.named = named_by(word for word in words if _key(word) not in paths)
        self.before = facts.get("overrides", [])
        self.unknown: list[str] = []
        for group, registry in (("planner", PLANNERS), ("algorithm", ALGORITHMS)):
            name = self._name(group)
            if name and self.given.get(group) == name and name not in registry:
                del self.given[group]  # it confirms what is stored

    def take_set(self, kind: str, chosen: list[str], now: dict[str, Any], compose: Compose) -> None:
        """What a new choice of `kind`, one of `SETS`, sets is given now."""
        name = self.given.get(kind)
        if name is None or f"{kind}={name}" in [str(text).lstrip("+") for text in self.before]:
            return
        without = compose([word for word in chosen if _key(word) != kind])
        for group in GROUPS:
            if chosen_name(now[group]) != chosen_name(without[group]):
                self.given.setdefault(group, "")
        old = dict(flattened(without))
        self.given |= {key: "" for key, value in flattened(now) if repr(old.get(key)) != repr(value)}

    def groups(self, now: dict[str, Any]) -> list[str]:
        """The choices of planner, algorithm and model that differ from those of `now`."""
        words = []
        for group in GROUPS:
            name = self._name(group)
            if name is None or group in self.given:
                continue
            self._check_name(group, name)
            if name != chosen_name(now[group]):
                words.append(f"{group}={name if name.isidentifier() and name != 'null' else _text(name)}")
        return words

    def settings(self, now: dict[str, Any]) -> Iterator[str]:
        """All that differ from `now`, where the groups are those of the run."""
        self.targets = set(_targets(now))
        for key, value, hint in self._known(self.config, TrainConfig, ""):
            yield from self._words(key, value, hint, _at(now, key))
        for group in GROUPS:
            stored = self.config.get(group)
            if group in self.given or not stored:
                continue
            hints = self._hints(group, now)
            for key, value in stored.items():
                if key in hints:
                    yield from self._words(f"{group}.{key}", value, hints[key], now[group].get(key))
                elif key not in ("name", "_target_"):
                    self.unknown.append(f"{group}.{key}")

    def check_address(self, now: dict[str, Any]) -> None:
        """Raise UsageError if the run logged at an address, and today's words say nothing of any."""
        stored = self.config.get("tracking", {})
        uri, kind = stored.get("uri"), self.given.get("tracking.kind", stored.get("kind"))
        said = {"tracking", "tracking.uri"} & {*self.given} or "MLFLOW_TRACKING_URI" in os.environ
        if uri is not None and kind == "mlflow" and not said and now["tracking"]["uri"] is None:
            raise UsageError(
                f"{self.where}: its run logged to MLflow at an address of its own, and no address is taken"
                " from a file: add tracking.uri=ADDRESS, or set MLFLOW_TRACKING_URI, or add tracking=none"
            )

    def check_data(self) -> None:
        """Raise UsageError if the run learned from recorded data that today's words do not name."""
        if (path := dict(self.config.get("data", {})).get("path")) and "data.path" not in self.given:
            raise UsageError(
                f"{self.where}: its run learned from recorded data, and no path is taken from a file: add"
                f" {shlex.quote(f'data={path}')}, or data=null to go on without them"
            )

    def notes(self) -> list[str]:
        lines = []
        if names := ", ".join(sorted(self.unknown))[:200]:
            lines.append(f"{self.where}: this version knows no setting {names}; left out")
        replay = self.config.get("replay", {})
        elsewhere = replay.get("folder") not in (None, self.config.get("folder"))
        if elsewhere and replay.get("storage") == "memmap" and not self._is_given("replay.folder"):
            lines.append(
                f"{self.where}: replay.folder is not taken from a file; the replay lies in the run's folder"
                " unless replay.folder= says otherwise"
            )
        return lines

    def _known(self, stored: Any, schema: type, prefix: str) -> Iterator[tuple[str, Any, Any]]:
        """Key, value and type of the stored settings that a schema has, without groups."""
        if not isinstance(stored, dict):
            raise UsageError(f"{self.where}: its settings {prefix.rstrip('.')} are damaged")
        hints = get_type_hints(schema)
        for name, value in stored.items():
            key = f"{prefix}{name}"
            if key in GROUPS:
                continue
            if name not in hints:
                self.unknown.append(key)
            elif dataclasses.is_dataclass(hints[name]):
                yield from self._known(value, hints[name], f"{key}.")
            elif key not in PLACES:
                yield key, value, hints[name]

    def _words(self, key: str, value: Any, hint: Any, now: Any, add: str = "") -> Iterator[str]:
        """The words that make a setting `value`: none if it is given or so already. `add` is Hydra's `++`."""
        if self._is_given(key) or repr(value) == repr(now):
            return
        if key == "eval_settings":
            self._check_type(key, value, hint)
            for name, each in value.items():
                self._check_entry(key, name)
                yield from self._words(f"{key}.{name}", each, Any, None, add="++")
            return
        self._check_plain(key, value, shlex.quote(f"{_spelt(key)}={_text(value)}"))
        if key == "task":
            check_task(value, self.where, self.named)
        if key == "env.kwargs":
            check_task(self.config.get("task", ""), self.where, self.named, value)
        if key in ("eval_planner", "evaluation.planners"):
            for name in value if isinstance(value, list) else []:
                self._check_name(key, name, PLANNERS)
        if not list(_targets(value)):  # else it is checked where it is built
            self._check_type(key, value, hint)
        if isinstance(value, dict) and isinstance(now, dict):
            yield from (f"~{key}", f"+{key}={_text(value)}")
        else:
            yield f"{add}{key}={_text(value)}"

    def _is_given(self, key: str) -> bool:
        group = key.split(".")[0].replace("eval_settings", "eval_planner")
        without = ("data",) if self.given.get("data.path") == "null" else ()
        return key in self.given or group in (*self.given, *without)

    def _check_plain(self, key: str, value: Any, word: str) -> None:
        """Raise UsageError unless `value` is plain data that names nothing to look up or to import.

        `word` is what says the whole setting.
        """
        if isinstance(value, dict):
            for name, each in value.items():
                self._check_entry(key, name)
                if name == "_target_":
                    own = word if " in " in key else f"{_spelt(key)}._target_={each}"
                    self._check_target(each, own)
                self._check_plain(f"{key}.{name}", each, word)
        elif isinstance(value, list):
            for each in value:
                self._check_plain(f"an entry in {key}", each, word)
        elif not (value is None or isinstance(value, bool | int | float | str)):
            raise UsageError(f"{self.where}: its setting {key} is a {type(value).__name__}, not plain data")
        elif isinstance(value, str) and "${" in value:
            raise UsageError(f"{self.where}: its setting {key} is {value!r}; a stored value holds no ${{…}}")

    def _check_entry(self, key: str, name: Any) -> None:
        if not (isinstance(name, str) and name.isidentifier()):
            raise UsageError(f"{self.where}: its setting {key} has {name!r}, which is no name")

    def _check_target(self, path: Any, word: str) -> None:
        if path not in self.targets:  # those of the planner's own defaults
            PLANNERS.check_stored(path, self.where, self.named, word)

    def _check_name(self, key: str, name: Any, registry: Any = None) -> None:
        if not (isinstance(name, str) and re.fullmatch(r"\w[\w.+-]*", name)):
            raise UsageError(f"{self.where}: its {key} is {name!r}, which is no name")
        registry = registry or {"planner": PLANNERS, "algorithm": ALGORITHMS}.get(key)
        if registry is not None:
            registry.check_stored(name, self.where, self.named, f"{key}={name}")

    def _check_type(self, key: str, value: Any, hint: Any) -> None:
        try:
            converted(value, hint)
        except TypeError:
            expected = getattr(hint, "__name__", str(hint))
            raise UsageError(
                f"{self.where}: its setting {key} must be of type {expected}, got {value!r}"
            ) from None

    def _hints(self, group: str, now: dict[str, Any]) -> dict[str, Any]:
        name = chosen_name(now[group])
        if group == "planner":
            return {setting.name: setting.type for setting in planner_settings(name)}
        if group == "algorithm":
            return get_type_hints(algorithm_content(name)["algorithm"])
        return {key: type(value) for key, value in now[group].items()}

    def _name(self, group: str) -> Any:
        stored = self.config.get(group)
        if stored is not None and not isinstance(stored, dict):
            raise UsageError(f"{self.where}: its settings {group} are damaged")
        return chosen_name(stored)


def _spelt(key: str) -> str:
    """A key as users write it."""
    return key.replace("eval_settings", "eval_planner", 1)


def _key(word: str) -> str:
    return word.partition("=")[0].lstrip("+~")


def _text(value: Any) -> str:
    """A plain value in Hydra's grammar."""
    if isinstance(value, str):
        return QuotedString(value, Quote.single).with_quotes()
    if isinstance(value, list):
        return f"[{','.join(map(_text, value))}]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{_text(each)}" for key, each in value.items()) + "}"
    return "null" if value is None else str(value).lower()


def _targets(value: Any) -> Iterator[str]:
    """All dotted paths under `_target_`."""
    if isinstance(value, dict):
        if "_target_" in value:
            yield str(value["_target_"])
        value = list(value.values())
    for each in value if isinstance(value, list) else ():
        yield from _targets(each)


def _at(tree: Any, key: str) -> Any:
    for name in key.split("."):
        tree = tree[name]
    return tree
