"""Puts into a new moto what the tests name: an image of ours in two ages, parameters that name one, security group,
key pair, instance profile, launch template, and subnets by their zones. Prints what it made as
`NAME value` lines.

    seed.py URL
"""

import sys
import time

import boto3


def client(service):
    return boto3.client(
        service,
        endpoint_url=sys.argv[1],
        region_name="us-east-1",
        aws_access_key_id="peer",
        aws_secret_access_key="peer-secret",
    )


ec2, ssm, iam = client("ec2"), client("ssm"), client("iam")
subnets = sorted(ec2.describe_subnets()["Subnets"], key=lambda subnet: subnet["AvailabilityZone"])
source = next(
    image["ImageId"]
    for image in ec2.describe_images(Owners=["amazon"])["Images"]
    if image.get("Architecture") == "x86_64" and image.get("Platform") != "windows"
)


def copy(name):
    return ec2.copy_image(Name=name, SourceImageId=source, SourceRegion="us-east-1")["ImageId"]


old = copy("runner-old")
time.sleep(1.1)  # moto tells of the whole second in which an image was made
new = copy("runner-new")
ssm.put_parameter(Name="/ci/runner-image", Value=new, Type="String")
ssm.put_parameter(Name="/ci/no-image", Value="something else", Type="String")
group = ec2.create_security_group(GroupName="runners", Description="runners", VpcId=subnets[0]["VpcId"])["GroupId"]
ec2.create_key_pair(KeyName="people")
iam.create_instance_profile(InstanceProfileName="jobs")
ec2.create_launch_template(
    LaunchTemplateName="runners",
    LaunchTemplateData={"ImageId": new, "InstanceType": "t3.small", "KeyName": "people", "SecurityGroupIds": [group]},
)
print(f"IMAGE {new}")
print(f"OLD_IMAGE {old}")
print(f"SUBNET_A {subnets[0]['SubnetId']}")
print(f"SUBNET_B {subnets[1]['SubnetId']}")
print(f"SECURITY_GROUP {group}")
