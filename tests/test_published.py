"""Published checkpoints: converted models against the source's arithmetic, written here on the source's keys.

The files themselves are not at hand. `source_file` writes the like of them, with random weights and with what
else such files hold; `Source` computes with those keys, head by head, as algorithm descriptions say.
"""

import itertools
import math

import pytest
import torch
from tensordict import TensorDict
from torch import Tensor

from dreammpc.cli import parser as cli
from dreammpc.interfaces import UsageError
from dreammpc.models import SIZES
from dreammpc.trained import initialize, loading
from dreammpc.trained.published import read_published, recognize, renamed, size_name

PARTS = ("weight", "bias", "ln.weight", "ln.bias")


def layers(name, sizes, normed_output, heads=()):
    """Random weights of linear → LayerNorm layers, `NAME.I.PART`; the last plain unless `normed_output`."""
    entries = {}
    for i, (inside, outside) in enumerate(itertools.pairwise(sizes)):
        shapes = {"weight": (outside, inside), "bias": (outside,)}
        if i < len(sizes) - 2 or normed_output:
            shapes |= {"ln.weight": (outside,), "ln.bias": (outside,)}
        for part, shape in shapes.items():
            scale = 1.5 / math.sqrt(inside) if part == "weight" else 0.1
            entries[f"{name}.{i}.{part}"] = scale * torch.randn(*heads, *shape) + (part == "ln.weight")
    return entries


def source_state(algorithm, layout, obs=5, action=2, enc=24, mlp=40, latent=16, heads=3, hidden=1, **more):
    """A state dict as the source saves it."""
    torch.manual_seed(0)
    state = {}
    if more.get("pixels"):
        shapes = {2: (32, 9, 7, 7), 4: (32, 32, 5, 5), 6: (32, 32, 3, 3), 8: (32, 32, 3, 3)}
        for place, shape in shapes.items():
            state[f"_encoder.rgb.{place}.weight"] = torch.randn(shape) / math.sqrt(math.prod(shape[1:]))
            state[f"_encoder.rgb.{place}.bias"] = 0.1 * torch.randn(32)
    else:
        state |= layers("_encoder.state", [obs, *[enc] * hidden, latent], True)
    state |= layers("_dynamics", [latent + action, mlp, mlp, latent], True)
    state |= layers("_reward", [latent + action, mlp, mlp, 101], False)
    state |= layers("_pi", [latent, mlp, mlp, 2 * action], False)
    if more.get("episodic"):
        state |= layers("_termination", [latent, mlp, mlp, 1], False)
    limits = (-10.0, 12.0) if algorithm == "tdmpc2" else (-3.0, 4.0)
    state |= {"log_std_min": torch.tensor(limits[0]), "log_std_dif": torch.tensor(limits[1])}
    seen = latent + (action if algorithm == "tdmpc2" else 0)
    for name in ("_Qs", "_target_Qs"):
        stacked = layers("", [seen, mlp, mlp, 101], False, (heads,))
        for key, value in stacked.items():
            _, layer, part = key.split(".", 2)
            if layout == "old":
                state[f"{name}.params.{4 * int(layer) + PARTS.index(part)}"] = value
                continue
            place = "_Qs.params" if name == "_Qs" else f"{name}_params"
            state[f"{place}.{layer}.{part}"] = value
            if name == "_Qs":
                state[f"_detach_Qs_params.{layer}.{part}"] = value
            for copy in (name, "_detach_Qs"):
                state[f"{copy}.module.{layer}.{part}"] = torch.empty(value.shape[1:], device="meta")
    if layout == "new":
        for name in ("_Qs.params", "_detach_Qs_params", "_target_Qs_params"):
            state |= {f"{name}.__batch_size": torch.Size([heads]), f"{name}.__device": None}
    return state


