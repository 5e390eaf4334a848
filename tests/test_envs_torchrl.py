"""TorchRL's environments as tasks: batches, devices, ends, seeds, states, faults, and training in them."""

import math
import warnings

import pendulums
import pytest
import torch
from commands import refused, train
from faults.tiny import Training
from foreign import ForeignTensor, foreign, trained_on_foreign
from pendulums import Pendulums, SavedPendulums
from tensordict import TensorDict
from torch.utils._python_dispatch import TorchDispatchMode
from torchrl.data import Bounded, Categorical, Composite, Unbounded
from torchrl.envs.utils import check_env_specs

from dreammpc.agent import Agent
from dreammpc.envs import make_env, torchrl
from dreammpc.envs.examine import examine
from dreammpc.envs.families import check_task
from dreammpc.envs.torchrl_env import TorchRLEnv
from dreammpc.evaluation import Evaluator
from dreammpc.interfaces import ForeignError, RunError, UsageError
from dreammpc.models import TDMPC2Model
from dreammpc.planning import make_planner

TASK, SAVED = "torchrl:pendulums:Pendulums", "torchrl:pendulums:SavedPendulums"


def step(env, action=None):
    """One step of all rows; gives what came next."""
    action = torch.zeros(env.action_spec.shape) if action is None else action
    return env.step(TensorDict({"action": action}, env.batch_size))["next"]


def reset(env, mask, after):
    return env.reset(after.exclude("reward").set("_reset", mask))


# --- rows ----------------------------------------------------------------------------------------------


def test_specs_and_episodes_that_end_apart():
    env = make_env(TASK, 64)
    assert (env.num_envs, env.max_episode_steps, env.layout) == (64, 24, "angle[2], speed[1]")
    check_env_specs(env)
    env.set_seed(0)
    played = env.rollout(60, break_when_any_done=False)
    done, starts = played["next", "done"].squeeze(-1), played["observation"][:, 1:]
    assert len({int(row.float().argmax()) for row in done}) >= 5  # they end apart
    unlike = (starts != played["next", "observation"][:, :-1]).any(-1)
    assert torch.equal(unlike, done[:, :-1])  # those rows start anew, and no others


def test_numbers_are_the_environments_own():
    env, own = make_env(TASK, 8, seed=5), Pendulums(8)
    own.set_seed(5)
    now, answer = own.reset(), env.reset()
    for action in torch.rand(10, 8, 1) * 2 - 1:
        after = own.step(now.set("action", 2 * action))["next"]
        now, answer = after.exclude("reward"), step(env, action)
        assert torch.allclose(answer["observation"], torch.cat([after["angle"], after["speed"]], -1))
        assert torch.allclose(answer["reward"], after["reward"])
        for key in ("terminated", "truncated", "done"):
            assert torch.equal(answer[key], after[key])


def test_a_time_limit_truncates_and_is_counted_by_row():
    env = make_env(TASK, 4, max_episode_steps=6)
    env.reset()
    for _ in range(3):
        after = step(env)
    reset(env, torch.tensor([[True], [False], [False], [False]]), after)
    ends = [step(env)["truncated"].flatten().tolist() for _ in range(3)]
    assert ends[-1] == [False, True, True, True] and not any(map(any, ends[:-1]))


@pytest.mark.parametrize(("own", "asked", "rows"), [(0, 3, 3), (4, 1, 4), (4, 6, 8)])
def test_as_many_copies_as_give_enough_rows(own, asked, rows):
    env = make_env(TASK, asked, kwargs={"num_envs": own})
    check_env_specs(env)
    env.set_seed(3)
    start = env.reset()["observation"]
    assert start.shape == (rows, 3) and len(start.unique(dim=0)) == rows
    mask = torch.arange(rows).unsqueeze(-1) == rows - 1
    after = step(env)
    again, after = reset(env, mask, after)["observation"], after["observation"]
    assert torch.equal(again[:-1], after[:-1]) and not torch.equal(again[-1], after[-1])


