"""A run that begins with the weights of another: which of them it takes, and what is new."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dreammpc.interfaces import UsageError
from dreammpc.models import SIZES, LatentModel
from dreammpc.trained.export import MODEL, with_targets
from dreammpc.trained.library import locate
from dreammpc.trained.published import read_published
from dreammpc.training.checkpoint_format import DESCRIPTION, load_checkpoint

NEEDED = ("encoder", "dynamics", "reward")
"""Parts without which nothing would be gone on with: if they do not fit, the model is another one."""


@torch.no_grad()
def initialize(model: LatentModel, source: str | Path) -> list[str]:
    """Give `model` the weights of a checkpoint of ours, of an agent, or of a published TD-MPC2 or BMPC.

    A part of the model is taken whole, or stays as it was made. Nothing else of the source is read: no clock,
    no replay, no optimizer.

    Args:
        source: what `locate` finds, or a published file.

    Returns:
        Lines that say what was taken and what is new.

    Raises:
        UsageError: a file that cannot be read, or a model of other spaces or widths.
    """
    path = locate(source)
    own, facts = read(path, source)
    weights = with_targets(own)
    where = f"init={source}"
    has = facts["obs"], facts["obs_dim"], facts["action_dim"]
    needs = model.obs, model.obs_dim, model.action_dim
    if has != needs:
        raise UsageError(
            f"{where} observes {has[0]}, {has[1]} numbers, and has {has[2]} actions; the task has {needs[0]},"
            f" {needs[1]} and {needs[2]}"
        )
    taken, new = [], []
    for part, module in model.named_children():
        ours = module.state_dict()
        if not ours:
            continue
        theirs = {key: weights.get(f"{part}.{key}") for key in ours}
        found = {key: value for key, value in theirs.items() if value is not None}
        if len(found) == len(ours) and all(found[key].shape == ours[key].shape for key in ours):
            module.load_state_dict({key: value.to(ours[key].dtype) for key, value in found.items()})
            taken.append(part)
        elif part in NEEDED:
            raise UsageError(f"{where} is {other_size(facts['model'], model)}, and its {part} does not fit")
        else:
            new.append(part)
    heads = {"target_heads"} & set(new)
    if ("value_heads" in new and not heads) or (heads and "value_heads" not in new):
        raise UsageError(f"{where} is damaged: its value heads and their targets differ")
    left = sorted({key.partition(".")[0] for key in weights} - {*taken, *new})
    lines = [f"{where}: begins with its {', '.join(taken)}"]
    lines += [f"{where}: new are {', '.join(new)}"] if new else []
    lines += [f"{where}: it has {', '.join(left)}, for which there is no place here"] if left else []
    return lines


def read(path: Path, source: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights by our names, and of the model: `obs`, `obs_dim`, `action_dim`, and `model`, its widths.

    Raises:
        UsageError: neither a checkpoint of ours nor a published one.
    """
    if path.suffix in (".pt", ".pth"):
        found = read_published(path)
        spaces = {"obs": found.obs, "obs_dim": found.obs_dim, "action_dim": found.action_dim}
        widths = vars(SIZES[found.size]) if found.size in SIZES else {}
        return dict(found.weights), {**spaces, "model": {"name": found.size, **widths}}
    content = load_checkpoint(path)
    facts = content[DESCRIPTION]
    items = content.get("state_dict", {}).items()
    weights = {key.removeprefix(MODEL): value for key, value in items if key.startswith(MODEL)}
    if not weights or not {"obs_dim", "action_dim", "model"} <= facts.keys():
        raise UsageError(f"checkpoint {source} describes no model to begin with")
    spaces = {
        "obs": facts.get("obs", "state"),
        "obs_dim": facts["obs_dim"],
        "action_dim": facts["action_dim"],
    }
    return weights, {**spaces, "model": facts["model"]}


def other_size(there: dict[str, Any], model: LatentModel) -> str:
    """Of which size a model is whose settings are `there`, and in which width it first differs."""
    name, here = there.get("name"), vars(model.size)
    other = [key for key in here if there.get(key, here[key]) != here[key]]
    how = f"whose {other[0]} is {there[other[0]]}, not {here[other[0]]}" if other else "of other parts"
    return f"a model of size {name} (model={name}), {how}"
