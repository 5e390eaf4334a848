"""A run that begins with the weights of another: what it takes, what is new, what is refused."""

import pytest
import torch
from commands import TINY, run_here

from dreammpc.interfaces import UsageError
from dreammpc.models import SIZES, BMPCModel, TDMPC2Model
from dreammpc.trained import initialize, loading

AGENT = "agent:cartpole-swingup/tdmpc2-seed1"


def made(cls=TDMPC2Model, obs_dim=5, action_dim=1, size="nano", **more):
    return cls(obs_dim, action_dim, **{**vars(SIZES[size]), **more})


def test_all_weights_are_taken_and_targets_are_those_of_the_heads():
    model, (known, _) = made(), loading.load_model(AGENT)
    assert not torch.equal(model.dynamics.linears[0].weight, known.dynamics.linears[0].weight)
    (line,) = initialize(model, AGENT)
    assert line.startswith(
        f"init={AGENT}: begins with its encoder, dynamics, reward, value_heads, target_heads"
    )
    ours, theirs = model.state_dict(), known.state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_what_is_new_is_said_and_stays_as_it_was_made():
    model = made(BMPCModel, episodic=True)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    lines = initialize(model, AGENT)
    assert "new are value_heads, target_heads, termination" in lines[1]
    after = model.state_dict()
    same = {key.partition(".")[0] for key in before if torch.equal(before[key], after[key])}
    assert {"value_heads", "target_heads", "termination"} <= same and not same & {"encoder", "actor"}


@pytest.mark.parametrize(
    ("model", "source", "words"),
    [
        (made(obs_dim=6), AGENT, ["5 numbers, and has 1 actions", "the task has state, 6 and 1"]),
        (made(action_dim=2), AGENT, ["the task has state, 5 and 2"]),
        (
            made(size="1M"),
            AGENT,
            ["model of size nano (model=nano)", "enc_dim is 128, not 256", "encoder does not fit"],
        ),
        (made(latent_dim=32), AGENT, ["latent_dim is 64, not 32", "encoder does not fit"]),
        (made(), "agent:cartpole-swinging", ["cartpole-swinging", "did you mean"]),
        (made(), "nowhere.ckpt", ["nowhere.ckpt", "does not exist"]),
    ],
)
def test_other_models_are_refused(model, source, words):
    with pytest.raises(UsageError) as error:
        initialize(model, source)
    for word in words:
        assert word in str(error.value)


def test_the_recipe_begins_with_an_agent_that_acts_at_once(tmp_path):
    words = [word for word in TINY if not word.startswith(("steps", "algorithm.utd", "evaluation.every"))]
    words += ["steps=4000", "algorithm.utd=0.02", "algorithm.lr=0", "evaluation.planners=policy"]
    words += [
        "tracking=none",
        "evaluation.video=false",
        "planner=policy",
        f"init={AGENT}",
        "freeze.encoder=2",
    ]
    told = run_here("train", *words, cwd=tmp_path)
    assert f"init={AGENT}: begins with its encoder" in told.stderr
    (known, _), (trained, facts) = map(loading.load_model, (AGENT, tmp_path / "run/checkpoints/last.ckpt"))
    assert torch.equal(trained.actor.linears[0].weight, known.actor.linears[0].weight)
    feed = facts["resume"]["ranks"][0]["feed"]
    assert feed["updates"] == 4 and not feed["random_first"]