def test_seeds():
    env, other = make_env(TASK, 5, seed=2**40), make_env(TASK, 5, seed=2**40)
    start = env.reset()["observation"]
    assert torch.equal(start, other.reset()["observation"])
    assert not torch.equal(start, env.reset()["observation"])
    env.seed_rows([7, 8, 9, 10, 11])
    seven = env.reset()["observation"]
    assert torch.equal(seven, make_env(TASK, 5, seed=7).reset()["observation"])
    with pytest.raises(ValueError, match="expected 5 seeds"):
        env.seed_rows([7])


class Forgetful(Pendulums):
    """Keeps all of its state in the TensorDict, as TorchRL's stateless environments do."""

    def __init__(self, num_envs: int = 3):
        super().__init__(num_envs)
        state = Composite(angle=Bounded(-9, 9, (num_envs, 1)), shape=[num_envs])
        self.state_spec = state
        self.observation_spec = Composite(
            angle=state["angle"], tip=Unbounded((num_envs, 2)), shape=[num_envs]
        )

    def _reset(self, tensordict=None):
        return self._told(torch.rand(*self.batch_size, 1))

    def _step(self, tensordict):
        angle = tensordict["angle"] + 0.1 * tensordict["action"]
        return self._told(angle).set("reward", angle)

    def _told(self, angle):
        over = torch.zeros_like(angle, dtype=torch.bool)
        tip = torch.cat([angle.cos(), angle.sin()], -1)
        return TensorDict({"angle": angle, "tip": tip, "done": over, "terminated": over}, self.batch_size)


def test_state_in_the_tensordict_is_handed_along_and_not_learned_from():
    env = TorchRLEnv([Forgetful()], "forgetful")
    assert env.layout == "tip[2]"
    before = torch.atan2(env.reset()["observation"][:, 1], env.rollout(1)["observation"][:, 0, 0])
    assert before.shape == (3,)
    start = env.reset()["observation"]
    angle = torch.atan2(start[:, 1], start[:, 0])
    step(env, torch.ones(3, 1))
    after = step(env, torch.ones(3, 1))["observation"]
    assert torch.allclose(torch.atan2(after[:, 1], after[:, 0]), angle + 0.4, atol=1e-5)


class SelfResetting(Pendulums):
    """A row that is over begins anew within the step, and what it observes is the new start."""

    def __init__(self, num_envs: int = 6, **more):
        super().__init__(num_envs, **more)

    def _step(self, tensordict):
        answer = super()._step(tensordict)
        if answer["done"].any():
            fresh = super()._reset(TensorDict({"_reset": answer["done"]}, self.batch_size))
            answer.update(fresh.select("angle", "speed"))
        return answer


def test_environments_that_reset_themselves():
    env = TorchRLEnv([SelfResetting(auto_reset=True)], "resets")
    env.set_seed(0)
    played = env.rollout(60, break_when_any_done=False)
    done, after = played["next", "done"].squeeze(-1), played["next", "observation"]
    assert done.sum() > 6 and after.isfinite().all() and played["observation"].isfinite().all()
    assert torch.equal(after[done], played["observation"][done])  # the last that is known
    starts = played["observation"][:, 1:][done[:, :-1]]
    assert (starts[:, 0] < -0.8).all()  # near the bottom, where episodes start


# --- states --------------------------------------------------------------------------------------------


def test_a_state_that_is_put_back():
    env, other = make_env(SAVED, 6, seed=1), make_env(SAVED, 6, seed=9)
    env.reset(), other.reset()
    for _ in range(4):
        step(env)
    other.set_state(env.get_state())
    mask = torch.arange(6).unsqueeze(-1) == 2
    for i in range(25):
        one, two = (step(each, torch.full((6, 1), 0.3)) for each in (env, other))
        if i == 3:
            again = [reset(each, mask, after)["observation"] for each, after in ((env, one), (other, two))]
            assert torch.equal(*again)
        assert torch.equal(one["observation"], two["observation"]) and torch.equal(one["done"], two["done"])


def test_a_state_in_the_tensordict_is_saved_too():
    class Saved(Forgetful):
        def get_state(self):
            return {}

        def set_state(self, state):
            pass

    env, other = (TorchRLEnv([Saved()], "saved") for _ in range(2))
    env.reset(), other.reset()
    other.set_state(env.get_state())
    assert torch.equal(step(env)["observation"], step(other)["observation"])


