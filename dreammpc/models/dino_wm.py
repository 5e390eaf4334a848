"""DINO-WM's checkpoints as models to plan in (arXiv 2411.04983): patches of DINOv2 and a causal predictor.

A checkpoint, `model_latest.pth`, is a dictionary of whole pickled modules (`predictor`, `action_encoder`,
`proprio_encoder`, and `encoder` if that was trained); a frozen encoder is DINOv2's own state dict. Embeddings
of actions and of the observed vector are appended to every patch (`concat_dim: 1`, the published setting).
"""

from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from dreammpc.interfaces import UsageError
from dreammpc.models.jepa import JEPAModel
from dreammpc.models.saved import count_layers, fill, load_saved, renamed, shape_of, weights_of
from dreammpc.nn import Block, PatchEncoder, PatchPredictor, VisionTransformer

ENCODER_NAMES = (
    (r"^base_model\.", ""),
    (r"^cls_token", "cls"),
    (r"^pos_embed", "positions"),
    (r"^patch_embed\.proj\.", "patches."),
    (r"\.attn\.qkv\.", ".attention.qkv."),
    (r"\.attn\.proj\.", ".attention.out."),
    (r"\.mlp\.fc1\.", ".feed.0."),
    (r"\.mlp\.fc2\.", ".feed.2."),
    (r"\.ls([12])\.gamma", r".scale\1"),
)
PREDICTOR_NAMES = (
    (r"^pos_embedding", "positions"),
    (r"^transformer\.layers\.(\d+)\.0\.norm\.", r"blocks.\1.norm1."),
    (r"^transformer\.layers\.(\d+)\.0\.to_qkv\.", r"blocks.\1.attention.qkv."),
    (r"^transformer\.layers\.(\d+)\.0\.to_out\.0\.", r"blocks.\1.attention.out."),
    (r"^transformer\.layers\.(\d+)\.1\.net\.0\.", r"blocks.\1.norm2."),
    (r"^transformer\.layers\.(\d+)\.1\.net\.1\.", r"blocks.\1.feed.0."),
    (r"^transformer\.layers\.(\d+)\.1\.net\.4\.", r"blocks.\1.feed.2."),
    (r"^transformer\.norm\.", "norm."),
)
LAYOUT = "DINO-WM"


def load_dino_wm(
    path: str | Path,
    encoder: str | Path | None = None,
    *,
    history: int = 3,
    action_repeats: int = 1,
    proprio_repeats: int = 1,
    alpha: float = 1.0,
    **settings: Any,
) -> JEPAModel:
    """The model of a DINO-WM checkpoint, in evaluation mode.

    Args:
        path: `model_latest.pth`, say.
        encoder: DINOv2's weights, such as `dinov2_vits14_pretrain.pth`, where the checkpoint has none.
        history, action_repeats, proprio_repeats: `num_hist`, `num_action_repeat` and `num_proprio_repeat` of
            its training.
        alpha: by how much the vector's embedding counts in the distance to a goal.
        settings: of `JEPAModel`. A checkpoint says nothing of `action_mean` and `action_std`; vectors are
            observed as it was trained on them, scaled. An action is that of a whole block of frames.

    Raises:
        UsageError: no such file, one of another layout, or no encoder.
    """
    saved = load_saved(path)
    found = saved if isinstance(saved, dict) else {}
    if missing := [key for key in ("predictor", "action_encoder", "proprio_encoder") if key not in found]:
        there = ", ".join(map(str, found)) or type(saved).__name__
        raise UsageError(f"{path}: not of {LAYOUT}'s layout: expected {', '.join(missing)}; found {there}")
    if encoder is None and "encoder" not in saved:
        raise UsageError(f"{path} has no encoder; give DINOv2's weights: encoder=…")
    eyes = renamed(weights_of(load_saved(encoder) if encoder else saved["encoder"]), ENCODER_NAMES)
    eyes.pop("mask_token", None)
    vision = vision_of(eyes, encoder or path)
    linears = [
        linear_of(weights_of(saved[key]), f"{path}: {key}") for key in ("action_encoder", "proprio_encoder")
    ]
    weights = renamed(weights_of(saved["predictor"]), PREDICTOR_NAMES)
    size = partial(shape_of, weights, path=path, layout=LAYOUT)
    _, length, width = size("positions")
    heads = max(size("blocks.0.attention.qkv.weight")[0] // 3 // 64, 1)
    each = size("blocks.0.attention.qkv.weight")[0] // 3 // heads
    block: dict[str, Any] = {"hidden": size("blocks.0.feed.0.weight")[0], "eps": 1e-5, "bias": False}
    block |= {"project": "blocks.0.attention.out.weight" in weights}
    depth = count_layers(weights, r"blocks\.(\d+)\.")
    blocks = [Block(width, heads, each, **block) for _ in range(depth)]
    actions, proprio = linears
    predictor = PatchPredictor(length, width, blocks, nn.Identity(), action_repeats)
    fill(predictor, weights, path, LAYOUT)
    predictor.actions = actions
    patches, features = length // history, eyes["cls"].shape[-1]
    state = features + proprio.out_features * proprio_repeats
    side = round(patches**0.5)
    if side**2 * history != length or state + actions.out_features * action_repeats != width:
        raise UsageError(
            f"{path}: {length} positions of width {width} are not {history} frames of {features} features and"
            f" embeddings of {proprio.out_features} and {actions.out_features}; see history, action_repeats,"
            " proprio_repeats (and concat_dim must be 1)"
        )

    def distance(z: Tensor, goal: Tensor) -> Tensor:
        square = (z - goal).square()
        own = square[:, 0, features : features + proprio.out_features].mean(-1)
        return square[..., :features].mean((1, 2)) + alpha * own

    eyes_and_vector = PatchEncoder(vision, proprio, side * vision.patches.kernel_size[0], proprio_repeats)
    how: dict[str, Any] = {"history": history, "proprio_dim": proprio.in_features, "distance": distance}
    how |= {"frame_mean": (0.5,) * 3, "frame_std": (0.5,) * 3, **settings}
    model = JEPAModel(eyes_and_vector, predictor, actions.in_features, (patches, state), **how)
    return model.eval().requires_grad_(False)


def vision_of(weights: dict[str, Tensor], path: Any) -> VisionTransformer:
    """DINOv2 with these weights, heads of 64."""
    size = partial(shape_of, weights, path=path, layout="DINOv2")
    width, patch = size("cls")[-1], size("patches.weight")[-1]
    side = round((size("positions")[1] - 1) ** 0.5)
    heads, hidden = max(width // 64, 1), size("blocks.0.feed.0.weight")[0]
    depth = count_layers(weights, r"blocks\.(\d+)\.")
    scaled = "blocks.0.scale1" in weights
    blocks = [Block(width, heads, width // heads, hidden, scaled=scaled) for _ in range(depth)]
    vision = VisionTransformer(width, patch, side, blocks, offset=0.1)
    fill(vision, weights, path, "DINOv2")
    return vision


def linear_of(weights: dict[str, Tensor], what: str) -> nn.Linear:
    """The convolution over single time steps, `patch_embed`, as the linear layer that it is."""
    out, inside = shape_of(weights, "patch_embed.weight", what, LAYOUT)[:2]
    shape_of(weights, "patch_embed.bias", what, LAYOUT)
    linear = nn.Linear(inside, out)
    fill(
        linear,
        {"weight": weights["patch_embed.weight"].squeeze(-1), "bias": weights["patch_embed.bias"]},
        what,
        LAYOUT,
    )
    return linear
