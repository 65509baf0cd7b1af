"""Stands in for the starts of a deployment's machines (../boot.py): runs the user data that Nova tells an administrator
of, as cloud-init would.

    guests.py DEPLOYMENT FOLDER
"""

import base64
import os
import pathlib
import sys

import openstack

sys.path.append(str(pathlib.Path(__file__).parents[1]))
from boot import Machine, stand_in  # noqa: E402

deployment, folder = sys.argv[1:]
os.environ["OS_CLIENT_CONFIG_FILE"] = os.environ["OPENSTACK_PEER_CLOUDS"]
admin = openstack.connect(cloud="admin")
admin.compute.default_microversion = "2.69"
project = admin.identity.find_project("runners").id


def machines():
    return {
        server.id: Machine(server.name, server.status == "ACTIVE", server)
        for server in admin.compute.servers(details=True, all_projects=True, project_id=project)
        if (server.metadata or {}).get("runner-manager-deployment") == deployment
    }


def script(machine):
    return base64.b64decode(machine.of_cloud.user_data)


def stop(machine):
    try:
        admin.compute.stop_server(machine.of_cloud.id)
    except openstack.exceptions.HttpException:
        pass  # it is being deleted


stand_in(folder, machines, script, stop)
