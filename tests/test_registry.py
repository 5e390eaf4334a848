"""Things by name: decorator, entry points, dotted paths; their settings; and one line for each mistake."""

import dataclasses
import sys
from typing import Annotated, Literal

import pytest
import torch
from tensordict import TensorDict
from toy_models import random_tdmpc2

from dreammpc.agent import Agent
from dreammpc.cli import parser as cli
from dreammpc.configuration import assembly
from dreammpc.configuration.planners import build_planner, settings_for
from dreammpc.envs import families as envs
from dreammpc.envs import list_tasks, make_env
from dreammpc.interfaces import UsageError
from dreammpc.planning import PLANNERS, Policy, make_planner, register_planner
from dreammpc.plugins.settings import (
    Fraction,
    Positive,
    Seed,
    argument_docs,
    checked_settings,
    one_of,
    plain,
    settings_of,
)
from dreammpc.plugins.settings import check as check_fields

A = 2

MODULE = '''
from dataclasses import dataclass
from dreammpc.planning import Policy


@dataclass(frozen=True)
class Mine(Policy):
    """Mine.

    Args:
        gain: how much of it,
            in volts.
        low, high: bounds.
    """

    gain: float = 1.0
    low: int = 0
    high: int | None = None


@dataclass
class Loose:
    action_dim: int


@dataclass(frozen=True)
class Planless:
    action_dim: int


def function():
    pass
'''


@pytest.fixture(autouse=True)
def own_registries(monkeypatch):
    """What a test registers is gone after it."""
    for registry in (PLANNERS, envs.FAMILIES):
        for name in ("_things", "_loaded"):
            monkeypatch.setattr(registry, name, dict(getattr(registry, name)))
    monkeypatch.setattr(envs, "_DECLARED", dict(envs._DECLARED))


@pytest.fixture
def offer(tmp_path, monkeypatch):
    """offer(package, group, entry points) installs a package's metadata, as pip leaves it."""
    (tmp_path / "mine.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)

    def offer(package: str, **points: str) -> None:
        folder = tmp_path / package / f"{package}-1.0.dist-info"
        folder.mkdir(parents=True)
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        lines = "\n".join(f"{name.replace('__', '-')} = {value}" for name, value in points.items())
        group = "dreammpc.envs" if package == "tasks" else "dreammpc.planners"
        (folder / "entry_points.txt").write_text(f"[{group}]\n{lines}\n")
        monkeypatch.syspath_prepend(tmp_path / package)

    yield offer
    sys.modules.pop("mine", None)


def line(function, *arguments, **settings) -> str:
    """The one line with which a call is refused."""
    with pytest.raises(UsageError) as error:
        function(*arguments, **settings)
    assert "\n" not in str(error.value)
    return str(error.value)


# --- by name --------------------------------------------------------------------------------------------


def test_a_decorated_class_is_known_and_its_name_taken(offer):
    from mine import Mine

    assert register_planner("mine")(Mine) is Mine
    assert make_planner("mine", A, gain=2) == Mine(A, gain=2.0)
    register_planner("mine")(Mine)  # a reloaded module registers again
    refused = line(register_planner("mine"), Policy)
    assert "'mine' is already taken by mine.Mine" in refused and "dreammpc.planning.policy.Policy" in refused
    assert PLANNERS["mine"] is Mine


def test_only_planners_are_registered(offer):
    @dataclasses.dataclass
    class Thawed:
        action_dim: int

    assert "Thawed is not frozen" in line(register_planner("thawed"), Thawed)
    assert "thawed" not in PLANNERS
    assert '@register_planner("faulty")' in line(register_planner, Faulty)


def test_an_entry_point_is_listed_at_once_and_imported_when_chosen(offer):
    offer("one", mine="mine:Mine")
    assert "mine" in PLANNERS and "mine" in list(PLANNERS) and len(PLANNERS) == len(list(PLANNERS))
    assert "mine" not in sys.modules
    make_planner("mppi", A)
    assert "mine" not in sys.modules
    assert type(make_planner("mine", A, high=3)).__name__ == "Mine"
    assert PLANNERS.origin("mine") == "package one 1.0" and PLANNERS.origin("mppi") == "built in"


def test_an_unknown_name_lists_the_names_and_guesses():
    refused = line(make_planner, "dream_mcp", A)
    assert refused.startswith("unknown planner 'dream_mcp'; did you mean dream_mpc? There are: ")
    assert all(name in refused for name in PLANNERS)
    assert line(make_planner, "xyz", A).startswith("unknown planner 'xyz'; there are: ")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (
            "nowhere:Mine",
            "cannot be imported from nowhere:Mine: ModuleNotFoundError: No module named 'nowhere'",
        ),
        (
            "mine:Nobody",
            "cannot be imported from mine:Nobody: AttributeError: module 'mine' has no attribute",
        ),
        ("mine:Loose", "is not a planner: mine.Loose is not frozen"),
        ("mine:Planless", "is not a planner: mine.Planless has no method initial_state"),
        ("mine:function", "is not a planner: mine.function is not a dataclass"),
    ],
)
def test_a_bad_entry_point_is_one_line_and_spoils_no_other(offer, capsys, value, words):
    offer("broken", bad=value)
    offer("good", mine="mine:Mine")
    refused = line(make_planner, "bad", A)
    assert "'bad'" in refused and "package broken 1.0" in refused and words in refused
    assert make_planner("mine", A) and make_planner("mppi", A)
    cli.main(["planners"])
    listed = {text.split()[0]: text for text in capsys.readouterr().out.splitlines() if text}
    assert "unusable: " in listed["bad"] and words in listed["bad"]
    assert listed["mine"].endswith("Mine. [package good 1.0]")


