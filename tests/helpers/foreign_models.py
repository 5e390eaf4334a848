"""Small models of other programs: files as those programs write them, with random weights, and what they say.

Nothing of theirs is imported: names and shapes are those of their checkpoints, and the reference rollouts are
written here, in plain products, from the file's own tensors.
"""

import json
import sys
import types
from pathlib import Path

import numpy as np
import torch
from tensordict import TensorDict
from torch import nn
from torch.nn import functional as F

from dreammpc.models import load_dino_wm, load_lewm, load_pets

A, D, HEADS, SIDE, PATCH, HISTORY = 2, 24, 3, 2, 7, 3
STATE = 3


def numbers(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> dict[str, torch.Tensor]:
    """Random tensors of these shapes; norms are near one and variances positive."""
    random = torch.Generator().manual_seed(seed)
    found = {name: 0.3 * torch.randn(shape, generator=random) for name, shape in shapes.items()}
    return {key: 1 + x.abs() if "var" in key and "logvar" not in key else x for key, x in found.items()}


def linear(name: str, inside: int, out: int, bias: bool = True) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (out, inside)} | ({f"{name}.bias": (out,)} if bias else {})


def norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def lewm_weights(generation: int = 4) -> dict[str, torch.Tensor]:
    """LeWM's state dict; `generation` is that of transformers, which names the encoder's parts."""
    layer = "encoder.encoder.layer" if generation == 4 else "encoder.layers"
    old = [f"attention.attention.{name}" for name in ("query", "key", "value")]
    old += ["attention.output.dense", "intermediate.dense", "output.dense"]
    new = [*(f"attention.{name}_proj" for name in "qkvo"), "mlp.fc1", "mlp.fc2"]
    names, positions = (old if generation == 4 else new), SIDE**2 + 1
    shapes = {
        "encoder.embeddings.cls_token": (1, 1, D),
        "encoder.embeddings.position_embeddings": (1, positions, D),
    }
    shapes |= {"encoder.embeddings.patch_embeddings.projection.weight": (D, 3, PATCH, PATCH)}
    shapes |= {"encoder.embeddings.patch_embeddings.projection.bias": (D,)} | norm("encoder.layernorm", D)
    for i in range(2):
        for name, size in zip(names, [(D, D)] * 4 + [(D, 48), (48, D)], strict=True):
            shapes |= linear(f"{layer}.{i}.{name}", *size)
        shapes |= norm(f"{layer}.{i}.layernorm_before", D) | norm(f"{layer}.{i}.layernorm_after", D)
        block = f"predictor.transformer.layers.{i}"
        shapes |= norm(f"{block}.attn.norm", D) | linear(f"{block}.attn.to_qkv", D, 3 * D, False)
        shapes |= linear(f"{block}.attn.to_out.0", D, D) | norm(f"{block}.mlp.net.0", D)
        shapes |= linear(f"{block}.mlp.net.1", D, 40) | linear(f"{block}.mlp.net.4", 40, D)
        shapes |= linear(f"{block}.adaLN_modulation.1", D, 6 * D)
    shapes |= {"predictor.pos_embedding": (1, HISTORY, D)} | norm("predictor.transformer.norm", D)
    shapes |= {"action_encoder.patch_embed.weight": (10, A, 1), "action_encoder.patch_embed.bias": (10,)}
    shapes |= linear("action_encoder.embed.0", 10, 4 * D) | linear("action_encoder.embed.2", 4 * D, D)
    for name in ("projector", "pred_proj"):
        shapes |= linear(f"{name}.net.0", D, 32) | norm(f"{name}.net.1", 32) | linear(f"{name}.net.3", 32, D)
        shapes |= {f"{name}.net.1.running_mean": (32,), f"{name}.net.1.running_var": (32,)}
    counts = {f"{name}.net.1.num_batches_tracked": torch.tensor(7) for name in ("projector", "pred_proj")}
    return numbers(shapes) | counts


def write_lewm(folder: Path, generation: int = 4, pickled: bool = False) -> Path:
    """A folder with `weights.pt` and `config.json`, or the file of a whole pickled model beside that."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "_target_": "jepa.JEPA",
        "encoder": {"num_attention_heads": HEADS},
        "predictor": {"dim_head": D // HEADS},
    }
    (folder / "config.json").write_text(json.dumps(config))
    weights = lewm_weights(generation)
    if pickled:
        return save_pickled(pickled_module("jepa.JEPA", weights), folder / "lewm_object.ckpt")
    torch.save(weights, folder / "weights.pt")
    return folder


def dino_weights() -> dict[str, torch.Tensor]:
    """DINOv2's state dict, positions learned on twice as many patches a side."""
    shapes = {"cls_token": (1, 1, 64), "pos_embed": (1, (2 * SIDE) ** 2 + 1, 64), "mask_token": (1, 64)}
    shapes |= {"patch_embed.proj.weight": (64, 3, PATCH, PATCH), "patch_embed.proj.bias": (64,)}
    shapes |= norm("norm", 64) | norm("blocks.0.norm1", 64) | norm("blocks.0.norm2", 64)
    shapes |= linear("blocks.0.attn.qkv", 64, 192) | linear("blocks.0.attn.proj", 64, 64)
    shapes |= linear("blocks.0.mlp.fc1", 64, 32) | linear("blocks.0.mlp.fc2", 32, 64)
    return numbers(shapes | {"blocks.0.ls1.gamma": (64,), "blocks.0.ls2.gamma": (64,)})


