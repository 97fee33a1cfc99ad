"""A stand-in for a worker of an elastic job: python member.py FOLDER [STEPS] [ACTION=VALUE ...].

It joins the group, counts steps, and writes what it sees to FOLDER/WORKER.jsonl, a JSON object per
line. It ends with exit code 0 after STEPS steps, and 75 when the job stops or it is asked to leave.

Actions: prepare=SECONDS, step=SECONDS (the time of a step), raise_at=STEP, hang_at=STEP,
newcomers=differ (workers that start when there is a group already have other settings).
"""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

from pipeline.errors import PipelineError, SettingsError
from pipeline.runtimes.membership import Membership


class Worker:
    def __init__(self, folder, steps, actions):
        self._steps, self._actions = steps, actions
        self._log = (folder / f"{os.environ['VIT_LAUNCH_WORKER']}.jsonl").open("a", buffering=1)
        self._leaves = False
        self._interrupted = threading.Event()
        self._step = 0

    def note(self, event, **values):
        values = {"event": event, "at": time.monotonic(), "pid": os.getpid()} | values
        self._log.write(json.dumps(values) + "\n")

    def run(self):
        membership = Membership.connect(os.environ)
        signal.signal(signal.SIGTERM, lambda *_: self._leave(membership))
        self.note("connect", slot=membership.slot.rank, late=membership.joins_late)
        membership.on_broken = self._interrupted.set
        time.sleep(float(self._actions.get("prepare", 0)))
        self.join(membership)
        if membership.joins_late and "newcomers" in self._actions:
            membership.leave()
            raise SettingsError("this worker has other settings")
        while self._step < self._steps:
            if membership.change_pending or self._interrupted.is_set():
                if self._leaves:
                    membership.leave()
                    self.note("left")
                    return 75
                self.join(membership)
                continue
            if membership.stop_reason:
                self.note("stop", reason=membership.stop_reason)
                return 75
            if self._step == int(self._actions.get("raise_at", -1)):
                raise RuntimeError("a fault of the code")
            if self._step == int(self._actions.get("hang_at", -1)):
                time.sleep(1000)
            self._interrupted.wait(float(self._actions.get("step", 0.02)))
            self._step += 1
            membership.report(step=self._step)
        return 0

    def join(self, membership):
        self.note("wait", step=self._step)
        place = membership.wait_for_generation()
        self._interrupted.clear()
        self.note("generation", **place._asdict())

    def _leave(self, membership):
        self._leaves = True
        membership.report(leaving=True)


def main(folder, steps="1000000", *words):
    actions = dict(word.split("=") for word in words)
    worker = Worker(Path(folder), int(steps), actions)
    try:
        code = worker.run()
    except PipelineError as error:
        worker.note("error", kind=type(error).__name__, text=str(error))
        code = error.exit_code
    worker.note("exit", code=code)
    return code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