@pytest.mark.parametrize("error", ["RuntimeError", "SystemExit"])
def test_a_module_that_raises_on_import_is_one_line(error, offer, tmp_path):
    (tmp_path / "angry.py").write_text(f"raise {error}('two\\nlines')")
    offer("angry", angry="angry:Any")
    expected = f"cannot be imported from angry:Any: {error}: two lines"
    assert line(make_planner, "angry", A).endswith(expected)
    refused = line(make_planner, "angry.Any", A)
    assert refused == f"planner 'angry.Any' cannot be imported: {error}: two lines"


def test_two_packages_of_one_name_are_both_named(offer):
    offer("one", same="mine:Mine")
    offer("two", same="mine:Planless")
    refused = line(make_planner, "same", A)
    assert "more than one planner is called 'same'" in refused
    assert "mine:Mine (package one 1.0)" in refused and "mine:Planless (package two 1.0)" in refused
    assert make_planner("mine.Mine", A) and make_planner("mppi", A)


def test_a_package_cannot_take_a_built_in_name_silently(offer):
    offer("one", mppi="mine:Mine")
    refused = line(make_planner, "mppi", A)
    assert "dreammpc.planning.mppi.MPPI (built in)" in refused and "mine:Mine (package one 1.0)" in refused


def test_an_entry_point_to_a_decorated_class_is_one_planner(offer, tmp_path):
    decorated = MODULE.replace("@dataclass", '@register_planner("mine")\n@dataclass', 1)
    decorated = f"from dreammpc.planning import register_planner\n{decorated}"
    (tmp_path / "mine.py").write_text(decorated)
    offer("one", mine="mine:Mine")
    assert type(make_planner("mine", A)).__name__ == "Mine"


# --- by dotted path -------------------------------------------------------------------------------------


