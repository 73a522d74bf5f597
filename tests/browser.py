"""A headless Chromium for tests of pages: what it shows, what it asks for, what it complains of."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from pathlib import Path

import pytest

MISSING = "needs chromium, chromedriver and selenium: apt-get install chromium chromium-driver"
AXE = Path(os.environ.get("AXE", "node_modules/axe-core/axe.min.js"))


@contextlib.contextmanager
def chromium(width=1300, height=1000, dark=False):
    """A browser of its own, without a profile. The test is skipped where there is none."""
    binary = shutil.which("chromium") or shutil.which("chromium-browser")
    driver = shutil.which("chromedriver")
    webdriver = pytest.importorskip("selenium.webdriver", reason=MISSING)
    if not binary or not driver:
        pytest.skip(MISSING)
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    profile = tempfile.mkdtemp()
    flags = [
        "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        "--disable-dev-shm-usage", "--hide-scrollbars", "--force-device-scale-factor=1",
        f"--window-size={width},{height}", f"--user-data-dir={profile}",
    ]  # fmt: skip
    if dark:
        flags.append("--force-dark-mode")
    for flag in flags:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    service = webdriver.ChromeService(driver)
    found = webdriver.Chrome(options=options, service=service)
    try:
        # Windows have a least width; phones are narrower.
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        found.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        found.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})
        yield found
    finally:
        found.quit()
        service.stop()
        shutil.rmtree(profile, ignore_errors=True)


def requests(driver):
    """The addresses asked for since the last call, but for data in the page itself."""
    found = []
    for entry in driver.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            address = message["params"]["request"]["url"]
            if not address.startswith(("data:", "blob:", "about:", "chrome")):
                found.append(address)
    return found


def complaints(driver):
    """What the browser's console has of errors and of warnings since the last call."""
    return [entry["message"] for entry in driver.get_log("browser") if entry["level"] != "INFO"]


def faults(driver, impacts=("serious", "critical")):
    """What axe-core, run in the page, finds wrong: rule, help and the elements."""
    if not AXE.is_file():
        pytest.skip(f"needs axe-core: npm install axe-core, or AXE=.../axe.min.js ({AXE})")
    driver.execute_script(AXE.read_text(encoding="utf-8"))
    found = driver.execute_async_script(
        "const done = arguments[arguments.length - 1];"
        "axe.run().then((r) => done(r.violations), (e) => done([{id: String(e), impact: 'critical', nodes: []}]));"
    )
    return [
        (one["id"], one["help"], [node["target"] for node in one["nodes"]][:5])
        for one in found
        if one["impact"] in impacts
    ]


def overflow(driver):
    """By how many pixels the page is wider than the window."""
    return driver.execute_script(
        "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
    )
