"""Does a long training stay flat? Memory, open files and processes of a command and all its children.

    python benchmarks/soak.py --minutes 60 -- lightning run train steps=100000000 algorithm.capacity=20000

samples from /proc (Linux), ends the command with SIGTERM and fits a line through what came after the warm-up.
The replay takes its memory as it fills: choose a capacity that is full before the warm-up is over, or the
slope is the replay's. Of pages that processes share, each process's sum counts its own (resident set size).
"""

import argparse
import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

COLUMNS = ("seconds", "rss_mb", "open_files", "processes", "threads")
PAGE = os.sysconf("SC_PAGE_SIZE")


def tree(pid: int) -> list[int]:
    """A process and all that came of it and are alive."""
    found, waiting = [], [pid]
    while waiting:
        pid = waiting.pop()
        try:
            for children in Path(f"/proc/{pid}/task").glob("*/children"):
                waiting += map(int, children.read_text().split())
            found.append(pid)
        except OSError:
            continue
    return found


def sample(root: int) -> tuple[float, int, int, int]:
    """Resident megabytes, open files, processes and threads of the tree under `root`."""
    pages = files = processes = threads = 0
    for pid in tree(root):
        try:
            pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
            files += len(os.listdir(f"/proc/{pid}/fd"))
            threads += len(os.listdir(f"/proc/{pid}/task"))
            processes += 1
        except OSError:
            continue  # ended in between
    return pages * PAGE / 2**20, files, processes, threads


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--every", type=float, default=5.0, help="seconds between samples")
    parser.add_argument("--warm-up", type=float, default=0.3, help="share of the time that is not fitted")
    parser.add_argument("--output", type=Path, help="a CSV file of all samples")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not command:
        parser.error("give a command after --")

    process = subprocess.Popen(command)
    start, rows = time.monotonic(), []
    while time.monotonic() - start < 60 * options.minutes and process.poll() is None:
        time.sleep(options.every)
        rows.append((time.monotonic() - start, *sample(process.pid)))
    early = process.poll()
    process.send_signal(signal.SIGTERM)
    process.wait()

    if options.output:
        with options.output.open("w", newline="") as file:
            csv.writer(file).writerows([COLUMNS, *rows])
    values = np.array([row for row in rows if row[0] > 60 * options.minutes * options.warm_up])
    ended = f"ended early with exit code {early}" if early is not None else f"exit code {process.returncode}"
    print(
        f"\n{' '.join(command)}\n{rows[-1][0] / 60:.1f} min, {len(rows)} samples, {ended}\n"
        if rows
        else ended
    )
    if len(values) < 3:
        return 1
    print("|  | first | last | most | slope per hour |\n| --- | ---: | ---: | ---: | ---: |")
    for index, name in enumerate(COLUMNS[1:], 1):
        column = values[:, index]
        slope = np.polyfit(values[:, 0] / 3600, column, 1)[0]
        print(f"| {name} | {column[0]:.0f} | {column[-1]:.0f} | {column.max():.0f} | {slope:+.1f} |")
    return 0 if early is None else 1


if __name__ == "__main__":
    sys.exit(main())
