"""Pages of the site that are made of other files: see mkdocs.yml.

README.md, CONTRIBUTING.md and CHANGELOG.md lie in the root, where readers of the repository look for them;
notebooks become pages with what they printed and drew; each room of the package gets a page of docstrings.
"""

import ast
import base64
import json
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "dreammpc"
FROM_ROOT = {"index.md": "README.md", "contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}
PAGES = {source: page for page, source in FROM_ROOT.items()}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """The pages of the reference, in the order of the package's folders."""
    for section in config.nav or []:
        if "Reference" in section:
            section["Reference"] = [{title: page} for page, (title, _) in reference().items()]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what is generated."""
    pages: dict[str, str | bytes] = {page: from_root(source) for page, source in FROM_ROOT.items()}
    pages |= {page: text for page, (_, text) in reference().items()}
    for path in sorted((ROOT / "docs/notebooks").glob("*.ipynb")):
        pages |= from_notebook(path)
    for page, content in pages.items():
        files.append(File.generated(config, page, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """A link whose text is the name of a page shows the page's title."""
    return re.sub(r"\[[\w./]+\.md\]\(((?:\.\./)?)(\w+\.md)(#[\w-]+)?\)", titled, markdown)


def titled(link: re.Match[str]) -> str:
    """The link with the first heading of its page."""
    up, name, anchor = link.groups(default="")
    path = ROOT / FROM_ROOT.get(name, f"docs/{name}")
    found = re.search(r"^# (.+)$", path.read_text(encoding="utf-8"), re.M) if path.is_file() else None
    return f"[{found[1] if found else name}]({up}{name}{anchor})"


def from_root(name: str) -> str:
    """A file of the root with links as they are from docs/; what is no page of the site has no link."""
    text = (ROOT / name).read_text(encoding="utf-8")
    text = text.replace("](docs/", "](")
    for source, page in PAGES.items():
        text = text.replace(f"]({source}", f"]({page}")
    return re.sub(r"(?<!!)\[([^]]+)\]\((?:LICENSE|CITATION\.cff|\.ci/run)\)", r"\1", text)


def from_notebook(path: Path) -> dict[str, str | bytes]:
    """A notebook as a page, its pictures beside it."""
    name, parts = f"notebooks/{path.stem}", list[str]()
    files: dict[str, str | bytes] = {}
    for number, cell in enumerate(json.loads(path.read_text(encoding="utf-8"))["cells"]):
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        for output in cell["outputs"]:
            data: dict[str, Any] = output.get("data", {})
            if "image/png" in data:
                picture = f"{name}-{number}.png"
                files[picture] = base64.b64decode(data["image/png"])
                parts.append(f"![{data['text/plain'][0]}]({path.stem}-{number}.png)")
            else:
                text = "".join(output.get("text", data.get("text/plain", "")))
                parts.append(f"```text\n{text.rstrip()}\n```")
    parts.append(f"*This page is the notebook `docs/{name}.ipynb`.*")
    return {f"{name}.md": "\n\n".join(parts) + "\n", **files}


def reference() -> dict[str, tuple[str, str]]:
    """Title and text by page: one of the public names, one of the root's modules, one for each folder."""
    pages = {"reference/index.md": ("Public names", public_names())}
    modules = [path for path in sorted(PACKAGE.glob("*.py")) if not path.stem.startswith("_")]
    pages["reference/root.md"] = ("interfaces, agent", page_of("interfaces, agent", modules))
    for folder in sorted(path.parent for path in PACKAGE.glob("*/__init__.py")):
        page = page_of(folder.name, [folder / "__init__.py", *modules_of(folder)])
        pages[f"reference/{folder.name}.md"] = (folder.name, page)
    return pages


def modules_of(folder: Path) -> list[Path]:
    """Its modules and those below, without packages' own."""
    return [path for path in sorted(folder.rglob("*.py")) if path.stem != "__init__"]


def page_of(title: str, paths: list[Path]) -> str:
    """The docstrings of modules. Of a package only its own: what it hands out stands where it is made."""
    parts = [f"# {title}"]
    for path in paths:
        package = path.stem == "__init__"
        options = "\n    options:\n      members: false" if package else ""
        parts.append(f"::: {dotted(path)}{options}")
        if package and (names := exported(path)):
            parts.append("It hands out " + ", ".join(names) + ".")
    return "\n\n".join(parts) + "\n"


def dotted(path: Path) -> str:
    return ".".join(part for part in path.relative_to(ROOT).with_suffix("").parts if part != "__init__")


def exported(path: Path) -> list[str]:
    """Links to what a package imports from its modules, by name."""
    found = {alias.name: source for alias, source in imports(path)}
    return [f"[`{name}`][{where_made(source, name)}]" for name, source in sorted(found.items(), key=str)]


def imports(path: Path) -> list[tuple[ast.alias, str]]:
    """Names that a module imports from modules of ours, and from which."""
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    return [
        (alias, node.module)
        for node in nodes
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dreammpc.") and node.module
        for alias in node.names
    ]


def where_made(module: str, name: str) -> str:
    """The dotted name under which the reference has it: imports are followed to where it is defined."""
    base = ROOT.joinpath(*module.split("."))
    path = base / "__init__.py" if base.is_dir() else base.with_suffix(".py")
    for alias, source in imports(path):
        if (alias.asname or alias.name) == name and source != module:  # else a module of the package
            return where_made(source, alias.name)
    return f"{module}.{name}"


def public_names() -> str:
    """What `import dreammpc` offers, from the imports that its type checker sees."""
    names = [
        (alias.name, where_made(source, alias.name)) for alias, source in imports(PACKAGE / "__init__.py")
    ]
    rows = [
        f"- [`dreammpc.{name}`][{made}]" for name, made in sorted(names, key=lambda pair: pair[0].lower())
    ]
    return f"""# Public names

What `import dreammpc` hands out; each is imported when it is asked for.

{chr(10).join(rows)}

The other pages hold the docstrings, room by room ([architecture](../architecture.md)).
"""
