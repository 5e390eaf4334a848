"""Paths, names and other values on a recipe's command line, whatever characters they have."""

import shlex

import pytest

from dreammpc.configuration.command_line import LITERAL, rewrite
from dreammpc.configuration.recipe import compose
from dreammpc.interfaces import UsageError

ODD = [
    "runs/a#b",
    "a b",
    "a,b",
    "it's",
    "x{y}",
    "[a]",
    "a=b",
    "100",
    "true",
    "a(b)",
    "a\\",
    "ü",
    "-x",
    "a'b\"c",
    "'tis/x",
    '"x',
    "'a'b",
    "'a','b'",
    "a\nb",
]


OTHERS = ("output", "video", "record", "tracking.register")
"""Of another recipe, or names that MLflow must take."""


@pytest.mark.parametrize("value", ODD)
def test_a_path_or_a_name_is_taken_as_it_is_typed(value):
    given = [f"{key}={value}" for key in LITERAL if key not in OTHERS]
    config = compose("train", [*given, "replay.storage=memmap"])
    assert [config.folder, config.replay.folder, config.resume] == [value] * 3
    given = config.tracking
    assert [given.uri, given.experiment, given.run_name, given.parent] == [value] * 4
    config = compose("evaluate", ["checkpoint=x", f"output={value}", f"video={value}", f"record={value}"])
    assert [config.output, config.video, config.record] == [value] * 3
    assert compose("sweep", ["tasks=walker-walk", f"folder={value}"]).folder == value


def test_the_algorithm_of_a_checkpoint_is_no_group():
    """Which Hydra would look for, as `train` has one."""
    for value in ("my.package.Algorithm", "bmpc"):
        assert compose("evaluate", ["checkpoint=x", f"algorithm={value}"]).trained_by == value


def test_what_is_quoted_already_or_nothing_stays(value="'a#b'"):
    assert compose("train", [f"folder={value}"]).folder == "a#b"
    assert compose("train", ["folder=null"]).folder is None
    assert compose("train", ["folder=${task}/x#y"]).folder == "cartpole-swingup/x#y"


@pytest.mark.parametrize("value", [value for value in ODD if "," not in value and value != "[a]"])
def test_so_are_checkpoints_one_or_several(value):
    assert compose("evaluate", [f"checkpoint={value}"]).checkpoint == [value]
    assert compose("evaluate", [f"checkpoint={value},b c"]).checkpoint == [value, "b c"]
    assert compose("evaluate", [f"checkpoint=[x,{value}]", "output=y"]).checkpoint == ["x", value]


def test_a_comma_in_quotes_divides_nothing():
    assert compose("evaluate", ["checkpoint='a,b',c#d,\"e,f\""]).checkpoint == ["a,b", "c#d", "e,f"]
    assert rewrite(["-m", "folder=a#b,'c,d',e"], "train") == ["-m", "folder='a#b','c,d',e"]
    assert rewrite(["-m", "folder=choice(a,b)"], "train") == ["-m", "folder=choice(a,b)"]


@pytest.mark.parametrize("word", ["task=a#b", "tracking.kind=a#b", "task='x", "task=a{b", 'tracking.kind="a'])
def test_other_values_say_how_to_quote_them(word):
    with pytest.raises(UsageError, match="quote it, for Hydra and for the shell: ") as caught:
        compose("train", [word])
    (better,) = shlex.split(str(caught.value).partition("the shell: ")[2])
    key, _, value = word.partition("=")
    try:
        config = compose("train", [better])
    except UsageError as error:  # of another kind: the value was read
        assert "tracking.kind must be one of" in str(error) and f"got {value!r}" in str(error)
    else:
        assert getattr(config, key) == value


@pytest.mark.parametrize("value", ["", "''", '""'])
@pytest.mark.parametrize("key", ["folder", "resume", "tracking.uri", "checkpoint"])
def test_a_path_or_a_name_is_not_empty(key, value):
    with pytest.raises(UsageError, match=rf"^{key}= is empty "):
        compose("evaluate" if key == "checkpoint" else "train", [f"{key}={value}"])


def test_a_key_that_cannot_be_one():
    with pytest.raises(UsageError, match="'ta#sk=3' cannot be read; expected key=value"):
        compose("train", ["ta#sk=3"])
