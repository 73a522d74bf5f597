"""The app in a real browser."""

from __future__ import annotations

import time
import zipfile

import pytest
from browser import chromium, complaints, faults, overflow, requests
from runs import models

pytestmark = pytest.mark.filterwarnings("ignore")  # of Gradio and its server's threads


@pytest.fixture(scope="module")
def photograph(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs")
    models.photographs(folder, 2)
    return next((folder / "red").glob("*.png"))


@pytest.fixture(scope="module")
def driver(address, tmp_path_factory):
    with chromium() as found:
        folder = str(tmp_path_factory.mktemp("downloads"))
        found.execute_cdp_cmd(
            "Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": folder}
        )
        found.downloads = folder
        yield found


def until(driver, found, seconds=40):
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(driver, seconds, poll_frequency=0.05).until(lambda _: found())


def all_of(driver, selector):
    return driver.find_elements("css selector", selector)


def text(driver, selector):
    return driver.find_element("css selector", selector).text


@pytest.fixture
def opened(driver, address, photograph):
    """The page with a photograph and its maps."""
    driver.get(address)
    until(driver, lambda: all_of(driver, "#photograph input[type=file]"))
    start = time.perf_counter()
    all_of(driver, "#photograph input[type=file]")[0].send_keys(str(photograph))
    until(driver, lambda: all_of(driver, "#maps .gradcam img"))
    print(f"first picture: {time.perf_counter() - start:.2f} s")
    return driver


def changed(driver, act):
    """What the maps say after something was done to the page."""
    before = driver.find_element("css selector", "#maps .gradcam").get_attribute("outerHTML")
    act()
    until(
        driver,
        lambda: (
            all_of(driver, "#maps .gradcam")
            and all_of(driver, "#maps .gradcam")[0].get_attribute("outerHTML") != before
        ),
    )
    return text(driver, "#maps")


def test_a_class_is_clicked_and_methods_are_beside_each_other(opened):
    labels = [label.text for label in all_of(opened, "#classes label")]
    assert len(labels) == 3
    assert any("<b>green</b>" in label for label in labels)  # as text
    said = changed(opened, lambda: all_of(opened, "#classes label")[1].click())
    assert labels[1].split()[0] in said
    said = changed(opened, lambda: all_of(opened, "#methods label")[1].click())
    assert "hires-cam" in said
    assert len(all_of(opened, "#maps .gradcam img")) == 3  # a photograph and two maps
    assert not [one for one in all_of(opened, "#maps b") if one.text == "green"]


def test_opacity_needs_no_call(opened):
    requests(opened)
    opened.execute_script(
        "const one = document.querySelector('#maps input[type=range]'); one.value = 20;"
        "one.dispatchEvent(new Event('input'))"
    )
    time.sleep(0.5)
    opacity = opened.execute_script(
        "return getComputedStyle(document.querySelector('#maps .gradcam div div img')).opacity"
    )
    assert opacity == "0.2"
    assert requests(opened) == []


def test_two_classes_are_compared(opened):
    def choose():
        box = opened.find_element("css selector", "#beside input")
        box.click()
        until(opened, lambda: all_of(opened, "[role=option]"))
        shown = [one for one in all_of(opened, "[role=option]") if "dark" in one.text]
        shown[0].click()

    first = next(x for x in all_of(opened, "#classes label") if "dark" not in x.text)
    if not first.find_element("css selector", "input").is_selected():
        changed(opened, first.click)
    said = changed(opened, choose)
    assert " less dark" in said
    assert len(all_of(opened, "#maps .gradcam figure")) == 4  # a photograph and three maps


def test_a_layer_is_chosen(opened):
    box = opened.find_element("css selector", "#layer input")
    box.click()

    def listed():
        return [one.text for one in all_of(opened, "[role=option]") if one.text]

    until(opened, lambda: len(listed()) > 1)
    assert "automatic" in listed()[0]
    assert listed()[1].startswith("features")


def test_gradients_are_verified_and_a_report_is_saved(opened):
    opened.find_element("css selector", "#verify").click()
    until(opened, lambda: "gradients at layer" in text(opened, "#verdict"))
    opened.find_element("css selector", "#report").click()
    until(opened, lambda: ".html" in text(opened, "#file"))
    opened.find_element("css selector", "#save").click()
    until(opened, lambda: ".zip" in text(opened, "#file"))
    link = opened.find_element("css selector", "#file a[href*='.zip']")
    link.click()

    def zips():
        from pathlib import Path

        return list(Path(opened.downloads).glob("*.zip"))

    (path,) = until(opened, zips)
    names = zipfile.ZipFile(path).namelist()
    assert "grad-cam/manifest.json" in names


def test_a_verdict_is_of_what_was_chosen_when_it_was_given(opened):
    opened.find_element("css selector", "#verify").click()
    until(opened, lambda: "gradients at layer" in text(opened, "#verdict"))
    changed(opened, lambda: all_of(opened, "#methods label")[1].click())
    until(opened, lambda: "gradients at layer" not in text(opened, "#verdict"))


def test_nobody_else_is_asked_and_nothing_fails(opened, address):
    host = address.partition("//")[2]
    opened.refresh()
    until(opened, lambda: all_of(opened, "#photograph input[type=file]"))
    asked = {one.partition("//")[2].split("/")[0] for one in requests(opened)}
    assert asked == {host}
    severe = [one for one in complaints(opened) if "Uncaught" in one or "Refused" in one]
    assert severe == []
    assert overflow(opened) == 0


def test_no_serious_fault_of_accessibility(opened):
    assert faults(opened) == []


def test_a_narrow_screen(address, photograph):
    with chromium(390, 800) as narrow:
        narrow.get(address)
        until(narrow, lambda: all_of(narrow, "#photograph input[type=file]"))
        all_of(narrow, "#photograph input[type=file]")[0].send_keys(str(photograph))
        until(narrow, lambda: all_of(narrow, "#maps .gradcam img"))
        assert overflow(narrow) == 0
