"""Published single-task checkpoints of TD-MPC2 (arXiv 2310.16828), BMPC (OpenReview i7jAYFYDcM) → our models.

Both programs save a dict with the model's `state_dict` under `model`. Layers are `NAME.I.weight` and `.bias`,
with `.ln.weight` and `.ln.bias` where LayerNorm follows. The value heads are stacked, in one of two layouts:
the newer `_Qs.params.LAYER.weight` …, the older `_Qs.params.N` with N = 4·layer + place among weight, bias,
ln.weight, ln.bias. BMPC's heads see the latent alone, TD-MPC2's the action too: that tells the two apart.
"""

import re
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dreammpc.interfaces import FRAME_SHAPE, UsageError
from dreammpc.models import SIZES, BMPCModel, LatentModel, TDMPC2Model

MODELS: dict[str, type[LatentModel]] = {"tdmpc2": TDMPC2Model, "bmpc": BMPCModel}
NETWORKS = {
    "_encoder.state": "encoder",
    "_dynamics": "dynamics",
    "_reward": "reward",
    "_pi": "actor",
    "_termination": "termination",
}
CONVOLUTIONS = {"2": "0", "4": "2", "6": "4", "8": "6"}
"""Their places of the convolutions, which come after random shift and scaling, and ours."""
HEADS = {
    "_Qs.params": "value_heads",
    "_target_Qs_params": "target_heads",
    "_target_Qs.params": "target_heads",
}
PARTS = ("weight", "bias", "ln.weight", "ln.bias")
STACKED = ("weights", "biases", "scales", "shifts")
PLACEHOLDER = re.compile(r"_(Qs|target_Qs)\.module\.|_detach_Qs|.*\.?__(batch_size|device)$")
"""Copies and leftovers of the source's ensembles, which say nothing new."""
LIMITS = ("log_std_min", "log_std_dif")


@dataclass(frozen=True)
class Published:
    """What a published checkpoint holds."""

    source: str
    algorithm: str
    """`tdmpc2` or `bmpc`."""
    size: str
    """A name in `dreammpc.models.SIZES`, or `custom`."""
    widths: dict[str, int]
    """As in `dreammpc.models.SIZES`."""
    obs: str
    """`state` or `pixels`."""
    obs_dim: int
    """0 for pixels."""
    action_dim: int
    episodic: bool
    weights: dict[str, Tensor]
    """By our names."""

    def model(self, discount: float) -> LatentModel:
        """Our model with these weights; γ per agent step is not in the file.

        Raises:
            UsageError: a weight is missing, or its shape does not fit the others.
        """
        spaces = self.obs_dim, self.action_dim, discount
        try:
            model = MODELS[self.algorithm](
                *spaces, episodic=self.episodic, obs=self.obs, normalize=False, **self.widths
            )
            model.load_state_dict(self.weights)
        except (RuntimeError, ValueError) as error:
            reason = theirs(" ".join(str(error).split("\n\t")[-1].split()))
            raise UsageError(f"checkpoint {self.source} does not fit together: {reason}") from error
        return model


def read_published(path: str | Path) -> Published:
    """Read a published checkpoint; nothing in the file is run.

    Raises:
        UsageError: the file is missing or damaged, holds more than plain data, is of several tasks, of a
            layout that is not known, or of a model that ours is not.
    """
    where = f"checkpoint {path}"
    found = entries(path)
    try:
        weights = renamed(found, where)
        algorithm, widths = recognize(weights)
        action_dim = weights["actor.linears.2.weight"].shape[0] // 2
        pixels = "encoder.linears.0.weight" not in weights
        obs_dim = 0 if pixels else weights["encoder.linears.0.weight"].shape[1]
        check_limits(found, algorithm, where)
    except KeyError as error:
        raise UsageError(f"{where}: {theirs(str(error))} of TD-MPC2's layout is missing") from error
    except UsageError:
        raise
    except (IndexError, ValueError, RuntimeError) as error:
        raise UsageError(f"{where}: its weights are not of TD-MPC2's shapes ({error})") from error
    for key in [key for key in weights if key.startswith("value_heads.")]:
        weights.setdefault(key.replace("value_", "target_", 1), weights[key])
    if pixels:
        weights["encoder.conv.center"] = torch.full(FRAME_SHAPE, 0.5)
    return Published(
        source=str(path),
        algorithm=algorithm,
        size=size_name(widths, algorithm, pixels),
        widths=widths,
        obs="pixels" if pixels else "state",
        obs_dim=obs_dim,
        action_dim=action_dim,
        episodic="termination.linears.0.weight" in weights,
        weights=weights,
    )


def entries(path: str | Path) -> dict[str, Tensor]:
    """The tensors of the file by the source's names, without what repeats others.

    Raises:
        UsageError: see `read_published`.
    """
    if not Path(path).is_file():
        raise UsageError(f"checkpoint {path} {'is a folder' if Path(path).is_dir() else 'does not exist'}")
    try:
        with warnings.catch_warnings(action="ignore", category=UserWarning):  # of pickles, refused anyway
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UsageError(
            f"checkpoint {path} is damaged, or holds more than plain data, of which nothing was run"
            f" ({type(error).__name__})"
        ) from error
    content = content.get("model", content) if isinstance(content, dict) else {}
    content = content if isinstance(content, dict) else {}
    named = {re.sub(r"^(_target|_detach)?_Vs", r"\1_Qs", str(key)): value for key, value in content.items()}
    found = {key: value for key, value in named.items() if not PLACEHOLDER.match(key)}
    if "_dynamics.0.weight" not in found:
        raise UsageError(f"checkpoint {path} is not one of TD-MPC2 or BMPC: it has no _dynamics.0.weight")
    if "_task_emb.weight" in found:
        raise UsageError(f"checkpoint {path} is of several tasks at once (it has _task_emb); one is expected")
    for key, value in found.items():
        if not is_weight(value):
            raise UsageError(f"checkpoint {path}: {key} has no values")
        if not torch.isfinite(value).all():
            raise UsageError(f"checkpoint {path}: {key} is not finite")
    return found


