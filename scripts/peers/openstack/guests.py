"""Stands in for the starts of a deployment's machines, as Nova's fake hypervisor boots nothing.

Reads the user data of each server that becomes active from Nova's API, as an administrator, runs them as cloud-init
would, and stops the server when they end, as a machine does that powers itself off. What runs on a server that is gone is
ended. Prints one line for each server that starts.

    guests.py DEPLOYMENT FOLDER

FOLDER holds `bin`, which comes first in the path of what is run, and gets the output of each machine.
"""

import base64
import os
import pathlib
import signal
import subprocess
import sys
import time

import openstack

deployment, folder = sys.argv[1], pathlib.Path(sys.argv[2])
os.environ["OS_CLIENT_CONFIG_FILE"] = os.environ["OPENSTACK_PEER_CLOUDS"]
admin = openstack.connect(cloud="admin")
admin.compute.default_microversion = "2.69"
project = admin.identity.find_project("runners").id
guests = {}


def boot(server):
    """Runs what the server was given, on this machine: it may power nothing off, and keeps its state to itself."""
    script = folder / f"{server.name}.user-data"
    script.write_bytes(base64.b64decode(server.user_data))
    script.chmod(0o700)
    environment = dict(
        os.environ,
        PATH=f"{folder / 'bin'}:{os.environ['PATH']}",
        RUNNER_MANAGER_STATE=str(folder / "state"),
        RUNNER_MANAGER_POWER_OFF=str(folder / "bin" / "poweroff"),
    )
    output = (folder / f"{server.name}.console").open("wb")
    print(f"booting {server.name}", flush=True)
    return subprocess.Popen([script], env=environment, stdout=output, stderr=output, start_new_session=True)


def end(guest):
    try:
        os.killpg(guest.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    guest.wait()


def look():
    servers = {
        server.id: server
        for server in admin.compute.servers(details=True, all_projects=True, project_id=project)
        if (server.metadata or {}).get("runner-manager-deployment") == deployment
    }
    for server in servers.values():
        if server.status == "ACTIVE" and server.id not in guests:
            guests[server.id] = boot(server)
    for id, guest in list(guests.items()):
        if guest is None:
            continue
        if id not in servers:
            end(guest)
            guests[id] = None
        elif guest.poll() is not None:
            try:
                admin.compute.stop_server(id)
            except openstack.exceptions.HttpException:
                pass  # it is being deleted
            guests[id] = None


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
