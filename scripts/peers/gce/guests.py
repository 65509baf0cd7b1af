"""Stands in for the starts of a deployment's machines, as the fake boots nothing.

Reads the start script of each instance that runs from Compute's API, runs it as Google's guest agent would, and stops the
instance when it ends, as a machine does that powers itself off. What runs on an instance that is gone is ended. Prints one
line for each instance that starts.

    guests.py PROJECT DEPLOYMENT FOLDER

FOLDER holds `bin`, which comes first in the path of what is run, and gets the output of each machine.
"""

import os
import pathlib
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request

from google.oauth2.credentials import Credentials
from googleapiclient.discovery import build

project, deployment, folder = sys.argv[1], sys.argv[2], pathlib.Path(sys.argv[3])
url = os.environ["GCE_URL"]
compute = build(
    "compute", "v1", credentials=Credentials(os.environ["GCE_TOKEN"]), static_discovery=True,
    client_options={"api_endpoint": f"{url}/compute/v1/"},
)
guests = {}


def boot(instance):
    """Runs what the instance was given, on this machine: it may power nothing off, and keeps its state to itself."""
    name = instance["name"]
    [text] = [item["value"] for item in instance["metadata"]["items"] if item["key"] == "startup-script"]
    script = folder / f"{name}.startup-script"
    script.write_text(text)
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


def stop(instance):
    zone = instance["zone"].rsplit("/", 1)[-1]
    path = f"{url}/fake/projects/{project}/instances/{zone}/{instance['name']}/stop"
    try:
        urllib.request.urlopen(urllib.request.Request(path, b"", method="POST"), timeout=10).close()
    except urllib.error.HTTPError as gone:
        gone.close()


def end(guest):
    try:
        os.killpg(guest.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    guest.wait()


def look():
    there = {}
    call = compute.instances().aggregatedList(project=project, filter=f"labels.runner-manager-deployment = {deployment}")
    while call is not None:
        page = call.execute()
        for scoped in page["items"].values():
            there |= {instance["id"]: instance for instance in scoped.get("instances", [])}
        call = compute.instances().aggregatedList_next(call, page)
    for number, instance in there.items():
        if instance["status"] == "RUNNING" and number not in guests:
            guests[number] = boot(instance)
    for number, guest in list(guests.items()):
        if guest is None:
            continue
        if number not in there:
            end(guest)
            guests[number] = None
        elif guest.poll() is not None:
            stop(there[number])
            guests[number] = None


def leave(*_):
    for guest in guests.values():
        if guest is not None:
            end(guest)
    sys.exit(0)


signal.signal(signal.SIGTERM, leave)
print("ready", flush=True)
while True:
    look()
    time.sleep(0.5)
