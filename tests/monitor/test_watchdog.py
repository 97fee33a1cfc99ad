"""A process that hangs prints its stacks and ends."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.processes

ROOT = Path(__file__).parent.parent.parent

HANGS = """
import sys, threading, time
from pipeline.monitor.watchdog import Watchdog
dog = Watchdog(float(sys.argv[1]), "train.hang_timeout_s", "vit train: rank 3 on here")
dog.beat("compiling", extra_s=float(sys.argv[2]))
def stuck_in_a_collective():
    {block}
def other_thread():
    time.sleep(100)
threading.Thread(target=other_thread, daemon=True).start()
for _ in range(4):
    time.sleep(0.2)
    dog.beat("training from step 12")
stuck_in_a_collective()
"""


def hang(timeout_s, extra_s, block):
    start_s = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", HANGS.replace("{block}", block), str(timeout_s), str(extra_s)],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    return done.returncode, done.stderr, time.monotonic() - start_s


def test_it_prints_the_process_its_activity_and_all_stacks():
    code, err, seconds = hang(0.7, 0, "time.sleep(100)")
    assert code == 1
    assert 1.4 < seconds < 5
    assert "rank 3 on here: no progress: training from step 12 did not finish within 0.7 s" in err
    assert "train.hang_timeout_s=0.7" in err
    assert "in stuck_in_a_collective" in err
    assert "in other_thread" in err


def test_it_ends_a_process_that_holds_the_interpreter(monkeypatch):
    # One call that never gives the interpreter away: the watchdog's own thread cannot run.
    code, err, seconds = hang(0.5, 0, "sum(range(10**12))")
    assert code == 1
    assert seconds < 30
    assert "in stuck_in_a_collective" in err


def test_it_waits_longer_for_announced_activities():
    done = subprocess.run(
        [sys.executable, "-c",
         ("import time\nfrom pipeline.monitor.watchdog import Watchdog\n"
         "dog = Watchdog(0.2, 'x', 'y')\ndog.beat('compiling', 5.0)\ntime.sleep(1.0)\n"
         "dog.close()\ntime.sleep(0.5)\nprint('done')")],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "done\n")


@pytest.mark.parametrize("how", ["close", "never"])
def test_it_ends_nothing_when_closed_or_off(how):
    timeout = "None" if how == "never" else "0.2"
    close = "dog.close()" if how == "close" else ""
    done = subprocess.run(
        [sys.executable, "-c",
         (f"import time\nfrom pipeline.monitor.watchdog import Watchdog\n"
         f"dog = Watchdog({timeout}, 'x', 'y')\ndog.beat('a step')\n{close}\n"
         f"time.sleep(0.6)\nprint('done')")],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "done\n")
