"""The package as it is handed out: its dependencies, and what the wheel holds."""

import ast
import re
import sys
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from dreammpc.trained import library

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LARGEST_WHEEL = 3_000_000
AGENTS = "dreammpc/trained/agents/"


def names(requirements: list[str]) -> set[str]:
    """Of distributions, as indexes normalize them."""
    found = [re.match(r"[\w.-]+", text) for text in requirements]
    return {normalized(match[0]) for match in found if match}


def normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def imported(folder: Path) -> set[str]:
    """Distributions of what the Python files of a folder import, wherever in a file."""
    modules: set[str] = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                modules |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                modules.add(node.module.partition(".")[0])
    known = packages_distributions()
    foreign = modules - set(sys.stdlib_module_names) - {"dreammpc"}
    # Of several distributions with one module (mlflow, mlflow-skinny) it is the one that bears its name.
    owners = {name: [normalized(owner) for owner in known.get(name, [name])] for name in foreign}
    return {name if name in own else own[0] for name, own in owners.items()}


def test_what_is_imported_is_a_dependency_and_nothing_else_is():
    extras = PROJECT["optional-dependencies"]
    optional = names([each for extra, own in extras.items() if extra not in ("dev", "docs") for each in own])
    own = names(PROJECT["dependencies"])
    found = imported(ROOT / "dreammpc") | imported(ROOT / "recipes")
    assert len(found) > 10
    assert not found - own - optional
    assert not own - found


def test_constraints_pin_whatever_is_asked_for():
    """By the base, the tests and the documentation; other extras have environments of their own."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {normalized(line.partition("==")[0]) for line in lines if not line.startswith("#")}
    extras = PROJECT["optional-dependencies"]
    for group in ("dependencies", "dev", "docs", "ray", "metaworld"):
        asked = names(extras.get(group) or PROJECT[group])
        assert not asked - pinned - {"dreammpc"}, group


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from this tree, by hatchling in this process."""
    build = pytest.importorskip("hatchling.build")
    folder = tmp_path_factory.mktemp("wheel")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        yield folder / build.build_wheel(str(folder))


def test_the_wheel_is_small_and_has_what_commands_need(wheel):
    assert wheel.stat().st_size <= LARGEST_WHEEL
    held = set(zipfile.ZipFile(wheel).namelist())
    assert {"dreammpc/py.typed", "dreammpc/conf/train.yaml", "dreammpc/recipes/train.py"} <= held
    assert not {name for name in held if name.endswith(".csv")}


def test_the_wheel_has_the_best_agent_of_each_task(wheel, monkeypatch):
    monkeypatch.delenv("DREAMMPC_AGENTS", raising=False)
    held = {Path(name) for name in zipfile.ZipFile(wheel).namelist() if name.startswith(AGENTS)}
    tasks = {name.partition("/")[0] for name in library.agent_names()}
    best = {library.find_agent(task).relative_to(ROOT) for task in tasks}
    assert len(best) >= 6
    assert held == best | {path.with_suffix(".json") for path in best}
