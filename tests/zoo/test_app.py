"""The page of `hamux-zoo app`: what it makes of a canvas, and, in a real browser, that it can be used."""

import contextlib
import os
import re
import shutil
import socket
import subprocess
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gradio
import jax
import jax.random as jr
import numpy as np
import pytest
from gradio_client import Client, handle_file
from hub_client import COMMAND
from PIL import Image
from ring_memory import Ring, RingConfig
from selenium import webdriver

from hamux_zoo import DenseHopfield, DenseHopfieldConfig, from_pretrained, list_pretrained, load_samples
from hamux_zoo.show import app, samples_for

SEVEN = load_samples("mnist").images[0]


def canvas(image, *strokes):
    return {"background": app._enlarged(image, 320), "layers": list(strokes), "composite": None}


def stroke(rows, columns, colour, side=308):
    layer = np.zeros((side, side, 4), np.uint8)
    layer[rows, columns] = (*colour, 255)
    return layer


def test_a_canvas_is_read_as_it_was_shown():
    image, known = app._read(canvas(SEVEN), (28, 28, 1), "nothing")
    np.testing.assert_allclose(image, SEVEN, atol=1 / 255)
    assert known.all()


def test_magenta_erases_and_other_colours_draw():
    erased = stroke(slice(0, 110), slice(None), (255, 0, 255))
    ink = stroke(slice(220, 308), slice(0, 88), (255, 255, 255))
    image, known = app._read(canvas(np.zeros((28, 28, 1)), erased, ink), (28, 28, 1), "the right half")
    expected = np.ones((28, 28, 1), bool)
    expected[:10] = expected[:, 14:] = False
    np.testing.assert_array_equal(known, expected)
    np.testing.assert_array_equal(
        image > 0.5, np.indices((28, 28, 1))[0] >= np.where(np.arange(28) < 8, 20, 28)[:, None]
    )


@pytest.mark.parametrize(
    "name",
    [name if name.startswith("dense") else pytest.param(name, marks=pytest.mark.slow) for name in list_pretrained()],
)
def test_every_memory_can_be_watched_and_goes_down(name):
    model = from_pretrained(name)
    sample = canvas(samples_for(name, model.config)[1].images[0])
    frames = [*app._recall(name, sample, "the lower half", 5, app._FREE, 0, 0.0)]
    assert len(frames) == 6
    _, curve, said, shown = frames[-1]
    last = shown[0]
    assert last.shape == model.config.shape
    assert f"Step 5 of 5, energy {curve['energy'].iloc[-1]:.4g}" in said
    assert curve["energy"].iloc[-1] < curve["energy"].iloc[0]
    original = app._read(sample, model.config.shape, "nothing")[0]
    rows = model.config.shape[0] // 2 // 4 * 4  # what is erased of a patch erases it
    np.testing.assert_allclose(last[:rows], original[:rows], atol=1e-6)
    assert not np.allclose(last[rows + 4 :], 0.5, atol=0.05)


@pytest.mark.slow
def test_noise_is_taken_away_where_no_pixel_is_held():
    (*_, (_, _, _, shown)) = app._recall("dense-hopfield-mnist", canvas(SEVEN), "nothing", 10, app._FREE, 0, 0.4)
    noisy = SEVEN + 0.4 * np.random.default_rng(0).normal(size=SEVEN.shape)
    assert np.mean((shown[0] - SEVEN) ** 2) < 0.5 * np.mean((noisy - SEVEN) ** 2)


PATTERNS = np.random.default_rng(0).choice([-1.0, 1.0], size=(3, 6, 4))


def save_spins(path):
    """Saves a memory of grey pictures in [-1, 1] with named classes, and returns its folder."""
    model = DenseHopfield(DenseHopfieldConfig(shape=(6, 4), low=-1, high=1), key=jr.key(0))
    model.store(PATTERNS, np.arange(3)).with_config(class_names=("a", "b", "c")).save_pretrained(path / "spins")
    return path / "spins"


@pytest.fixture
def ring(tmp_path):
    """The folder of a memory that someone else wrote, which can only recall."""
    saved = tmp_path / "a ring"
    with jax.enable_x64(False):
        Ring(RingConfig(shape=(3, 2, 1)), key=jr.key(0)).save_pretrained(saved)
        yield str(saved)


