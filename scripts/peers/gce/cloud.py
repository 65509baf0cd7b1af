"""One project of the fake: its instances, operations and faults. Time comes in as an argument.

Knows nothing of HTTP or of the discovery document; `serve.py` checks requests before and answers after.
"""

import base64
import copy
import datetime
import hashlib
import heapq
import itertools
import json
import random
import re
import uuid

DEFAULTS = {
    "zones": {"europe-west1-b": "europe-west1", "europe-west1-c": "europe-west1", "us-central1-a": "us-central1"},
    "machine_types": {"e2-standard-2": 2, "e2-standard-4": 4, "n1-standard-4": 4, "t2a-standard-2": 2},
    "accelerators": ["nvidia-tesla-t4"],
    "images": [
        "projects/debian-cloud/global/images/family/debian-12", "projects/debian-cloud/global/images/family/debian-12-arm64",
    ],
    "networks": ["default"],
    "subnets": ["regions/europe-west1/subnetworks/default", "regions/us-central1/subnetworks/default"],
    "templates": {},
    "quota": {"INSTANCES": 1000, "CPUS": 10000},  # a region each
    "pending_seconds": 0.05,
    "running_seconds": 0.1,
    "slow_seconds": 3.0,
    "page_size": 500,
    "seed": 1,
    "tokens": None,  # any, and none needed
    "denied": [],
    "faults": [],  # {"method", "fault", "chance", "times", "following_pages", "after"}
}
# Projects of Google's own whose images are everybody's.
PUBLIC = ("debian-cloud",)
ARM = ("t2a-", "c4a-")
LABEL = re.compile(r"[\w-]{0,63}")
METADATA_KEY = re.compile(r"[a-zA-Z0-9_-]{1,128}")
GONE_SOON = ("STOPPING", "DEPROVISIONING")


class Refusal(Exception):
    """An error answer: status, reason as Compute gives it, message."""

    def __init__(self, status, reason, message, retry_after=None):
        super().__init__(message)
        self.status, self.reason, self.message, self.retry_after = status, reason, message, retry_after


def not_found(path):
    return Refusal(404, "notFound", f"The resource '{path}' was not found")


def invalid(field, value, message):
    return Refusal(400, "invalid", f"Invalid value for field '{field}': '{value}'. {message}")