def write_dino_wm(folder: Path) -> tuple[Path, Path]:
    """`model_latest.pth` of pickled modules, and DINOv2's weights."""
    folder.mkdir(parents=True, exist_ok=True)
    width, layer = 64 + 5 + 6, "transformer.layers.0"
    shapes = {"pos_embedding": (1, HISTORY * SIDE**2, width)} | norm("transformer.norm", width)
    shapes |= norm(f"{layer}.0.norm", width) | linear(f"{layer}.0.to_qkv", width, 3 * 128, False)
    shapes |= linear(f"{layer}.0.to_out.0", 128, width) | norm(f"{layer}.1.net.0", width)
    shapes |= linear(f"{layer}.1.net.1", width, 32) | linear(f"{layer}.1.net.4", 32, width)
    content = {"epoch": 3, "predictor": pickled_module("models.vit.ViTPredictor", numbers(shapes, 1))}
    for key, (inside, out) in {"action_encoder": (A, 5), "proprio_encoder": (STATE, 6)}.items():
        own = numbers({"patch_embed.weight": (out, inside, 1), "patch_embed.bias": (out,)}, 2)
        content[key] = pickled_module("models.proprio.ProprioceptiveEmbedding", own)
    torch.save(dino_weights(), folder / "dinov2_vits14_pretrain.pth")
    return save_pickled(content, folder / "model_latest.pth"), folder / "dinov2_vits14_pretrain.pth"


def write_pets(folder: Path, learned_reward: bool = True, members: int = 3) -> Path:
    """A folder with mbrl-lib's `model.pth` of five members, `members` of them elite."""
    folder.mkdir(parents=True, exist_ok=True)
    out = STATE + learned_reward
    shapes = {"min_logvar": (1, out), "max_logvar": (1, out)}
    for name, (inside, outside) in {
        "hidden_layers.0.0": (STATE + A, 16),
        "hidden_layers.1.0": (16, 16),
        "mean_and_logvar": (16, 2 * out),
    }.items():
        shapes |= {f"{name}.weight": (5, inside, outside), f"{name}.bias": (5, 1, outside)}
    weights = numbers(shapes)
    weights |= {"min_logvar": torch.full((1, out), -10.0), "max_logvar": torch.full((1, out), -3.0)}
    elite = list(np.arange(1, members + 1))  # numbers of NumPy's, as mbrl-lib's trainer keeps them
    torch.save({"state_dict": weights, "elite_models": elite}, folder / "model.pth")
    return folder


def pickled_module(path: str, weights: dict[str, torch.Tensor]) -> nn.Module:
    """A tree of modules with these weights, whose classes lie in modules that only saving knows."""
    root = module_class(path)()
    for name, value in weights.items():
        *parts, last = name.split(".")
        here = root
        for part in parts:
            if part not in here._modules:
                here.add_module(part, module_class(f"{path.rpartition('.')[0]}.Part")())
            here = here._modules[part]
        if value.is_floating_point() and "running" not in last:
            here.register_parameter(last, nn.Parameter(value))
        else:
            here.register_buffer(last, value)
    return root


CLASSES: dict[str, type] = {}


def module_class(path: str) -> type:
    module, _, name = path.rpartition(".")
    return CLASSES.setdefault(path, type(name, (nn.Module,), {"__module__": module, "__qualname__": name}))


def save_pickled(content, path: Path) -> Path:
    """`torch.save` with the modules of `CLASSES` there, which they are not when the file is read."""
    made = {}
    for name, cls in CLASSES.items():
        module = name.rpartition(".")[0]
        for part in (module.partition(".")[0], module):
            made.setdefault(part, types.ModuleType(part))
        setattr(made[module], cls.__name__, cls)
    before = {name: sys.modules.get(name) for name in made}
    sys.modules.update(made)
    try:
        torch.save(content, path)
    finally:
        for name, module in before.items():
            sys.modules.pop(name)
            if module is not None:
                sys.modules[name] = module
    return path


def observation(size: int, vector: bool = False, seed: int = 0) -> TensorDict:
    """What a JEPA's camera sees, [size], at its own size, and perhaps a vector."""
    random = torch.Generator().manual_seed(seed)
    content = {"pixels": torch.randint(256, (size, 3, 14, 14), generator=random, dtype=torch.uint8)}
    if vector:
        content["observation"] = torch.randn(size, STATE, generator=random)
    return TensorDict(content, [size])


def states(size: int, seed: int = 0) -> TensorDict:
    random = torch.Generator().manual_seed(seed)
    return TensorDict({"observation": torch.randn(size, STATE, generator=random)}, [size])


