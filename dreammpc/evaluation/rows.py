"""Tidy rows: one for each episode, with all that is needed to know what was played; CSV and JSON.

A row is a plain dict. Its columns are those of `COLUMNS`, in that order, and one `diagnostics.NAME` for each
of the planner's diagnostics; docs/evaluation.md says the same to users.
"""

import csv
import io
import json
import math
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from dreammpc.envs import dmcontrol
from dreammpc.interfaces import UsageError
from dreammpc.support.atomic import from_json, write_text

FORMAT = 1
COLUMNS: dict[str, type] = {
    "task": str,
    "variant": str,  # of the task's environment, where there are several
    "checkpoint": str,  # path as it was given
    "train_seed": int,  # empty where the checkpoint does not say
    "algorithm": str,
    "model": str,  # the size's name
    "env_steps": int,  # of training
    "planner": str,
    "settings": dict,  # all of the planner's settings
    "episode": int,  # from 0
    "episode_seed": int,  # of the start
    "return": float,
    "success": float,  # at the last step, 0 or 1; empty where the environment does not report it
    "any_success": float,  # at any step, likewise
    "score": float,  # normalized: by what the environment calls a full return, or success; or empty
    "length": int,  # agent steps
    "terminated": bool,
    "ms_per_action": float,  # of the whole batch's wall time, divided by its actions
    "batch": int,  # episodes played side by side, which the time depends on
    "mode": str,  # "greedy", or "noise_scale=X"
    "action_repeat": int,
    "versions": dict,  # of dreammpc, Python and the packages
    "machine": str,
    "device": str,  # that planned, which the time depends on: a GPU's name, or "cpu"
    "threads": int,  # torch's, on the CPU
}
LATER = ("device", "threads", "variant", "any_success", "score")
"""Columns that older files do not have; they are read as empty, but for the score."""
OPTIONAL = ("train_seed", "env_steps", "success", "model", *LATER)
"""Columns that may be empty (None)."""
ANY = -math.inf, math.inf
RANGES = {
    **dict.fromkeys(("return", "score"), ANY),
    **dict.fromkeys(("success", "any_success"), (0, 1)),
    **dict.fromkeys(("ms_per_action", "env_steps", "episode", "episode_seed"), (0, math.inf)),
    **dict.fromkeys(("length", "batch", "action_repeat", "threads"), (1, math.inf)),
}
"""Least and greatest value; what is not finite is refused too, also of diagnostics."""
DIAGNOSTICS = "diagnostics."
FORMULA, INERT = tuple("=+-@\t\n"), "'"
"""How a cell begins that a spreadsheet would compute, and what stands before it in files."""
MEASURED = ("return", "success", "any_success", "score", "length", "terminated", "ms_per_action")
ENDINGS = (".csv", ".json")

Row = dict[str, Any]


def make_rows(episodes, seeds: Sequence[int], **common: Any) -> list[Row]:
    """The rows of `Episodes` that started from `seeds`, with `common` columns for all of them."""
    rows = []
    for i, seed in enumerate(seeds):
        own = {
            "episode": i,
            "episode_seed": seed,
            "return": episodes.returns[i],
            "success": episodes.successes[i],
            "any_success": episodes.any_successes[i],
            "score": episodes.scores[i],
            "length": episodes.lengths[i],
            "terminated": episodes.terminated[i],
            "ms_per_action": episodes.ms_per_action,
            "batch": len(seeds),
            "device": episodes.device,
            "threads": episodes.threads,
        }
        row = {**common, **own}
        assert set(row) == set(COLUMNS), set(row) ^ set(COLUMNS)
        diagnostics = {f"{DIAGNOSTICS}{key}": value for key, value in episodes.row_diagnostics[i].items()}
        rows.append({**{name: row[name] for name in COLUMNS}, **diagnostics})
    return rows


