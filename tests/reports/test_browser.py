"""The report in a real browser, opened from disk."""

from __future__ import annotations

import time

import numpy as np
import pytest
from browser import chromium, complaints, faults, overflow, requests
from reports.test_report import NASTY, explanation, photos

import gradcam
from gradcam import Comparison


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("report")


@pytest.fixture(scope="module")
def small(folder):
    """Five samples of two methods: one blank, one wrong, one with a name that is no markup."""
    maps = np.random.default_rng(0).random((5, 6, 8))
    maps[1] = 0
    maps[2] = 0.2  # but for one half, which is at its maximum
    maps[2, :, :4] = 1
    both = Comparison({m: explanation(5, m, ("cat", "dog", "cup"), maps=maps) for m in ("a", "b")})
    tops = [both["a"].labels[int(k)] for k in both["a"].outputs.argmax(-1)]
    return gradcam.report(
        both,
        folder / "small.html",
        photos(5),
        names=["e", "d", "c", NASTY, "a"],
        labels=[*tops[:4], "another"],
    ).as_uri()


@pytest.fixture(scope="module")
def driver(small):
    with chromium() as found:
        yield found


@pytest.fixture
def opened(driver, small):
    driver.get("about:blank")
    driver.get(small)
    return driver


def shown(driver):
    """The names of the samples that can be seen, in their order."""
    return driver.execute_script(
        "return [...document.querySelectorAll('article')]"
        ".filter((one) => one.checkVisibility()).map((one) => one.dataset.name[0])"
    )


def until(driver, found):
    """Wait for what the browser does in its own time."""
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(driver, 20).until(lambda _: found())


def put(driver, element, value):
    driver.execute_script(
        "const one = document.getElementById(arguments[0]); one.value = arguments[1];"
        "one.dispatchEvent(new Event('input'))",
        element,
        value,
    )


def press(driver, *keys):
    from selenium.webdriver.common.action_chains import ActionChains

    ActionChains(driver).send_keys(*keys).perform()


def painted(driver, x, y):
    """The colour of a point of the third sample's first map, in shares of its width and height."""
    import io

    from PIL import Image

    stack = driver.find_element("css selector", "#s2 figure:nth-of-type(2) .stack")
    driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", stack)
    picture = Image.open(io.BytesIO(stack.screenshot_as_png)).convert("RGB")
    return np.array(picture.getpixel((round(x * picture.width), round(y * picture.height))))


def test_nothing_else_is_asked_for_and_nothing_is_complained_of(opened, small):
    assert requests(opened)[-1:] == [small]
    opened.refresh()
    assert requests(opened) == [small]
    assert complaints(opened) == []
    assert overflow(opened) == 0


def test_names_are_text(opened):
    heading = opened.find_element("css selector", "#s3 h2 bdi")
    assert heading.text.startswith("<script>alert('1')</script>\"&")
    assert len(opened.find_elements("css selector", "script")) == 1


def test_opacity_is_that_of_every_map_and_the_photograph_stays_below(opened):
    strong = painted(opened, 0.2, 0.5)
    put(opened, "opacity", 0)
    clear = painted(opened, 0.2, 0.5)
    np.testing.assert_allclose(clear, 40 * 2 + 60, atol=3)  # the photograph
    assert np.abs(strong - clear).max() > 30
    put(opened, "opacity", 100)
    assert np.abs(painted(opened, 0.2, 0.5) - clear).max() > np.abs(strong - clear).max()
    values = opened.execute_script(
        "return [...document.querySelectorAll('.map')].map((one) => getComputedStyle(one).opacity)"
    )
    assert set(values) == {"1"}


def test_the_threshold_leaves_out_what_is_weak(opened):
    weak, strong = painted(opened, 0.9, 0.5), painted(opened, 0.2, 0.5)
    assert np.abs(weak - 140).max() > 10
    put(opened, "threshold-of", 50)
    np.testing.assert_allclose(painted(opened, 0.9, 0.5), 140, atol=3)
    np.testing.assert_allclose(painted(opened, 0.2, 0.5), strong, atol=3)
    put(opened, "threshold-of", 0)
    np.testing.assert_allclose(painted(opened, 0.9, 0.5), weak, atol=3)


