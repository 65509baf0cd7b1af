"""Users of the services, and the catalog: what every other service needs to start.

    seed_keystone.py FIRST_PORT
"""

import sys

import openstack

first = int(sys.argv[1])
identity = openstack.connect(cloud="admin").identity
project = identity.create_project(name="service", domain_id="default")
roles = [identity.find_role("admin"), identity.find_role("service") or identity.create_role(name="service")]
for name in ("nova", "glance", "placement", "neutron"):
    user = identity.create_user(name=name, password="peer", domain_id="default", default_project_id=project.id)
    for role in roles:
        identity.assign_project_role_to_user(project, user, role)
for kind, name, offset, path in (
    ("compute", "nova", 1, "/v2.1"),
    ("image", "glance", 2, ""),
    ("placement", "placement", 3, ""),
    ("network", "neutron", 4, ""),
):
    service = identity.create_service(type=kind, name=name)
    for interface in ("public", "internal", "admin"):
        identity.create_endpoint(
            service_id=service.id,
            interface=interface,
            region_id="RegionOne",
            url=f"http://127.0.0.1:{first + offset}{path}",
        )
