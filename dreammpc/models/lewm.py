"""LeWM's checkpoints as models to plan in (arXiv 2603.19312): the class token of a frame is its embedding.

A checkpoint is `weights.pt`, a state dict, beside `config.json`, as `stable_worldmodel` writes them; a state
dict alone, or a whole pickled model (`…_object.ckpt`), will do as well. The vision transformer is named as in
either of two generations of the library transformers.
"""

import json
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dreammpc.interfaces import UsageError
from dreammpc.models.jepa import JEPAModel
from dreammpc.models.saved import count_layers, fill, load_saved, part_of, renamed, shape_of, weights_of
from dreammpc.nn import Block, ClassToken, ConditionedPredictor, Projected, VisionTransformer

NAMES = (
    (r"^model\.", ""),
    (r"^encoder\.(?:encoder\.layer|layers)\.(\d+)\.", r"encoder.blocks.\1."),
    (r"\.attention\.(?:attention\.)?([qkv])(?:uery|ey|alue|_proj)\.", r".attention.\1."),
    (r"\.attention\.(?:output\.dense|o_proj)\.", ".attention.out."),
    (r"\.(?:intermediate\.dense|mlp\.fc1)\.", ".feed.0."),
    (r"(?<=\d)\.(?:output\.dense|mlp\.fc2)\.", ".feed.2."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"^encoder\.layernorm\.", "encoder.norm."),
    (r"^encoder\.embeddings\.cls_token", "encoder.cls"),
    (r"^encoder\.embeddings\.position_embeddings", "encoder.positions"),
    (r"^encoder\.embeddings\.patch_embeddings\.projection\.", "encoder.patches."),
    (r"^predictor\.pos_embedding", "predictor.positions"),
    (r"^predictor\.transformer\.layers\.(\d+)\.", r"predictor.blocks.\1."),
    (r"\.attn\.norm\.", ".norm1."),
    (r"\.attn\.to_qkv\.", ".attention.qkv."),
    (r"\.attn\.to_out\.0\.", ".attention.out."),
    (r"\.mlp\.net\.0\.", ".norm2."),
    (r"\.mlp\.net\.1\.", ".feed.0."),
    (r"\.mlp\.net\.4\.", ".feed.2."),
    (r"\.adaLN_modulation\.1\.", ".modulation."),
    (r"^predictor\.transformer\.", "predictor."),
)
"""Patterns of its names, and ours."""


def load_lewm(path: str | Path, **settings: Any) -> JEPAModel:
    """The model of a LeWM checkpoint, in evaluation mode.

    Args:
        path: a folder with `weights.pt` and `config.json`, or a file.
        settings: of `JEPAModel`. A checkpoint says nothing of `action_mean` and `action_std`, which are those
            of the actions it was trained on. An action is that of a whole block of frames.

    Raises:
        UsageError: no such file, or one of another layout.
    """
    file = Path(path) / "weights.pt" if Path(path).is_dir() else Path(path)
    weights = merged(renamed(weights_of(load_saved(file)), NAMES))
    size = partial(shape_of, weights, path=file, layout="LeWM")
    of_encoder, of_predictor = _settings_of(file.parent / "config.json", "encoder", "predictor")
    width = size("encoder.cls")[-1]
    heads = of_encoder.get("num_attention_heads", max(width // 64, 1))
    block: dict[str, Any] = {"hidden": size("encoder.blocks.0.feed.0.weight")[0], "eps": 1e-12}
    depth = count_layers(weights, r"encoder\.blocks\.(\d+)\.")
    blocks = [Block(width, heads, width // heads, **block) for _ in range(depth)]
    patch, side = size("encoder.patches.weight")[-1], round((size("encoder.positions")[1] - 1) ** 0.5)
    vision = VisionTransformer(width, patch, side, blocks, eps=1e-12)

    _, length, embedding = size("predictor.positions")
    inside = size("predictor.norm.weight")[0]
    out = size("predictor.output_proj.weight")[0] if "predictor.output_proj.weight" in weights else inside
    each = of_predictor.get("dim_head", 64)
    heads = size("predictor.blocks.0.attention.qkv.weight")[0] // 3 // each
    block = {"hidden": size("predictor.blocks.0.feed.0.weight")[0], "eps": 1e-5, "bias": False}
    block |= {"project": "predictor.blocks.0.attention.out.weight" in weights, "conditioned": True}
    depth = count_layers(weights, r"predictor\.blocks\.(\d+)\.")
    blocks = [Block(inside, heads, each, **block) for _ in range(depth)]
    smooth, action_dim = size("action_encoder.patch_embed.weight")[:2]
    hidden, width = size("action_encoder.embed.0.weight")[0], size("action_encoder.embed.2.weight")[0]
    actions = nn.Sequential(
        nn.Linear(action_dim, smooth), nn.Linear(smooth, hidden), nn.SiLU(), nn.Linear(hidden, width)
    )
    predictor = ConditionedPredictor((length, embedding, inside, out), blocks, actions)

    projectors = {name: projector(part_of(weights, f"{name}.net.")) for name in ("projector", "pred_proj")}
    model = JEPAModel(
        ClassToken(vision, projectors["projector"]),
        Projected(predictor, projectors["pred_proj"]),
        action_dim,
        (embedding,),
        **{"history": length, "image_size": patch * side, **settings},
    )
    own = {"embed.0": "1", "embed.2": "3", "patch_embed": "0"}
    names = [
        (rf"^action_encoder\.{re.escape(theirs)}\.", f"predictor.actions.{ours}.")
        for theirs, ours in own.items()
    ]
    weights = renamed(weights, names)
    for module, prefix in ((vision, "encoder."), (predictor, "predictor.")):
        fill(module, part_of(weights, prefix), file, "LeWM")
    for name, made in projectors.items():
        fill(made, part_of(weights, f"{name}.net."), file, "LeWM")
    return model.eval().requires_grad_(False)


def _settings_of(path: Path, *parts: str) -> list[dict[str, Any]]:
    """What a configuration says of each of the parts; nothing where there is no file."""
    try:
        said = json.loads(path.read_text()) if path.is_file() else {}
        return [dict(said.get(part, {})) for part in parts]
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UsageError(f"{path}: not of LeWM's layout: {' '.join(str(error).split())}") from error


def projector(weights: Mapping[str, Tensor]) -> nn.Module:
    """The MLP of these weights: linear, batch normalization, GELU, linear; nothing if there are none."""
    if not {"0.weight", "1.weight", "3.weight"} <= set(weights):
        return nn.Identity()
    hidden, width = weights["0.weight"].shape
    norm = nn.BatchNorm1d(hidden) if "1.running_mean" in weights else nn.LayerNorm(hidden)
    return nn.Sequential(
        nn.Linear(width, hidden), norm, nn.GELU(), nn.Linear(hidden, len(weights["3.weight"]))
    )


def merged(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """With queries, keys and values of each block in one, and convolutions over single frames as matrices."""
    found = {key: x for key, x in weights.items() if not re.search(r"\.attention\.[qkv]\.", key)}
    for key in weights:
        if ".attention.q." in key:
            parts = [weights[key.replace(".attention.q.", f".attention.{name}.")] for name in "qkv"]
            found[key.replace(".attention.q.", ".attention.qkv.")] = torch.cat(parts)
    single = "action_encoder.patch_embed.weight"
    return found | ({single: found[single].squeeze(-1)} if single in found else {})
