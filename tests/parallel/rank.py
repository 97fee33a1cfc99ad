"""A stand-in for a training process: python rank.py ACTIONS_OF_RANK_0 ACTIONS_OF_RANK_1 ...

Actions are separated by commas and done in turn: print=TEXT, error=TEXT, sleep=SECONDS, exit=CODE,
kill=SIGNAL (itself), ignore=SIGNAL, on=SIGNAL:CODE (exit when it comes), child (start one that
sleeps), environment (print it as JSON). A rank without actions of its own does those of the last.
"""

import json
import os
import signal
import subprocess
import sys
import time


def find_rank() -> int:
    if "TF_CONFIG" in os.environ:
        return int(json.loads(os.environ["TF_CONFIG"])["task"]["index"])
    return int(os.environ["HOROVOD_RANK"])


def do(action: str) -> None:
    name, _, value = action.partition("=")
    if name == "print":
        print(value, flush=True)
    elif name == "error":
        print(value, file=sys.stderr, flush=True)
    elif name == "sleep":
        time.sleep(float(value))
    elif name == "exit":
        sys.exit(int(value))
    elif name == "kill":
        os.kill(os.getpid(), getattr(signal, value))
    elif name == "ignore":
        signal.signal(getattr(signal, value), signal.SIG_IGN)
    elif name == "on":
        number, code = value.split(":")
        signal.signal(getattr(signal, number), lambda *_: os._exit(int(code)))
    elif name == "child":
        subprocess.Popen(["sleep", "120"])
    elif name == "environment":
        print(json.dumps(dict(os.environ)), flush=True)
    else:
        raise ValueError(action)


for one in sys.argv[1:][min(find_rank(), len(sys.argv) - 2)].split(","):
    do(one)
