"""Environments that behave as real ones were reported to: `task=gym-odd_envs:NAME-v0`.

`benchmarks/odd_envs_table.py` has `dreammpc check-env` look at each of them.
"""

import time

import gymnasium as gym
import numpy as np
import torch
from gymnasium import wrappers as W
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple

INF = np.inf
ODD: dict[str, str] = {}
"""By id without version, which kind of oddness an environment belongs to, in the order of this file."""
KIND = [""]


def register(name, make, limit=20):
    gym.register(f"{name}-v0", make, max_episode_steps=limit)
    ODD[name] = KIND[0]


class Point(gym.Env):
    """x' = x + 0.1 a, reward -|x|; what is odd is given by arguments, each a function of the environment."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012

    def __init__(self, obs=2, dtype=np.float32, low=-1.0, high=1.0, act=1, act_dtype=np.float32, end=None,
                 space=None, action_space=None, look=None, answer=None, start=None, draw=None, move=None,
                 render_mode=None):  # fmt: skip
        floats = np.issubdtype(dtype, np.floating)
        self.observation_space = space or Box(*((-INF, INF) if floats else (0, 255)), (obs,), dtype)
        low, high = (np.broadcast_to(bound, (act,)).astype(act_dtype) for bound in (low, high))
        self.action_space = action_space or Box(low, high, dtype=act_dtype)
        self.obs, self.dtype, self.end, self.render_mode = obs, dtype, end, render_mode
        self.odd_look, self.odd_answer, self.odd_start = look, answer, start
        self.odd_draw, self.odd_move = draw, move
        self.calls = 0

    def look(self):
        return self.odd_look(self) if self.odd_look else np.full(self.obs, self.x, self.dtype)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x, self.t = self.np_random.uniform(-1, 1), 0
        return self.odd_start(self) if self.odd_start else (self.look(), {})

    def step(self, action):
        self.t += 1
        self.calls += 1
        force = self.odd_move(self, action) if self.odd_move else np.asarray(action).ravel()[0]
        self.x = float(np.clip(self.x + 0.1 * float(np.asarray(force).ravel()[0]), -2, 2))
        answer = self.look(), -abs(self.x), self.t == self.end, False, {}
        return self.odd_answer(self, *answer) if self.odd_answer else answer

    def render(self):
        return self.odd_draw(self) if self.odd_draw else np.full((64, 64, 3), 128, np.uint8)


def point(name, limit=20, cls=Point, **odd):
    register(name, lambda **more: cls(**odd, **more), limit)


def fail(error):
    raise error


KIND[0] = "actions"
point("Asym", low=[0, -3.5, 5], high=[5, 0.5, 5.5], act=3)
point("Unit")
point("OneSided", low=0, high=INF)
point("Infinite", low=-INF, high=INF)
point("Fixed", low=[-1, 0.3], high=[1, 0.3], act=2)
point("AllFixed", low=[0.3, 0], high=[0.3, 0], act=2)
point("Wide", low=-1e30, high=1e30, act_dtype=np.float64)
point("Act64", act=64, obs=1)
point("Act64f", act=64, obs=100, act_dtype=np.float64)
WHOLE = Box(0, 10, (1,), np.int64)
point("IntBox", action_space=WHOLE, move=lambda s, a: np.arange(11)[a[0]] / 5 - 1)  # IndexError with a float
point("IntBoxSilent", action_space=WHOLE, move=lambda s, a: a / 5 - 1)
point("IntBoxHuge", action_space=Box(0, 2**62, (1,), np.int64))


def in_place(s, action):
    action *= 0.25
    np.clip(action, -0.2, 0.2, out=action)
    return action


point("InPlace", move=in_place)
point("InPlaceAsym", low=-2, high=2, move=in_place)

KIND[0] = "spaces"
for name, space in {
    "Discrete": Discrete(4),
    "MultiDiscrete": MultiDiscrete([3, 4]),
    "MultiBinary": MultiBinary(4),
    "Matrix": Box(-1, 1, (2, 2)),
    "ScalarAct": Box(-1, 1, ()),
    "NoAct": Box(-1, 1, (0,)),
    "DictAct": Dict({"arm": Box(-1, 1, (2,))}),
}.items():
    point(name, action_space=space)
goal = Dict(
    {"observation": Box(-1, 1, (3,)), "desired_goal": Box(-1, 1, (2,)), "achieved_goal": Box(-1, 1, (2,))}
)
point("Goal", space=goal)
point("Nested", space=Tuple((Box(-1, 1, (3,)), Dict({"a": Discrete(3)}))))
point("Image", space=Box(0, 255, (65, 33, 3), np.uint8))
point("Stack", space=Box(-1, 1, (4, 3)))
point("ScalarObs", space=Box(-1, 1, ()))
point("NoObs", space=Box(-1, 1, (0,)))

KIND[0] = "observations"
BUFFER = np.zeros(2, np.float32)


def same_array(s):
    BUFFER[:] = s.x
    return BUFFER


point("Obs1", obs=1)
point("ObsInt", obs=5, dtype=np.int64)
point("ObsU8", obs=128, dtype=np.uint8)
point("ObsF64", obs=5, dtype=np.float64)
point("SameArray", look=same_array)
point("Huge", look=lambda s: np.array([s.x * 1e9, s.x * 1e-9, 1e30]), obs=3, dtype=np.float64)
point("Overflow", look=lambda s: np.array([s.x, 1e300]), dtype=np.float64)
point("NanLater", look=lambda s: np.array([s.x, np.nan if s.t == 13 else 0.0]))
point("InfReset", look=lambda s: np.array([s.x, np.inf]))
point("ListObs", look=lambda s: [s.x, 0.5])
point("TorchObs", look=lambda s: torch.tensor([s.x, 0.5]))
point("TorchHalf", look=lambda s: torch.tensor([s.x, 0.5], dtype=torch.bfloat16))
point("RowObs", look=lambda s: np.full((1, 2), s.x))
point("ScalarForVector", look=lambda s: s.x)
point("ShortObs", look=lambda s: np.full(1, s.x), obs=4)
point("NoneObs", look=lambda s: None)
point("TextObs", look=lambda s: ["a", "b"])
point("OutOfBounds", look=lambda s: np.array([3.0, s.x]), space=Box(-1, 1, (2,), np.float64))

KIND[0] = "answers"


def answered(name, answer, limit=20, **odd):
    """`answer(s, o, r, i)` gives what `step` returns."""
    point(name, limit, answer=lambda s, o, r, te, tr, i: answer(s, o, r), **odd)


for name, reward in {
    "RewardArray": lambda s, r: np.array([r]),
    "RewardArray0": lambda s, r: np.array(r),
    "RewardInt": lambda s, r: 1,
    "RewardNpInt": lambda s, r: np.int32(2),
    "RewardBool": lambda s, r: True,
    "RewardTorch": lambda s, r: torch.tensor([r]),
    "RewardNone": lambda s, r: None,
    "RewardText": lambda s, r: "1.0",
    "RewardPair": lambda s, r: np.array([r, r]),
    "RewardInf": lambda s, r: -np.inf if s.t == 12 else r,
    "RewardConst": lambda s, r: 1.0,
    "RewardZero": lambda s, r: 0.0,
    "RewardBig": lambda s, r: 1e12 * r,
    "RewardMax": lambda s, r: 3e38,
    "RewardOver": lambda s, r: 1e39,
}.items():
    answered(name, lambda s, o, r, reward=reward: (o, reward(s, r), False, False, {}))
for name, flags in {
    "FlagsNp": lambda s: (np.bool_(s.t == 7), np.bool_(False)),
    "FlagsInt": lambda s: (int(s.t == 7), 0),
    "FlagsArr": lambda s: (np.array([s.t == 7]), np.array([False])),
    "FlagsTorch": lambda s: (torch.tensor([s.t == 7]), torch.tensor([False])),
    "FlagsNone": lambda s: (None, None),
    "FlagsText": lambda s: ("", ""),
    "BothFlags": lambda s: (s.t == 6, s.t == 6),
}.items():
    answered(name, lambda s, o, r, flags=flags: (o, r, *flags(s), {}))
for name, info in {
    "SuccessNone": lambda s: {"success": None},
    "SuccessBool": lambda s: {"success": bool(s.x > 0)},
    "SuccessArr": lambda s: {"success": np.array([s.x > 0])},
    "SuccessTorch": lambda s: {"success": torch.tensor([s.x > 0])},
    "SuccessText": lambda s: {"success": "yes"},
    "SuccessDict": lambda s: {"success": {"lift": True, "place": False}},
    "SuccessPercent": lambda s: {"success": 100.0},
    "InfoKeys": lambda s: {1: 2, ("a",): 3},
    "InfoNone": lambda s: None,
}.items():
    answered(name, lambda s, o, r, info=info: (o, r, False, False, info(s)))
answered("OldStep", lambda s, o, r: (o, r, False, {}))
point("OldReset2", start=lambda s: s.look())
PAIR = Dict({"pos": Box(-1, 1, (2,)), "goal": Box(-1, 1, (1,))})
point("OldResetDict", space=PAIR, start=lambda s: {"pos": np.zeros(2), "goal": np.zeros(1)})
point("OldReset3", start=lambda s: s.look(), obs=3)
register(
    "OldResetStats", lambda **more: W.RecordEpisodeStatistics(Point(3, start=lambda s: s.look(), **more))
)
point("ResetNone", start=lambda s: None)
point("ResetInfoNone", start=lambda s: (s.look(), None))


class Scored(Point):
    """Declares a return that is worth a score of 1."""

    def __init__(self, full_return, **odd):
        super().__init__(**odd)
        self.full_return = full_return


for name, value in {"Full": np.float32(20), "FullNone": None, "FullZero": 0.0, "FullText": "20"}.items():
    point(name, cls=Scored, full_return=value)

KIND[0] = "ends"
point("End1", end=1)
point("End2", end=2)
for limit in (1, 2, 3):
    point(f"Limit{limit}", limit)
point("NoLimit", None)
point("NoLimitEnd5", None, end=5)


class OwnLimit(Point):
    """Has a limit of its own, 10, and an error for whoever steps beyond it, as Meta-World."""

    def step(self, action):
        if self.t >= 10:
            raise ValueError("stepped beyond the end")
        return *super().step(action)[:3], self.t >= 10, {"success": float(self.x > 0)}


point("OwnLimit", None, OwnLimit)
point("OwnLimit20", 20, OwnLimit)

KIND[0] = "exceptions"
for name, error, at in (
    ("RaiseValue", ValueError("the episode is over"), 300),
    ("RaiseConn", ConnectionResetError(104, "Connection reset by peer"), 300),
    ("RaiseTimeout", TimeoutError("the simulator does not answer"), 300),
    ("RaiseStop", StopIteration("the log has ended"), 300),
    ("RaiseAssert", AssertionError(), 300),
    ("RaiseEarly", ValueError("no"), 3),
    ("RaiseExit", SystemExit(0), 3),
):
    point(name, move=lambda s, a, error=error, at=at: fail(error) if s.calls == at else a)


def scene(s):
    return fail(RuntimeError("scene cannot be loaded")) if s.calls >= 300 else (s.look(), {})


point("RaiseReset", start=scene)


class RaiseMake(Point):
    def __init__(self, **more):
        fail(RuntimeError("no license"))


class RaiseClose(Point):
    def close(self):
        fail(RuntimeError("closed twice"))


point("RaiseMake", cls=RaiseMake)
point("RaiseClose", cls=RaiseClose)
point("ExitClose", cls=type("ExitClose", (Point,), {"close": lambda s: fail(SystemExit(3))}))

KIND[0] = "states"


class Snapshot:
    def __init__(self, x):
        self.x = x


def stateful(name, get=None, put=None):
    """An environment with `get_state` and `set_state`, each if given."""
    methods = {key: method for key, method in (("get_state", get), ("set_state", put)) if method}
    point(name, cls=type(name, (Point,), methods))


def put(s, x, t=None):
    s.x, s.t = float(x), s.t if t is None else int(t)


stateful("HasState", lambda s: np.array([s.x, s.t]), lambda s, state: put(s, *state))
stateful("HasStateArg", lambda s, name: {"x": s.x}[name])
stateful("HasStateObj", lambda s: Snapshot(s.x), lambda s, state: put(s, state.x))
stateful("HasStateTuple", lambda s: (np.array([s.x]), np.array([0.0])), lambda s, qpos, qvel: put(s, qpos[0]))
stateful(
    "HasStateDict",
    lambda s: {"qpos": np.array([s.x]), "t": s.t},
    lambda s, state: put(s, state["qpos"][0], state["t"]),
)
stateful("HasGetOnly", lambda s: {"x": s.x})
stateful(
    "HasStateNpScalar",
    lambda s: {"x": np.float64(s.x), "t": s.t},
    lambda s, state: put(s, state["x"], state["t"]),
)
stateful("HasStateGood", lambda s: {"x": s.x, "t": s.t}, lambda s, state: put(s, state["x"], state["t"]))
stateful("HasStateRaises", lambda s: fail(OSError("no connection")), lambda s, state: None)
stateful("HasStateStuck", lambda s: {"x": s.x}, lambda s, state: fail(KeyError("y")))
stateful("HasStateForgets", lambda s: {"x": 0.0}, lambda s, state: put(s, state["x"]))

KIND[0] = "pictures"
for name, metadata in {
    "MetaNone": None,
    "NoRenderFps": {"render_modes": ["rgb_array"]},
    "Fps0": {"render_modes": ["rgb_array"], "render_fps": 0},
}.items():
    point(name, cls=type(name, (Point,), {"metadata": metadata}))
for name, (shape, value, dtype) in {
    "PicOdd": ((51, 33, 3), 100, np.uint8),
    "PicBig": ((401, 777, 3), 100, np.uint8),
    "PicGray": ((64, 64), 100, np.uint8),
    "PicGrayOdd": ((51, 33), 100, np.uint8),
    "PicGray1": ((51, 33, 1), 100, np.uint8),
    "PicAlpha": ((51, 33, 4), 100, np.uint8),
    "PicFloat": ((51, 33, 3), 0.4, np.float32),
    "PicFloat64": ((64, 64, 3), 0.4, np.float32),
    "PicFloat255": ((64, 64, 3), 100, np.float32),
    "PicCHW": ((3, 64, 64), 100, np.uint8),
    "PicCHWOdd": ((3, 51, 33), 100, np.uint8),
}.items():
    point(name, draw=lambda s, shape=shape, value=value, dtype=dtype: np.full(shape, value, dtype))
point("PicList", draw=lambda s: [np.full((64, 64, 3), 100, np.uint8)])
point("PicNone", draw=lambda s: None)


def drawn_over(s):
    s.x = 0.0
    return np.full((64, 64, 3), 128, np.uint8)


point("PicMoves", draw=drawn_over)

KIND[0] = "habits"


class Unseeded(Point):
    """Draws its start from a stream that no seed reaches."""

    stream = np.random.default_rng(0)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x = float(self.stream.uniform(-1, 1))
        return self.look(), {}


class NoReset(Point):
    """Goes on from where it was, whatever is reset."""

    def reset(self, *, seed=None, options=None):
        x = getattr(self, "x", None)
        answer = super().reset(seed=seed)
        if x is None:
            return answer
        self.x = x
        return self.look(), {}


def noisy(s, action):
    return action + Unseeded.stream.uniform(-1, 1)


def chatty(s, action):
    print("stepped", s.t)
    return action


def asking(s, action):
    input("go on? ")
    return action


def slow(s):
    time.sleep(SLOW_S)
    return s.look(), {}


SLOW_S = 1.2
point("Unseeded", cls=Unseeded)
point("NoReset", cls=NoReset)
point("Noisy", move=noisy)
point("Chatty", move=chatty)
point("Asking", move=asking)
point("SlowReset", start=slow)
point("SlowStep", look=lambda s: time.sleep(SLOW_S / 4) or np.full(2, s.x))

KIND[0] = "wrappers"


def wrapped(name, wrap, limit=20, **odd):
    register(name, lambda **more: wrap(Point(**odd, **more)), limit)


wrapped("WRecord", lambda e: W.RecordVideo(e, "recorded", disable_logger=True) if e.render_mode else e)
wrapped("WNormObs", W.NormalizeObservation)
wrapped("WNormRew", W.NormalizeReward)
wrapped("WTimeLimit", lambda e: W.TimeLimit(e, 7))
wrapped("WFrameStack", lambda e: W.FrameStackObservation(e, 4))
wrapped("WFlatStack", lambda e: W.FlattenObservation(W.FrameStackObservation(e, 4)))
wrapped("WClip", W.ClipAction)
wrapped("WRescale", lambda e: W.RescaleAction(e, -1.0, 1.0), low=-3, high=5)
wrapped("WEpisodeStats", W.RecordEpisodeStatistics)
wrapped("WAutoreset", W.Autoreset)
wrapped("WPassive", W.PassiveEnvChecker)
wrapped("WTransformRew", lambda e: W.TransformReward(e, lambda r: np.float32(r) * 3))


def task(name: str) -> str:
    return f"gym-odd_envs:{name}-v0"


NAMES = """
Asym Unit Fixed Wide Act64 Act64f InPlace InPlaceAsym Obs1 ObsInt ObsU8 ObsF64 SameArray ListObs TorchObs
RowObs OutOfBounds RewardArray RewardArray0 RewardInt RewardNpInt RewardBool RewardTorch RewardConst
RewardZero RewardBig FlagsNp FlagsInt FlagsArr FlagsTorch BothFlags SuccessNone SuccessBool SuccessArr
SuccessTorch InfoKeys Full FullNone End1 End2 Limit1 Limit2 Limit3 OwnLimit OwnLimit20 HasStateGood MetaNone
NoRenderFps Fps0 Chatty WNormObs WNormRew WTimeLimit WFlatStack WRescale WEpisodeStats WPassive
WTransformRew NoLimit NoLimitEnd5 Matrix ScalarAct WFrameStack
"""
FINE = NAMES.split()
"""What is taken as it is."""
ENDED = {
    "IntBoxHuge": "action bounds must be at most 2\\*\\*53",
    "OneSided": "action bounds must be finite",
    "AllFixed": r"actions have one value alone, got Box\(",
    "Infinite": "action bounds must be finite",
    "WClip": "action bounds must be finite",
    "Discrete": r"discrete actions, Discrete\(4\), are not supported; expected a Box",
    "MultiDiscrete": "discrete actions, MultiDiscrete",
    "MultiBinary": "discrete actions, MultiBinary",
    "DictAct": r"action space must be a flat Box \(continuous, 1-D\), got Dict",
    "NoAct": "action space has no entries",
    "NoObs": "observation space has no entries",
    "Goal": "reset before step 1: entry 'achieved_goal' of the observation is missing, got an array",
    "Nested": r"reset before step 1: entry '0' of the observation must be \[3\], got",
    "Stack": r"reset before step 1: the observation must be \[4, 3\], got an array float32 \[2\]",
    "ScalarObs": r"reset before step 1: the observation must be \[\], got an array float32 \[2\]",
    "Image": "the observation space has a picture alone: it needs env.obs=pixels",
    "FullZero": "full_return must be a positive number or None, got 0.0",
    "FullText": "full_return must be a positive number or None, got the text '20'",
    "RaiseMake": r"cannot be made: RuntimeError: no license \(odd_envs.py:\d+, in fail\)",
    "Huge": r"reset before step 1: observation\[2\] is 1e\+30, .* gymnasium.wrappers.TransformObservation",
    "Overflow": r"reset before step 1: observation\[1\] is 1e\+300",
    "NanLater": r"step 13: observation\[1\] is not finite: nan",
    "InfReset": r"reset before step 1: observation\[1\] is not finite: inf",
    "ScalarForVector": r"the observation must be 2 numbers, as its space declares, got [\d.-]+$",
    "ShortObs": r"the observation must be 4 numbers, as its space declares, got an array float64 \[1\]",
    "NoneObs": "the observation must be 2 numbers, got None",
    "TorchHalf": r"the observation must be 2 numbers, got a tensor bfloat16 \[2\]",
    "TextObs": "the observation must be 2 numbers, got a list of 2",
    "OldReset2": r"reset\(\) must return an observation and a dictionary .*, got an array float32 \[2\]",
    "OldResetDict": r"reset\(\) must return an observation and a dictionary .*, got a dict of 2",
    "OldReset3": r"reset\(\) must return an observation and a dictionary .*, got an array float32 \[3\]",
    "ResetNone": r"reset\(\) must return .*, got None",
    "ResetInfoNone": r"reset\(\) must return .*, got an observation and None",
    "OldResetStats": r"reset before step 1: reset\(\) must return .*: too many values to unpack",
    "OldStep": r"step 1: step\(\) must return observation, reward, terminated, truncated and info",
    "RewardNone": "step 1: the reward must be a number, got None",
    "RewardText": "step 1: the reward must be a number, got the text '1.0'",
    "RewardPair": r"step 1: the reward must be a number, got an array float64 \[2\]",
    "RewardInf": "step 12: the reward is not finite: -inf",
    "RewardMax": r"step 1: the reward is 3e\+38",
    "RewardOver": r"step 1: the reward is 1e\+39, .* gymnasium.wrappers.TransformReward",
    "FlagsNone": "step 1: terminated must be True or False, got None",
    "FlagsText": "step 1: terminated must be True or False, got the text ''",
    "InfoNone": "step 1: info must be a dictionary, got None",
    "RaiseExit": r"step 3: SystemExit: 0 \(odd_envs.py:\d+, in fail\)",
    "RaiseEarly": r"step 3: ValueError: no \(odd_envs.py:\d+, in fail\)",
}
"""What is refused or ends a training, and in which words."""
