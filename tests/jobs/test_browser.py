"""The report and TensorBoard in a real browser; what it showed is kept under build/screenshots."""

import html
import json
import os
import shutil
import subprocess
import threading
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import confusion_matrix

from pipeline.report.comparison_page import comparison_page
from pipeline.report.run_page import report_page
from pipeline.report.tensorboard_images import write_board
from tests.jobs.boards import ROOT, board, write_run
from tests.report.invented import invented_run, with_pictures

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
SCREENSHOTS = ROOT / "build" / "screenshots"
PHONE, DESKTOP = 360, 1280
LONG = "a_class_with_a_name_that_is_longer_than_any_telephone_is_wide_and_has_no_spaces"

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="there is no Chromium: tools/install_test_packages.sh installs it"
)

# A window is never narrower than 500 pixels, a frame may be. The page tells how wide it became.
FRAME = """<!DOCTYPE html><body style="margin:0">
<iframe id="page" src="{page}" style="border:0;width:{width}px;height:{height}px"></iframe>
<pre id="told"></pre>
<script>onload = () => {{
  const inside = document.getElementById("page").contentDocument;
  const shown = [...inside.querySelectorAll("main > *, main h2, svg, img")];
  const pictures = [...inside.images];
  document.getElementById("told").textContent = JSON.stringify({{
    scroll: inside.documentElement.scrollWidth, client: inside.documentElement.clientWidth,
    height: inside.documentElement.scrollHeight, loaded: pictures.every(i => i.naturalWidth > 0),
    dark: inside.defaultView.matchMedia("(prefers-color-scheme: dark)").matches,
    scripts: inside.scripts.length, elements: shown.length}});
}}</script></body>"""


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@contextmanager
def served(folder):
    """The folder over HTTP, so that the frame may look into its page."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def chromium(address, profile, *options, width=DESKTOP, height=900, dark=False):
    """Opens a page, and returns what it printed."""
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"]
    command += ["--no-first-run", "--disable-background-networking", "--disable-sync"]
    command += ["--disable-component-update", "--hide-scrollbars", f"--user-data-dir={profile}"]
    command += [f"--blink-settings=preferredColorScheme={0 if dark else 1}"]
    command += [f"--window-size={width},{height}", *options, address]
    done = subprocess.run(
        command,
        env={name: value for name, value in os.environ.items() if "proxy" not in name.lower()},
        text=True,
        capture_output=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def look_at(folder, page, width, dark, profile):
    """What the page told of itself in a frame so wide, and a picture of it."""

    def frame(height):
        (folder / "frame.html").write_text(FRAME.format(page=page, width=width, height=height))

    with served(folder) as address:
        frame(900)
        shown = chromium(f"{address}/frame.html", profile, "--dump-dom", dark=dark)
        told = json.loads(told_in(shown))
        frame(told["height"])
        name = f"{Path(page).stem}-{width}-{'dark' if dark else 'light'}.png"
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        file = SCREENSHOTS / name
        window = {"width": max(width, 500), "height": told["height"], "dark": dark}
        # Another address: the browser asks for what changed since, and the server counts seconds.
        chromium(f"{address}/frame.html?tall", profile, f"--screenshot={file}", **window)
    pixels = np.asarray(Image.open(file).convert("RGB"))[:, :width]
    Image.fromarray(pixels).save(file)
    return told, pixels


def told_in(dom):
    """What stands in <pre id="told">."""
    return html.unescape(dom.partition('<pre id="told">')[2].partition("</pre>")[0])


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Reports of three, ten and a thousand classes, and a comparison, as files."""
    folder = tmp_path_factory.mktemp("pages")
    for count, side in ((3, 112), (10, 8), (1000, 32)):
        names = [LONG, *(f"class {i}" for i in range(1, count))]
        run = with_pictures(invented_run(names, name=f"of {count} classes"), side)
        (folder / f"report-{count}.html").write_text(report_page(run))
    runs = [
        invented_run(["a", "b", "c"], name=f"rate {rate}", optim__base_lr=rate)
        for rate in (1e-3, 3e-3, 1e-2)
    ]
    (folder / "comparison.html").write_text(comparison_page(runs))
    return folder


@pytest.mark.processes
# The color scheme changes no size, so that each width is looked at in one of both.
@pytest.mark.parametrize(("width", "dark"), [(PHONE, False), (DESKTOP, True)])
@pytest.mark.parametrize("page", ["report-3", "report-10", "report-1000", "comparison"])
def test_a_page_fits_its_width_in_dark_and_in_light(pages, tmp_path, page, width, dark):
    told, pixels = look_at(pages, f"{page}.html", width, dark, tmp_path / "profile")
    assert told["scroll"] <= told["client"] == width
    assert told["loaded"]
    assert (told["dark"], told["scripts"]) == (dark, 0)
    assert told["elements"] > 10
    # Most of the page is its background.
    background = np.median(pixels.reshape(-1, 3), axis=0).mean()
    assert background < 40 if dark else background > 220
    # The curves are there, in the colors of this scheme.
    blue = (88, 178, 238) if dark else (0, 114, 178)
    assert (np.abs(pixels.astype(int) - blue).max(axis=2) < 12).sum() > 50


@pytest.mark.processes
def test_tensorboard_shows_the_reports_pictures_and_text(tmp_path):
    run = write_run(tmp_path / "run")
    invented = with_pictures(invented_run([LONG, "b", "c"]), 8)
    write_board(run / "tensorboard", invented)
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    with board(run) as (_, address):
        for page in ("images", "text"):
            file = SCREENSHOTS / f"tensorboard-{page}.png"
            wait = ("--virtual-time-budget=20000", "--run-all-compositor-stages-before-draw")
            picture = f"--screenshot={file}"
            chromium(f"{address}#{page}", tmp_path / "profile", *wait, picture, height=1400)
        pixels = np.asarray(Image.open(SCREENSHOTS / "tensorboard-images.png").convert("RGB"))
    # A cell of the matrix, in a blue that TensorBoard's own page has not.
    found = invented.predictions
    shares = confusion_matrix(found.label, found.predicted, normalize="true")
    cell = 255 - (255 - np.array([40, 140, 215])) * np.sqrt(shares[0, 0])
    assert (np.abs(pixels - cell).max(axis=2) < 4).sum() > 500


@pytest.mark.processes
def test_tensorboard_shows_the_curves_by_name(tmp_path):
    runs = [write_run(tmp_path / name, shift) for name, shift in (("one", 0.0), ("two", 0.1))]
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    with board(*runs) as (_, address):
        wait = ("--virtual-time-budget=20000", "--run-all-compositor-stages-before-draw")
        dom = chromium(f"{address}#timeseries", tmp_path / "profile", *wait, "--dump-dom")
        for name in ("one/train", "two/validation", "accuracy", "loss"):
            assert name in dom
        for page in ("timeseries", "scalars"):
            file = SCREENSHOTS / f"tensorboard-{page}.png"
            picture = f"--screenshot={file}"
            chromium(f"{address}#{page}", tmp_path / "profile", *wait, picture)
        pixels = np.asarray(Image.open(file).convert("RGB")).astype(int)
    # The scalars page draws its curves in TensorBoard's own colors, right of the list of runs.
    charts = pixels[100:, 330:]
    for color in ((255, 112, 67), (0, 119, 187), (204, 51, 17)):
        assert (np.abs(charts - color).max(axis=2) < 20).sum() > 50