def test_a_dotted_path(offer):
    planner = make_planner("mine.Mine", A, gain=2)
    assert planner.gain == 2.0 and type(planner.gain) is float
    assert build_planner({"_target_": "mine.Mine", "gain": 2}, A) == planner
    assert PLANNERS.origin("mine.Mine") == "module mine"


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("nowhere.at.All", "No module named 'nowhere'; it must be installed or on PYTHONPATH"),
        ("mine.Mines", "unknown planner 'mine.Mines' in module mine; did you mean Mine?"),
        ("mine.function", "mine.function is not a dataclass"),
    ],
)
def test_a_bad_dotted_path(offer, path, words):
    assert words in line(make_planner, path, A)


def test_a_target_over_the_settings_of_another_planner(offer):
    refused = line(build_planner, {"name": "mppi", "_target_": "mine.Mine"}, A)
    assert "mine.Mine over the settings of mppi" in refused and "planner=mine.Mine" in refused


# --- settings -------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Inner:
    depth: int = 1


@dataclasses.dataclass(frozen=True)
class Everything:
    need: int
    ratio: float = 1.0
    flag: bool = False
    word: str = "a"
    choice: Literal["x", "y"] = "x"
    maybe: int | None = None
    pair: tuple[int, float] = (1, 2.0)
    many: tuple[int, ...] = ()
    names: list[str] = dataclasses.field(default_factory=list)
    inner: Inner = dataclasses.field(default_factory=Inner)
    some: Positive | None = None
    share: Fraction = 0.5
    rule: Annotated[str, one_of("fixed", "line_search")] = "fixed"
    seeds: list[Seed] = dataclasses.field(default_factory=list)
    hidden: int = dataclasses.field(default=3, init=False)


def check(**given):
    return checked_settings("it", settings_of(Everything), {"need": 1, **given})


@pytest.mark.parametrize(
    ("name", "given", "kept"),
    [
        *[("ratio", 3, 3.0), ("flag", True, True), ("word", "b", "b"), ("choice", "y", "y")],
        *[("maybe", None, None), ("maybe", 2, 2), ("pair", [1, 2], (1, 2.0)), ("many", [1, 2, 3], (1, 2, 3))],
        *[("names", ["a"], ["a"]), ("inner", {"_target_": "test_registry.Inner", "depth": 4}, Inner(4))],
    ],
)
def test_values_that_fit(name, given, kept):
    result = check(**{name: given})[name]
    assert result == kept and type(result) is type(kept)


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        *[("need", 1.5, "int"), ("need", True, "int"), ("need", "1", "int"), ("ratio", "big", "float")],
        *[("ratio", True, "float"), ("flag", 1, "bool"), ("word", 3, "str"), ("choice", "z", "Literal")],
        *[
            ("maybe", "x", "int | None"),
            ("pair", [1], "tuple"),
            ("many", [1, "x"], "tuple"),
            ("many", 1, "tuple"),
        ],
        *[("names", "abc", "list"), ("inner", {"depth": 4}, "Inner")],
    ],
)
def test_values_that_do_not_fit(name, given, expected):
    refused = line(check, **{name: given})
    assert refused.startswith(f"it: {name} must be of type ") and expected in refused
    assert f"got {given!r} ({type(given).__name__})" in refused


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("some", 0, "at least 1, got 0"),
        ("some", "x", "of type int | None, got 'x' (str)"),
        ("share", 1.5, "from 0 to 1, got 1.5"),
        ("share", float("nan"), "from 0 to 1, got nan"),
        ("share", True, "of type float, got True (bool)"),
        ("rule", "linesearch", "one of fixed, line_search, got 'linesearch'; did you mean line_search?"),
        ("seeds", [1, -1], "from 0 to 2147483647, got -1"),
    ],
)
def test_values_out_of_their_limits(name, given, expected):
    """Whether a planner is made by name, or the class checks itself."""
    assert line(check, **{name: given}) == f"it: {name} must be {expected}"
    made = Everything(1, **{name: given})
    assert line(check_fields, made, "section.") == f"section.{name} must be {expected}"


