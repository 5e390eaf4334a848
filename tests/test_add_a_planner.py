"""docs/add_a_planner.md: its files are written, its commands are run, in the order of the page."""

import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from forked import Forked

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs/add_a_planner.md").read_text()
PACKAGE = ROOT / "tests/plugin_package"
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
COMMANDS = [line for language, block in BLOCKS if language == "bash" for line in block.splitlines()]
SHORT = {
    "train": "task=push-home steps=60 algorithm.seed_steps=40 algorithm.batch_size=16 evaluation.every=30"
    " evaluation.episodes=1 evaluation.video=false save_every=60 trainer.compile=false tracking=none",
    "evaluate": "episodes=2",
}


def files() -> dict[str, str]:
    """Name → content of each block that begins with a comment that names a file."""
    found = {}
    for language, block in BLOCKS:
        first, _, rest = block.partition("\n")
        if language in ("python", "toml", "yaml"):
            found[first.removeprefix("# ")] = rest
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where a reader of the page would work, with its files; and a package installed for its tiny task."""
    folder = tmp_path_factory.mktemp("reader")
    for name, content in files().items():
        if not name.startswith("in "):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(content)
    recipe = (ROOT / "recipes/train.py").read_text()
    assert recipe.count("\n@main(") == 1
    (folder / "my_train.py").write_text(recipe.replace("\n@main(", files()["in my_train.py"] + "\n\n@main("))
    shutil.copytree(PACKAGE / "my_planners", folder / "my-planners/my_planners")
    shutil.copyfile(folder / "best_of.py", folder / "my-planners/my_planners/best_of.py")
    # The package of the task does not offer the planner: the page's own commands must make that known.
    shutil.copytree(PACKAGE / "my_planners", folder / "site-tasks/my_planners")
    about = folder / "site-tasks/push_task-0.1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Name: push-task\nVersion: 0.1\n")
    (about / "entry_points.txt").write_text("[dreammpc.envs]\npush- = my_planners.push:make\n")
    return folder


def test_the_page_and_the_package_of_the_tests_are_installed_alike():
    for line in files()["my-planners/pyproject.toml"].splitlines():
        assert line in (PACKAGE / "pyproject.toml").read_text().splitlines()


def test_the_pages_own_test_passes(folder, monkeypatch):
    monkeypatch.syspath_prepend(folder)
    tests = [it for name, it in runpy.run_path(str(folder / "test_best_of.py")).items() if "test_" in name]
    del sys.modules["best_of"]
    assert len(tests) == 1
    tests[0]()


@pytest.mark.parametrize("number", range(len(COMMANDS)), ids=COMMANDS)
def test_command(number, folder):
    words = shlex.split(COMMANDS[number])
    installed, path = folder / "site", [folder / "site-tasks"]
    if words[:2] == ["pip", "install"]:
        pip = [
            "install",
            "--no-index",
            "--no-build-isolation",
            "--no-deps",
            "--disable-pip-version-check",
            "--target",
        ]
        command = [sys.executable, "-m", "pip", *pip, str(installed), words[2]]
        subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=600)
        return
    if installed.is_dir():
        path.insert(0, installed)
    if words[0] == "PYTHONPATH=.":
        path.insert(0, folder)
        words = words[1:]
    program, *rest = words
    assert program in ("dreammpc", "lightning")
    if rest[0] == "run":
        recipe = "evaluate" if rest[1] == "evaluate" else "train"
        place = next((i for i, word in enumerate(rest) if word.startswith("--cfg")), len(rest))
        rest[place:place] = SHORT[recipe].split()
        if recipe == "train" and "folder=" not in COMMANDS[number]:
            rest[place:place] = [f"folder=run{number}", "evaluation.planners=[policy]"]
    done = Forked(*rest, cwd=folder, path=path).wait()
    assert done.returncode == 0, done.stderr
    output = done.stdout
    if rest[:2] == ["run", "evaluate"]:
        names = next(word for word in words if word.startswith("planner=")).partition("=")[2].split(",")
        assert all(re.search(rf"^\| {name} +\|", output, re.MULTILINE) for name in names), output
    elif "--cfg" in rest:
        assert ": best_of.BestOf\n" in output and "gain: 2\n" in output
    elif rest[0] == "run":
        assert "push-home after 60 environment steps" in output
    elif len(rest) > 1:
        assert "gain: float = 1.0\n    scale of the policy's noise in the rollouts.\n" in output
    else:
        assert re.search(
            r"^best_of +The best of several policy rollouts\. \[package my-planners 0\.1\]$", output, re.M
        )
