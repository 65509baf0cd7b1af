"""Tells, with AWS' own Python client, of all that bears a deployment's mark in moto, whatever its state: instances with
their user data, volumes and network cards; and of volumes and cards that belong to no instance: one JSON object.

    look.py DEPLOYMENT [REGION]
"""

import base64
import json
import os
import sys

import boto3

deployment = sys.argv[1]
client = boto3.client(
    "ec2",
    endpoint_url=os.environ["MOTO_URL"],
    region_name=sys.argv[2] if len(sys.argv) > 2 else "us-east-1",
    aws_access_key_id="peer",
    aws_secret_access_key="peer-secret",
)


def attribute(instance, name):
    told = client.describe_instance_attribute(InstanceId=instance["InstanceId"], Attribute=name)
    return told[name[0].upper() + name[1:]].get("Value")


def tags(thing):
    return {tag["Key"]: tag["Value"] for tag in thing.get("Tags", [])}


filters = [{"Name": "tag:runner-manager-deployment", "Values": [deployment]}]
instances = []
for page in client.get_paginator("describe_instances").paginate(Filters=filters):
    for reservation in page["Reservations"]:
        instances += reservation["Instances"]
found = []
with_user_data = len(instances) <= 5
for instance in instances:
    told = {
        "id": instance["InstanceId"],
        "state": instance["State"]["Name"],
        "type": instance["InstanceType"],
        "image": instance["ImageId"],
        "subnet": instance.get("SubnetId"),
        "zone": instance["Placement"]["AvailabilityZone"],
        "lifecycle": instance.get("InstanceLifecycle"),
        "key": instance.get("KeyName"),
        "client_token": instance.get("ClientToken"),
        "public_ip": instance.get("PublicIpAddress"),
        "groups": sorted(
            {group["GroupId"] for card in instance["NetworkInterfaces"] for group in card["Groups"]}
            | {group["GroupId"] for group in instance["SecurityGroups"]}
        ),
        "metadata": instance.get("MetadataOptions"),
        "profile": (instance.get("IamInstanceProfile") or {}).get("Arn"),
        "tags": tags(instance),
    }
    if with_user_data:
        encoded = attribute(instance, "userData")
        told["user_data"] = base64.b64decode(encoded).decode() if encoded else None
        told["shutdown"] = attribute(instance, "instanceInitiatedShutdownBehavior")
    found.append(told)
volumes = client.describe_volumes(Filters=filters)["Volumes"]
json.dump(
    {
        "instances": found,
        "volumes": [
            {
                "size": volume["Size"],
                "type": volume["VolumeType"],
                "encrypted": volume["Encrypted"],
                "tags": tags(volume),
            }
            for volume in volumes
        ],
        "loose_cards": [
            card["NetworkInterfaceId"]
            for card in client.describe_network_interfaces()["NetworkInterfaces"]
            if card["Status"] == "available"
        ],
    },
    sys.stdout,
)
