"""Stands in for the starts of a deployment's machines (../boot.py): runs the user data that EC2 tells of, as cloud-init
would.

    guests.py DEPLOYMENT FOLDER
"""

import base64
import os
import pathlib
import sys

import boto3
import botocore.exceptions

sys.path.append(str(pathlib.Path(__file__).parents[1]))
from boot import Machine, stand_in  # noqa: E402

deployment, folder = sys.argv[1:]
client = boto3.client(
    "ec2",
    endpoint_url=os.environ["MOTO_URL"],
    region_name="us-east-1",
    aws_access_key_id="peer",
    aws_secret_access_key="peer-secret",
)


def machines():
    filters = [{"Name": "tag:runner-manager-deployment", "Values": [deployment]}]
    there = {}
    for page in client.get_paginator("describe_instances").paginate(Filters=filters):
        for reservation in page["Reservations"]:
            for instance in reservation["Instances"]:
                id, state = instance["InstanceId"], instance["State"]["Name"]
                tags = {tag["Key"]: tag["Value"] for tag in instance["Tags"]}
                if state != "terminated":
                    there[id] = Machine(tags["runner-manager-runner"], state == "running", id)
    return there


def script(machine):
    told = client.describe_instance_attribute(InstanceId=machine.of_cloud, Attribute="userData")
    return base64.b64decode(told["UserData"]["Value"])


def stop(machine):
    try:
        client.stop_instances(InstanceIds=[machine.of_cloud])
    except botocore.exceptions.ClientError:
        pass  # it is being terminated


stand_in(folder, machines, script, stop)
