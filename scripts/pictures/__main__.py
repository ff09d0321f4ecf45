"""Makes the pictures of docs/pictures from real runs: those that are older than what they show.

    python scripts/pictures                     # what is stale
    python scripts/pictures report-light.png    # this one in any case
    python scripts/pictures --check             # says what is stale, and changes nothing

The records of the runs are kept in docs/pictures/records, so that most pictures need no run. What needs the model
itself, such as a run's page, carries the runs out below --work, where those that are there already are not repeated:
all of them take about half an hour on one core.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import sources


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[*sources.PICTURES, []], help="those to make; else what is stale")
    parser.add_argument("--work", type=Path, default=Path("outputs/pictures"), help="where the runs lie")
    parser.add_argument("--check", action="store_true", help="say what is stale, and change nothing")
    given = parser.parse_args()
    why = {name: said for name in sources.PICTURES if (said := sources.stale(name))}
    if given.check:
        print("\n".join(why.values()) or "every picture is current")
        return 1 if why else 0
    import architecture
    import drawn
    import pages
    import terminal

    import runs

    if not any(sources.RECORDS.glob("sweep-*.json")):
        runs.folders("sweep", given.work)
    made = {
        **{name: pages.report for name in sources.PICTURES if name.startswith("report-")},
        **{name: pages.run_page for name in sources.PICTURES if name.startswith("run-")},
        "terminal.svg": terminal.sweep,
        "detections.png": drawn.detections,
        "masks.png": drawn.masks,
        "architecture.svg": architecture.flow,
    }
    given.work.mkdir(parents=True, exist_ok=True)
    asked = given.names or list(why)
    for name in asked:
        print(f"{name}: {why.get(name, 'made anew')}", flush=True)
        made[name](name, given.work)
    entries = sources.manifest() | {name: sources.noted(name) for name in asked}
    kept = {name: entries[name] for name in sources.PICTURES if name in entries}
    sources.MANIFEST.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