def as_metrics(rows: Sequence[Row]) -> tuple[list[dict[str, float]], dict[str, float]]:
    """Metrics by episode, and their means; a name is like `walker-walk/seed1/mppi/return`.

    Agents that share task and seed have their checkpoint in it too.
    """
    agents: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        agents[f"{row['task']}/seed{row['train_seed']}"].add(row["checkpoint"])
    episodes: dict[int, dict[str, float]] = defaultdict(dict)
    for row in rows:
        who = f"{row['task']}/seed{row['train_seed']}"
        if len(agents[who]) > 1:
            who += "/" + re.sub(r"[^\w./-]", "-", row["checkpoint"], flags=re.ASCII).strip("/")
        who += f"/{row['planner']}"
        for name, value in row.items():
            plain = name.removeprefix(DIAGNOSTICS)
            if value is not None and (name in MEASURED or plain != name):
                episodes[row["episode"]][f"{who}/{plain}"] = float(value)
    names = {name for values in episodes.values() for name in values}
    found = {name: [values[name] for values in episodes.values() if name in values] for name in names}
    means = {f"mean/{name}": sum(values) / len(values) for name, values in sorted(found.items())}
    return [episodes[number] for number in sorted(episodes)], means


def targets(output: str | Path) -> list[Path]:
    """The files that `output` means: one that ends in .csv or .json, or both beside each other.

    Raises:
        UsageError: another ending.
    """
    path = Path(output)
    if path.suffix in ENDINGS:
        return [path]
    if path.suffix:
        raise UsageError(f"output {output}: expected a name that ends in .csv or .json, or without an ending")
    return [path.with_suffix(ending) for ending in ENDINGS]


def write_rows(rows: Sequence[Row], path: str | Path) -> None:
    """Write a CSV or JSON file, by the ending of `path`, in one atomic step."""
    path = Path(path)
    write_text(path, as_csv(rows) if path.suffix == ".csv" else as_json(rows))


def as_csv(rows: Sequence[Row]) -> str:
    """One line for each row; dicts as JSON, nothing for None; no text that a spreadsheet would compute."""
    names = list(dict.fromkeys([*COLUMNS, *(name for row in rows for name in row)]))
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(map(_cell, names))
    for row in rows:
        table.writerow([_cell(row.get(name)) for name in names])
    return text.getvalue()


def as_json(rows: Sequence[Row]) -> str:
    """`{"format": 1, "rows": [...]}`; what is not finite is null, or inside `settings` its name, as "inf"."""
    return json.dumps({"format": FORMAT, "rows": [_plain(row) for row in rows]}, indent=1, allow_nan=False)


def read_rows(paths: str | Path | Iterable[str | Path]) -> list[Row]:
    """The rows of a CSV or JSON file or of several, checked.

    Raises:
        UsageError: a missing or damaged file, one without rows, without a column or with a value of a wrong
            type or outside `RANGES`, or the same episode twice.
    """
    rows: list[Row] = []
    seen: dict[tuple, tuple[str | Path, float]] = {}
    for path in [paths] if isinstance(paths, (str, Path)) else paths:
        found = _read(Path(path))
        if not found:
            raise UsageError(f"{path} has no rows")
        for number, raw in enumerate(found, 1):
            row = _checked(raw, f"{path}, row {number}")
            what = (row[name] for name in ("task", "planner", "mode", "episode_seed"))
            key = (same_file(row["checkpoint"]), *what, json.dumps(row["settings"], sort_keys=True))
            if key not in seen:
                seen[key] = path, row["return"]
                rows.append(row)
            elif seen[key][0] == path or seen[key][1] != row["return"]:
                where = "" if seen[key][0] == path else f" and, with another return, in {seen[key][0]}"
                raise UsageError(
                    f"{path}, row {number}{where}: episode seed {row['episode_seed']} of {row['planner']} on"
                    f" {row['task']} ({row['checkpoint']}) is there twice"
                )
    return rows


def same_file(checkpoint: str) -> str:
    """Equal for two spellings of one path, relative and absolute, and different for two agents."""
    return os.path.abspath(checkpoint)