def test_why_there_is_no_state():
    env = make_env(TASK, 2)
    env.reset()
    assert env.get_state() is None and env.stateless == "Pendulums has no get_state() and set_state(state)"


# --- on a device ---------------------------------------------------------------------------------------


class Copies(TorchDispatchMode):
    """Notes how many numbers each operation brings from the foreign device to the CPU."""

    def __init__(self):
        super().__init__()
        self.brought: list[int] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        strange = any(isinstance(each, ForeignTensor) for each in args)
        if strange and isinstance(result, torch.Tensor) and not isinstance(result, ForeignTensor):
            self.brought.append(result.numel())
        return result


def test_nothing_but_flags_and_rewards_leaves_the_device(tmp_path):
    """From the environment to the agent, the replay and the updates; rows are 64 wide in every entry."""
    with trained_on_foreign() as device:
        settings = {"task": SAVED, "env": {"num_envs": 64, "kwargs": {"device": "meta"}}}
        settings |= {"seed_steps": 128, "save_every": 10**9, "log_every": 10**9, "place": device}
        run = Training(tmp_path, steps=64 * 12, utd=0.05, **settings)
        assert run.feed.collector.env.device == device
        run.agent.to(device)
        with Copies() as copies:
            for _ in range(4):
                run.feed._collect()
            collected = len(copies.brought)
            run.feed.replay.sample()
        rows = run.feed.replay.buffer.storage.get(slice(None))
        assert {value.device for value in rows.values(True, True)} == {device}
    # A collect brings `is_init`, twice, and reward and done, each once; besides, single flags.
    assert sorted(n for n in copies.brought[:collected] if n > 1) == [64] * 16
    assert len(copies.brought) - collected <= 1


def test_a_training_on_the_device_goes_on_elsewhere(tmp_path):
    settings = {"task": SAVED, "seed_steps": 128, "utd": 0.02, "save_every": 10**9, "batch_size": 4}
    with trained_on_foreign() as device:
        there = {"env": {"num_envs": 64, "kwargs": {"device": "meta"}}, "place": device}
        first = Training(tmp_path / "there", steps=192, **there, **settings).run()
        assert first.feed.updates > 1
    here = Training(
        tmp_path / "here", steps=256, env={"num_envs": 64}, resume=first.checkpoints.last, **settings
    ).run()
    assert here.feed.updates > first.feed.updates


def test_numbers_are_the_same_on_a_device():
    with foreign() as device:
        there = make_env(TASK, 6, kwargs={"device": device})
        there.set_seed(0)
        seen = [there.reset()["observation"].cpu()]
        for _ in range(3):
            action = torch.full((6, 1), 0.5, device=device)
            seen.append(
                there.step(TensorDict({"action": action}, [6], device=device))["next", "observation"].cpu()
            )
    here = make_env(TASK, 6)
    assert torch.equal(here.reset()["observation"], seen[0])
    for expected in seen[1:]:
        assert torch.equal(step(here, torch.full((6, 1), 0.5))["observation"], expected)


# --- training, evaluation ------------------------------------------------------------------------------

TINY = ["task=" + SAVED, "env.num_envs=64", "steps=1280", "algorithm.seed_steps=320", "algorithm.utd=0.1"]
TINY += ["algorithm.batch_size=16", "model=nano", "planner=policy", "evaluation.every=640"]
TINY += ["evaluation.episodes=3", "evaluation.planners=[policy]", "trainer.compile=false"]
TINY += ["tracking=none", "folder=run", "save_every=640"]


def test_a_training_of_64_rows(tmp_path, monkeypatch, capsys):
    assert train(tmp_path, *TINY) == 0
    assert "after 1280 environment steps" in capsys.readouterr().out
    assert train(tmp_path, *TINY[:2], "resume=run/checkpoints/last.ckpt", "steps=1408", "tracking=none") == 0
    capsys.readouterr()
    monkeypatch.chdir(tmp_path)
    words = [TINY[0], "resume=run/checkpoints/last.ckpt", "steps=1600", "env.num_envs=32"]
    assert "collected in 64 environments" in refused("train", words, monkeypatch, capsys)