class Project:
    def __init__(self, name, base, settings, now):
        unknown = set(settings) - set(DEFAULTS)
        if unknown:
            raise Refusal(400, "invalid", f"no such settings: {sorted(unknown)}")
        self.name, self.base = name, base
        self.settings = {**copy.deepcopy(DEFAULTS), **settings}
        self.random = random.Random(self.settings["seed"])
        self.instances, self.operations, self.requests = {}, {}, {}
        self.fired, self.calls = {}, {}
        self.agenda, self.numbers = [], itertools.count(10**18 + self.random.randrange(10**15))
        self.made = self.removed = 0
        self.now = now

    # --- time ---

    def at(self, due, action):
        heapq.heappush(self.agenda, (due, next(self.numbers), action))

    def advance(self, now):
        while self.agenda and self.agenda[0][0] <= now:
            self.now, _, action = heapq.heappop(self.agenda)
            action()
        self.now = max(self.now, now)

    def stamp(self):
        zone = datetime.timezone(datetime.timedelta(hours=-8))
        return datetime.datetime.fromtimestamp(self.now, zone).isoformat(timespec="milliseconds")

    # --- faults ---

    def fault(self, method, following_page=False):
        """The fault that befalls a call, and counts it."""
        for rule in self.settings["faults"]:
            if rule["method"] != method or rule.get("times") == 0:
                continue
            if rule.get("following_pages") and not following_page:
                continue
            if self.random.random() < rule.get("chance", 1):
                if "times" in rule:
                    rule["times"] -= 1
                key = f"{method} {rule['fault']}"
                self.fired[key] = self.fired.get(key, 0) + 1
                return rule
        return {"fault": None}

    # --- operations ---

    def operate(self, zone, kind, target, fault, run, done, request_id=None, user="someone@example.com", undo=None):
        """An operation through its life. `run` may give (code, status, message): an error, and `undo` in place of `done`."""
        number = str(next(self.numbers))
        name = f"operation-{number}"
        operation = {
            "kind": "compute#operation", "id": number, "name": name, "operationType": kind, "status": "PENDING",
            "zone": f"{self.base}projects/{self.name}/zones/{zone}", "user": user, "progress": 0,
            "insertTime": self.stamp(), "targetId": target["id"], "targetLink": target["selfLink"],
            "selfLink": f"{self.base}projects/{self.name}/zones/{zone}/operations/{name}",
        }
        self.operations[zone, name] = operation
        if request_id:
            self.requests[request_id] = operation
        longer = self.settings["slow_seconds"] if fault["fault"] == "slow" else 0
        begins = self.now + self.settings["pending_seconds"]
        ends = begins + self.settings["running_seconds"] + longer

        def begin():
            operation.update(status="RUNNING", startTime=self.stamp())
            operation["failure"] = run()

        def end():
            failure = operation.pop("failure")
            operation.update(status="DONE", progress=100, endTime=self.stamp())
            if not failure:
                done()
            else:
                if undo:
                    undo()
                code, status, message = failure
                operation["error"] = {"errors": [{"code": code, "message": message}]}
                operation.update(httpErrorStatusCode=status, httpErrorMessage=code.replace("_", " "))

        self.at(begins, begin)
        self.at(ends, end)
        return operation

    def known(self, request_id):
        if request_id is None:
            return None
        try:
            number = uuid.UUID(request_id)
        except ValueError:
            number = uuid.UUID(int=0)
        if number.int == 0:
            raise invalid("requestId", request_id, "Must be a UUID other than zero.")
        return self.requests.get(request_id)

    # --- instances ---

    def look(self, zone, name):
        for instance in self.instances.values():
            if instance["zone"].endswith(f"/{zone}") and name in (instance["name"], instance["id"]):
                if instance["status"] != "HIDDEN":
                    return instance
        raise not_found(f"projects/{self.name}/zones/{zone}/instances/{name}")

    def insert(self, zone, body, template, request_id, fault):
        again = self.known(request_id)
        if again:
            return again
        if template:
            found = self.settings["templates"].get(template.rsplit("/", 1)[-1])
            if found is None:
                raise not_found(f"projects/{self.name}/global/instanceTemplates/{template.rsplit('/', 1)[-1]}")
            body = {**copy.deepcopy(found), **body}
        self.check(zone, body)
        if (zone, body["name"]) in self.instances:
            path = f"projects/{self.name}/zones/{zone}/instances/{body['name']}"
            raise Refusal(409, "alreadyExists", f"The resource '{path}' already exists")
        instance = self.shape(zone, body)
        key = zone, body["name"]
        self.instances[key] = instance

        def run():
            failure = self.refusal(zone, instance, fault)
            instance["status"] = "PROVISIONING"
            return failure

        def done():
            if instance["status"] == "PROVISIONING":
                instance.update(status="RUNNING", lastStartTimestamp=self.stamp())
                self.made += 1
                if fault["fault"] == "preempted":
                    self.at(self.now + fault.get("after", 0.2), lambda: self.preempt(key, instance))

        return self.operate(
            zone, "insert", instance, fault, run, done, request_id, undo=lambda: self.instances.pop(key, None)
        )

    def refusal(self, zone, instance, fault):
        if fault["fault"] == "exhausted":
            path = f"projects/{self.name}/zones/{zone}"
            return "ZONE_RESOURCE_POOL_EXHAUSTED", 503, f"The zone '{path}' does not have enough resources available."
        if fault["fault"] == "operation_quota":
            return "QUOTA_EXCEEDED", 403, "Quota 'CPUS' exceeded.  Limit: 0.0 in region."
        if fault["fault"] == "operation_fails":
            return "INTERNAL_ERROR", 500, "Internal error. Please try again or contact Google Support."
        region = self.settings["zones"][zone]
        inside = [other for (where, _), other in self.instances.items() if self.settings["zones"][where] == region]
        used = {"INSTANCES": len(inside), "CPUS": sum(self.cpus(other) for other in inside)}
        for metric, limit in self.settings["quota"].items():
            if used.get(metric, 0) > limit:
                return "QUOTA_EXCEEDED", 403, f"Quota '{metric}' exceeded.  Limit: {limit}.0 in region {region}."
        return None

    def cpus(self, instance):
        return self.settings["machine_types"][instance["machineType"].rsplit("/", 1)[-1]]

    def delete(self, zone, name, request_id, fault):
        again = self.known(request_id)
        if again:
            return again
        instance = self.look(zone, name)
        if instance["status"] in GONE_SOON:
            raise Refusal(400, "resourceNotReady", f"The resource '{instance['selfLink']}' is not ready")
        key = zone, instance["name"]

        def run():
            if fault["fault"] == "operation_fails":
                return "INTERNAL_ERROR", 500, "Internal error. Please try again or contact Google Support."
            instance["status"] = "STOPPING"
            return None

        return self.operate(zone, "delete", instance, fault, run, lambda: self.remove(key, instance), request_id)

    def remove(self, key, instance):
        if self.instances.get(key) is instance:
            del self.instances[key]
            self.removed += 1

    def stop(self, zone, name, fault, kind="stop", user="someone@example.com"):
        instance = self.look(zone, name)

        def end():
            instance.update(status="TERMINATED", lastStopTimestamp=self.stamp())

        return self.operate(zone, kind, instance, fault, lambda: instance.update(status="STOPPING"), end, user=user)

    def preempt(self, key, instance):
        if self.instances.get(key) is not instance or instance["status"] != "RUNNING":
            return
        zone, name = key
        if instance["scheduling"].get("instanceTerminationAction") == "DELETE":
            self.operate(
                zone, "compute.instances.preempted", instance, {"fault": None},
                lambda: instance.update(status="STOPPING"), lambda: self.remove(key, instance), user="system",
            )
        else:
            self.stop(zone, name, {"fault": None}, "compute.instances.preempted", "system")

    def set_labels(self, zone, name, body, fault):
        instance = self.look(zone, name)
        if body.get("labelFingerprint") != instance["labelFingerprint"]:
            raise Refusal(412, "conditionNotMet", "Labels fingerprint either invalid or resource labels have changed")
        self.check_labels(body.get("labels", {}))

        def done():
            instance.update(labels=body.get("labels", {}), labelFingerprint=fingerprint(body.get("labels", {})))

        return self.operate(zone, "setLabels", instance, fault, lambda: None, done)

    # --- what instances are made from ---

    def part(self, kind, path):
        """One of what an instance is made from, by its path within the project."""
        *scope, name = path.split("/")
        there = {
            "images": any(image.endswith(f"projects/{self.name}/{path}") for image in self.settings["images"]),
            "networks": name in self.settings["networks"],
            "subnetworks": any(subnet.endswith(path) for subnet in self.settings["subnets"]),
            "machineTypes": name in self.settings["machine_types"],
            "acceleratorTypes": name in self.settings["accelerators"],
            "instanceTemplates": name in self.settings["templates"],
        }[kind]
        if not there or scope[0] == "zones" and scope[1] not in self.settings["zones"]:
            raise not_found(f"projects/{self.name}/{path}")
        shape = {"kind": f"compute#{kind[0].lower()}{kind[1:-1]}", "name": name, "id": "1", "selfLink": f"{self.base}projects/{self.name}/{path}"}
        if kind == "images":
            architecture = "ARM64" if name.endswith("arm64") else "X86_64"
            shape |= {"status": "READY", "architecture": architecture, "diskSizeGb": "10"}
            if "family" in scope:
                shape |= {"name": f"{name}-v1", "family": name}
        if kind == "machineTypes":
            architecture = "ARM64" if name.startswith(ARM) else "X86_64"
            shape |= {"guestCpus": self.settings["machine_types"][name], "memoryMb": 8192, "architecture": architecture, "zone": scope[1]}
        if kind == "instanceTemplates":
            body = copy.deepcopy(self.settings["templates"][name])
            body.pop("name", None)
            shape["properties"] = body | {"machineType": body.get("machineType", "").rsplit("/", 1)[-1]}
        return shape

    # --- what an instance may be ---

    def check(self, zone, body):
        if zone not in self.settings["zones"]:
            raise invalid("zone", zone, "Unknown zone.")
        if "name" not in body:
            raise Refusal(400, "required", "Required field 'resource.name' not specified")
        kind = body.get("machineType", "").rsplit("/", 1)[-1]
        if kind not in self.settings["machine_types"]:
            message = f"Machine type with name '{kind}' does not exist in zone '{zone}'."
            raise invalid("resource.machineType", body.get("machineType", ""), message)
        self.check_labels(body.get("labels", {}))
        self.check_metadata(body.get("metadata", {}).get("items", []))
        self.check_disks(body.get("disks", []))
        self.check_networks(zone, body.get("networkInterfaces", []))
        self.check_scheduling(body)

    def check_labels(self, labels):
        for key, value in labels.items():
            wrong = not LABEL.fullmatch(key) or not LABEL.fullmatch(value) or (key + value).lower() != key + value
            if wrong or not key[:1].isalpha():
                raise invalid("resource.labels", key, "The label does not match the rules on labels.")
        if len(labels) > 64:
            raise invalid("resource.labels", len(labels), "At most 64 labels are allowed.")

    def check_metadata(self, items):
        keys = [item.get("key", "") for item in items]
        for item in items:
            if not METADATA_KEY.fullmatch(item.get("key", "")) or keys.count(item["key"]) > 1:
                raise invalid("resource.metadata.items", item.get("key", ""), "Is no key, or there twice.")
        sizes = [len(item.get("value", "").encode()) for item in items]
        if max(sizes, default=0) > 256 * 1024 or sum(sizes) > 512 * 1024:
            raise invalid("resource.metadata", sum(sizes), "Metadata size is limited to 256 KiB a value, 512 KiB in all.")

    def check_disks(self, disks):
        if [disk.get("boot", False) for disk in disks].count(True) != 1:
            raise invalid("resource.disks", "", "Exactly one boot disk must be specified.")
        for at, disk in enumerate(disks):
            image = disk.get("initializeParams", {}).get("sourceImage")
            if image and not any(image.endswith(known) for known in self.settings["images"]):
                field = f"resource.disks[{at}].initializeParams.sourceImage"
                raise invalid(field, image, "The referenced image resource cannot be found.")

    def check_networks(self, zone, interfaces):
        if not interfaces:
            raise invalid("resource.networkInterfaces", "", "At least one network interface is required.")
        for at, interface in enumerate(interfaces):
            subnet, network = interface.get("subnetwork"), interface.get("network")
            if network and network.rsplit("/", 1)[-1] not in self.settings["networks"]:
                field = f"resource.networkInterfaces[{at}].network"
                raise invalid(field, network, "The referenced network resource cannot be found.")
            field = f"resource.networkInterfaces[{at}].subnetwork"
            if subnet and not any(subnet.endswith(known) for known in self.settings["subnets"]):
                raise invalid(field, subnet, "The referenced subnetwork resource cannot be found.")
            if subnet and f"regions/{self.settings['zones'][zone]}/" not in subnet:
                raise invalid(field, subnet, "The subnetwork must be in the region of the instance.")

    def check_scheduling(self, body):
        scheduling = body.get("scheduling", {})
        spot, limit = scheduling.get("provisioningModel") == "SPOT", scheduling.get("maxRunDuration")
        action, stays = scheduling.get("instanceTerminationAction"), scheduling.get("onHostMaintenance")
        if spot and (scheduling.get("automaticRestart") or stays == "MIGRATE"):
            raise invalid("resource.scheduling", "SPOT", "Spot allows neither automatic restart nor live migration.")
        if action and not (spot or limit):
            raise invalid("resource.scheduling.instanceTerminationAction", action, "Needs Spot or a limit on the run.")
        if limit and not (action and 30 <= int(limit.get("seconds", 0)) <= 120 * 86400):
            raise invalid("resource.scheduling.maxRunDuration", limit, "Needs a termination action; 30 s to 120 days.")
        for accelerator in body.get("guestAccelerators", []):
            if accelerator.get("acceleratorType", "").rsplit("/", 1)[-1] not in self.settings["accelerators"]:
                raise invalid("resource.guestAccelerators", accelerator, "The accelerator type cannot be found.")
            if stays != "TERMINATE":
                raise Refusal(400, "invalid", "Instances with guest accelerators do not support live migration.")

    def shape(self, zone, body):
        instance = copy.deepcopy(body)
        scope = f"{self.base}projects/{self.name}/zones/{zone}"
        labels, items = instance.setdefault("labels", {}), instance.setdefault("metadata", {})
        instance.setdefault("scheduling", {})
        items.update(kind="compute#metadata", fingerprint=fingerprint(items.get("items", [])))
        for at, interface in enumerate(instance["networkInterfaces"]):
            interface.update(kind="compute#networkInterface", name=f"nic{at}", networkIP="10.132.0.2")
        return instance | {
            "kind": "compute#instance", "id": str(next(self.numbers)), "creationTimestamp": self.stamp(),
            "zone": scope, "selfLink": f"{scope}/instances/{body['name']}", "status": "HIDDEN",
            "labelFingerprint": fingerprint(labels),
        }


def fingerprint(value):
    digest = hashlib.sha256(json.dumps(value, sort_keys=True).encode()).digest()
    return base64.urlsafe_b64encode(digest[:8]).decode()
