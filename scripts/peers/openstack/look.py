"""Tells, with OpenStack's own client, of all servers of the peer that bear a deployment's mark, with their user data,
and of all ports of that project that no server of it has: one JSON object.

    look.py DEPLOYMENT
"""

import json
import os
import sys

import openstack

os.environ["OS_CLIENT_CONFIG_FILE"] = os.environ["OPENSTACK_PEER_CLOUDS"]
admin = openstack.connect(cloud="admin")
project = admin.identity.find_project("runners").id
admin.compute.default_microversion = "2.69"
servers = list(admin.compute.servers(details=True, all_projects=True, project_id=project))
ids = {server.id for server in servers}
ports = [
    {"id": port.id, "name": port.name, "description": port.description, "device_id": port.device_id}
    for port in admin.network.ports(project_id=project)
    if port.device_id not in ids
]
found = [
    {
        "id": server.id,
        "name": server.name,
        "status": server.status,
        "metadata": server.metadata,
        "tags": server.tags,
        "user_data": server.user_data,
        "config_drive": server.has_config_drive,
        "key_name": server.key_name,
        "flavor": server.flavor.original_name,
        "networks": sorted(server.addresses or {}),
        "security_groups": sorted({group["name"] for group in server.security_groups or []}),
    }
    for server in servers
    if (server.metadata or {}).get("runner-manager-deployment") == sys.argv[1]
]
json.dump({"servers": found, "ports": ports}, sys.stdout)
