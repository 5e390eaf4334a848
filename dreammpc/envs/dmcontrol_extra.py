"""Eleven further tasks on the control suite's bodies, as TD-MPC2's authors defined them.

Source: Hansen et al., "TD-MPC2", 2024 (arXiv:2310.16828), appendix on tasks. Bodies, observations and time
limits are the suite's own; what differs is the reward, the third link of `reacher-three`, and where the
ball of `cup-spin` starts. All rewards lie in [0, 1] per control step. Heights in meters, speeds in m/s.

Imports dm_control: import this module only when a task is made.
"""

from collections.abc import Callable
from functools import partial
from types import ModuleType
from xml.etree import ElementTree

import numpy as np
from dm_control.rl import control
from dm_control.suite import ball_in_cup, base, cheetah, common, hopper, pendulum, reacher, walker
from dm_control.utils.rewards import tolerance

_INF = float("inf")


class WalkerBackwards(walker.PlanarWalker):
    """Walks or runs backwards: the stand reward times the speed reward, mirrored."""

    def __init__(self, speed: float, random: np.random.RandomState):
        super().__init__(move_speed=0, random=random)  # 0: the suite's reward is the stand reward alone
        self._speed = speed

    def get_reward(self, physics):
        move = tolerance(
            physics.horizontal_velocity(),
            (-_INF, -self._speed),
            self._speed / 2,
            "linear",
            value_at_margin=0.5,
        )
        return super().get_reward(physics) * (5 * move + 1) / 6


class CheetahBackwards(cheetah.Cheetah):
    """Runs backwards, full reward from 8 m/s."""

    def get_reward(self, physics):
        return tolerance(physics.speed(), (-_INF, -8), 8, "linear", value_at_margin=0)


class CheetahOneFoot(cheetah.Cheetah):
    """Runs forward on one pair of legs: `foot` is the one in the air."""

    def __init__(self, foot: str, random: np.random.RandomState):
        super().__init__(random)
        self._foot = foot

    def get_reward(self, physics):
        height = physics.named.data.xpos[[self._foot, "torso"], "z"]
        foot, torso = tolerance(height, (1.2, _INF), 0.6)
        run = tolerance(physics.speed(), (6, _INF), 6, "linear", value_at_margin=0)
        return (3 * foot + 2 * torso) / 5 * (5 * run + 1) / 6


class CheetahJump(cheetah.Cheetah):
    """Lifts torso and both feet while staying where it is."""

    def get_reward(self, physics):
        height = physics.named.data.xpos
        lifted = (height["torso", "z"] + height[["bfoot", "ffoot"], "z"]) / 2
        up = tolerance(lifted, (1.2, _INF), 0.6).mean()
        still = tolerance(physics.speed(), (-0.5, 0.5), 0.5, "linear", value_at_margin=0)
        return (5 * up + still) / 6


class HopperBackwards(hopper.Hopper):
    """Hops backwards, full reward from 1 m/s while the torso is up."""

    def __init__(self, random: np.random.RandomState):
        super().__init__(hopping=True, random=random)

    def get_reward(self, physics):
        hop = tolerance(physics.speed(), (-_INF, -1), 0.5, "linear", value_at_margin=0.5)
        return tolerance(physics.height(), (0.6, 2)) * hop


class CupSpin(ball_in_cup.BallInCup):
    """Swings the ball around the cup, far out and fast; the ball mostly starts inside."""

    def initialize_episode(self, physics):
        anywhere = self.random.uniform() < 0.1
        while True:
            super().initialize_episode(physics)
            if anywhere or physics.in_target():
                return

    def get_reward(self, physics):
        speed = np.linalg.norm(physics.named.data.qvel[["ball_x", "ball_z"]])
        distance = np.linalg.norm(physics.ball_to_target())
        far = tolerance(distance, (0.5, _INF), 0.25, "linear", value_at_margin=0.5)
        fast = tolerance(speed, (6, _INF), 3, "linear", value_at_margin=0.5)
        return (1 - physics.in_target()) * (far + 2 * fast) / 3