def test_limits_are_printed_with_the_settings():
    printed = {setting.name: str(setting) for setting in settings_of(Everything)}
    assert printed["some"] == "some: int | None = None (at least 1)"
    assert printed["rule"] == "rule: str = 'fixed' (one of fixed, line_search)"
    assert printed["need"] == "need: int"


def test_unknown_and_missing_settings():
    assert line(check, rato=1).startswith(
        "it has no setting 'rato'; did you mean ratio? There are: choice, flag, "
    )
    assert "'hidden'" in line(check, hidden=1)
    assert (
        line(checked_settings, "it", settings_of(Everything), {}) == "it needs a value for its setting 'need'"
    )
    assert "test_registry.Inner has no setting 'deep'" in line(
        check, inner={"_target_": "test_registry.Inner", "deep": 1}
    )


def test_what_is_built_can_be_written_down_again():
    written = plain(Everything(1, many=(1, 2)))
    assert written["inner"] == {"_target_": "test_registry.Inner", "depth": 1} and written["many"] == [1, 2]
    assert Everything(**check(**{k: v for k, v in written.items() if k != "_target_"})) == Everything(
        1, many=(1, 2)
    )


def test_docs_of_settings(offer, capsys):
    from mine import Mine

    assert argument_docs(Mine) == {"gain": "how much of it, in volts.", "low": "bounds.", "high": "bounds."}
    offer("one", mine="mine:Mine")
    cli.main(["planners", "mine"])
    assert capsys.readouterr().out == (
        "mine: Mine.\npackage one 1.0: mine.Mine\n\n"
        "gain: float = 1.0\n    how much of it, in volts.\n"
        "low: int = 0\n    bounds.\nhigh: int | None = None\n    bounds.\n"
    )


@pytest.mark.parametrize("name", sorted(PLANNERS))
def test_every_setting_of_every_planner_is_explained(name, capsys):
    from dreammpc.planning.factory import planner_settings

    assert [setting.name for setting in planner_settings(name) if not setting.doc] == []


def test_an_unknown_planner_on_the_command_line_exits_with_2(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["planners", "dream_mcp"])
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith("error: unknown planner 'dream_mcp'; did you mean dream_mpc?")


def test_settings_of_several_planners(offer):
    assert settings_for("mine.Mine", {"gain": 2, "horizon": 1}, ["mine.Mine", "mppi"]) == {"gain": 2}
    refused = line(settings_for, "mppi", {"gian": 1}, ["mine.Mine", "mppi"])
    assert "each of the planners mine.Mine, mppi has no setting 'gian'; did you mean gain?" in refused


# --- bad values, and planners that break their promise --------------------------------------------------


@pytest.mark.parametrize(
    ("name", "setting", "value", "words"),
    [
        ("dream_mpc", "horizon", 0, "horizon must be at least 1, got 0"),
        ("dream_mpc", "num_candidates", 0, "num_candidates must be at least 1, got 0"),
        ("dream_mpc", "step_size", -0.1, "step_size must be at least 0 and finite, got -0.1"),
        ("mppi", "num_samples", 0, "num_samples must be at least"),
    ],
)
def test_bad_values_of_built_in_planners(name, setting, value, words):
    refused = line(build_planner, {"name": name, setting: value}, A)
    assert refused.startswith(f"planner '{name}': ") and words in refused