def _read(path: Path) -> list[Row]:
    if path.suffix not in ENDINGS:
        raise UsageError(f"{path}: expected rows in a file that ends in .csv or .json")
    if not path.is_file():
        raise UsageError(f"{path} does not exist")
    try:
        text = path.read_text(encoding="utf-8-sig")  # spreadsheets begin with a mark
        if path.suffix == ".csv":
            table = csv.DictReader(io.StringIO(text), strict=True)
            return [{_read_cell(name): _read_cell(cell) for name, cell in row.items()} for row in table]
        content = from_json(text)
        rows = content["rows"]
        if content["format"] > FORMAT:
            raise UsageError(f"{path} has format {content['format']}, this version reads up to {FORMAT}")
        if not all(isinstance(row, dict) for row in rows):
            raise TypeError("a row is no object")
    except UsageError:
        raise
    except (OSError, ValueError, KeyError, TypeError, OverflowError, csv.Error) as error:
        # Not all of the error: that of a decoder holds the whole file.
        why = f"{type(error).__name__}: {str(error)[:100]}"
        raise UsageError(f"{path} is damaged or not one of evaluate's files ({why})") from error
    return rows


def _checked(raw: Row, where: str) -> Row:
    if None in raw:  # as `csv` calls what is beyond the header
        raise UsageError(f"{where} has more cells than there are columns")
    missing = [name for name in COLUMNS if name not in raw and name not in LATER]
    if missing:
        found = ", ".join(map(str, raw))[:200]
        raise UsageError(
            f"{where}: column {missing[0]!r} is missing; expected {', '.join(COLUMNS)}; found {found}"
        )
    row = {name: _value(raw.get(name), kind, name, where) for name, kind in COLUMNS.items()}
    if "score" not in raw:
        row["score"] = _score_before(row)
    for name, value in raw.items():
        if isinstance(name, str) and name.startswith(DIAGNOSTICS) and value not in (None, ""):
            row[name] = _value(value, float, name, where)
    who = f"{where}: {row['planner']} on {row['task']}, episode seed {row['episode_seed']}"
    diagnostics = {name: ANY for name in row if name not in COLUMNS}
    for name, (least, most) in (RANGES | diagnostics).items():
        if row[name] is not None and not (math.isfinite(row[name]) and least <= row[name] <= most):
            among = "" if least == -math.inf else f" of at least {least:g}"
            among += "" if most == math.inf else f" and at most {most:g}"
            raise UsageError(f"{who}: {name} is {row[name]}, expected a finite number{among}")
    return row


def _score_before(row: Row) -> float | None:
    """The score of a row from before there were any: success, or the share of the suite's full return."""
    if row["success"] is not None:
        return row["success"]
    full = dmcontrol.full_return(row["task"])
    return None if full is None else row["return"] / full


def _value(value: Any, kind: type, name: str, where: str) -> Any:
    """A cell of a file as a value of `kind`."""
    if value is None or value == "":
        if name in OPTIONAL:
            return None
        raise UsageError(f"{where}: {name} is empty")
    try:
        if kind is dict:
            value = from_json(value) if isinstance(value, str) else value
            if not isinstance(value, dict):
                raise TypeError
            return value
        if kind is bool:
            return {"true": True, "false": False}[str(value).lower()]
        if kind is str and "\0" in str(value):
            raise ValueError
        return kind(value)
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        got = repr(value)[:100]
        raise UsageError(f"{where}: {name} must be a {kind.__name__}, got {got}") from error


def _cell(value: Any) -> Any:
    if isinstance(value, dict):
        return json.dumps(plain_value(value, True), sort_keys=True, allow_nan=False)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        value = value.replace("\r", " ")  # the end of a line to some readers, wherever it stands
        return f"{INERT}{value}" if value.startswith((*FORMULA, INERT)) else value
    return "" if value is None else value


def _read_cell(cell: Any) -> Any:
    """A cell as it was before `_cell`."""
    inert = isinstance(cell, str) and cell[:1] == INERT and cell[1:].startswith((*FORMULA, INERT))
    return cell[1:] if inert else cell


def _plain(row: Row) -> Row:
    """What JSON can hold."""
    return {key: plain_value(value, isinstance(value, dict)) for key, value in row.items()}


def plain_value(value: Any, names: bool) -> Any:
    """As JSON can hold it: what is not finite is null, or in `names` its name, such as "inf"."""
    if isinstance(value, dict):
        return {key: plain_value(item, names) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_value(item, names) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value) if names else None
    return value
