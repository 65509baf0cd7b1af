"""What a test finds in the cloud: projects, users, flavors, an image, networks, a credential. Prints the credential's id.

    seed.py IMAGE

Projects: `runners` with room for 200 servers, and `broke` with room for none. Users: `runner` of both, and `reader`,
who may look at `runners` and change nothing.
"""

import sys

import openstack

admin = openstack.connect(cloud="admin")
identity, compute, network = admin.identity, admin.compute, admin.network

runners = identity.create_project(name="runners", domain_id="default")
broke = identity.create_project(name="broke", domain_id="default")
runner = identity.create_user(name="runner", password="peer", domain_id="default", default_project_id=runners.id)
reader = identity.create_user(name="reader", password="peer", domain_id="default", default_project_id=runners.id)
for project, user, role in ((runners, runner, "member"), (broke, runner, "member"), (runners, reader, "reader")):
    identity.assign_project_role_to_user(project, user, identity.find_role(role))

for name, cpus, memory, disk in (
    ("m1.tiny", 1, 512, 1),
    ("m1.small", 1, 2048, 20),
    ("m1.large", 4, 8192, 80),
    ("m1.impossible", 100000, 2048, 20),  # fits no host: "No valid host was found"
):
    compute.create_flavor(name=name, vcpus=cpus, ram=memory, disk=disk, is_public=True)
admin.set_compute_quotas("runners", instances=200, cores=200000, ram=1048576)
admin.set_compute_quotas("broke", instances=0)
network.update_quota(runners.id, ports=1000)

admin.create_image(
    "debian-12",
    filename=sys.argv[1],
    disk_format="raw",
    container_format="bare",
    visibility="public",
    wait=True,
    timeout=60,
)

for project, cidr in ((runners, "10.77.0.0/16"), (broke, "10.78.0.0/24")):
    made = network.create_network(name=f"{project.name}-net", project_id=project.id)
    network.create_subnet(
        name=f"{project.name}-subnet",
        network_id=made.id,
        project_id=project.id,
        ip_version=4,
        cidr=cidr,
        enable_dhcp=False,
    )

member = openstack.connect(cloud="runners-password")
group = member.network.create_security_group(name="runners")
member.compute.create_keypair(name="people")
member.compute.create_server_group(name="spread", policy="soft-anti-affinity")
credential = member.identity.create_application_credential(
    user=member.current_user_id, name="runner-manager", secret="peer-application-secret"
)
print(credential.id)
