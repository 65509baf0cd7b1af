"""Google's own Python client works with the fake, and sees what a real cloud would show it."""

import http.client
import json
import threading
import time
import unittest
import urllib.error
import urllib.request
import uuid

from google.auth.credentials import AnonymousCredentials
from googleapiclient.discovery import build
from googleapiclient.errors import HttpError

from serve import server

ZONE, OTHER = "europe-west1-b", "us-central1-a"


class WithGoogle(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = server()
        cls.url = f"http://127.0.0.1:{cls.server.server_port}"
        threading.Thread(target=cls.server.serve_forever, daemon=True).start()
        options = {"api_endpoint": f"{cls.url}/compute/v1/"}
        cls.compute = build("compute", "v1", credentials=AnonymousCredentials(), static_discovery=True, client_options=options)

    @classmethod
    def tearDownClass(cls):
        cls.compute.close()
        cls.server.shutdown()
        cls.server.server_close()

    def setUp(self):
        self.project = self.id().rsplit(".", 1)[-1].replace("_", "-")[:50]
        self.settings()

    def tearDown(self):
        self.assertEqual(self.control("GET", "")["wrong_answers"], [])

    def control(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}/fake/projects/{self.project}{path}", data, method=method)
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)

    def settings(self, **settings):
        self.control("PUT", "", settings)

    def body(self, name, **more):
        image = "projects/debian-cloud/global/images/family/debian-12"
        return {
            "name": name, "machineType": f"zones/{ZONE}/machineTypes/e2-standard-2", "labels": {"owner": "us"},
            "disks": [{"boot": True, "autoDelete": True, "initializeParams": {"sourceImage": image}}],
            "networkInterfaces": [{"network": "global/networks/default"}], **more,
        }

    def insert(self, name, zone=ZONE, request_id=None, **more):
        call = self.compute.instances().insert(
            project=self.project, zone=zone, body=self.body(name, **more), requestId=request_id
        )
        return call.execute()

    def wait(self, operation):
        zone = operation["zone"].rsplit("/", 1)[-1]
        call = self.compute.zoneOperations().wait(project=self.project, zone=zone, operation=operation["name"])
        return call.execute()

    def get(self, name, zone=ZONE):
        return self.compute.instances().get(project=self.project, zone=zone, instance=name).execute()

    def delete(self, name):
        return self.compute.instances().delete(project=self.project, zone=ZONE, instance=name).execute()

    def refused(self, status, call, *arguments, **named):
        with self.assertRaises(HttpError) as refused:
            call(*arguments, **named)
        self.assertEqual(refused.exception.status_code, status, refused.exception)
        return refused.exception.error_details[0]["reason"]

    def ends_as(self, status, name):
        end = time.time() + 10
        while self.get(name)["status"] != status:
            self.assertLess(time.time(), end, f"{name} is not {status}")

    def test_an_instance_lives_and_ends(self):
        self.settings(pending_seconds=1)
        operation = self.insert("a-1")
        self.assertEqual(operation["status"], "PENDING")
        self.assertEqual(self.refused(404, self.get, "a-1"), "notFound")
        self.assertEqual(self.wait(operation)["status"], "DONE")
        told = self.get("a-1")
        self.assertEqual((told["status"], told["id"], told["labels"]), ("RUNNING", operation["targetId"], {"owner": "us"}))
        self.assertEqual(self.get(told["id"])["name"], "a-1")
        ended = self.wait(self.delete("a-1"))
        self.assertNotIn("error", ended)
        self.assertEqual(self.refused(404, self.get, "a-1"), "notFound")
        self.assertEqual(self.refused(404, self.delete, "a-1"), "notFound")

    def test_a_request_id_makes_one_instance(self):
        number = str(uuid.uuid4())
        first, again = self.insert("a-1", request_id=number), self.insert("a-1", request_id=number)
        self.assertEqual(first["id"], again["id"])
        self.assertEqual(self.refused(409, self.insert, "a-1", request_id=str(uuid.uuid4())), "alreadyExists")
        self.assertEqual(self.refused(400, self.insert, "a-2", request_id=str(uuid.UUID(int=0))), "invalid")

    def test_lists_are_filtered_in_pages_and_over_zones(self):
        self.settings(page_size=2)
        made = [self.insert(f"a-{at}", zone=zone) for at in range(3) for zone in (ZONE, OTHER)]
        made.append(self.insert("foreign", labels={"owner": "them"}))
        for operation in made:
            self.wait(operation)
        call = self.compute.instances().aggregatedList(project=self.project, filter="labels.owner = us")
        seen, pages = [], 0
        while call is not None:
            page = call.execute()
            pages += 1
            for zone, scoped in page["items"].items():
                seen += [(zone, instance["name"]) for instance in scoped.get("instances", [])]
            call = self.compute.instances().aggregatedList_next(call, page)
        expected = sorted((f"zones/{zone}", f"a-{at}") for at in range(3) for zone in (ZONE, OTHER))
        self.assertEqual((sorted(seen), pages), (expected, 3))
        listed = self.compute.instances().list(project=self.project, zone=ZONE, filter="name eq a-[01]").execute()
        self.assertEqual([instance["name"] for instance in listed["items"]], ["a-0", "a-1"])
        bad = self.compute.instances().list(project=self.project, zone=ZONE, filter="nmae = x")
        self.assertEqual(self.refused(400, bad.execute), "invalid")

    def test_errors_inside_done_operations_leave_nothing(self):
        for fault, code in (
            ("exhausted", "ZONE_RESOURCE_POOL_EXHAUSTED"), ("operation_quota", "QUOTA_EXCEEDED"),
            ("operation_fails", "INTERNAL_ERROR"),
        ):
            self.settings(faults=[{"method": "instances.insert", "fault": fault, "times": 1}])
            ended = self.wait(self.insert("a-1"))
            self.assertEqual((ended["status"], ended["error"]["errors"][0]["code"]), ("DONE", code))
            self.assertEqual(self.refused(404, self.get, "a-1"), "notFound")
            self.assertEqual(self.control("GET", "")["fired"], {f"instances.insert {fault}": 1})
            self.wait(self.insert("a-1"))
        self.settings(quota={"INSTANCES": 1})
        self.wait(self.insert("a-1"))
        ended = self.wait(self.insert("a-2"))
        self.assertEqual(ended["error"]["errors"][0]["code"], "QUOTA_EXCEEDED")

    def test_refusals_have_no_effect_and_lost_replies_do(self):
        for fault, status in (("rate_limited", 403), ("too_many", 429), ("quota", 403), ("unavailable", 503)):
            self.settings(faults=[{"method": "instances.insert", "fault": fault, "times": 1}])
            self.refused(status, self.insert, "a-1")
            self.wait(self.insert("a-1"))
        for fault, left in (("lost_request", []), ("lost_reply", ["a-1"])):
            self.settings(faults=[{"method": "instances.insert", "fault": fault, "times": 1}])
            connection = http.client.HTTPConnection(self.url.removeprefix("http://"), timeout=10)
            path = f"/compute/v1/projects/{self.project}/zones/{ZONE}/instances"
            with self.assertRaises(http.client.RemoteDisconnected):
                connection.request("POST", path, json.dumps(self.body("a-1")))
                connection.getresponse()
            self.assertEqual(self.control("GET", "")["instances"], left)

    def test_slow_and_failing_operations(self):
        self.settings(slow_seconds=0.5, faults=[{"method": "instances.insert", "fault": "slow", "times": 1}])
        began = time.time()
        self.wait(self.insert("a-1"))
        self.assertGreater(time.time() - began, 0.6)
        self.control("POST", "/faults", [{"method": "instances.delete", "fault": "operation_fails", "times": 1}])
        self.assertIn("error", self.wait(self.delete("a-1")))
        self.assertEqual(self.get("a-1")["status"], "RUNNING")
        self.assertNotIn("error", self.wait(self.delete("a-1")))

    def test_spot_is_preempted_by_its_termination_action(self):
        spot = {"provisioningModel": "SPOT", "instanceTerminationAction": "DELETE"}
        self.wait(self.insert("a-1", scheduling=spot))
        self.control("POST", f"/instances/{ZONE}/a-1/preempt")
        preempted = 'operationType = "compute.instances.preempted"'
        listed = self.compute.zoneOperations().list(project=self.project, zone=ZONE, filter=preempted).execute()
        self.wait(listed["items"][0])
        self.assertEqual(self.refused(404, self.get, "a-1"), "notFound")
        self.wait(self.insert("a-2", scheduling={"provisioningModel": "SPOT"}))
        self.control("POST", f"/instances/{ZONE}/a-2/preempt")
        self.ends_as("TERMINATED", "a-2")

    def test_a_template_is_the_base(self):
        base = self.body("x", labels={"from": "template"})
        del base["name"]
        self.settings(templates={"runner": base})

        def insert(template):
            named = {"sourceInstanceTemplate": f"global/instanceTemplates/{template}", "body": {"name": "a-1"}}
            return self.compute.instances().insert(project=self.project, zone=ZONE, **named).execute()

        self.assertEqual(self.refused(404, insert, "none"), "notFound")
        self.wait(insert("runner"))
        self.assertEqual(self.get("a-1")["labels"], {"from": "template"})

    def test_parts_can_be_asked_for(self):
        self.settings(templates={"runner": self.body("x")})
        compute, here = self.compute, {"project": self.project}
        zone, region = {**here, "zone": ZONE}, {**here, "region": "europe-west1"}
        debian = {"project": "debian-cloud", "family": "debian-12-arm64"}
        for call, missing, field, value in (
            (lambda name: compute.images().getFromFamily(**{**debian, "family": name or "debian-12-arm64"}), "none", "architecture", "ARM64"),
            (lambda name: compute.networks().get(**here, network=name or "default"), "none", "name", "default"),
            (lambda name: compute.subnetworks().get(**region, subnetwork=name or "default"), "none", "name", "default"),
            (lambda name: compute.machineTypes().get(**zone, machineType=name or "e2-standard-4"), "none", "guestCpus", 4),
            (lambda name: compute.acceleratorTypes().get(**zone, acceleratorType=name or "nvidia-tesla-t4"), "none", "name", "nvidia-tesla-t4"),
            (lambda name: compute.instanceTemplates().get(**here, instanceTemplate=name or "runner"), "none", "name", "runner"),
        ):
            self.assertEqual(call(None).execute()[field], value)
            self.assertEqual(self.refused(404, call(missing).execute), "notFound")

    def test_tokens_are_given_out(self):
        def ask(path, headers, data=None):
            request = urllib.request.Request(f"{self.url}{path}", data, headers)
            with urllib.request.urlopen(request, timeout=10) as answer:
                return json.load(answer)

        self.assertEqual(ask("/fake/token", {}, b"grant_type=refresh_token&refresh_token=good")["access_token"], "good")
        with self.assertRaises(urllib.error.HTTPError) as refused:
            ask("/fake/token", {}, b"refresh_token=revoked")
        self.assertEqual((refused.exception.code, json.load(refused.exception)["error"]), (400, "invalid_grant"))
        refused.exception.close()
        as_other = ask("/fake/serviceAccounts/a@b:generateAccessToken", {"Authorization": "Bearer good", "Content-Type": "application/json"}, b"{}")
        self.assertEqual(as_other["accessToken"], "as-good")
        path = "/computeMetadata/v1/instance/service-accounts/default/token"
        self.assertEqual(ask(path, {"Metadata-Flavor": "Google"})["access_token"], "of-the-machine")

    def test_rules_preempt_too(self):
        self.settings(faults=[{"method": "instances.insert", "fault": "preempted", "times": 1}])
        self.wait(self.insert("a-1"))
        self.ends_as("TERMINATED", "a-1")

    def test_a_stopped_instance_stays(self):
        self.wait(self.insert("a-1"))
        self.control("POST", f"/instances/{ZONE}/a-1/stop")
        self.ends_as("TERMINATED", "a-1")
        self.wait(self.delete("a-1"))

    def test_labels_change_by_their_fingerprint(self):
        self.wait(self.insert("a-1"))
        told = self.get("a-1")

        def change(mark):
            body = {"labels": {"owner": "us", "state": "busy"}, "labelFingerprint": mark}
            return self.compute.instances().setLabels(project=self.project, zone=ZONE, instance="a-1", body=body).execute()

        self.wait(change(told["labelFingerprint"]))
        self.assertEqual(self.get("a-1")["labels"]["state"], "busy")
        self.assertEqual(self.refused(412, change, told["labelFingerprint"]), "conditionNotMet")

    def test_what_gce_refuses_is_refused(self):
        spot = {"provisioningModel": "SPOT"}
        image = [{"boot": True, "initializeParams": {"sourceImage": "global/images/none"}}]
        far = [{"subnetwork": "regions/us-central1/subnetworks/default"}]
        for wrong in (
            {"machineType": "zones/z/machineTypes/none"}, {"labels": {"Owner": "x"}}, {"labels": {"o": "a.b"}},
            {"disks": []}, {"disks": image}, {"networkInterfaces": []}, {"networkInterfaces": far},
            {"metadata": {"items": [{"key": "a", "value": "x" * 300_000}]}},
            {"scheduling": {**spot, "automaticRestart": True}}, {"scheduling": {"maxRunDuration": {"seconds": "60"}}},
            {"guestAccelerators": [{"acceleratorType": "nvidia-tesla-t4", "acceleratorCount": 1}]},
            {"nmae": "x"}, {"scheduling": {"provisioningModel": "CHEAP"}},
        ):
            self.assertEqual(self.refused(400, self.insert, "a-1", **wrong), "invalid", wrong)
        self.assertEqual(self.refused(400, self.insert, "a-1", zone="mars-1"), "invalid")
        self.assertEqual(self.control("GET", "")["instances"], [])

    def test_credentials_and_permissions_count(self):
        self.settings(tokens=["good"])
        request = urllib.request.Request(f"{self.url}/compute/v1/projects/{self.project}/zones/{ZONE}")
        with self.assertRaises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request, timeout=10)
        self.assertEqual(refused.exception.code, 401)
        refused.exception.close()
        request.add_header("Authorization", "Bearer good")
        with urllib.request.urlopen(request, timeout=10) as answer:
            self.assertEqual(json.load(answer)["name"], ZONE)
        self.settings(denied=["compute.instances.create"])
        self.assertEqual(self.refused(403, self.insert, "a-1"), "forbidden")
        self.assertEqual(self.refused(404, self.get, "a-1"), "notFound")


if __name__ == "__main__":
    unittest.main()
