"""The HTTP face of the fake: Compute's REST API below /compute/v1/, and what tests ask of it below /fake/.

    PUT  /fake/projects/NAME                       a fresh project with these settings (cloud.py: DEFAULTS)
    POST /fake/projects/NAME/faults                these rules in place of those before
    GET  /fake/projects/NAME                       its books: calls, faults that fired, instances made and removed
    POST /fake/projects/NAME/instances/ZONE/INSTANCE/{stop,preempt}
    POST /fake/token                               OAuth: the access token is the refresh token's text; `revoked` is refused
    POST /fake/serviceAccounts/ACCOUNT:generateAccessToken   as IAM gives out tokens: `as-` and the token that asked

Each project is a world of its own, so tests can share one server. The metadata server of a machine of GCE answers, too: its
service account's token is `of-the-machine`.
"""

import argparse
import base64
import copy
import json
import threading
import time
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from cloud import PUBLIC, Project, Refusal, invalid, not_found
from discovery import Document, Wrong
from filters import BadFilter, parse

METHODS = [
    "instances.insert", "instances.get", "instances.list", "instances.aggregatedList", "instances.delete",
    "instances.stop", "instances.setLabels", "zoneOperations.get", "zoneOperations.wait", "zoneOperations.list",
    "zones.get", "zones.list", "images.get", "images.getFromFamily", "networks.get", "subnetworks.get", "machineTypes.get",
    "acceleratorTypes.get", "instanceTemplates.get",
]
ACCOUNTS = "/fake/serviceAccounts/"
PARTS = ("images", "networks", "subnetworks", "machineTypes", "acceleratorTypes", "instanceTemplates")
PERMISSIONS = {"insert": "create", "aggregatedList": "list", "wait": "get"}
LONGEST_WAIT = 120
LARGEST_BODY = 1 << 20


