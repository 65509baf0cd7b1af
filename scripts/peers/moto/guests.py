"""Stands in for the starts of a deployment's machines, as moto boots nothing.

Reads the user data of each instance that runs from EC2's API, runs them as cloud-init would, and stops the instance when
they end, as a machine does that powers itself off. What runs on an instance that is gone is ended. Prints one line for
each instance that starts.

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

import boto3
import botocore.exceptions

deployment, folder = sys.argv[1], pathlib.Path(sys.argv[2])
client = boto3.client(
    "ec2",
    endpoint_url=os.environ["MOTO_URL"],
    region_name="us-east-1",
    aws_access_key_id="peer",
    aws_secret_access_key="peer-secret",
)
guests = {}


def boot(id, name):
    """Runs what the instance was given, on this machine: it may power nothing off, and keeps its state to itself."""
    told = client.describe_instance_attribute(InstanceId=id, Attribute="userData")
    script = folder / f"{name}.user-data"
    script.write_bytes(base64.b64decode(told["UserData"]["Value"]))
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
    try:
        os.killpg(guest.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    guest.wait()


def look():
    filters = [{"Name": "tag:runner-manager-deployment", "Values": [deployment]}]
    living = {}
    for page in client.get_paginator("describe_instances").paginate(Filters=filters):
        for reservation in page["Reservations"]:
            for instance in reservation["Instances"]:
                if instance["State"]["Name"] != "terminated":
                    living[instance["InstanceId"]] = instance
    for id, instance in living.items():
        if instance["State"]["Name"] == "running" and id not in guests:
            tags = {tag["Key"]: tag["Value"] for tag in instance["Tags"]}
            guests[id] = boot(id, tags["runner-manager-runner"])
    for id, guest in list(guests.items()):
        if guest is None:
            continue
        if id not in living:
            end(guest)
            guests[id] = None
        elif guest.poll() is not None:
            try:
                client.stop_instances(InstanceIds=[id])
            except botocore.exceptions.ClientError:
                pass  # it is being terminated
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
