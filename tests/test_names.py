"""Tasks in names of files and folders: nothing that a system refuses, and old names are still found."""

import pytest

from dreammpc.interfaces import UsageError
from dreammpc.support.names import file_name
from dreammpc.sweeps import grid
from dreammpc.trained import export_agent, library, read_card
from dreammpc.training.checkpoint_format import DESCRIPTION, FORMAT
from dreammpc.training.files import save_atomically

TASK, NAME = "gym-package:Name-v0", "gym-package-Name-v0"


def test_names_of_files():
    assert file_name(TASK) == NAME and file_name("gym-ALE/Pong-v5") == "gym-ALE-Pong-v5"
    assert file_name('a<>:"/\\|?*\n b') == "a-b"
    assert file_name("walker-walk_2.0+x=y@z") == "walker-walk_2.0+x=y@z"


def test_folders_of_a_sweep(tmp_path):
    (new,) = grid(tmp_path, [TASK], [1], [])
    assert new.folder == tmp_path / NAME / "seed1" and new.task == TASK
    (tmp_path / TASK).mkdir()
    (old,) = grid(tmp_path, [TASK], [1], ["mppi"])
    assert old.folder == tmp_path / TASK / "mppi-seed1"
    with pytest.raises(UsageError, match="gym-a:b and gym-a-b would have one folder"):
        grid(tmp_path, ["gym-a:b", "gym-a-b"], [1], [])


def test_agents_are_found_by_their_tasks_name(tmp_path, monkeypatch):
    facts = {
        "format": FORMAT,
        "task": TASK,
        "env_steps": 5,
        "config": {"algorithm": {"name": "tdmpc2"}, "seed": 3},
        "model": {"name": "nano"},
        "overrides": [],
    }
    checkpoint = tmp_path / "run/checkpoints/last.ckpt"
    save_atomically({"state_dict": {}, DESCRIPTION: facts}, checkpoint)
    monkeypatch.setenv("DREAMMPC_AGENTS", str(tmp_path / "agents"))
    path = export_agent(checkpoint, tmp_path / "agents")
    assert path == tmp_path / f"agents/{NAME}/tdmpc2-seed3.ckpt"
    named = export_agent(checkpoint, tmp_path / "agents", name=f"{TASK}/mine")
    assert named == tmp_path / f"agents/{NAME}/mine.ckpt" and read_card(named)["name"] == f"{NAME}/mine"
    for name in (f"{TASK}/mine", f"{NAME}/mine"):
        assert library.find_agent(name) == named == library.locate(name) == library.locate(f"agent:{name}")
    assert library.find_agent(TASK).parent == named.parent == library.locate(TASK).parent
    old = tmp_path / f"agents/{TASK}/old.ckpt"
    old.parent.mkdir()
    old.touch()
    assert library.find_agent(f"{TASK}/old") == old == library.locate(f"{TASK}/old")