class Source:
    """The forward arithmetic of the source (algorithms of arXiv 2310.16828, §3), on its own keys."""

    def __init__(self, state, layout):
        self.state, self.layout = state, layout

    def norm(self, x, weight, bias):
        centered = x - x.mean(-1, keepdim=True)
        return centered / torch.sqrt(centered.square().mean(-1, keepdim=True) + 1e-5) * weight + bias

    def mish(self, x):
        return x * torch.tanh(torch.log1p(torch.exp(x)))

    def simnorm(self, x):
        e = torch.exp(x.reshape(*x.shape[:-1], -1, 8))
        return (e / e.sum(-1, keepdim=True)).reshape(x.shape)

    def network(self, get, x, normed_output=False):
        i = 0
        while (weight := get(i, "weight")) is not None:
            x = x @ weight.T + get(i, "bias")
            more = get(i + 1, "weight") is not None
            if more or normed_output:
                x = self.norm(x, get(i, "ln.weight"), get(i, "ln.bias"))
                x = self.mish(x) if more else self.simnorm(x)
            i += 1
        return x

    def plain(self, name, x, normed_output=False):
        return self.network(lambda i, part: self.state.get(f"{name}.{i}.{part}"), x, normed_output)

    def head(self, name, k, x):
        def get(i, part):
            place = f"{name}.params.{4 * i + PARTS.index(part)}"
            if self.layout == "new":
                place = f"{name}.params.{i}.{part}" if name == "_Qs" else f"{name}_params.{i}.{part}"
            value = self.state.get(place)
            return None if value is None else value[k]

        return self.network(get, x)

    def conv(self, x):
        x = x.float() / 255 - 0.5
        for place, stride in ((2, 2), (4, 2), (6, 2), (8, 1)):
            weight, bias = (self.state[f"_encoder.rgb.{place}.{part}"] for part in ("weight", "bias"))
            x = torch.nn.functional.conv2d(x, weight, bias, stride)
            x = x if place == 8 else x.clamp(min=0)
        return self.simnorm(x.flatten(1))

    def decode(self, logits):
        weights = torch.exp(logits - logits.amax(-1, keepdim=True))
        mean = (weights / weights.sum(-1, keepdim=True) * torch.linspace(-10, 10, 101)).sum(-1)
        return mean.sign() * (mean.abs().exp() - 1)


def write(tmp_path, state, name="walker-walk-1.pt"):
    path = tmp_path / name
    torch.save({"model": state}, path)
    return path


def agree(ours: Tensor, theirs: Tensor) -> None:
    assert ours.shape == theirs.shape and theirs.std() > 1e-3
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


SOURCES = [
    ("tdmpc2", "new", {}),
    ("tdmpc2", "old", {"hidden": 2}),
    ("bmpc", "new", {"heads": 2}),
    ("bmpc", "old", {"heads": 2}),
    ("tdmpc2", "new", {"episodic": True}),
    ("tdmpc2", "new", {"pixels": True, "latent": 512, "heads": 2}),
    ("tdmpc2", "old", {"enc": 256, "mlp": 384, "latent": 128, "heads": 2}),
    ("tdmpc2", "new", {"enc": 256, "mlp": 512, "latent": 512, "heads": 5}),
]


@pytest.mark.parametrize(("algorithm", "layout", "shape"), SOURCES)
@torch.no_grad()
def test_converted_models_compute_what_the_source_computes(algorithm, layout, shape, tmp_path):
    state = source_state(algorithm, layout, **shape)
    found = read_published(write(tmp_path, state))
    assert found.algorithm == algorithm and found.action_dim == 2 and found.obs_dim in (0, 5)
    model, source = found.model(0.97), Source(state, layout)
    torch.manual_seed(1)
    action, noise = torch.rand(7, 2) * 2 - 1, torch.randn(7, 2)
    if shape.get("pixels"):
        frames = torch.randint(256, (7, 9, 64, 64), dtype=torch.uint8)
        z, latent = source.conv(frames), model.encode(TensorDict({"pixels": frames}, [7]))
    else:
        obs = torch.randn(7, 5)
        z = source.plain("_encoder.state", obs, True)
        latent = model.observe(TensorDict({"observation": obs}, [7]), action, model.initial_belief(7))
    agree(latent["z"], z)
    pair = torch.cat([z, action], -1)
    after = model.step(latent, action)
    agree(after["z"], source.plain("_dynamics", pair, True))
    outcome = model.outcome(latent, action, after)
    agree(model.reward(pair), source.plain("_reward", pair))
    agree(outcome.reward, source.decode(source.plain("_reward", pair)))
    ends = torch.sigmoid(source.plain("_termination", after["z"]).squeeze(-1)) if found.episodic else 0.0
    torch.testing.assert_close(outcome.discount, 0.97 * (1 - ends) * torch.ones(7), atol=1e-5, rtol=1e-5)
    seen = pair if algorithm == "tdmpc2" else z
    for name, heads in (("_Qs", model.value_heads), ("_target_Qs", model.target_heads)):
        theirs = torch.stack([source.head(name, k, seen) for k in range(found.widths["num_heads"])])
        agree(heads(seen), theirs)
        if name == "_Qs":
            agree(model.value(latent, action), source.decode(theirs).T)
    mean, spread = source.plain("_pi", z).chunk(2, -1)
    low, span = state["log_std_min"], state["log_std_dif"]
    std = torch.exp(low + 0.5 * span * (torch.tanh(spread) + 1))
    if algorithm == "tdmpc2":
        agree(model.policy(latent, noise), torch.tanh(mean + std * noise))
    else:
        agree(model.policy(latent, noise), (torch.tanh(mean) + std * noise).clamp(-1, 1))


