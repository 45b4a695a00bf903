"""Notebooks in a real browser: JupyterLab on this machine, headless Chromium, all cells run, every slider moved.

Skipped where there is no Chromium with its driver (Debian: apt-get install chromium chromium-driver). Screenshots go to
the folder of the test, with --basetemp=FOLDER below FOLDER.
"""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from urllib.error import URLError

import papermill
import pytest

from rmtkit.config import PROJECT

webdriver = pytest.importorskip("selenium.webdriver")
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="no Chromium, or no driver of it")

TOKEN = "a-token-of-the-tests"
SECONDS = 240  # that anything is waited for at most
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking",
    "--window-size=1400,1600",
)  # fmt: skip
SETTINGS = {  # of JupyterLab: all cells are in the page, no question about news
    "notebook-extension/tracker": {"windowingMode": "none"},
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
}
IS_OPEN = """
const panel = window.jupyterapp?.shell.currentWidget;
return panel?.context?.isReady && panel.sessionContext?.session?.kernel?.status === 'idle';"""
RUN_ALL = "window.jupyterapp.commands.execute('notebook:run-all-cells')"
PROGRESS = """
const panel = window.jupyterapp.shell.currentWidget;
const cells = panel.content.widgets.filter(cell => cell.model.type === 'code');
const outputs = cells.flatMap(cell => cell.model.outputs.toJSON());
return {
    waiting: cells.filter(cell => !cell.model.executionCount).length,
    status: panel.sessionContext.session.kernel.status,
    errors: outputs.filter(output => output.output_type === 'error').map(output => output.ename + ': ' + output.evalue),
};"""
SHOWN = """
const views = arguments[0].closest('.jp-Cell').querySelectorAll('.jp-OutputArea img, .widget-html-content');
return [...views].map(view => view.tagName === 'IMG' ? view.src : view.innerHTML);"""
SHUT_DOWN = """
const done = arguments[0], panel = window.jupyterapp.shell.currentWidget;
panel.sessionContext.shutdown().then(() => panel.context.save()).then(done, done);"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """JupyterLab on a folder with copies of the notebooks, as a user starts it: its address, and that folder."""
    folder = tmp_path_factory.mktemp("lab")
    notebooks = folder / "notebooks"
    shutil.copytree(PROJECT / "notebooks", notebooks, ignore=shutil.ignore_patterns(".*"))
    for name, settings in SETTINGS.items():
        path = folder / f"config/lab/user-settings/@jupyterlab/{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(settings))
    environment = {name: value for name, value in os.environ.items() if name != "CI"}  # which is never live
    places = {"JUPYTER_CONFIG_DIR": "config", "JUPYTER_DATA_DIR": "data", "JUPYTER_RUNTIME_DIR": "runtime",
              "IPYTHONDIR": "ipython"}  # fmt: skip
    environment |= {name: str(folder / place) for name, place in places.items()} | {"HF_HUB_OFFLINE": "1"}
    port = free_port()
    options = ["--no-browser", "--allow-root", "--expose-app-in-browser", "--ServerApp.ip=127.0.0.1"]
    options += [f"--ServerApp.port={port}", f"--IdentityProvider.token={TOKEN}", f"--ServerApp.root_dir={notebooks}"]
    with open(folder / "server.log", "w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *options], env=environment, stdout=log, stderr=log
        )
    try:
        address = f"http://127.0.0.1:{port}"
        wait_for_server(server, address, folder / "server.log")
        yield address, notebooks
    finally:
        server.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(30)
        server.kill()


def free_port():
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return place.getsockname()[1]


def wait_for_server(server, address, log):
    end = time.monotonic() + SECONDS
    while time.monotonic() < end and server.poll() is None:
        with contextlib.suppress(URLError, ConnectionError):
            return get(f"{address}/api/status")
        time.sleep(0.2)
    raise AssertionError(log.read_text()[-3000:])


def get(address):
    without_proxy = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with without_proxy.open(f"{address}?token={TOKEN}", timeout=10) as answer:
        return json.load(answer)


@pytest.fixture(scope="module")
def browser():
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in FLAGS:
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    driver.set_script_timeout(60)
    yield driver
    driver.quit()


def wait(browser, condition):
    return WebDriverWait(browser, SECONDS, poll_frequency=0.3).until(condition)


def open_and_run(browser, lab, name, **parameters):
    """Open a notebook with these parameters in JupyterLab and run all cells, to the end."""
    address, folder = lab
    source = PROJECT / "notebooks" / f"{name}.ipynb"
    parameters = {"preset": "smoke", "outputs_dir": str(folder.parent / "outputs"), **parameters}
    papermill.execute_notebook(source, folder / source.name, parameters, prepare_only=True)
    browser.get(f"{address}/lab/tree/{source.name}?token={TOKEN}&reset")
    wait(browser, lambda browser: browser.execute_script(IS_OPEN))
    browser.execute_script(RUN_ALL)
    wait(browser, has_run)


def has_run(browser):
    found = browser.execute_script(PROGRESS)
    assert not found["errors"]
    return found["waiting"] == 0 and found["status"] == "idle"


def move(browser, slider):
    """Move a slider by a key, away from its end."""
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'}); arguments[0].focus()", slider)
    is_at_end = slider.get_attribute("aria-valuenow") == slider.get_attribute("aria-valuemax")
    slider.send_keys(Keys.ARROW_LEFT if is_at_end else Keys.ARROW_RIGHT)


def test_lab_starts_the_kernel_that_the_notebooks_name(lab):
    assert get(f"{lab[0]}/api/kernelspecs")["default"] == "python3"


@pytest.mark.parametrize(
    ("name", "parameters", "min_sliders"),
    [
        ("01_explore_data", {}, 1),
        ("02_train", {}, 0),
        ("04_memory_attention", {"checkpoint": "reference:qa1-tiny"}, 4),
    ],
)
def test_notebook_runs_in_a_browser_and_follows_its_sliders(name, parameters, min_sliders, lab, browser, tmp_path):
    open_and_run(browser, lab, name, **parameters)
    sliders = browser.find_elements(By.CSS_SELECTOR, ".jp-OutputArea [role=slider]")
    assert len(sliders) >= min_sliders
    assert browser.find_elements(By.CSS_SELECTOR, ".jp-OutputArea img[src^='data:image/png']")
    for number, slider in enumerate(sliders):
        before = browser.execute_script(SHOWN, slider)
        browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", slider)
        browser.save_screenshot(str(tmp_path / f"{name}-{number}-before.png"))
        move(browser, slider)
        wait(browser, lambda browser, slider=slider, before=before: browser.execute_script(SHOWN, slider) != before)
        browser.save_screenshot(str(tmp_path / f"{name}-{number}-after.png"))
    last = browser.find_elements(By.CSS_SELECTOR, ".jp-OutputArea img")[-1]
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", last)
    browser.save_screenshot(str(tmp_path / f"{name}-figure.png"))
    browser.execute_async_script(SHUT_DOWN)
