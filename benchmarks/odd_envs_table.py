"""What `dreammpc check-env` says of each odd environment of tests/helpers/odd_envs.py, as the docs' table.

python benchmarks/odd_envs_table.py            # rewrites the table of docs/add_an_environment.md
python benchmarks/odd_envs_table.py --all      # prints what it says of every task that is installed
"""

import argparse
import sys
from pathlib import Path

import gymnasium

from dreammpc.envs import list_tasks
from dreammpc.envs.examine import examine

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "add_an_environment.md"
BEGIN, END = "<!-- odd environments: benchmarks/odd_envs_table.py -->\n", "<!-- end -->\n"
STEPS = 301


def rows() -> list[str]:
    """One of each odd environment."""
    sys.path.insert(0, str(ROOT / "tests" / "helpers"))
    import odd_envs

    lines = ["| environment | what `check-env` says |", "|---|---|"]
    kind = ""
    for name, own in odd_envs.ODD.items():
        if own != kind:
            kind = own
            lines.append(f"| **{kind}** | |")
        found = examine(f"gym-odd_envs:{name}-v0", STEPS)
        said = [f"error: {text}" for text in found.errors] + [f"warning: {text}" for text in found.warnings]
        text = "<br>".join(said).replace("|", "\\|") or "nothing wrong"
        lines.append(f"| {name} | {text} |")
    return lines


def everything() -> None:
    """Print what is said of the tasks that are listed, and of all else that Gymnasium has."""
    others = [f"gym-{name}" for name in gymnasium.registry if "/" not in name]
    for task in dict.fromkeys([*list_tasks(), *others]):
        found = examine(task, 60)
        print(task, found.errors or found.warnings or "nothing wrong", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--all", action="store_true", help="print instead")
    if parser.parse_args().all:
        everything()
    else:
        before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
        after = rest.split(END)[1]
        PAGE.write_text(before + BEGIN + "\n".join(rows()) + "\n" + END + after, encoding="utf-8")
