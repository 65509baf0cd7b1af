"""Tells, with Google's own Python client, of all instances that bear a deployment's mark in a project of the fake, over all
zones: a JSON list of instances as Compute tells of them.

    look.py PROJECT DEPLOYMENT
"""

import json
import os
import sys

from google.auth.credentials import AnonymousCredentials
from google.oauth2.credentials import Credentials
from googleapiclient.discovery import build

project, deployment = sys.argv[1:3]
token = os.environ.get("GCE_TOKEN")
compute = build(
    "compute", "v1", credentials=Credentials(token) if token else AnonymousCredentials(), static_discovery=True,
    client_options={"api_endpoint": f"{os.environ['GCE_URL']}/compute/v1/"},
)
found = []
call = compute.instances().aggregatedList(project=project, filter=f"labels.runner-manager-deployment = {deployment}")
while call is not None:
    page = call.execute()
    for scoped in page["items"].values():
        found += scoped.get("instances", [])
    call = compute.instances().aggregatedList_next(call, page)
json.dump(found, sys.stdout)