class Fake:
    def __init__(self, base):
        self.document = Document(METHODS)
        self.base = base
        self.projects = {name: Project(name, base, {}, time.time()) for name in PUBLIC}
        self.changed = threading.Condition()
        self.wrong_answers = []

    def call(self, method, path, query, body, bearer):
        """One call of Compute's API: (answer, fault)."""
        found = self.document.match(method, path)
        if not found:
            raise Refusal(501, "notImplemented", f"the fake does not play {method} {path}")
        name, where = found
        read = self.document.check_query(name, where, query)
        self.document.check_request(name, body)
        with self.changed:
            project = self.projects.get(where["project"])
            if project is None:
                raise not_found(f"projects/{where['project']}")
            project.advance(time.time())
            project.calls[name] = project.calls.get(name, 0) + 1
            self.admit(project, name, path, bearer)
            fault = project.fault(name, following_page="pageToken" in read)
            befall(fault)
            if name.split(".")[0] in PARTS:
                answer = project.part(name.split(".")[0], path.split("/", 2)[2])
            else:
                answer = self.answer(project, name, where, read, body, fault)
            answer = {key: value for key, value in copy.deepcopy(answer).items() if key != "failure"}
        try:
            self.document.check_answer(name, answer)
        except Wrong as wrong:
            self.wrong_answers.append(f"{name}: {wrong}")
            raise
        return answer, fault["fault"]

    def admit(self, project, name, path, bearer):
        tokens = project.settings["tokens"]
        if tokens is not None and bearer not in tokens:
            raise Refusal(401, "authError", "Request had invalid authentication credentials.")
        resource, verb = name.split(".")
        permission = f"compute.{resource}.{PERMISSIONS.get(verb, verb)}"
        if permission in project.settings["denied"]:
            raise Refusal(403, "forbidden", f"Required '{permission}' permission for '{path}'")

    def answer(self, project, name, where, query, body, fault):
        zone, instance = where.get("zone"), where.get("instance")
        request_id = query.get("requestId")
        if name == "instances.insert":
            return project.insert(zone, body, query.get("sourceInstanceTemplate"), request_id, fault)
        if name == "instances.delete":
            return project.delete(zone, instance, request_id, fault)
        if name == "instances.stop":
            return project.stop(zone, instance, fault)
        if name == "instances.setLabels":
            return project.set_labels(zone, instance, body, fault)
        if name == "instances.get":
            return project.look(zone, instance)
        if name in ("zoneOperations.get", "zoneOperations.wait"):
            return self.operation(project, zone, where["operation"], waits=name.endswith("wait"))
        if name == "zones.get":
            if zone not in project.settings["zones"]:
                raise not_found(f"projects/{project.name}/zones/{zone}")
            return self.zone(project, zone)
        return self.pages(project, name, zone, query)

    def operation(self, project, zone, name, waits):
        found = [
            operation for (where, _), operation in project.operations.items()
            if where == zone and name in (operation["name"], operation["id"])
        ]
        if not found:
            raise not_found(f"projects/{project.name}/zones/{zone}/operations/{name}")
        end = time.time() + LONGEST_WAIT
        while waits and found[0]["status"] != "DONE" and time.time() < end:
            self.changed.wait(0.02)
            project.advance(time.time())
        return found[0]

    def zone(self, project, zone):
        scope = f"{self.base}projects/{project.name}"
        region = f"{scope}/regions/{project.settings['zones'][zone]}"
        return {"kind": "compute#zone", "name": zone, "status": "UP", "region": region,
                "selfLink": f"{scope}/zones/{zone}"}

    def pages(self, project, name, zone, query):
        """One page of a list, in the order of zones and names; the token is where it ended."""
        resource, verb = name.split(".")
        if zone and zone not in project.settings["zones"]:
            raise invalid("zone", zone, "Unknown zone.")
        if resource == "zones":
            every = {("", where): self.zone(project, where) for where in project.settings["zones"]}
        else:
            every = project.instances if resource == "instances" else project.operations
        schema = {"instances": "Instance", "zoneOperations": "Operation", "zones": "Zone"}[resource]
        holds = lambda _: True
        if query.get("filter"):
            try:
                holds = parse(query["filter"], self.document.properties(schema))
            except BadFilter:
                raise invalid("filter", query["filter"], "Invalid list filter expression.") from None
        after = self.token(query.get("pageToken"))
        there = [
            (key, item) for key, item in sorted(every.items())
            if item["status"] != "HIDDEN" and (zone is None or key[0] == zone) and list(key) > after and holds(item)
        ]
        size = min(query.get("maxResults", 500) or 500, project.settings["page_size"])
        page, more = there[:size], len(there) > size
        scope = f"{self.base}projects/{project.name}"
        kind = f"compute#{schema[0].lower()}{schema[1:]}" + ("AggregatedList" if verb == "aggregatedList" else "List")
        answer = {"kind": kind, "id": f"projects/{project.name}/{name}", "selfLink": f"{scope}/{resource}"}
        if more:
            answer["nextPageToken"] = base64.urlsafe_b64encode(json.dumps(page[-1][0]).encode()).decode()
        items = [{key: value for key, value in item.items() if key != "failure"} for _, item in page]
        if verb != "aggregatedList":
            return answer | {"items": items}
        nothing = {"warning": {"code": "NO_RESULTS_ON_PAGE", "message": "There are no results on this page."}}
        answer["items"] = {f"zones/{where}": nothing for where in project.settings["zones"]}
        for (where, _), item in zip((key for key, _ in page), items):
            scoped = answer["items"].get(f"zones/{where}", nothing).get("instances", [])
            answer["items"][f"zones/{where}"] = {"instances": [*scoped, item]}
        return answer

    def token(self, token):
        try:
            return list(json.loads(base64.urlsafe_b64decode(token))) if token else []
        except ValueError:
            raise invalid("pageToken", token, "The page token is not one.") from None

    def control(self, method, steps, body):
        with self.changed:
            name = steps[0]
            if method == "PUT" and len(steps) == 1:
                self.projects[name] = Project(name, self.base, body or {}, time.time())
                return {}
            project = self.projects.get(name)
            if project is None:
                raise not_found(name)
            project.advance(time.time())
            if method == "GET" and len(steps) == 1:
                instances = [instance["name"] for instance in project.instances.values()]
                return {"calls": project.calls, "fired": project.fired, "made": project.made,
                        "removed": project.removed, "instances": instances, "wrong_answers": self.wrong_answers}
            if method == "POST" and steps[1:] == ["faults"]:
                project.settings["faults"] = body
                return {}
            if method == "POST" and len(steps) == 5 and steps[4] in ("stop", "preempt"):
                instance = project.look(steps[2], steps[3])
                if steps[4] == "preempt":
                    project.preempt((steps[2], instance["name"]), instance)
                else:
                    project.stop(steps[2], steps[3], {"fault": None}, "compute.instances.guestTerminate", "system")
                return {}
            raise not_found("/".join(steps))


