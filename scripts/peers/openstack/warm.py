"""The first question to each service, so that no test waits for what is loaded late."""

import openstack

connection = openstack.connect(cloud="runners")
list(connection.compute.flavors())
list(connection.image.images())
list(connection.network.networks())
list(connection.network.security_groups())
list(connection.compute.servers())
