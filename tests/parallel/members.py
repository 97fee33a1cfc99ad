"""Elastic jobs for the tests, and what their workers (member.py) have seen."""

import json
import signal

from tests.parallel.launches import TWO, end, wait_until


class Members:
    """The workers of one job, and what they have written."""

    def __init__(self, vit, folder):
        self._vit, self._folder = vit, folder

    def start(self, options, actions="1000000", **variables):
        words = f"{options} -- {self._folder} {actions}"
        return self._vit.start(words, script="member.py", TF_CONFIG="stale", **variables)

    def start_node(self, index, options, actions="1000000", hosts=TWO, **variables):
        """Starts the launcher of one of several nodes."""
        return self.start(
            f"--hosts {hosts} --port {self._vit.port} --index {index} {options}",
            actions,
            **variables,
        )

    def notes(self, event):
        """What was written about an event, in order of time."""
        lines = [
            json.loads(line)
            for path in self._folder.glob("*.jsonl")
            for line in path.read_text().splitlines()
        ]
        return sorted((n for n in lines if n["event"] == event), key=lambda note: note["at"])

    def generation(self, number):
        """The members of a generation by process id, once all of them have joined it."""
        joined = [n for n in self.notes("generation") if n["number"] == number]
        return {note["pid"]: note for note in joined if len(joined) == note["size"]}

    def wait_for(self, number, timeout_s=20.0):
        wait_until(lambda: self.generation(number), timeout_s)
        return self.generation(number)

    def of_slot(self, slot):
        """The process id of the newest worker of a slot, counted over all nodes."""
        return [note["pid"] for note in self.notes("connect") if note["slot"] == slot][-1]


def stop(launcher):
    """Stops a job and returns the code, standard output and standard error of its launcher."""
    launcher.send_signal(signal.SIGTERM)
    return end(launcher, 20)
