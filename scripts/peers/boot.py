"""Stands in for the starts of machines, where a peer boots nothing: each cloud's guests.py says which machines there are,
what they were given to start with, and how one is stopped.

What a machine was given is run on this machine: it may power nothing off, and keeps its state to itself. When it ends the
machine is stopped, as one is that powers itself off. What runs on a machine that is gone is ended.
"""

import os
import pathlib
import signal
import subprocess
import sys
import time
from typing import Any, NamedTuple


class Machine(NamedTuple):
    name: str
    runs: bool
    of_cloud: Any  # what the cloud's own functions know it by


def stand_in(folder, machines, script, stop):
    """Never returns. `machines()` gives all that are not gone by their ids, `script(machine)` bytes, and `stop(machine)`
    minds no machine that is being removed.

    The folder holds `bin`, which comes first in the path of what is run, and gets the output of each machine. Prints
    `ready`, and one line for each machine that starts.
    """
    folder, guests = pathlib.Path(folder), {}
    # It may come while a guest is waited for, under a lock that waiting for the same guest in here would never get.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    print("ready", flush=True)
    try:
        while True:
            look_after(guests, folder, machines, script, stop)
            time.sleep(0.5)
    finally:
        for guest in guests.values():
            if guest is not None:
                end(guest)


def look_after(guests, folder, machines, script, stop):
    there = machines()
    for id, machine in there.items():
        if machine.runs and id not in guests:
            guests[id] = boot(folder, machine.name, script(machine))
    for id, guest in list(guests.items()):
        if guest is None:
            continue
        if id not in there:
            end(guest)
            guests[id] = None
        elif guest.poll() is not None:
            stop(there[id])
            guests[id] = None


def boot(folder, name, text):
    script = folder / f"{name}.script"
    script.write_bytes(text)
    script.chmod(0o700)
    environment = dict(
        os.environ,
        PATH=f"{folder / 'bin'}:{os.environ['PATH']}",
        RUNNER_MANAGER_STATE=str(folder / "state"),
        RUNNER_MANAGER_POWER_OFF=str(folder / "bin" / "poweroff"),
    )
    output = (folder / f"{name}.console").open("wb")
    print(f"booting {name}", flush=True)
    return subprocess.Popen([script], env=environment, stdout=output, stderr=output, start_new_session=True)


def end(guest):
    """A script puts its runner into a process group of its own; the session is the same."""
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            _, _, _, session = stat.read_text().rsplit(")", 1)[1].split()[:4]
            if int(session) == guest.pid:
                os.kill(int(stat.parent.name), signal.SIGKILL)
        except (FileNotFoundError, ProcessLookupError):
            pass  # it has ended by itself
    guest.wait()
