"""The house rules, read from the source: who may import whom, what loads at import, how long files are."""

import ast
import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest
from forked import run_python

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "dreammpc"

# A room is a folder or a file of dreammpc/, and stands behind all that it may import; a dotted entry allows
# that module alone. docs/architecture.md has the same table.
MAY_IMPORT = {
    "interfaces": [],
    "plugins": ["interfaces"],
    "runtime": ["interfaces", "plugins"],
    "support": ["interfaces"],
    "nn": [],
    "envs": ["interfaces", "plugins", "runtime", "support"],
    "planning": ["interfaces", "plugins", "runtime"],
    "models": ["interfaces", "runtime", "nn"],
    "agent": ["interfaces", "runtime", "planning.imagination"],
    "data": ["interfaces", "runtime", "support"],
    "tracking": ["interfaces", "runtime", "support"],
    "algorithms": ["interfaces", "plugins", "runtime", "nn", "planning", "models", "agent"],
    "evaluation": ["interfaces", "runtime", "support", "envs", "planning", "agent", "data", "tracking"],
    "training": ["interfaces", "runtime", "support", "envs", "agent", "data", "tracking", "evaluation"],
    "sweeps": ["interfaces", "plugins", "runtime", "support", "envs", "tracking", "evaluation"],
    "report": ["interfaces", "runtime", "support", "evaluation"],
}
MAY_IMPORT["configuration"] = [room for room in MAY_IMPORT if room not in ("nn", "report")]
MAY_IMPORT["trained"] = [room for room in MAY_IMPORT if room not in ("nn", "report", "sweeps")]
MAY_IMPORT["deploy"] = ["interfaces", "plugins", "runtime", "support", "planning", "agent"]
MAY_IMPORT["cli"] = [room for room in MAY_IMPORT if room != "nn"]
IN_THE_ROOT = {"__init__", "interfaces", "agent"}
"""Files of dreammpc/ that are in no room: those that a user imports."""


