"""A moto of its own that looks at credentials, with a user for each policy: it may do what that says.

    guarded.py < POLICIES

Reads policies, one a line, up to an empty line. Prints the URL, an image and a subnet on one line, and on a line for each
policy the id and the secret of its user's access key; and ends when its standard input does. moto looks at the actions of
policies alone, not at resources and conditions.
"""

import sys

import boto3
import requests
from moto.server import ThreadedMotoServer

policies = list(iter(sys.stdin.readline, "\n"))
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
host, port = server.get_host_and_port()
url = f"http://{host}:{port}"


def client(service):
    return boto3.client(
        service,
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id="peer",
        aws_secret_access_key="peer-secret",
    )


ec2, iam = client("ec2"), client("iam")


def user(number, policy):
    name = f"manager-{number}"
    iam.create_user(UserName=name)
    iam.put_user_policy(UserName=name, PolicyName="manager", PolicyDocument=policy)
    key = iam.create_access_key(UserName=name)["AccessKey"]
    return key["AccessKeyId"], key["SecretAccessKey"]


keys = [user(number, policy) for number, policy in enumerate(policies)]
image = next(
    image["ImageId"]
    for image in ec2.describe_images(Owners=["amazon"])["Images"]
    if image.get("Architecture") == "x86_64" and image.get("Platform") != "windows"
)
subnet = ec2.describe_subnets()["Subnets"][0]["SubnetId"]
requests.post(f"{url}/moto-api/reset-auth", data="0", headers={"Content-Type": "text/plain"}, timeout=30)
print(url, image, subnet)
for key in keys:
    print(*key)
sys.stdout.flush()
sys.stdin.read()
server.stop()