def grant(path, form, bearer):
    """The answers of Google's token services to a form of theirs."""
    if path.startswith(ACCOUNTS):
        end = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 3600))
        return {"accessToken": f"as-{bearer}", "expireTime": end}
    token = form.get("refresh_token", "")
    if token == "revoked":
        raise Denied({"error": "invalid_grant", "error_description": "Token has been expired or revoked."})
    return {"access_token": token, "token_type": "Bearer", "expires_in": 3600, "scope": form.get("scope", "")}


def metadata(path):
    """The answers of the metadata server to a machine with a service account."""
    if path.endswith("/token"):
        return {"access_token": "of-the-machine", "token_type": "Bearer", "expires_in": 3600}
    raise not_found(path)


class Denied(Exception):
    """A token service's refusal: it has another form than Compute's."""


class Lost(Exception):
    """The connection ends without an answer."""


def befall(fault):
    """The faults of which a call has no effect."""
    kind = fault["fault"]
    if kind == "rate_limited":
        raise Refusal(403, "rateLimitExceeded", "Rate Limit Exceeded")
    if kind == "too_many":
        raise Refusal(429, "rateLimitExceeded", "Quota exceeded for quota metric 'Queries'", retry_after=1)
    if kind == "quota":
        raise Refusal(403, "quotaExceeded", "Quota 'INSTANCES' exceeded.  Limit: 0.0 in region.")
    if kind == "unavailable":
        raise Refusal(503, "backendError", "Backend Error")
    if kind == "lost_request":
        raise Lost


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    fake = None

    def handle_any(self):
        try:
            self.reply(200, self.result())
        except Lost:
            self.close_connection = True
        except Denied as denied:
            self.reply(400, denied.args[0])
        except Refusal as refusal:
            self.refuse(refusal)
        except Wrong as wrong:
            internal = wrong.path.startswith("answer")
            message = wrong.message if wrong.message.startswith("Invalid") else str(wrong)
            self.refuse(Refusal(500 if internal else 400, "invalid", message))

    do_GET = do_POST = do_PUT = do_DELETE = handle_any

    def result(self):
        length = int(self.headers.get("Content-Length") or 0)
        if length > LARGEST_BODY:
            raise Refusal(413, "uploadTooLarge", "The request is too large.")
        text = self.rfile.read(length)
        url = urllib.parse.urlsplit(self.path)
        path = urllib.parse.unquote(url.path)
        bearer = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if path == "/fake/token" or path.startswith(ACCOUNTS):
            return grant(path, self.form(text), bearer)
        if path.startswith("/computeMetadata/v1/") and self.headers.get("Metadata-Flavor") == "Google":
            return metadata(path)
        try:
            body = json.loads(text) if text else None
        except ValueError:
            raise Refusal(400, "parseError", "Parse Error") from None
        if path.startswith("/fake/projects/"):
            return self.fake.control(self.command, path.split("/")[3:], body)
        if not path.startswith("/compute/v1/"):
            raise not_found(path)
        query = urllib.parse.parse_qs(url.query, keep_blank_values=True)
        answer, fault = self.fake.call(self.command, path.removeprefix("/compute/v1/"), query, body, bearer)
        if fault == "lost_reply":
            raise Lost
        return answer

    def form(self, text):
        """Google's libraries send it as JSON or as a form."""
        if "json" in (self.headers.get("Content-Type") or ""):
            return json.loads(text)
        return dict(urllib.parse.parse_qsl(text.decode()))

    def refuse(self, refusal):
        error = {"message": refusal.message, "domain": "global", "reason": refusal.reason}
        headers = {"Retry-After": str(refusal.retry_after)} if refusal.retry_after else {}
        self.reply(refusal.status, {"error": {"code": refusal.status, "message": refusal.message, "errors": [error]}}, headers)

    def reply(self, status, body, headers=None):
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json; charset=UTF-8")
        self.send_header("Content-Length", str(len(text)))
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256


def server(port=0):
    """The fake on 127.0.0.1, not yet serving."""
    made = Server(("127.0.0.1", port), Handler)
    fake = Fake(f"http://127.0.0.1:{made.server_port}/compute/v1/")
    made.RequestHandlerClass = type("Bound", (Handler,), {"fake": fake})
    return made


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--port", type=int, default=0)
    made = server(arguments.parse_args().port)
    print(f"http://127.0.0.1:{made.server_port}", flush=True)
    made.serve_forever()