@dataclasses.dataclass(frozen=True)
class Faulty(Policy):
    """The policy, with one promise broken."""

    fault: str = ""

    def initial_state(self, batch_size, device=None):
        return TensorDict({"count": torch.zeros(batch_size, 1)}, [batch_size])

    def plan(self, imagination, latent, state):
        given = state
        state = state.clone() if self.fault != "mutates" else state
        if self.fault == "adds":
            given["more"] = given["count"].clone()
        state["count"] += 1
        plan = super().plan(imagination, latent, super().initial_state(len(latent)))
        plan = plan._replace(state=state)
        changed = {
            "action": lambda: plan._replace(action=plan.action[0]),
            "wide": lambda: plan._replace(action=plan.action.repeat(1, 2)),
            "mean": lambda: plan._replace(mean=plan.mean[:, 0]),
            "std": lambda: plan._replace(std=plan.std[..., :1]),
            "value": lambda: plan._replace(value=plan.value.unsqueeze(-1)),
            "state": lambda: plan._replace(state=state.exclude("count")),
            "lost": lambda: plan._replace(action=plan.action * torch.nan),
            "grown": lambda: plan._replace(state=state.clone().set("more", state["count"])),
            "tuple": lambda: tuple(plan),
            "far": lambda: plan._replace(action=plan.action + 7),
            "stateless": lambda: plan._replace(state=None),
            "dict": lambda: plan._replace(diagnostics={"objective": plan.value}),
        }
        return changed.get(self.fault, lambda: plan)()


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("action", "action must have the shape [3, 2], got [2]"),
        ("wide", "action must have the shape [3, 2], got [3, 4]"),
        ("mean", "mean must have the shape [3, H, 2], got [3, 2]"),
        ("std", "std must have the shape [3, 1, 2], got [3, 1, 1]"),
        ("value", "value must have the shape [3], got [3, 1]"),
        ("state", "state count must have the shape [3, 1], got NoneType"),
        ("grown", "state has more, which initial_state does not make"),
        ("mutates", "changed the state 'count' that it was given"),
        ("tuple", "must return a Plan, got tuple"),
        ("adds", "added 'more' to the state that it was given; it must return a new one"),
        ("lost", "action must be finite, within [-1, 1], got [[nan, nan]"),
        ("far", "action must be finite, within [-1, 1], got [["),
        ("stateless", "state must be a TensorDict, got NoneType"),
        ("dict", "diagnostics must be a TensorDict, got dict"),
    ],
)
def test_the_first_plan_is_checked(fault, words):
    agent = Agent(random_tdmpc2(A), Faulty(A, fault))
    obs = TensorDict({"observation": torch.randn(3, 5)}, [3])
    refused = line(agent.step, obs, agent.initial_carry(3), torch.zeros(3, 1, dtype=torch.bool))
    assert refused.startswith("planner Faulty") and words in refused


def test_later_plans_are_not_checked_again(monkeypatch):
    agent = Agent(random_tdmpc2(A), Faulty(A))
    checked = []
    monkeypatch.setattr("dreammpc.agent.check_plan", lambda *arguments: checked.append(arguments))
    obs, carry = TensorDict({"observation": torch.randn(3, 5)}, [3]), agent.initial_carry(3)
    for count in (1, 2):
        _, carry = agent.step(obs, carry, torch.zeros(3, 1, dtype=torch.bool))
        assert (carry["plan", "count"] == count).all()
    assert len(checked) == 1


# --- tasks ----------------------------------------------------------------------------------------------

TASK = """
import gymnasium, numpy as np
from gymnasium.spaces import Box
from dreammpc.envs import register_env

class Still(gymnasium.Env):
    observation_space = Box(-1, 1, (1,), np.float32)
    action_space = Box(-1, 1, (1,), np.float32)
    def reset(self, *, seed=None, options=None):
        return np.zeros(1, np.float32), {}

@register_env("still-", tasks=lambda: ["still-one"])
def make(task, *, action_repeat, render):
    return Still()
"""


def test_tasks_of_an_installed_package(offer, tmp_path):
    (tmp_path / "still.py").write_text(TASK)
    offer("tasks", still__="still:make", lost__="nowhere:make")
    assert make_env("still-one").task == "still-one"
    with pytest.warns(UserWarning, match="task prefix 'lost-' of package tasks 1.0 cannot be imported"):
        assert "still-one" in list_tasks()
    assert "package tasks 1.0 cannot be imported" in line(assembly.build_env, "lost-any", 0)
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="unknown task 'still-two': did you mean"):
        make_env("still-two")
    sys.modules.pop("still")
