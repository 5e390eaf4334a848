"""Whether `dreammpc verify` would notice other random numbers: exported files played with a wrong seed.

python benchmarks/export_table.py -o exports --formats pt2
python benchmarks/wrong_seed.py exports/*.pt2
"""

import argparse
from dataclasses import replace
from pathlib import Path

from dreammpc.deploy import check
from dreammpc.deploy.exported import ExportedAgent

STEPS = 40


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="+", help="of `dreammpc export`")
    names = parser.parse_args().files
    print("| file | equal steps | or as good | noticed |\n|---|---:|---:|---|")
    for name in names:
        file = ExportedAgent(name)
        record = check.Record.of(file.description["record"])
        found = check.compare(
            file,
            replace(
                record,
                seed=record.seed + 1,
                observations={key: seen[:STEPS] for key, seen in record.observations.items()},
                actions=record.actions[:STEPS],
                values=record.values[:STEPS],
            ),
        )
        noticed = "no" if found.passed else "yes"
        print(f"| {Path(name).stem} | {100 * found.equal:.0f} % | {100 * found.as_good:.0f} % | {noticed} |")


if __name__ == "__main__":
    main()