def test_an_evaluation_plays_as_many_rows_as_were_asked_for():
    agent = Agent(TDMPC2Model(3, 1, mlp_dim=16, latent_dim=16, enc_dim=16), make_planner("policy", 1))
    evaluator = Evaluator(TASK, 3, 0, options={"kwargs": {"num_envs": 8}})
    played = evaluator.play(agent)
    assert evaluator.env.num_envs == 8 and len(played.returns) == 3
    assert played.returns == evaluator.play(agent).returns  # the same starts
    assert all(
        20 <= length <= 24 or ended for length, ended in zip(played.lengths, played.terminated, strict=True)
    )


# --- what is wrong -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("nan", r"environment 7, step 4: observation\[2\] is not finite: nan"),
        ("inf reward", "environment 7, step 4: the reward is not finite: inf"),
        ("shape", r"step 4: entry 'angle' must be \[8, 2\], as its spec declares, got \[8, 4\]"),
        ("raise", r"step 4: ConnectionError: the simulator has gone \(pendulums.py:\d+, in _fail\)"),
    ],
)
def test_faults_in_mid_episode(fault, expected):
    env = make_env(TASK, 8, kwargs={"fault": fault})
    env.reset()
    for _ in range(3):
        step(env)
    with pytest.raises(RunError, match=expected):
        step(env)
    assert env.get_state() is None


def test_an_action_that_is_not_finite():
    env = make_env(TASK, 3)
    env.reset()
    with pytest.raises(RunError, match=r"environment 1, step 1: action\[0\] is not finite"):
        step(env, torch.tensor([[0.0], [math.nan], [0.0]]))


def test_a_reset_that_ignores_its_mask():
    env = make_env(TASK, 4, kwargs={"mask": False})
    env.reset()
    reset(env, torch.ones(4, 1, dtype=torch.bool), step(env))  # all of them: that it can
    with pytest.raises(RunError, match="rows end apart, and reset\\(\\) restarts all of them"):
        reset(env, torch.arange(4).unsqueeze(-1) == 0, step(env))
    alone = make_env(TASK, 4, kwargs={"mask": False, "num_envs": 1})
    alone.reset()
    after = step(alone)
    assert torch.equal(
        reset(alone, torch.arange(4).unsqueeze(-1) == 0, after)["observation"][1:], after["observation"][1:]
    )


class Discrete(Pendulums):
    def __init__(self):
        super().__init__(2)
        self.action_spec = Categorical(3, shape=(2, 1))


def hands_on(**settings):
    return Unbound(**settings)


class Unbound(Pendulums):
    def __init__(self):
        super().__init__(2)
        self.action_spec = Unbounded((2, 1))


class Sees(Pendulums):
    def __init__(self):
        super().__init__(2)
        pixels = Bounded(0, 255, (2, 8, 8, 3), dtype=torch.uint8)
        self.observation_spec = Composite(pixels=pixels, shape=[2])

    def _answer(self, *ends):
        return super()._answer(*ends).exclude("angle", "speed").set("pixels", torch.zeros(2, 8, 8, 3).byte())


class Undeclared(Pendulums):
    def _answer(self, *ends):
        return super()._answer(*ends).set("more", self.theta)


class Deaf(Pendulums):
    def __init__(self):
        super().__init__(8, mask=False)


def no_license():
    raise OSError("no license")


def missing():
    import a_simulator_that_is_not_here  # noqa: F401


def nothing():
    return torch.nn.Linear(1, 1)