def foreign_model(name: str, folder: Path):
    """A small `lewm`, `dino_wm`, `pets` or `pets-ts1`, and observations [4] of it."""
    if name == "lewm":
        return load_lewm(write_lewm(folder)), observation(4)
    if name == "dino_wm":
        return load_dino_wm(*write_dino_wm(folder), image_size=14), observation(4, vector=True)
    return load_pets(write_pets(folder), A, propagation="ts1" if name == "pets-ts1" else "tsinf"), states(4)


FOREIGN = ("lewm", "dino_wm", "pets", "pets-ts1")


# --- what LeWM and DINO-WM say, in plain products --------------------------------------------------------


def attended(x, w, names, heads, mask=None):
    """Attention of tokens [M, T, D] by the products that `names` say: (q, k, v) or (qkv,), and out."""
    *inside, out = names
    parts = torch.cat([product(x, w, name) for name in inside], -1).chunk(3, -1)
    rows = []
    for q, k, v in zip(*(part.chunk(heads, -1) for part in parts), strict=True):
        score = torch.einsum("mtd,msd->mts", q, k) / q.shape[-1] ** 0.5
        if mask is not None:
            score = score + torch.where(mask, 0.0, -1e9)
        rows.append(
            torch.einsum("mts,msd->mtd", torch.exp(score) / torch.exp(score).sum(-1, keepdim=True), v)
        )
    return product(torch.cat(rows, -1), w, out)


def product(x, w, name):
    weight = w[f"{name}.weight"]
    return x @ weight.flatten(1).T + w.get(f"{name}.bias", 0.0)


def normalized(x, w=None, name="", eps=1e-5):
    x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, correction=0, keepdim=True) + eps).sqrt()
    return x * w[f"{name}.weight"] + w[f"{name}.bias"] if name else x


def lewm_encoded(w, frames):
    """LeWM's embedding [M, D] of scaled frames [M, 3, 14, 14]."""
    patches = (
        frames.unfold(2, PATCH, PATCH)
        .unfold(3, PATCH, PATCH)
        .permute(0, 2, 3, 1, 4, 5)
        .flatten(3)
        .flatten(1, 2)
    )
    x = product(patches, w, "encoder.embeddings.patch_embeddings.projection")
    x = torch.cat([w["encoder.embeddings.cls_token"].expand(len(x), -1, -1), x], 1)
    x = x + w["encoder.embeddings.position_embeddings"]
    for i in range(2):
        at = f"encoder.encoder.layer.{i}"
        names = [f"{at}.attention.attention.{part}" for part in ("query", "key", "value")]
        x = x + attended(
            normalized(x, w, f"{at}.layernorm_before", 1e-12),
            w,
            [*names, f"{at}.attention.output.dense"],
            HEADS,
        )
        hidden = F.gelu(
            product(normalized(x, w, f"{at}.layernorm_after", 1e-12), w, f"{at}.intermediate.dense")
        )
        x = x + product(hidden, w, f"{at}.output.dense")
    return batch_normed(normalized(x, w, "encoder.layernorm", 1e-12)[:, 0], w, "projector")


def batch_normed(x, w, name):
    x = product(x, w, f"{name}.net.0")
    spread = (w[f"{name}.net.1.running_var"] + 1e-5).sqrt()
    x = (x - w[f"{name}.net.1.running_mean"]) / spread * w[f"{name}.net.1.weight"] + w[f"{name}.net.1.bias"]
    return product(F.gelu(x), w, f"{name}.net.3")


def lewm_rollout(w, z, actions):
    """Embeddings [M, H, D] after each of `actions` [M, H, A], from one frame's; the history grows to 3."""
    past = [z]
    for t in range(actions.shape[1]):
        first = max(0, t + 1 - HISTORY)
        x, given = torch.stack(past[first:], 1), actions[:, first : t + 1]
        condition = product(given, w, "action_encoder.patch_embed")
        condition = product(
            F.silu(product(condition, w, "action_encoder.embed.0")), w, "action_encoder.embed.2"
        )
        x = x + w["predictor.pos_embedding"][:, : x.shape[1]]
        mask = torch.ones(x.shape[1], x.shape[1]).tril().bool()
        for i in range(2):
            at = f"predictor.transformer.layers.{i}"
            shifts = product(F.silu(condition), w, f"{at}.adaLN_modulation.1").chunk(6, -1)
            inside = normalized(normalized(x, eps=1e-6) * (1 + shifts[1]) + shifts[0], w, f"{at}.attn.norm")
            x = x + shifts[2] * attended(inside, w, [f"{at}.attn.to_qkv", f"{at}.attn.to_out.0"], HEADS, mask)
            inside = normalized(normalized(x, eps=1e-6) * (1 + shifts[4]) + shifts[3], w, f"{at}.mlp.net.0")
            x = x + shifts[5] * product(F.gelu(product(inside, w, f"{at}.mlp.net.1")), w, f"{at}.mlp.net.4")
        past.append(batch_normed(normalized(x, w, "predictor.transformer.norm")[:, -1], w, "pred_proj"))
    return torch.stack(past[1:], 1)
