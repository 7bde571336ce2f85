"""What tests of watching real processes need; where it is missing they are skipped with the reason."""

from __future__ import annotations

import functools
import subprocess
import sys

import pytest

from writewatch.errors import AttachError, KernelUnsupportedError
from writewatch.kernel.probe import capabilities


@functools.cache
def _why_not_attach() -> str:
    for name in ("uffd_wp_async", "ptrace"):
        found = capabilities()[name]
        if not found.works:
            return f"{name} does not work here: {found.detail}"
    from writewatch.tracker.process.api import attach

    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        attach(child.pid).close()
    except (AttachError, KernelUnsupportedError) as error:
        return f"a child cannot be attached to: {error}"
    finally:
        child.kill()
        child.communicate()
    return ""


def needs_attaching() -> None:
    """Skip where no child of ours can be watched."""
    reason = _why_not_attach()
    if reason:
        pytest.skip(reason)


def needs_userfaultfd() -> None:
    """Skip where this process cannot watch itself."""
    found = capabilities()["uffd_wp_async"]
    if not found.works:
        pytest.skip(f"uffd_wp_async does not work here: {found.detail}")