def test_samples_are_sorted(opened):
    assert shown(opened) == ["e", "d", "c", "<", "a"]
    put(opened, "sort", "name")
    assert shown(opened) == ["<", "a", "c", "d", "e"]
    scores = {one.get_attribute("data-name")[0]: float(one.get_attribute("data-score"))
              for one in opened.find_elements("css selector", "article")}  # fmt: skip
    put(opened, "sort", "-score")
    assert shown(opened) == sorted(scores, key=scores.get, reverse=True)
    put(opened, "sort", "score")
    assert shown(opened) == sorted(scores, key=scores.get)


def test_samples_are_filtered(opened):
    def tick(value):
        opened.find_element("css selector", f"input[value={value}]").click()

    tick("blank")
    assert shown(opened) == ["d"]
    tick("wrong")
    assert shown(opened) == ["d", "a"]
    tick("blank")
    assert shown(opened) == ["a"]
    tick("wrong")
    put(opened, "class", "cat")
    assert shown(opened) == ["e", "<"]
    put(opened, "find", "ALERT")
    assert shown(opened) == ["<"]
    put(opened, "find", "nothing such")
    assert shown(opened) == []
    assert opened.find_element("id", "count").text == "0 of 5"


def test_a_sample_has_a_page_of_its_own(opened):
    opened.find_element("css selector", "#s2 h2 a").click()
    until(opened, lambda: shown(opened) == ["c"])
    table = opened.find_element("css selector", "#s2 table")
    assert table.is_displayed()
    assert "6 × 8" in table.text
    assert opened.current_url.endswith("#s2")
    opened.back()
    until(opened, lambda: len(shown(opened)) == 5)


def test_the_keyboard(opened):
    from selenium.webdriver.common.keys import Keys

    press(opened, "j")
    press(opened, "j")
    assert opened.switch_to.active_element.get_attribute("id") == "s1"
    press(opened, Keys.ENTER)
    assert shown(opened) == ["d"]
    press(opened, Keys.ARROW_RIGHT)
    assert shown(opened) == ["c"]
    press(opened, "k")
    assert shown(opened) == ["d"]
    press(opened, Keys.ESCAPE)
    assert len(shown(opened)) == 5
    press(opened, "o")
    assert opened.find_element("id", "opacity").get_attribute("value") == "60"
    press(opened, "T")
    assert opened.find_element("id", "threshold-of").get_attribute("value") == "10"
    press(opened, "/")
    press(opened, "alert")
    assert shown(opened) == ["<"]


def test_no_serious_fault_of_accessibility(opened):
    assert faults(opened) == []
    opened.get(opened.current_url + "#s0")
    assert faults(opened) == []


@pytest.mark.parametrize("dark", [False, True])
def test_a_narrow_screen(small, dark):
    with chromium(390, 800, dark) as narrow:
        narrow.get(small)
        assert overflow(narrow) == 0
        assert faults(narrow) == []
        narrow.get(small + "#s0")
        assert overflow(narrow) == 0


def test_five_hundred_samples_are_paged_and_open_at_once(driver, folder):
    few = explanation(50, labels=("cat", "dog", "cup"))
    path = gradcam.report([few] * 10, folder / "large.html", photos(50, (224, 224)) * 10)
    start = time.perf_counter()
    driver.get(path.as_uri())
    driver.execute_script("return document.body.offsetHeight")
    print(f"500 samples, {path.stat().st_size / 1e6:.1f} MB: {time.perf_counter() - start:.2f} s")
    assert len(shown(driver)) == 100
    assert driver.find_element("id", "count").text == "500 of 500"
    buttons = driver.find_elements("css selector", "#pages button")
    assert [one.text for one in buttons] == ["1", "2", "3", "4", "5"]
    buttons[4].click()
    assert (
        driver.execute_script("return document.querySelector('article:not([hidden])').id") == "s400"
    )
    put(driver, "find", "sample 49")
    assert len(shown(driver)) == 11
    assert complaints(driver) == []