def table() -> str:
    """`MAY_IMPORT` in Markdown."""
    lines = [
        f"| {room} | {', '.join(allowed) or 'nothing of ours'} |" for room, allowed in MAY_IMPORT.items()
    ]
    return "\n".join(["| room | may import |", "|---|---|", *lines])


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports_of(path: Path) -> set[str]:
    """Dotted names of all modules (and of what is taken from them) that a file imports, wherever in it."""
    package = ["dreammpc", *path.relative_to(PACKAGE).parts[:-1]] if path.is_relative_to(PACKAGE) else []
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            found |= {f"{module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and "import_module" in ast.unparse(node.func):
            found |= {arg.value for arg in node.args[:1] if isinstance(arg, ast.Constant)}
    return found


SOURCES = sorted(path for path in PACKAGE.rglob("*.py") if "__pycache__" not in path.parts)
RECIPES = sorted((ROOT / "recipes").glob("*.py"))


def test_every_room_has_its_rule():
    assert {path.stem for path in PACKAGE.glob("*.py")} == IN_THE_ROOT
    assert {room_of(path) for path in SOURCES} == {*MAY_IMPORT, "__init__"}


def test_rooms_stand_in_order():
    """So that no two can import each other, by however many others between them."""
    rooms = list(MAY_IMPORT)
    for place, allowed in enumerate(MAY_IMPORT.values()):
        assert [entry.partition(".")[0] for entry in allowed] == [
            room for room in rooms[:place] if room in {entry.partition(".")[0] for entry in allowed}
        ], rooms[place]


def test_the_page_has_the_same_table():
    assert table() in (ROOT / "docs/architecture.md").read_text(), (
        f"docs/architecture.md should have\n{table()}"
    )


@pytest.mark.parametrize("room", sorted(path.name for path in PACKAGE.glob("[a-z]*/") if path.is_dir()))
def test_the_page_names_every_file(room):
    rows = (ROOT / "docs/architecture.md").read_text().splitlines()
    (row,) = [row for row in rows if row.startswith(f"| `dreammpc/{room}/` |")]
    files = {
        path.relative_to(PACKAGE / room).parts[0].removesuffix(".py")
        for path in SOURCES
        if room_of(path) == room
    }
    unnamed = {name for name in files if not name.startswith("__")} - set(re.findall(r"\w+", row))
    assert not unnamed


@pytest.mark.parametrize("room", sorted(MAY_IMPORT))
def test_who_imports_whom(room):
    wrong = []
    for path in SOURCES:
        if room_of(path) != room:
            continue
        for name in imports_of(path):
            if not name.startswith("dreammpc"):
                continue
            rest = name.removeprefix("dreammpc").removeprefix(".")
            allowed = {room, "__version__", *MAY_IMPORT[room]}
            if not any(rest == entry or rest.startswith(f"{entry}.") for entry in allowed):
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert not wrong


def test_nobody_imports_recipes():
    for path in (*SOURCES, *RECIPES):
        assert not {name for name in imports_of(path) if "recipes" in name.split(".")}, path


def test_the_reader_of_imports_sees_them_all(tmp_path):
    """The rules above would hold for want of anything found; so here is what must be found."""
    path = PACKAGE / "training" / "callbacks.py"
    assert "dreammpc.data.Feed" in imports_of(path)
    assert any(
        name.startswith("dreammpc.tracking") for name in imports_of(PACKAGE / "tracking" / "loggers.py")
    )
    sample = tmp_path / "sample.py"
    sample.write_text(
        "def f():\n    import dreammpc.nn\n    from dreammpc import models\n    import_module('x.y')\n"
    )
    assert imports_of(sample) == {"dreammpc.nn", "dreammpc.models", "x.y"}


def test_no_test_imports_from_another():
    """What several need is in tests/helpers or, as a fixture, in conftest."""
    tests = sorted((ROOT / "tests").rglob("*.py"))
    names = {path.stem for path in tests if path.stem.startswith("test_") or path.stem == "conftest"}
    assert len(names) > 1
    taken = {path.stem: {name for name in imports_of(path) if names & set(name.split("."))} for path in tests}
    assert not {test: found for test, found in taken.items() if found}


def test_who_seeds_every_device():
    """Whoever has a process to itself; for a while there is `seeded_rng`, which spares other devices."""
    for_good = {"trainer", "worker_process", "plant", "served", "deploy_commands"}
    assert {path.stem for path in SOURCES if "torch.manual_seed(" in path.read_text()} == for_good


def test_importing_does_not_load_what_is_heavy():
    code = "import sys, dreammpc, dreammpc.tracking\nprint({'torch', 'mlflow', 'numpy'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.stdout == "set()\n", done.stderr
    done = run_python(
        "import sys\nfrom dreammpc.tracking import JSONLLogger, MLflowTracker, provenance_tags, write_video\n"
        "import dreammpc.planning, dreammpc.training\nprint('torch' in sys.modules, 'mlflow' in sys.modules)"
    )
    assert done.stdout == "True False\n", done.stderr


@pytest.mark.parametrize(("paths", "limit"), [(SOURCES, 300), (RECIPES, 120)], ids=["dreammpc", "recipes"])
def test_length_of_files(paths, limit):
    assert paths
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in paths}
    assert not {name: lines for name, lines in lengths.items() if lines > limit}


def test_planners_are_frozen_and_hold_no_tensors():
    from dreammpc.planning import PLANNERS, make_planner

    for name in PLANNERS:
        planner = make_planner(name, 2)
        with pytest.raises(AttributeError):
            planner.action_dim = 3
        assert hash(planner) == hash(make_planner(name, 2))
        settings = [getattr(planner, field.name) for field in dataclasses.fields(planner)]
        assert all(isinstance(value, int | float | str | bool | tuple) for value in settings)
        assert "tensor(" not in repr(vars(planner)), "nor do the stages that it has made"
