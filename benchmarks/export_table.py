"""Packaged agents exported in every format: how far their actions are from the agent's, bytes, milliseconds.

    python benchmarks/export_table.py [-o FOLDER] [--agents NAME,…] [--planners NAME,…] [--formats pt2,…]

A row is added to FOLDER/rows.csv as soon as it is known, and a second call goes on where the first stopped.
Every file plays an episode of its agent again, on the same observations with the same seed; milliseconds are
CPU time of one thread, the median of a call. Prints the table as Markdown, then one row a planner and format.
"""

import argparse
import csv
import resource
import time
from pathlib import Path

import torch

from dreammpc.agent import Agent
from dreammpc.cli.deploy_commands import task_env
from dreammpc.configuration.planners import build_planner
from dreammpc.deploy import check
from dreammpc.deploy.export import export
from dreammpc.deploy.formats import ENDINGS, FORMATS
from dreammpc.interfaces import RunError, UsageError
from dreammpc.trained import loading, locate
from dreammpc.trained.library import agent_names

COLUMNS = (
    "agent",
    "planner",
    "format",
    "steps",
    "largest",
    "median",
    "equal",
    "as_good",
    "bytes",
    "ms",
    "agent_ms",
    "made_s",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", default="export_table", type=Path)
    parser.add_argument("--agents", default=",".join(sorted({n.partition("/")[0] for n in agent_names()})))
    parser.add_argument("--planners", default="policy,dream_mpc,mppi")
    parser.add_argument("--formats", default=",".join(FORMATS))
    parser.add_argument("--steps", type=int)
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / "rows.csv"
    rows = list(csv.DictReader(path.open())) if path.exists() else []
    known = {(row["agent"], row["planner"], row["format"]) for row in rows}
    for agent in options.agents.split(","):
        for planner in options.planners.split(","):
            for kind in options.formats.split(","):
                if (agent, planner, kind) in known or (kind == "policy-onnx" and planner != "policy"):
                    continue
                rows.append(row := one(agent, planner, kind, options))
                with path.open("a", newline="") as file:
                    writer = csv.DictWriter(file, COLUMNS)
                    if not file.tell():
                        writer.writeheader()
                    writer.writerow(row)
                print(" ".join(map(str, row.values())), flush=True)
    body = [tuple(str(row[column]) for column in COLUMNS) for row in rows]
    print(check.table(*body, head=COLUMNS))
    print(check.table(*summary(rows), head=HEAD))


HEAD = (
    "planner",
    "format",
    "agents",
    "largest difference",
    "equal steps",
    "or as good",
    "MB",
    "ms",
    "the agent's ms",
    "made in",
)


def summary(rows: list[dict[str, object]]) -> list[tuple[str, ...]]:
    """Smallest to largest over the agents whose file was written, by planner and format."""
    found = []
    for planner, kind in dict.fromkeys((str(row["planner"]), str(row["format"])) for row in rows):
        every = [row for row in rows if (row["planner"], row["format"]) == (planner, kind)]
        made = [row for row in every if row["largest"] != "refused"]
        cells = [f"{len(made)} of {len(every)}"]
        for key, scale, digits, unit in (
            ("largest", 1, ".0e", ""),
            ("equal", 1, ".1f", " %"),
            ("as_good", 1, ".1f", " %"),
            ("bytes", 1e-6, ".1f", ""),
            ("ms", 1, ".2f", ""),
            ("agent_ms", 1, ".1f", ""),
            ("made_s", 1, ".0f", " s"),
        ):
            values = [scale * float(str(row[key]).removesuffix(" %")) for row in made]
            ends = [format(end, digits) for end in (min(values), max(values))] if values else ["-"]
            cells.append("–".join(dict.fromkeys(ends)) + (unit if values else ""))
        found.append((planner, kind, *cells))
    return found


def one(name: str, planner: str, kind: str, options: argparse.Namespace) -> dict[str, object]:
    """Export one agent and measure it."""
    path = locate(name)
    model, facts = loading.load_model(path, "cpu")
    agent = Agent(model, build_planner({"name": planner}, model.action_dim))
    env = task_env(facts, 0)
    about = {"agent": path.stem, "task": facts["task"], "planner": {"name": planner}}
    target = options.output / f"{name}-{planner}-{kind}{ENDINGS[kind]}"
    row: dict[str, object] = dict.fromkeys(COLUMNS, "")
    row |= {"agent": name, "planner": planner, "format": kind}
    began = cpu_s()
    try:
        _, record, found = export(agent, target, kind, about, env, 0, 0, options.steps)
    except (UsageError, RunError) as error:
        print(f"{name} {planner} {kind}: {error}", flush=True)
        return row | {"largest": "refused"}
    finally:
        env.close()
    away = found.differences
    return row | {
        "steps": len(record),
        "largest": f"{away.max():.1e}",
        "median": f"{sorted(away)[len(away) // 2]:.1e}",
        "equal": f"{100 * found.equal:.1f} %",
        "as_good": f"{100 * found.as_good:.1f} %",
        "bytes": target.stat().st_size,
        "ms": f"{found.ms:.2f}",
        "agent_ms": f"{agent_ms(agent, record):.2f}",
        "made_s": f"{cpu_s() - began:.0f}",
    }


def cpu_s() -> float:
    """CPU seconds of this process and of the compilers that it started."""
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(used.ru_utime + used.ru_stime for used in both)


def agent_ms(agent: Agent, record: check.Record) -> float:
    """Median CPU time of the agent itself, milliseconds, over 50 steps."""
    from tensordict import TensorDict

    times, carry = [], agent.initial_carry(1)
    is_init = torch.ones(1, 1, dtype=torch.bool)
    for t in range(min(50, len(record))):
        seen = {name: torch.from_numpy(values[t : t + 1]) for name, values in record.observations.items()}
        began = time.thread_time()
        _, carry = agent.step(TensorDict(seen, [1]), carry, is_init)
        times.append(time.thread_time() - began)
        is_init = torch.zeros_like(is_init)
    return 1e3 * sorted(times)[len(times) // 2]


if __name__ == "__main__":
    main()
