"""Tells, with OpenStack's own client, of all servers of the peer that bear a deployment's mark, with their user data,
and of all ports of that project that no server of it has: one JSON object.

    look.py DEPLOYMENT
"""

import json
import os
import sys

import openstack

def all_servers():
    """The client takes a page that names no next one for the last, which it is not where Nova took out of it what stood there
    twice, as servers do that are just being made. So it is asked for more until there is none."""
    servers, query = [], {}
    while page := list(admin.compute.servers(details=True, all_projects=True, project_id=project, **query)):
        servers += page
        query = {"marker": page[-1].id}
    unknown = [server.id for server in servers if server.status == "UNKNOWN"]
    assert not unknown, f"a cell does not answer: {unknown}"
    return list({server.id: server for server in servers}.values())


os.environ["OS_CLIENT_CONFIG_FILE"] = os.environ["OPENSTACK_PEER_CLOUDS"]
admin = openstack.connect(cloud="admin")
project = admin.identity.find_project("runners").id
admin.compute.default_microversion = "2.69"
servers = all_servers()
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
