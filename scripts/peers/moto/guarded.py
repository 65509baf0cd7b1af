"""A moto of its own that looks at credentials, with a user for each policy: it may do what that says. Without any policy it
lets everybody do all.

    guarded.py < POLICIES

Reads policies, one a line, up to an empty line. Prints the URL, an image and a subnet on one line, and on a line for each
policy the id and the secret of its user's access key; and ends when its standard input does. moto looks at the actions of
policies alone, not at resources and conditions.
"""

import sys
import threading

import boto3
import requests
from serve import server

policies = list(iter(sys.stdin.readline, "\n"))
moto = server(0)
threading.Thread(target=moto.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{moto.server_port}"


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
if policies:
    requests.post(f"{url}/moto-api/reset-auth", data="0", headers={"Content-Type": "text/plain"}, timeout=30)
print(url, image, subnet)
for key in keys:
    print(*key)
sys.stdout.flush()
sys.stdin.read()
