"""A trace whose every written page is known, and a browser that shows its report."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.observe.report.browser import CHROMEDRIVER, CHROMIUM, Browser, browser
from tests.observe.trace.made_up import LIBRARY, PAGE, heap_page, meta, writes
from writewatch.observe.report.findings import Findings
from writewatch.observe.report.survey import survey
from writewatch.observe.trace.reader import open_trace
from writewatch.observe.trace.writer import TraceWriter

N_EPOCHS = 20


def written(epoch: int) -> set[int]:
    """Half of the heap always, one page of its other half in epoch 10, a page of a library in even epochs."""
    pages = {heap_page(n) for n in range(500)}
    if epoch == 10:
        pages.add(heap_page(900))
    if epoch == 15:
        pages.add(LIBRARY // PAGE)  # at the edge between the two mappings
    if epoch % 2 == 0:
        pages.add(LIBRARY // PAGE + 5)
    return pages


@pytest.fixture(scope="session")
def known(tmp_path_factory: pytest.TempPathFactory) -> Findings:
    path = tmp_path_factory.mktemp("report") / "known.trace"
    with TraceWriter(path, meta(target="made-up </script><b> (4711)"), 0) as writer:
        for epoch in range(N_EPOCHS):
            writer.add([writes(epoch, written(epoch), notes=("a <device> may write here",))])
    return survey(open_trace(path))


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    if not CHROMIUM or not CHROMEDRIVER:
        pytest.skip("chromium and chromedriver are not installed: apt-get install chromium chromium-driver")
    with browser() as one:
        yield one
