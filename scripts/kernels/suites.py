"""The tests that meet the kernel, run where this program runs, and what came of them.

``python -m scripts.kernels.suites DIRECTORY [PYTEST OPTION ...]`` leaves ``results.json``: what ``observe.py``
saw, and for each suite its counts, what failed, and the reason of each skip. Cases that run on the model are left
out: they are the same on every kernel.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

SUITES = {
    "tests/conformance": ("tests/conformance", "-k", "linux"),
    "tests/tracker": ("tests/tracker", "-k", "not model"),
}

# JUnit's element -> our word. A case without any of these passed.
OUTCOMES = {"failure": "failed", "error": "failed", "skipped": "skipped"}

# A run that was killed, by the kernel or by a time limit, leaves no report.
ENDED_EARLY = {"outcomes": {"failed": 1}, "skipped": {}, "failed": ["the run ended before its report"]}


def main() -> int:
    """Observe, run every suite, write the results; 0 if all of it passed."""
    directory, options = Path(sys.argv[1]), sys.argv[2:]
    observed = directory / "observed.json"
    status = subprocess.run(
        [sys.executable, "-m", "scripts.kernels.observe", observed], check=False
    ).returncode
    results: dict[str, object] = json.loads(observed.read_text()) if not status else {}
    suites: dict[str, object] = {}
    for name, arguments in SUITES.items():
        report = directory / f"{name.replace('/', '-')}.xml"
        status |= run_pytest(arguments, report, options)
        suites[name] = read_report(report) if report.exists() else ENDED_EARLY
    (directory / "results.json").write_text(json.dumps({**results, "suites": suites}, indent=1) + "\n")
    return status


def run_pytest(arguments: tuple[str, ...], report: Path, more: list[str]) -> int:
    """Run one suite with more options for pytest; nothing is cached in the checkout."""
    options = ["-q", "-rfE", "-p", "no:cacheprovider", f"--junit-xml={report}"]
    command = [sys.executable, "-m", "pytest", *options, *arguments, *more]
    return subprocess.run(command, check=False).returncode


def read_report(report: Path) -> dict[str, object]:
    """Counts by outcome, the names of what failed, and how many were skipped for which reason."""
    outcomes: Counter[str] = Counter()
    skipped: Counter[str] = Counter()
    failed: list[str] = []
    for case in ElementTree.parse(report).iter("testcase"):
        outcome = next((OUTCOMES[child.tag] for child in case if child.tag in OUTCOMES), "passed")
        outcomes[outcome] += 1
        if outcome == "skipped":
            skipped[case.find("skipped").get("message", "")] += 1  # type: ignore[union-attr]
        elif outcome != "passed":
            failed.append(f"{case.get('classname')}.{case.get('name')}")
    return {"outcomes": dict(outcomes), "skipped": dict(skipped.most_common()), "failed": sorted(failed)}


if __name__ == "__main__":
    sys.exit(main())
