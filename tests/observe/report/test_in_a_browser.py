"""The page in a real browser: pointing, zooming, keys, and what is left without a script."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.observe.report.browser import Browser
from tests.observe.trace.made_up import HEAP, LIBRARY, PAGE
from writewatch.observe.report.findings import Findings
from writewatch.observe.report.page import page


@pytest.fixture(scope="session")
def file(known: Findings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(page(known), encoding="utf-8")
    return path


@pytest.fixture
def shown(chromium: Browser, file: Path) -> Browser:
    chromium.scripts(True)
    chromium.dark(False)
    chromium.size(1280, 900)
    chromium.open(file)
    chromium.wait_for("document.documentElement.classList.contains('script')")
    return chromium


class Points:
    """Where things are on the canvas: from the weights in the findings, not from the script."""

    def __init__(self, known: Findings, shown: Browser) -> None:
        size = shown.run("const m = document.getElementById('map'); return [m.clientWidth, m.clientHeight]")
        self.left, self.width, self.height = 200, int(size[0]) - 200, int(size[1]) - 26
        self.weights = known.axis.weights()

    def x(self, epoch: float) -> float:
        return self.left + epoch / 20 * self.width

    def y(self, band: int, part: float) -> float:
        below = float(self.weights[:band].sum())
        return (1 - below - float(self.weights[band]) * part) * self.height


@pytest.fixture
def points(known: Findings, shown: Browser) -> Points:
    return Points(known, shown)


def test_all_is_shown_at_first(shown: Browser) -> None:
    assert shown.text("#shown") == "0.0 s to 20.0 s, all addresses"
    assert shown.text("#tip") == ""
    assert shown.text("h1") == "made-up </script><b> (4711)"


def test_pointing_names_mapping_pages_time_and_what_was_written(shown: Browser, points: Points) -> None:
    shown.hover(points.x(4.5), points.y(0, 0.25))
    lines = shown.text("#tip").splitlines()
    assert lines[:2] == ["[heap]", "heap · made-up (4711)"]
    count, _, address = lines[2].partition(" pages from ")
    assert HEAP + 240 * PAGE <= int(address, 16) <= HEAP + 260 * PAGE
    assert lines[3].startswith("4.0 s to 5.0 s · all mappings 2.0 MiB/s")
    assert lines[4] == f"{count} of {count} pages written"


def test_pointing_at_what_was_not_written_says_so(shown: Browser, points: Points) -> None:
    shown.hover(points.x(4.5), points.y(0, 0.75))
    assert shown.text("#tip").splitlines()[-1] == "not written"


def test_the_pixel_of_a_single_page_has_a_colour(shown: Browser, points: Points) -> None:
    script = """const [x, y] = arguments, m = document.getElementById('map');
        return [-2, -1, 0, 1, 2].map(d => [...m.getContext('2d').getImageData(x, y + d, 1, 1).data].join())"""
    at = round(points.y(0, 0.9005))
    with_write = shown.run(script, round(points.x(10.5)), at)
    without = shown.run(script, round(points.x(12.5)), at)
    assert len(set(without)) == 1
    assert len(set(with_write)) > 1


def test_no_line_between_mappings_hides_a_write(shown: Browser, points: Points) -> None:
    script = """const [x, y] = arguments, m = document.getElementById('map');
        return [-1, 0, 1].map(d => [...m.getContext('2d').getImageData(x, y + d, 1, 1).data].join())"""
    edge = int(points.y(1, 0))
    with_write = shown.run(script, round(points.x(15.5)), edge)
    without = shown.run(script, round(points.x(13.5)), edge)
    assert with_write != without
    assert len(set(without)) == 2  # paper, and the line


def test_a_box_is_zoomed_into_down_to_single_pages(shown: Browser, points: Points) -> None:
    shown.drag(points.x(8), points.y(0, 0.95), points.x(13), points.y(0, 0.85))
    assert shown.text("#shown").endswith("[heap]")
    for _ in range(6):
        x, y = points.x(10), page_height(shown, HEAP + 900 * PAGE)
        shown.drag(x - 60, y - 25, x + 60, y + 25)
    shown.hover(points.x(10), page_height(shown, HEAP + 900 * PAGE))
    lines = shown.text("#tip").splitlines()
    assert lines[2] == f"page {HEAP + 900 * PAGE:#x}"
    assert lines[3].startswith("10.")
    assert lines[4] == "written"
    shown.hover(points.x(10), page_height(shown, HEAP + 901 * PAGE))
    lines = shown.text("#tip").splitlines()
    assert lines[2] == f"page {HEAP + 901 * PAGE:#x}"
    assert lines[4] == "not written"


def page_height(shown: Browser, address: int) -> float:
    """The middle of a page of the heap on the canvas, as the view stands."""
    script = "const h = page.heatmap; return h.yOf(h.heightOf(arguments[0] + .5))"
    return float(shown.run(script, (address - HEAP) // PAGE))


def test_the_wheel_scrolls_the_page_until_the_picture_was_clicked(shown: Browser, points: Points) -> None:
    before = shown.text("#shown")
    shown.wheel(points.x(10), points.y(0, 0.5), -200)
    assert shown.text("#shown") == before
    shown.click(points.x(10), points.y(0, 0.5))
    shown.wheel(points.x(10), points.y(0, 0.5), -200)
    now = shown.text("#shown")
    assert now != before
    assert now.startswith("2.2")


def test_keys_move_the_cursor_zoom_pan_and_show_all(shown: Browser) -> None:
    shown.run("document.getElementById('map').focus()")
    shown.keys("Left")
    first = shown.text("#tip")
    shown.keys(*["Right"] * 9)
    assert first != shown.text("#tip")
    shown.keys("+")
    zoomed = shown.text("#shown")
    assert zoomed.startswith("5.")
    shown.keys("Shift+Right")
    assert shown.text("#shown") > zoomed
    shown.keys("0")
    assert shown.text("#shown") == "0.0 s to 20.0 s, all addresses"
    shown.keys("Escape")
    assert shown.text("#tip") == ""


def test_buttons_zoom_and_a_mapping_is_shown_from_the_table(shown: Browser) -> None:
    shown.run("document.getElementById('in').click()")
    assert shown.text("#shown").startswith("5.0")
    shown.run("document.getElementById('out').click()")
    assert shown.text("#shown") == "0.0 s to 20.0 s, all addresses"
    shown.run(
        "[...document.querySelectorAll('button[data-band]')].find(b => b.textContent.startsWith('libc')).click()"
    )
    assert shown.text("#shown") == "0.0 s to 20.0 s, libc.so.6 .data"
    box = shown.run("const m = document.getElementById('map'); return [m.clientWidth, m.clientHeight]")
    middle = (box[1] - 26) * (1 - 5.5 / 64)
    shown.hover(200 + (box[0] - 200) / 40, middle)
    assert f"page {LIBRARY + 5 * PAGE:#x}" in shown.text("#tip")
    assert shown.text("#tip").splitlines()[-1] == "written"


def test_true_heights_are_in_proportion_to_pages(shown: Browser) -> None:
    shown.run("document.getElementById('size').click()")
    heights = shown.run("return page.trace.bands.map(band => band.height / band.n)")
    assert heights[0] == pytest.approx(heights[1])
    assert shown.run("return document.getElementById('size').getAttribute('aria-pressed')") == "true"


def test_dark_paper_has_another_ramp(shown: Browser) -> None:
    script = "return [...document.getElementById('map').getContext('2d').getImageData(300, 5, 1, 1).data]"
    light = shown.run(script)
    shown.dark(True)
    shown.wait_for("document.getElementById('map').getContext('2d').getImageData(300, 5, 1, 1).data[0] < 100")
    assert shown.run(script) != light
    shown.run("document.getElementById('theme').click()")
    assert shown.run("return document.documentElement.dataset.theme") == "light"
    assert shown.run(script) == light


def test_nothing_goes_over_the_edge_of_a_telephone(shown: Browser) -> None:
    shown.size(390, 800)
    assert shown.run("return document.documentElement.scrollWidth <= innerWidth")
    assert shown.run("return document.getElementById('map').clientWidth <= innerWidth")


def test_without_a_script_there_is_a_picture_and_the_tables(chromium: Browser, file: Path) -> None:
    chromium.size(1280, 900)
    chromium.scripts(False)
    try:
        chromium.open(file)
        parts = chromium.cdp("Accessibility.getFullAXTree")["nodes"]
    finally:
        chromium.scripts(True)
    names = {part.get("name", {}).get("value") for part in parts if not part["ignored"]}
    assert "Heatmap of writes: time to the right, addresses upwards." in names
    assert {"[heap]", "libc.so.6 .data"} <= names
    assert not any(part.get("role", {}).get("value") == "button" for part in parts if not part["ignored"])


def test_the_page_logs_no_error(shown: Browser, points: Points) -> None:
    shown.hover(points.x(3), points.y(0, 0.5))
    assert [
        entry for entry in shown.ask("POST", "se/log", type="browser") if entry["level"] == "SEVERE"
    ] == []
