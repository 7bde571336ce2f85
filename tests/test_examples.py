"""The demonstration: small, on every kind of kernel that the switch can make of this one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def demonstrate(*arguments: str, hidden: str = "") -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-W",
        "error",
        "examples/embeddings.py",
        "--words",
        "8192",
        "--epochs",
        "3",
        *arguments,
    ]
    environment = {**os.environ, "WRITEWATCH_HIDE": hidden, "OPENBLAS_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("hidden", ["", "pagemap_scan", "userfaultfd,soft_dirty", "pagemap"])
def test_demo_misses_nothing_whatever_the_kernel_lacks(hidden: str) -> None:
    done = demonstrate(hidden=hidden)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"changed but not reported +0 +nothing was missed", done.stdout)


def test_demo_learns() -> None:
    done = demonstrate("--epochs", "8", "--sentences", "1000")
    shares = re.search(r"of frequent words (\d+)% -> (\d+)% are", done.stdout)
    assert shares is not None, done.stdout
    assert int(shares[2]) > 60 > int(shares[1])


def test_demo_with_every_page_counts_what_is_reported_too_much() -> None:
    done = demonstrate("--backend", "every-page")
    assert done.returncode == 0
    assert "100.0% of all pages an epoch" in done.stdout
    assert "pages were reported unseen, as written" in done.stdout


def test_demo_refuses_an_unknown_backend_in_one_sentence() -> None:
    done = demonstrate("--backend", "none")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("embeddings: no backend 'none'; choose auto, uffd-wp,")
    assert done.stderr.count("\n") == 1
