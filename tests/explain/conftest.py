"""A real browser for the tests of the page: Debian's chromium, driven by playwright."""

import os
import shutil
from dataclasses import dataclass, field

import pytest

from tests.helpers.explained import SENTENCE, make, tokenizer
from vaswani_tx import explain

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ADVICE = "needs a browser and playwright: apt-get install chromium, pip install playwright"
TWO_FRAMES = "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
# .ci/run sets this: there a missing browser is a failure.
REQUIRED = "VASWANI_TX_REQUIRE_BROWSER"
HINT = "() => { const box = document.getElementById('hint'); return box && !box.hidden ? box.innerText : '' }"
# These show every section, a number of the model and hostile text, and stay in `make test`.
SHORT = ("draws_on_a_phone_and_in_the_dark[vaswani]", "hovered_weight_is_the_models[vaswani]", "hostile_text_is_text")


def pytest_collection_modifyitems(items):
    """Mark the tests that open a browser, but for a few."""
    for item in items:
        if "browser" in getattr(item, "fixturenames", ()) and not item.name.endswith(SHORT):
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="session")
def browser():
    """Chromium without a window; the tests are skipped, with what to install, where there is none."""
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        path = None
    if path is None:
        if os.environ.get(REQUIRED):
            pytest.fail(f"{REQUIRED} is set, and this {ADVICE}")
        pytest.skip(ADVICE)
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield started
        started.close()


@dataclass
class Opened:
    """A page in the browser, with all that it complained of or asked the network for."""

    tab: object
    path: object
    complaints: list = field(default_factory=list)

    def goto(self, fragment=""):
        """Load the page at an address such as `#attention/layer=2`; wait until it is drawn."""
        self.tab.goto("about:blank")
        self.tab.goto(f"file://{self.path}{fragment}")
        self.tab.wait_for_function("document.documentElement.dataset.ready === 'true'")

    def hint(self):
        """Return the text of the hint, empty where none is shown."""
        return self.tab.evaluate(HINT)

    def scroll_to(self, locator):
        """Bring an element into the window, and wait until the scroll's own event, which hides the hint, is over."""
        locator.scroll_into_view_if_needed()
        self.rest()

    def rest(self):
        """Wait until what was begun is drawn, and the events of it are over."""
        self.tab.evaluate(TWO_FRAMES)

    def cell(self, canvas, row, column, rows, columns):
        """Return the middle of a cell of a canvas, in the window, which is scrolled to it."""
        self.scroll_to(canvas)
        box = canvas.bounding_box()
        return box["x"] + (column + 0.5) * box["width"] / columns, box["y"] + (row + 0.5) * box["height"] / rows

    def scrolls_sideways(self):
        return self.tab.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth")


@pytest.fixture(scope="session")
def written_pages(tmp_path_factory):
    """Return a function that writes the page of a family once: (model, page, path)."""
    folder, made = tmp_path_factory.mktemp("pages"), {}

    def write(kind):
        if kind not in made:
            model = make(kind)
            if kind == "image":
                pytest.fail("image pages are made by the test of that section")
            page = explain.page(model, tokenizer(), SENTENCE, name=f"tiny {kind}")
            made[kind] = model, page, page.save(folder / f"{kind}.html")
        return made[kind]

    return write


@pytest.fixture
def open_page(browser):
    """Return a function that opens a file, `open_page(path, width=1280, scheme="light")`; complaints fail the test."""
    opened = []

    def open_it(path, fragment="", width=1280, height=900, scheme="light", motion="no-preference"):
        context = browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme=scheme,
            reduced_motion=motion,
            accept_downloads=True,
        )
        tab = context.new_page()
        page = Opened(tab, path)
        tab.on(
            "console",
            lambda message: page.complaints.append(message.text) if message.type in ("error", "warning") else None,
        )
        tab.on("pageerror", lambda error: page.complaints.append(str(error)))
        tab.on("dialog", lambda dialog: (page.complaints.append(f"dialog {dialog.message}"), dialog.dismiss()))
        local = ("file:", "blob:", "data:", "about:")
        tab.on(
            "request", lambda request: None if request.url.startswith(local) else page.complaints.append(request.url)
        )
        opened.append((context, page))
        page.goto(fragment)
        return page

    yield open_it
    for context, page in opened:
        context.close()
        assert page.complaints == []