def test_a_third_party_s_memory_is_shown(ring, monkeypatch):
    monkeypatch.setattr(app, "from_pretrained", Ring.from_pretrained)
    drawn, sample, steps, label, _, _, shelf, *_ = app._begin(ring, 1)
    assert not sample["interactive"]  # no samples have its shape
    assert "none of this shape" in sample["info"]
    assert np.asarray(Image.open(drawn["value"]["background"])).max() == 0
    assert steps["value"] == 3  # its own
    assert not label["interactive"]
    assert not shelf["visible"]
    assert app._memories(ring) == []
    *_, (_, curve, said, shown) = app._recall(ring, canvas(np.ones((3, 2, 1))), "the lower half", 5, app._FREE, 0, 0.0)
    assert len(curve) == 6
    assert "named" not in said
    np.testing.assert_array_equal(shown[0][0], 1)
    with pytest.raises(gradio.Error, match="there is no picture yet"):
        next(app._recall(ring, {"background": None, "layers": []}, "nothing", 5, app._FREE, 0, 0.0))


def test_a_memory_of_another_range_shows_its_classes_and_memories(tmp_path):
    name = str(save_spins(tmp_path))
    _, _, _, label, beta, _, shelf, *_ = app._begin(name, 1)
    assert label["choices"] == [app._FREE, "a", "b", "c"]
    assert label["interactive"]
    assert beta["interactive"]
    assert shelf["visible"]
    assert len(app._memories(name)) == 3
    white = canvas((PATTERNS[1][..., None] + 1) / 2)
    *_, (_, _, said, shown) = app._recall(name, white, "the lower half", 20, app._FREE, 0, 0.0)
    np.testing.assert_allclose(shown[0], PATTERNS[1], atol=1e-3)
    assert said.endswith("It is named: b</p>")
    *_, (_, _, said, shown) = app._recall(name, white, "everything", 20, "c", 0, 0.0)
    np.testing.assert_allclose(shown[0], PATTERNS[2], atol=1e-3)
    share = app._weight(name, shown, gradio.SelectData(None, {"index": 2, "value": None}))
    assert "Its share in what was recalled: 100.00%" in share


def test_patterns_that_are_no_pictures_are_refused(tmp_path):
    DenseHopfield(DenseHopfieldConfig(shape=(6,), memories=2), key=jr.key(0)).save_pretrained(tmp_path / "row")
    with pytest.raises(ValueError, match=r"patterns of shape \(6,\) cannot be shown as pictures; expected"):
        app.make_app(str(tmp_path / "row"))


@contextlib.contextmanager
def serving(folder, *names):
    """The address of an app that is started from the command line."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = folder / "log"
    with log.open("wb") as file:
        command = [COMMAND, "app", *names, "--port", str(port)]
        process = subprocess.Popen(command, stdout=file, stderr=file, env=os.environ | {"HF_HUB_OFFLINE": "1"})
    address = f"http://127.0.0.1:{port}/"
    for _ in range(240):
        try:
            urllib.request.urlopen(address, timeout=5).close()
            break
        except OSError:
            assert process.poll() is None, log.read_text()
            time.sleep(0.5)
    yield address
    process.terminate()
    process.wait()
    assert "Traceback" not in log.read_text()


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("app")) as address:
        yield address


@pytest.mark.slow
def test_memories_that_are_named_are_served(tmp_path):
    name = str(save_spins(tmp_path))
    with serving(tmp_path, name, "et-small-mnist") as address:
        client = Client(address, download_files=tmp_path / "downloads", verbose=False)
        blank, sample, *_ = client.predict(name, 1, api_name="/_begin")
        assert "draw or load one" in sample["info"]
        given = {"background": handle_file(blank["value"]["background"]), "layers": [], "composite": None}
        *_, (_, _, said) = client.submit(name, given, "everything", 5, "b", 0, 0, api_name="/_recall")
        assert "Step 5 of 5" in said
        assert "It is named: b" in said
        choices = client.view_api(return_format="dict")["named_endpoints"]["/_begin"]["parameters"][0]["type"]["enum"]
        assert choices == [name, "et-small-mnist"]


@pytest.mark.slow
def test_a_port_that_is_taken_is_said():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = subprocess.run([COMMAND, "app", "--port", port], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert port in done.stderr


@pytest.mark.slow
def test_twenty_sessions_at_once(page, tmp_path):
    """Each begins, recalls one of four pictures and opens the memories, twice, and can read what it gets."""

    def session(number):
        client, name = Client(page, download_files=tmp_path / f"{number}", verbose=False), "dense-hopfield-mnist"
        for _ in range(2):
            picture = client.predict(name, 1 + number % 4, api_name="/_begin")[0]["value"]["background"]
            given = {"background": handle_file(picture), "layers": [], "composite": None}
            *_, (_, _, said) = client.submit(name, given, "the lower half", 5, app._FREE, 0, 0, api_name="/_recall")
            assert "Step 5 of 5" in said
            for shown in [picture, *(each["image"] for each in client.predict(name, api_name="/_memories"))]:
                Image.open(shown).load()

    with ThreadPoolExecutor(20) as pool:
        list(pool.map(session, range(20)))


chromium = pytest.mark.skipif(
    not (shutil.which("chromium") and shutil.which("chromedriver")),
    reason="needs Debian's packages chromium and chromium-driver",
)


@pytest.fixture
def browser(request, tmp_path):
    """A browser; leaves a screenshot for each test in runs/screenshots."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-dev-shm-usage",
        f"--user-data-dir={tmp_path}/profile",
    ):
        options.add_argument(argument)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    yield driver
    kept = Path(__file__).parents[2] / "runs/screenshots"
    kept.mkdir(parents=True, exist_ok=True)
    driver.save_screenshot(kept / f"{request.node.name}.png")
    driver.quit()