@pytest.mark.parametrize(
    ("factory", "options", "error", "expected"),
    [
        ("Discrete", {}, UsageError, "discrete actions, Categorical, are not supported"),
        ("Unbound", {}, UsageError, "action bounds must be finite; env.action_bound=1 sets"),
        ("Sees", {}, UsageError, "entry 'pixels' is a picture"),
        ("Undeclared", {}, UsageError, r"its specs do not hold \(check_env_specs\): The keys"),
        ("no_license", {}, ForeignError, "cannot be made: OSError: no license"),
        ("missing", {}, UsageError, "cannot be made: No module named 'a_simulator_that_is_not_here'"),
        ("nothing", {}, UsageError, "gave a Linear; expected a TorchRL environment"),
        (
            "Unbound",
            {"kwargs": {"color": 1}},
            UsageError,
            r"got an unexpected keyword argument 'color' \(env.kw",
        ),
        (
            "hands_on",
            {"kwargs": {"color": 1}},
            UsageError,
            r"got an unexpected keyword argument 'color' \(env.kw",
        ),
        ("Pendulums", {"kwargs": {"fault": "done"}}, UsageError, "specs do not hold"),
        ("Pendulums", {"action_repeat": 2}, UsageError, "takes no env.action_repeat"),
        ("Pendulums", {"obs": "pixels"}, UsageError, "numbers are learned from: env.obs=state"),
        ("Nope", {}, UsageError, "unknown TorchRL environment"),
    ],
)
def test_what_is_refused(factory, options, error, expected):
    with pytest.raises(error, match=expected) as raised:
        make_env(f"torchrl:{__name__}:{factory}", 2, **options)
    assert "\n" not in str(raised.value)


def test_a_module_that_is_not_there():
    with pytest.raises(UsageError, match=r"cannot be imported.*must be installed or on PYTHONPATH"):
        make_env("torchrl:nowhere_to_be_found:make")


def test_bounds_that_are_set():
    env = make_env(f"torchrl:{__name__}:Unbound", 2, action_bound=0.5)
    env.reset()
    fast = step(env, torch.ones(2, 1))["observation"]
    assert torch.allclose(env._high, torch.full((2, 1), 0.5)) and fast.isfinite().all()


def test_no_time_limit_is_said():
    def endless(num_envs):
        made = Pendulums(num_envs)
        del made.max_episode_steps
        return made

    with pytest.MonkeyPatch.context() as patch, pytest.warns(UserWarning, match="cut off after 1000 steps"):
        patch.setattr(pendulums, "endless", endless, raising=False)
        make_env("torchrl:pendulums:endless", 2)


def test_names_that_packages_offer(monkeypatch):
    monkeypatch.setitem(torchrl.FACTORIES._things, "spinners", SavedPendulums)
    assert make_env("torchrl:spinners", 3).num_envs == 3
    assert "torchrl:spinners" in torchrl.list_tasks()


def test_a_file_alone_has_no_factory_called(monkeypatch):
    with pytest.raises(UsageError, match=f"add task={TASK}"):
        check_task(TASK, "checkpoint x")
    check_task(TASK, "checkpoint x", [TASK])


def test_check_env(monkeypatch):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fine, broken = examine(TASK, 30), examine(f"torchrl:{__name__}:Undeclared", 30)
        deaf = examine(f"torchrl:{__name__}:Deaf", 30)
    assert not fine.errors and fine.facts[:4] == ["2 rows", "3 observations", "1 action", "on cpu"]
    (warning,) = fine.warnings
    assert "Pendulums" in warning and "get_state()" in warning and "set_state(state)" in warning
    assert len(broken.errors) == 1 and "check_env_specs" in broken.errors[0]
    assert deaf.warnings[0].startswith("reset() restarts all rows") and "rows end apart" in deaf.errors[0]
    assert not examine(SAVED, 30).warnings


@pytest.mark.slow
def test_playground(tmp_path):
    """MuJoCo Playground on the CPU, by TorchRL's wrapper; it has an environment of its own (docs)."""
    pytest.importorskip("mujoco_playground")
    task = ["task=torchrl:torchrl.envs:MujocoPlaygroundEnv", "env.kwargs.env_name=CartpoleBalance"]
    task += ["env.kwargs.batch_size=[8]", "env.kwargs.device=cpu", "env.max_episode_steps=40"]
    more = ["steps=1600", "algorithm.seed_steps=320", "algorithm.episodic=false", "evaluation.episodes=2"]
    assert train(tmp_path, *TINY, *task, "env.num_envs=1", *more) == 0
    logged = (tmp_path / "run/metrics.jsonl").read_text()
    assert "loss/consistency" in logged and "final/policy" in logged
