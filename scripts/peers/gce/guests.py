"""Stands in for the starts of a deployment's machines (../boot.py): runs the start script that an instance's metadata
hold, as Google's guest agent would.

    guests.py PROJECT DEPLOYMENT FOLDER
"""

import os
import pathlib
import sys
import urllib.error
import urllib.request

from google.oauth2.credentials import Credentials
from googleapiclient.discovery import build

sys.path.append(str(pathlib.Path(__file__).parents[1]))
from boot import Machine, stand_in  # noqa: E402

project, deployment, folder = sys.argv[1:]
url = os.environ["GCE_URL"]
compute = build(
    "compute", "v1", credentials=Credentials(os.environ["GCE_TOKEN"]), static_discovery=True,
    client_options={"api_endpoint": f"{url}/compute/v1/"},
)


def machines():
    there = {}
    call = compute.instances().aggregatedList(project=project, filter=f"labels.runner-manager-deployment = {deployment}")
    while call is not None:
        page = call.execute()
        for scoped in page["items"].values():
            for instance in scoped.get("instances", []):
                there[instance["id"]] = Machine(instance["name"], instance["status"] == "RUNNING", instance)
        call = compute.instances().aggregatedList_next(call, page)
    return there


def script(machine):
    items = machine.of_cloud["metadata"]["items"]
    [text] = [item["value"] for item in items if item["key"] == "startup-script"]
    return text.encode()


def stop(machine):
    zone = machine.of_cloud["zone"].rsplit("/", 1)[-1]
    path = f"{url}/fake/projects/{project}/instances/{zone}/{machine.name}/stop"
    try:
        urllib.request.urlopen(urllib.request.Request(path, b"", method="POST"), timeout=10).close()
    except urllib.error.HTTPError as gone:
        gone.close()


stand_in(folder, machines, script, stop)