def is_weight(value: Any) -> bool:
    """Whether it is a plain tensor with memory for each of its numbers."""
    if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_meta or value.is_quantized:
        return False
    return value.dtype.is_floating_point and value.nbytes <= value.untyped_storage().nbytes()


def renamed(found: dict[str, Tensor], where: str) -> dict[str, Tensor]:
    """All weights by our names.

    Raises:
        UsageError: an entry that no model of ours has.
    """
    weights: dict[str, Tensor] = {}
    for key, value in found.items():
        if key in LIMITS:
            continue
        pair = _plain(key, value) or _stacked(key, value)
        if pair is None:
            raise UsageError(f"{where}: nothing is known of its entry {key}")
        weights[pair[0]] = pair[1].contiguous()
    return weights


def _plain(key: str, value: Tensor) -> tuple[str, Tensor] | None:
    """The weight of a plain network or a convolution."""
    if match := re.fullmatch(r"_encoder\.rgb\.(\d+)\.(weight|bias)", key):
        place = CONVOLUTIONS.get(match[1])
        return None if place is None else (f"encoder.conv.layers.{place}.{match[2]}", value)
    match = re.fullmatch(r"(.+)\.(\d+)\.(ln\.)?(weight|bias)", key)
    if match is None or match[1] not in NETWORKS:
        return None
    return f"{NETWORKS[match[1]]}.{'norms' if match[3] else 'linears'}.{match[2]}.{match[4]}", value


def _stacked(key: str, value: Tensor) -> tuple[str, Tensor] | None:
    """The weight of all value heads [K, …], in either layout."""
    match = re.fullmatch(r"(.+)\.(\d+)(?:\.((?:ln\.)?(?:weight|bias)))?", key)
    if match is None or match[1] not in HEADS:
        return None
    layer, place = (int(match[2]), PARTS.index(match[3])) if match[3] else divmod(int(match[2]), len(PARTS))
    ours = value.transpose(1, 2) if PARTS[place] == "weight" else value.unsqueeze(1)
    return f"{HEADS[match[1]]}.{STACKED[place]}.{layer}", ours


def theirs(text: str) -> str:
    """`text` with our names of plain weights replaced by the source's."""
    for name, ours in NETWORKS.items():
        text = re.sub(rf"\b{ours}\.linears\.(\d+)\.", rf"{name}.\1.", text)
        text = re.sub(rf"\b{ours}\.norms\.(\d+)\.", rf"{name}.\1.ln.", text)
    return text


def recognize(weights: dict[str, Tensor]) -> tuple[str, dict[str, int]]:
    """The algorithm, and the widths as in `SIZES`, from the shapes of the weights.

    For pixels nothing tells of `enc_dim` and `num_enc_layers`, which are given those of 5M.

    Raises:
        KeyError: a weight is missing.
    """
    mlp_dim, pair = weights["dynamics.linears.0.weight"].shape
    latent_dim = weights["dynamics.linears.2.weight"].shape[0]
    num_heads, seen, _ = weights["value_heads.weights.0"].shape
    num_bins = weights["reward.linears.2.weight"].shape[0]
    layers = sum(bool(re.fullmatch(r"encoder\.linears\.\d+\.weight", key)) for key in weights)
    enc_dim = weights["encoder.linears.0.weight"].shape[0] if layers else SIZES["5M"].enc_dim
    widths = {
        "enc_dim": enc_dim,
        "mlp_dim": mlp_dim,
        "latent_dim": latent_dim,
        "num_heads": num_heads,
        "num_enc_layers": layers or SIZES["5M"].num_enc_layers,
    }
    if num_bins != 101:
        widths["num_bins"] = num_bins
    return "tdmpc2" if seen == pair > latent_dim else "bmpc", widths


def size_name(widths: dict[str, int], algorithm: str, pixels: bool = False) -> str:
    """The name in `SIZES` of these widths, or `custom`."""
    for name, size in SIZES.items():
        expected: dict[str, Any] = asdict(size)
        if algorithm == "bmpc":
            expected["num_heads"] = 2
        if widths == expected and (not pixels or name == "5M"):
            return name
    return "custom"


def check_limits(found: dict[str, Tensor], algorithm: str, where: str) -> None:
    """Raise UsageError if the policy's log-std is squashed between other limits than in our model."""
    if any(key not in found for key in LIMITS):
        return  # the oldest files do not say
    low, span = (float(found[key]) for key in LIMITS)
    expected = MODELS[algorithm].log_std_limits
    if abs(low - expected[0]) > 1e-6 or abs(low + span - expected[1]) > 1e-6:
        raise UsageError(
            f"{where} looks like {algorithm}, whose log-std lies between {expected[0]:g} and {expected[1]:g},"
            f" but says {low:g} and {low + span:g}"
        )
