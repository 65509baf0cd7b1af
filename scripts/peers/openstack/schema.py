"""Checks requests against what the services publish of them, where the peer has not the service or not the hypervisor.

Reads a JSON list of {"schema": "servers.create_v267", "body": {...}} from stdin and prints a list with one entry for
each: null where the body is right, and what is wrong with it otherwise.

Nova's schemas are those of its own package (nova.api.openstack.compute.schemas, Apache-2.0), with its own checker of
formats. Neutron's are the attribute maps of neutron-lib (neutron_lib.api.definitions, Apache-2.0), which say of each
attribute whether it may be given and what it must be: "neutron.ports", "neutron.floatingips".
"""

import importlib
import json
import sys

from neutron_lib.api import attributes
from neutron_lib.api.definitions import l3, port
from nova.api.validation import validators


def neutron(collection, body):
    definition = {"ports": port, "floatingips": l3}[collection]
    known = dict(definition.RESOURCE_ATTRIBUTE_MAP[collection])
    # From extensions that every Neutron has: security-group and standard-attr-description.
    if collection == "ports":
        known["security_groups"] = {"allow_post": True, "validate": {"type:uuid_list": None}}
    known["description"] = {"allow_post": True, "validate": {"type:string": 255}}
    ((_, resource),) = body.items()
    for name, value in resource.items():
        if name not in known:
            return f"unknown attribute {name}"
        if not known[name]["allow_post"]:
            return f"{name} cannot be given"
        for rule, argument in (known[name].get("validate") or {}).items():
            wrong = attributes.validators.get_validator(rule)(value, argument)
            if wrong:
                return f"{name}: {wrong}"
    return None


def nova(name, body):
    module, schema = name.split(".")
    schemas = importlib.import_module(f"nova.api.openstack.compute.schemas.{module}")
    try:
        validators._SchemaValidator(getattr(schemas, schema)).validate(body)
    except Exception as wrong:  # whichever of webob's, it says what is wrong
        return str(wrong)
    return None


def check(request):
    service, _, name = request["schema"].partition(".")
    if service == "neutron":
        return neutron(name, request["body"])
    return nova(request["schema"], request["body"])


json.dump([check(request) for request in json.load(sys.stdin)], sys.stdout)
