"""The documentation: the files, names and pages that it tells of exist. (.ci/run builds it, strictly.)"""

import ast
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
FOLDERS = ("dreammpc", "tests", "docs", "benchmarks", "examples", "recipes", "conf")
FILE = re.compile(
    rf"(?<![\w/.…-])(?:{'|'.join(FOLDERS)})/[\w./+-]*\w\.(?:py|md|yaml|sh|csv|json|png|gif|sbatch|cff|ckpt|toml)\b"
)
DOTTED = re.compile(r"\bdreammpc(?:\.[A-Za-z_]\w*)+")


MODULES = sorted(ROOT.glob("dreammpc/**/*.py"))


def pages_and(pattern: re.Pattern[str]) -> list[tuple[str, str]]:
    """What a pattern finds, with the name of its page."""
    return [
        (str(page.relative_to(ROOT)), found[0])
        for page in PAGES
        for found in pattern.finditer(page.read_text(encoding="utf-8"))
    ]


def exists(name: str) -> bool:
    """Whether a dotted name can be imported, or is an attribute of what can."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for part in parts[end:]:
            if not hasattr(found, part) and part not in getattr(found, "__dataclass_fields__", {}):
                return False
            found = getattr(found, part, None)
        return True
    return False


def test_files_that_pages_name_exist():
    found = pages_and(FILE)
    assert len(found) > 40
    assert not {(page, name) for page, name in found if not (ROOT / name).exists()}


def test_dotted_names_that_pages_name_exist():
    found = pages_and(DOTTED)
    sources = "".join(path.read_text(encoding="utf-8") for path in ROOT.glob("dreammpc/**/*.py"))
    groups = set(re.findall(r'Registry\([^)]*"(dreammpc\.\w+)"\)', sources))  # of entry points
    assert "dreammpc.planners" in groups
    assert len(found) > 20
    assert not {(page, name) for page, name in found if name not in groups and not exists(name)}


def test_modules_and_files_that_docstrings_name_exist():
    """Dotted names of ours and paths anywhere; in a package's own docstring also its list of modules."""
    found = set()
    for module in MODULES:
        text = module.read_text(encoding="utf-8")
        names = [name for name in FILE.findall(text) if not (ROOT / name).exists()]
        if module.name == "__init__.py":
            lines = (ast.get_docstring(ast.parse(text)) or "").splitlines()
            listed = [line for line in lines if line.startswith("- `")]
            parts = [part for line in listed for part in re.findall(r"`(\w+)`", line.partition(":")[0])]
            names += [part for part in parts if not list(module.parent.glob(f"{part}*"))]
        found |= {(str(module.relative_to(ROOT)), name) for name in names}
    assert not found


def test_what_does_not_exist_is_noticed():
    assert exists("dreammpc.interfaces.Plan") and exists("dreammpc.load_agent")
    assert not exists("dreammpc.interfaces.Plans") and not exists("dreammpc.nowhere")
    assert FILE.findall("see `dreammpc/nowhere.py`, tests/a/b.py") == ["dreammpc/nowhere.py", "tests/a/b.py"]
    assert not FILE.findall("/other/docs/x.md and my_docs/x.md")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    """Files here; their headings are looked at where the site is built."""
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists() or (
                page.parent.name == "docs" and target in generated()
            ), target


def generated() -> set[str]:
    """Pages of the site that are made of other files: docs/hooks.py."""
    return {"index.md", "contributing.md", "changelog.md"}


def test_every_page_has_its_place_on_the_site():
    """A strict build says so, too; this is sooner."""
    told = re.findall(
        r"^ +- (?:[^:\n]+: )?([\w/]+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.M
    )
    here = {path.relative_to(ROOT / "docs").as_posix() for path in ROOT.glob("docs/**/*.md")}
    notebooks = {f"notebooks/{path.stem}.md" for path in ROOT.glob("docs/notebooks/*.ipynb")}
    assert len(told) == len(set(told)) and set(told) == here | notebooks | generated()