class PendulumSpin(pendulum.SwingUp):
    """Spins, full reward from 9 rad/s in either direction."""

    def get_reward(self, physics):
        speed = abs(float(physics.angular_velocity()[0]))
        return tolerance(speed, (9, _INF), 4.5, "linear", value_at_margin=0.5)


def three_link_reacher() -> bytes:
    """MJCF of the suite's reacher with a third link: joints 0.09 m apart, the inner two within 80 degrees."""
    model = ElementTree.fromstring(common.read_model("reacher.xml"))

    def find(path: str) -> ElementTree.Element:
        element = model.find(path)
        assert element is not None, f"the suite's reacher has no {path}"
        return element

    arm, hand, finger = (find(f".//body[@name='{name}']") for name in ("arm", "hand", "finger"))
    link, wrist, motors = find(".//geom[@name='arm']"), find(".//joint[@name='wrist']"), find("actuator")

    forearm = ElementTree.Element("body", name="forearm")
    link.set("fromto", "0 0 0 .09 0 0")
    ElementTree.SubElement(forearm, "geom", {**link.attrib, "name": "forearm"})
    wrist.set("range", "-80 80")
    ElementTree.SubElement(forearm, "joint", {**wrist.attrib, "name": "elbow"})
    motors.insert(1, ElementTree.Element("motor", name="elbow", joint="elbow"))
    for body in (forearm, hand, finger):
        body.set("pos", ".09 0 0")
    arm.remove(hand)
    forearm.append(hand)
    arm.append(forearm)
    return ElementTree.tostring(model)


# Seconds: the time limit of an episode and, where it is not the simulation's own, of a control step.
_TIMES: dict[ModuleType, tuple[float, float | None]] = {
    walker: (25, 0.025),
    cheetah: (10, None),
    hopper: (20, 0.02),
    reacher: (20, None),
    ball_in_cup: (20, 0.02),
    pendulum: (20, None),
}


def _load(
    domain: ModuleType,
    task: Callable[[np.random.RandomState], base.Task],
    random: np.random.RandomState,
    model: Callable[[], bytes] | None = None,
) -> control.Environment:
    xml, assets = (model(), common.ASSETS) if model else domain.get_model_and_assets()
    limit, step = _TIMES[domain]
    physics = domain.Physics.from_xml_string(xml, assets)
    return control.Environment(physics, task(random), time_limit=limit, control_timestep=step)


def _walker(speed: float, random: np.random.RandomState) -> control.Environment:
    return _load(walker, partial(WalkerBackwards, speed), random)


def _cheetah(foot: str, random: np.random.RandomState) -> control.Environment:
    return _load(cheetah, partial(CheetahOneFoot, foot), random)


def _reacher(target: float, random: np.random.RandomState) -> control.Environment:
    return _load(reacher, partial(reacher.Reacher, target), random, three_link_reacher)


#: (domain, task) -> a function of the task's random state that loads it.
TASKS: dict[tuple[str, str], Callable[[np.random.RandomState], control.Environment]] = {
    ("walker", "walk_backwards"): partial(_walker, 1.0),
    ("walker", "run_backwards"): partial(_walker, 8.0),
    ("cheetah", "run_backwards"): partial(_load, cheetah, CheetahBackwards),
    ("cheetah", "run_front"): partial(_cheetah, "bfoot"),
    ("cheetah", "run_back"): partial(_cheetah, "ffoot"),
    ("cheetah", "jump"): partial(_load, cheetah, CheetahJump),
    ("hopper", "hop_backwards"): partial(_load, hopper, HopperBackwards),
    ("reacher", "three_easy"): partial(_reacher, 0.05),
    ("reacher", "three_hard"): partial(_reacher, 0.015),
    ("ball_in_cup", "spin"): partial(_load, ball_in_cup, CupSpin),
    ("pendulum", "spin"): partial(_load, pendulum, PendulumSpin),
}