@pytest.mark.parametrize("name", [name for name in SIZES if name != "nano"])
@pytest.mark.parametrize("algorithm", ["tdmpc2", "bmpc"])
def test_every_size_is_recognized(name, algorithm):
    """From shapes alone: no numbers are made, so that the largest costs nothing."""
    size, action = SIZES[name], 6
    heads = 2 if algorithm == "bmpc" else size.num_heads
    with torch.device("meta"):
        state = source_state(
            algorithm, "old", 24, action, size.enc_dim, size.mlp_dim, size.latent_dim, heads,
            hidden=max(size.num_enc_layers - 1, 1),
        )  # fmt: skip
    found, widths = recognize(renamed(state, ""))
    assert (found, size_name(widths, found)) == (algorithm, name)
    assert size_name({**widths, "mlp_dim": 77}, found) == "custom"


def test_the_command_makes_a_checkpoint_of_ours(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shape = {"obs": 24, "action": 6, "enc": 256, "mlp": 384, "latent": 128, "heads": 2}
    write(tmp_path, source_state("tdmpc2", "new", **shape))
    cli.main(
        ["import-checkpoint", "walker-walk-1.pt", "--task", "walker-walk", "--seed", "1", "-o", "a/w.ckpt"]
    )
    out = capsys.readouterr().out
    assert "tdmpc2" in out and "1M" in out and "a/w.ckpt" in out
    model, facts = loading.load_model("a/w.ckpt")
    assert facts["task"] == "walker-walk" and facts["model"]["name"] == "1M" and facts["config"]["seed"] == 1
    assert model.discount == pytest.approx(0.99)
    expected = read_published("walker-walk-1.pt").model(0.99).state_dict()
    for key, weight in model.state_dict().items():
        assert torch.equal(weight, expected[key]), key
    cli.main(["demo", "a/w.ckpt", "planner=policy", "--no-video"])
    assert "walker-walk, w, planned by policy: return" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        cli.main(
            ["import-checkpoint", "walker-walk-1.pt", "--task", "walker-walk", "-o", "./walker-walk-1.pt"]
        )
    assert "walker-walk-1.pt is what is read; name another file" in capsys.readouterr().err
    assert read_published("walker-walk-1.pt").algorithm == "tdmpc2"


def test_pixels_by_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    state = source_state("tdmpc2", "new", pixels=True, latent=512, mlp=512, heads=5)
    write(tmp_path, state)
    with pytest.raises(SystemExit):
        cli.main(["import-checkpoint", "walker-walk-1.pt", "--task", "walker-walk"])
    assert "with pixels and 2 actions, but task walker-walk has 24 and 6" in capsys.readouterr().err
    cli.main(["import-checkpoint", "walker-walk-1.pt", "--task", "reacher-easy"])
    assert "tdmpc2 of size 5M, pixels: reacher-easy-tdmpc2-5M.ckpt" in capsys.readouterr().out
    model, _ = loading.load_model("reacher-easy-tdmpc2-5M.ckpt")
    frames = torch.randint(256, (2, 9, 64, 64), dtype=torch.uint8)
    with torch.no_grad():
        agree(model.encode(TensorDict({"pixels": frames}, [2]))["z"], Source(state, "new").conv(frames))


class Malice:
    ran = False

    def __reduce__(self):
        return (setattr, (Malice, "ran", True))


def wrong(kind, state):
    if kind == "malicious":
        return state | {"_extra": Malice()}
    if kind == "multitask":
        return state | {"_task_emb.weight": torch.zeros(3, 96)}
    if kind == "limits":
        return state | {"log_std_min": torch.tensor(-5.0)}
    if kind == "nan":
        return state | {"_pi.0.bias": torch.full((40,), torch.nan)}
    if kind == "placeholder":
        return state | {"_pi.0.bias": torch.empty(40, device="meta")}
    if kind == "shape":
        return state | {"_pi.1.weight": torch.zeros(40, 39)}
    if kind == "strange":
        return state | {"_decoder.0.weight": torch.zeros(3, 3)}
    if kind == "missing":
        return {key: value for key, value in state.items() if not key.startswith("_reward.2")}
    if kind in ODD:
        return state | ODD[kind]
    return {"agent": torch.zeros(3)}


ODD = {
    "number": {"_dynamics.0.weight": torch.tensor(1.0)},
    "vector": {"_Qs.params.0.weight": torch.zeros(3)},
    "sparse": {"_pi.0.bias": torch.zeros(3).to_sparse()},
    "no memory": {"_pi.0.bias": torch.zeros(1).expand(10**9, 10**9)},
    "span": {"log_std_min": torch.zeros(3), "log_std_dif": torch.zeros(3)},
}


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("malicious", "holds more than plain data, of which nothing was run"),
        ("multitask", "of several tasks at once"),
        ("limits", "log-std lies between -10 and 2, but says -5 and 7"),
        ("nan", "_pi.0.bias is not finite"),
        ("placeholder", "_pi.0.bias has no values"),
        ("shape", "does not fit together: size mismatch for _pi.1.weight"),
        ("strange", "nothing is known of its entry _decoder.0.weight"),
        ("missing", "'_reward.2.weight' of TD-MPC2's layout is missing"),
        ("other", "it has no _dynamics.0.weight"),
        *((kind, "not of TD-MPC2's shapes") for kind in ("number", "vector", "span")),
        *((kind, "_pi.0.bias has no values") for kind in ("sparse", "no memory")),
    ],
)
def test_files_that_are_refused(kind, words, tmp_path):
    path = write(tmp_path, wrong(kind, source_state("tdmpc2", "new")))
    with pytest.raises(UsageError, match=words):
        read_published(path).model(0.99)
    assert not Malice.ran


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["walker-walk-1.pt", "--task", "walker-walk"], ["5 observations and 2 actions", "24 and 6"]),
        (["walker-walk-1.pt", "--task", "walker-wok"], ["walker-wok", "walker-walk"]),
        (
            ["walker-walk-1.pt", "--task", "cup-catch", "--size", "5M"],
            ["of size custom", "mlp_dim 40", "not 5M"],
        ),
        (["lost.pt", "--task", "walker-walk"], ["lost.pt does not exist"]),
        (["torn.pt", "--task", "walker-walk"], ["torn.pt is damaged"]),
        ([".", "--task", "walker-walk"], ["checkpoint . is a folder"]),
        (["torn.pt", "--task", "walker-walk", "--seed", "-4"], ["--seed must be from 0", "-4"]),
        (
            ["torn.pt", "--task", "walker-walk", "--env-steps", "-4"],
            ["--env-steps must be at least 0, got -4"],
        ),
    ],
)
def test_mistakes_are_one_line(arguments, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path, source_state("tdmpc2", "old"))
    (tmp_path / "torn.pt").write_bytes(path.read_bytes()[:3000])
    with pytest.raises(SystemExit) as stop:
        cli.main(["import-checkpoint", *arguments])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.startswith("error: ") and error.count("\n") == 1
    assert all(word in error for word in words), error
    assert sorted(p.name for p in tmp_path.iterdir()) == ["torn.pt", "walker-walk-1.pt"]


@pytest.mark.parametrize("algorithm", ["tdmpc2", "bmpc"])
def test_a_run_can_begin_with_one(algorithm, tmp_path):
    path = write(tmp_path, source_state(algorithm, "new"))
    model = read_published(path).model(0.9)
    for parameter in model.parameters():
        parameter.data.zero_()
    (line,) = initialize(model, path)
    assert line.startswith(
        f"init={path}: begins with its encoder, dynamics, reward, value_heads, target_heads"
    )
    expected = read_published(path).model(0.9).state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in model.state_dict().items())
