"""What it is worth to let measured episodes choose each agent's planner.

    python benchmarks/choose.py ROWS… --among policy dream_mpc dream_mpc_paper mppi --against dream_mpc mppi

Reads rows of `lightning run evaluate`. Of each agent every second start chooses the planner of the highest
mean return, and the other starts say what it returns there; then the other way round, so that each start
counts once and none chooses for itself. Of each agent the starts count that all these planners played; agents
that not all of them played are left out, and named.
Then the IQM over agents of that choice and of each planner alone, and their ratio to each of `--against`,
with 95 % bootstrap intervals for which agents are drawn, whatever their task.
"""

import argparse
import sys

import numpy as np
from agents import by_agent, table

from dreammpc.evaluation.aggregate import iqm, paired_interval
from dreammpc.evaluation.rows import read_rows
from dreammpc.interfaces import UsageError

CHOSEN = "chosen"


def chosen(
    agent: str, played: dict[str, dict[int, float]], among: list[str]
) -> tuple[list[str], dict[str, float]]:
    """The planners that each half of the starts chooses, and mean returns over the starts that all played.

    That of `CHOSEN` is of the starts that did not choose.
    """
    starts = sorted(set.intersection(*(set(played[name]) for name in among)))
    if len(starts) < 2:
        raise UsageError(f"{agent}: expected at least two starts that all played, got {len(starts)}")
    names: list[str] = []
    returns: list[float] = []
    for half in (0, 1):
        seen, rest = starts[half::2], starts[1 - half :: 2]
        names.append(max(among, key=lambda name: np.mean([played[name][start] for start in seen])))
        returns += [played[names[-1]][start] for start in rest]
    means = {name: float(np.mean([played[name][start] for start in starts])) for name in among}
    return names, {CHOSEN: float(np.mean(returns)), **means}


def ratio(scores: np.ndarray, others: np.ndarray) -> str:
    """`1.10 [1.02, 1.30]`: of the IQMs of two methods [n] on the same agents."""
    found = paired_interval([scores], [others], lambda a, b: iqm(a) / iqm(b))
    value = iqm([scores]) / iqm([others])
    return f"{value:.2f} [{found.low:.2f}, {found.high:.2f}]" if found else f"{value:.2f}"


def report(paths: list[str], among: list[str], against: list[str]) -> str:
    lines, scores = [], {name: [] for name in [CHOSEN, *among]}
    left_out, agents = [], by_agent(read_rows(paths))
    for (task, checkpoint), played in agents.items():
        name = f"{task}, {checkpoint.rpartition('/')[2]}"
        if set(among) - set(played):
            left_out.append(name)
            continue
        names, found = chosen(name, played, among)
        for each in found:
            scores[each].append(found[each])
        words = " and ".join(f"`{each}`" for each in dict.fromkeys(names))
        lines.append([name, words, *(f"{found[each]:.1f}" for each in found)])
    if not lines:
        found = sorted({name for played in agents.values() for name in played})
        raise UsageError(f"no agent was played by all of {', '.join(among)}; there are: {', '.join(found)}")
    arrays = {name: np.array(values) for name, values in scores.items()}
    heads = ["agent", "chosen", "return", *(f"`{name}`" for name in among)]
    methods = [
        [name if name == CHOSEN else f"`{name}`", f"{iqm([arrays[name]]):.1f}", f"{arrays[name].mean():.1f}"]
        + [ratio(arrays[name], arrays[other]) for other in against]
        for name in arrays
    ]
    heads2 = ["planner", "IQM", "mean", *(f"IQM over that of `{name}`" for name in against)]
    out = [table(heads, lines, 2), f"{len(lines)} agents:", table(heads2, methods)]
    if left_out:
        out.append(f"Left out, as not all planners played them: {'; '.join(left_out)}.")
    return "\n\n".join(out)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rows", nargs="+", help="CSV or JSON files")
    parser.add_argument("--among", nargs="+", default=["policy", "dream_mpc", "dream_mpc_paper", "mppi"])
    parser.add_argument("--against", nargs="+", default=["mppi"], help="planners of --among")
    args = parser.parse_args()
    try:
        if unknown := sorted(set(args.against) - set(args.among)):
            raise UsageError(f"--against {unknown[0]} is not --among {', '.join(args.among)}")
        if twice := [name for name in args.among if args.among.count(name) > 1]:
            raise UsageError(f"--among names {twice[0]} twice")
        print(report(args.rows, args.among, args.against))
    except (UsageError, OSError) as error:
        sys.exit(f"error: {error}")
