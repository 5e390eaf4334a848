"""A run's checkpoint → a small agent: weights rounded to 16 bits, and a card that says where they come from.

The card is JSON: `name`, `task`, `algorithm`, `model` (size), `parameters`, `dtype`, `bytes`, `seed`,
`env_steps`, `planner` (it was trained with), `command`, `seconds`, `hardware`, `versions`, `revision`,
`curve` (environment steps and mean return of the evaluations on the way, by the first planner of each) and
`evaluations`, one entry for each planner that has played the agent since, with its defaults. What a run did
not record is null.
"""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dreammpc.interfaces import UsageError
from dreammpc.support.atomic import check_not_read, read_json, write_text
from dreammpc.support.names import file_name
from dreammpc.support.nested import chosen_name
from dreammpc.support.run_folder import LOG, ORIGIN
from dreammpc.tracking.jsonl import read_log
from dreammpc.tracking.provenance import provenance_tags
from dreammpc.trained.library import locate
from dreammpc.training.checkpoint_format import DESCRIPTION, load_checkpoint
from dreammpc.training.files import save_atomically

FORMAT = 1
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
MODEL = "agent.model."
TARGETS = MODEL + "target_heads."
SCALES = MODEL + "normalizer."
"""Statistics of observations, which stay exact."""
PRIVATE = ("folder", "resume", "replay", "tracking", "trainer", "hydra")
"""Settings that say where and on what a run ran, not what it learned: they stay at home."""


