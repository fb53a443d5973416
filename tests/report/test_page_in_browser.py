"""report.html in headless Chromium: no error, no request, sorting and values under the pointer.

Skips where Chromium, its driver or selenium is missing.
"""

import functools
import http.server
import shutil
import threading

import pytest
from support.report_cases import (
    ASSIGNMENT,
    DESIGNS,
    SENSITIVITY,
    design,
    histograms,
    measured,
    results_of,
)

from fxsim.report.page import Run, report_html

selenium = pytest.importorskip("selenium", reason="selenium is not installed")
from selenium import webdriver  # noqa: E402
from selenium.webdriver.common.action_chains import ActionChains  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")
for tool, path in (("chromium", CHROMIUM), ("chromedriver", DRIVER)):
    if path is None:
        pytest.skip(f"{tool} is not installed", allow_module_level=True)

OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
)
SCREENS = [(width, scheme) for width in (1280, 390) for scheme in ("light", "dark")]


class Server(http.server.SimpleHTTPRequestHandler):
    """Serves a folder, and keeps what was asked for."""

    asked: list = []

    def do_GET(self):
        self.asked.append(self.path)
        super().do_GET()

    def end_headers(self):
        self.send_header("Cache-Control", "no-store")
        super().end_headers()

    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    chosen = design(
        "FX C_o", assignment=ASSIGNMENT.to_dict(),
        measured=measured() | {"histograms": histograms(ASSIGNMENT.layers)},
    )  # fmt: skip
    run = Run("mine", results_of([*DESIGNS, chosen]), SENSITIVITY)
    (folder / "one.html").write_text(report_html([run]), encoding="utf-8")
    (folder / "two.html").write_text(report_html([run, run]), encoding="utf-8")
    handler = functools.partial(Server, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for option in (*OPTIONS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


def show(browser, address, width, scheme, page="one"):
    """Open a page anew, as on a screen of this width; returns its bodies' colours."""
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    browser.get_log("browser")
    Server.asked.clear()
    browser.get(f"{address}/{page}.html")


def cells(browser, table, column):
    rows = browser.find_elements(By.CSS_SELECTOR, f"{table} tbody tr")
    return [row.find_elements(By.CSS_SELECTOR, "th, td")[column].text for row in rows]


@pytest.mark.parametrize("width, scheme", SCREENS)
@pytest.mark.parametrize("page", ["one", "two"])
def test_a_page_fits_the_screen_without_error_or_request(browser, address, width, scheme, page):
    show(browser, address, width, scheme, page)
    assert browser.get_log("browser") == []
    assert Server.asked == [f"/{page}.html"]
    assert browser.execute_script("return innerWidth") == width
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    paper = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert paper == {"light": "rgb(255, 255, 255)", "dark": "rgb(21, 23, 26)"}[scheme]
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0


def test_a_table_sorts_by_a_click_and_by_the_keyboard(browser, address):
    show(browser, address, 1280, "light")
    assert cells(browser, "#designs", 0) == ["FL", "BN", "FX C\u22121", "FX Co"]
    head = browser.find_element(By.CSS_SELECTOR, "#formats .wide th:nth-child(6)")
    head.find_element(By.TAG_NAME, "button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    button = browser.find_element(By.CSS_SELECTOR, "#designs th:nth-child(4) button")
    browser.execute_script("arguments[0].focus()", button)
    ActionChains(browser).send_keys(Keys.ENTER).perform()
    head = browser.find_element(By.CSS_SELECTOR, "#designs th:nth-child(4)")
    assert head.get_attribute("aria-sort") == "ascending"
    assert cells(browser, "#designs", 0)[0] == "BN"
    ActionChains(browser).send_keys(Keys.SPACE).perform()
    assert head.get_attribute("aria-sort") == "descending"
    assert cells(browser, "#designs", 0)[-1] == "BN"


@pytest.mark.parametrize("width", [1280, 390])
def test_values_are_shown_under_the_pointer(browser, address, width):
    show(browser, address, width, "light")
    tip = browser.find_element(By.ID, "tip")
    assert not tip.is_displayed()
    mark = browser.find_element(By.CSS_SELECTOR, "#training figure .hit")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", mark)
    ActionChains(browser).move_to_element(mark).perform()
    assert tip.text == "epoch 1\nFL: 1\nBN: 1\nFX C_-1: 1\nFX C_o: 1"
    edges = browser.execute_script("return [...document.querySelectorAll('#tip')].map("
                                   "e => e.getBoundingClientRect().right)")  # fmt: skip
    assert edges[0] <= width
    bar = browser.find_element(By.CSS_SELECTOR, "#costs figure:nth-child(1) rect.bar")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", bar)
    ActionChains(browser).move_to_element(bar).perform()
    assert tip.text == "FL: 1"
    ActionChains(browser).send_keys(Keys.ESCAPE).perform()
    assert not tip.is_displayed()