def find(driver, xpath, seconds=30):
    """The first shown element."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        shown = [element for element in driver.find_elements("xpath", xpath) if element.is_displayed()]
        if shown:
            return shown[0]
        time.sleep(0.2)
    raise AssertionError(f"{xpath} is not there after {seconds} s:\n{driver.find_element('xpath', '//body').text}")


def opened(driver, page, width, height):
    """The page in a window of a size, and its button to recall."""
    driver.set_window_size(width, height)
    driver.get(page)
    find(driver, status("Press Recall."))
    return find(driver, "//button[normalize-space()='Recall']")


def status(text):
    return f"//*[@role='status' and contains(., '{text}')]"


def energies_until_the_end(driver, steps):
    """The energies that are read, as the steps go by."""
    seen = {}
    end = time.monotonic() + 60
    while f"{steps}" not in seen and time.monotonic() < end:
        said = driver.find_element("xpath", "//*[@role='status']").text
        if found := re.match(r"Step (\d+) of \d+, energy (-?[\d.e+]+)", said):
            seen[found[1]] = float(found[2].rstrip("."))
    return seen


@pytest.mark.slow
@chromium
def test_load_draw_recall_and_read_the_energies(page, browser):
    recall = opened(browser, page, 1200, 1500)
    find(browser, "//button[normalize-space()='Draw your own']").click()
    board = find(browser, "//*[@id='drawn']//canvas")
    time.sleep(2)
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", board)
    webdriver.ActionChains(browser).move_to_element(board).click_and_hold().move_by_offset(0, 60).release().perform()
    time.sleep(1)
    recall.click()
    seen = energies_until_the_end(browser, 10)
    assert len(seen) > 3, "the steps can be watched"
    falling = [seen[step] for step in sorted(seen, key=int)]
    assert falling == sorted(falling, reverse=True)
    picture = find(browser, "//img[@alt='The picture at step 10']")
    assert picture.size["width"] >= 300
    assert find(browser, "//*[contains(@class, 'vega') or contains(@class, 'marks')]")


@pytest.mark.slow
@chromium
def test_a_memory_that_is_chosen_shows_its_weight(page, browser):
    opened(browser, page, 1200, 1800).click()
    find(browser, status("Step 10 of 10"))
    find(browser, "//button[contains(., 'Memories: choose one')]").click()
    find(browser, "//button[contains(@class, 'thumbnail')]").click()
    find(browser, status("Its share in what was recalled"))
    assert find(browser, "//img[@alt='Memory 0']")


@pytest.mark.slow
@chromium
def test_by_the_keyboard_alone_and_at_phone_width(page, browser):
    phone = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    opened(browser, page, 1200, 900)
    time.sleep(3)
    assert browser.execute_script("return document.documentElement.scrollWidth") == phone["width"]
    labels = []
    for _ in range(80):
        browser.switch_to.active_element.send_keys(webdriver.Keys.TAB)
        focused = browser.switch_to.active_element
        labels.append(focused.text.strip() or focused.get_attribute("aria-label") or "")
        if focused.text.strip() == "Recall":
            break
    assert labels[-1] == "Recall", labels
    assert {"Memory", "Test picture", "Also erase"} <= set(labels)
    browser.switch_to.active_element.send_keys(webdriver.Keys.ENTER)
    find(browser, status("Step 10 of 10"))


@pytest.mark.slow
@chromium
def test_what_is_wrong_with_an_upload_is_said(page, browser, tmp_path):
    opened(browser, page, 1200, 1000)
    find(browser, "//button[contains(., 'Load a picture, at most 5 MB')]")
    given = browser.find_element("xpath", "//input[@type='file' and not(ancestor::*[@id='drawn'])]")
    (tmp_path / "notes.txt").write_text("no picture")
    given.send_keys(str(tmp_path / "notes.txt"))
    find(browser, "//*[contains(., 'notes.txt is not an image that can be read')]")
    noise = np.random.default_rng(0).integers(0, 256, (1500, 1500, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "large.png")
    given.send_keys(str(tmp_path / "large.png"))
    find(browser, "//*[contains(., 'at most 5 MB are taken')]")