def with_targets(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """A model's weights, with value heads as target heads where there are none: an agent's file has none."""
    if any(key.startswith("target_heads.") for key in weights):
        return weights
    heads = {key: weight for key, weight in weights.items() if key.startswith("value_heads.")}
    return weights | {key.replace("value_", "target_", 1): weight for key, weight in heads.items()}


def export_agent(
    checkpoint: str | Path,
    folder: str | Path,
    dtype: str = "float16",
    name: str | None = None,
    hardware: str | None = None,
    here: bool = False,
) -> Path:
    """Write `folder/NAME.ckpt` and its card `folder/NAME.json`.

    Args:
        checkpoint: `last.ckpt` or `best.ckpt` in a run's folder, or what else `locate` finds; the card's
            curve, time, hardware and versions come from the files beside.
        folder: made if missing.
        dtype: one of `DTYPES`, to which the weights are rounded; they are computed with in float32.
        name: `TASK/…`; by default `TASK/ALGORITHM-seedN`.
        hardware: what the run ran on, where its folder does not say it.
        here: it ran on this machine, with what is installed; for runs that did not record it.

    Returns:
        The file of the weights.

    Raises:
        UsageError: a checkpoint that cannot be read, an unknown dtype, a name that is not `TASK/…`, weights
            that are not finite or that `dtype` cannot hold; the file would be `checkpoint` itself.
    """
    if dtype not in DTYPES:
        raise UsageError(f"unknown dtype {dtype!r}; there are: {', '.join(DTYPES)}")
    checkpoint = locate(checkpoint)
    content = load_checkpoint(checkpoint)
    facts = content[DESCRIPTION]
    settings, task = facts["config"], facts["task"]
    place = file_name(task)
    own = file_name(f"{settings['algorithm']['name']}-seed{settings.get('seed')}")
    word = name or f"{place}/{own}"
    name = word.replace(task, place, 1) if word.startswith(f"{task}/") else word
    if not re.fullmatch(r"[\w+=@-][\w.+=@-]*/[\w+=@-][\w.+=@-]*", name) or not name.startswith(f"{place}/"):
        raise UsageError(f"name {word!r}: expected {place}/ and a word, such as {place}/tdmpc2-seed1")
    weights = rounded(content["state_dict"], DTYPES[dtype], checkpoint)
    path = Path(folder) / f"{name}.ckpt"
    check_not_read(path, [checkpoint])
    save_atomically({"state_dict": weights, DESCRIPTION: without_traces(facts)}, path)

    run = checkpoint.resolve().parent.parent
    origin = provenance_tags() if here else read_json(run / ORIGIN, {})
    card = {
        "format": FORMAT,
        "name": name,
        "task": task,
        "algorithm": settings["algorithm"]["name"],
        "model": facts["model"].get("name"),
        "parameters": sum(weight.numel() for weight in weights.values()),
        "dtype": dtype,
        "bytes": path.stat().st_size,
        "seed": settings.get("seed"),
        "env_steps": facts.get("env_steps"),
        "planner": chosen_name(settings.get("planner")),
        "command": command(facts.get("overrides", [])),
        **history(run / LOG, facts),
        "evaluations": [],  # those of the run may be of other settings, and are of weights not rounded
        "hardware": hardware
        or ", ".join(str(origin[key]) for key in ("gpu", "cpu") if key in origin)
        or None,
        "versions": versions(origin) or None,
        "revision": None if here else origin.get("git.revision"),  # of this folder: not that of the run
    }
    write_card(path, card)
    return path


def rounded(weights: dict[str, Tensor], dtype: torch.dtype, source: Path) -> dict[str, Tensor]:
    """The model's weights in `dtype`, without the target heads, which only training needs.

    Raises:
        UsageError: a weight of `source` is not finite, or beyond what `dtype` holds.
    """
    kept = {}
    for key, weight in weights.items():
        if not key.startswith(MODEL) or key.startswith(TARGETS):
            continue
        exact = not weight.is_floating_point() or key.startswith(SCALES)
        kept[key] = weight.to(dtype).contiguous().clone() if not exact else weight.clone()
        if not torch.isfinite(kept[key]).all():
            what = "is too large for " + str(dtype) if torch.isfinite(weight).all() else "is not finite"
            raise UsageError(f"checkpoint {source}: {key.removeprefix(MODEL)} {what}")
    return kept


def without_traces(facts: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint's description without the state of a training, and without folders and addresses."""
    kept = {key: value for key, value in facts.items() if key not in ("resume", "tracking_run", "score")}
    kept["config"] = {key: value for key, value in facts["config"].items() if key not in PRIVATE}
    kept["overrides"] = public(facts.get("overrides", []))
    return kept


def public(overrides: list[str]) -> list[str]:
    """Overrides that change what is learned."""
    return [
        text
        for text in overrides
        if isinstance(text, str)
        and (match := re.match(r"[+~]*(\w+)(\.\w+)*=", text))
        and match[1] not in PRIVATE
    ]


def command(overrides: list[str]) -> str:
    """What to type to train the like again."""
    return shlex.join(["lightning", "run", "train", *public(overrides)])


def history(log: Path, facts: dict[str, Any]) -> dict[str, Any]:
    """`seconds` and `curve` of a run up to its checkpoint, from its `metrics.jsonl`."""
    steps, settings = facts.get("env_steps"), facts["config"]
    lines = [line for line in read_log(log) if steps is not None and line["env_steps"] <= steps]
    # After the last update come the planners' comparisons, which are no part of the training time.
    times = [line["wall_s"] for line in lines if not any(key.startswith("final/") for key in line)]
    curve = [
        [line["env_steps"], round(line["eval/return"], 1)]
        for line in lines
        if line.get("eval/return") is not None
    ]
    finals = {
        key.removeprefix("final/"): value
        for line in lines
        for key, value in line.items()
        if key.startswith("final/") and line["env_steps"] == steps and value is not None
    }
    evaluated = settings.get("eval_planner") or [chosen_name(settings.get("planner"))]
    planner = evaluated[0]  # that of `eval/return`
    if planner in finals and (not curve or curve[-1][0] < steps):
        curve.append([steps, round(finals[planner], 1)])
    return {"seconds": max(times, default=None), "curve": curve}


def versions(origin: dict[str, str]) -> dict[str, str]:
    """Python's and the packages' versions among the tags of a run."""
    return {
        key.removeprefix("version."): value for key, value in origin.items() if key.startswith("version.")
    }


def write_card(weights: Path, card: dict[str, Any]) -> None:
    """Write the card of `weights` beside them, in one atomic step."""
    write_text(weights.with_suffix(".json"), json.dumps(card, indent=1, allow_nan=False) + "\n")
