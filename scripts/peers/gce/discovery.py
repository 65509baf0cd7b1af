"""Google's discovery document: which methods there are, and what their requests and answers must look like.

The document comes with Google's own Python client; nothing of it is copied here. What a method does is no
affair of this module.
"""

import base64
import binascii
import importlib.resources
import json
import re

# Google's system parameters (cloud.google.com/apis/docs/system-parameters) have a second spelling that the
# document does not list.
SYSTEM_PARAMETERS = {"$alt", "$fields", "$prettyPrint"}

INTEGER_RANGES = {
    "int32": (-(2**31), 2**31 - 1),
    "uint32": (0, 2**32 - 1),
    "int64": (-(2**63), 2**63 - 1),
    "uint64": (0, 2**64 - 1),
}


class Wrong(Exception):
    """A value that the document does not allow."""

    def __init__(self, path, message):
        super().__init__(f"{path}: {message}")
        self.path = path
        self.message = message


class Document:
    """The discovery document of compute v1."""

    def __init__(self, methods):
        """Knows the named methods, such as `instances.insert`; every one of them must be in the document."""
        folder = importlib.resources.files("googleapiclient.discovery_cache.documents")
        self.document = json.loads(folder.joinpath("compute.v1.json").read_text(encoding="utf-8"))
        self.revision = self.document["revision"]
        self.base = self.document["servicePath"]
        self.methods = {}
        self.routes = []
        for name in methods:
            resource, verb = name.split(".")
            method = self.document["resources"][resource]["methods"][verb]
            self.methods[name] = method
            self.routes.append((method["httpMethod"], _route(method), name))

    def match(self, http_method, path):
        """The name of the method at a path below the base, and its path parameters; None where there is none."""
        for verb, route, name in self.routes:
            found = verb == http_method and route.fullmatch(path)
            if found:
                return name, found.groupdict()
        return None

    def check_query(self, name, path, query):
        """Checks the parameters of a call, and gives those of the query as what they mean."""
        parameters = self.methods[name].get("parameters", {})
        known = {**self.document["parameters"], **parameters}
        for key, value in path.items():
            pattern = parameters[key].get("pattern")
            if pattern and not re.fullmatch(pattern, value):
                raise Wrong(key, f"'{value}' must be a match of regex '{pattern}'")
        read = {}
        for key, values in query.items():
            if key in SYSTEM_PARAMETERS:
                continue
            schema = known.get(key)
            if schema is None or schema["location"] != "query":
                raise Wrong(key, f'Unknown name "{key}": Cannot bind query parameter')
            if len(values) > 1 and not schema.get("repeated"):
                raise Wrong(key, "is given more than once")
            read[key] = _parameter(key, schema, values[-1])
        return read

    def check_request(self, name, body):
        """Checks the body of a call."""
        schema = self.methods[name].get("request")
        if schema is None:
            if body:
                raise Wrong("body", f"{name} takes none")
        else:
            self._check(schema, body, "resource", answer=False)

    def check_answer(self, name, body):
        """Checks the answer of a call."""
        self._check(self.methods[name]["response"], body, "answer", answer=True)

    def properties(self, schema):
        """The names of what a schema has."""
        return self.document["schemas"][schema]["properties"]

    def _check(self, schema, value, path, answer):
        if "$ref" in schema:
            schema = self.document["schemas"][schema["$ref"]]
        kind = schema.get("type")
        if kind == "object":
            self._check_object(schema, value, path, answer)
        elif kind == "array":
            if not isinstance(value, list):
                raise Wrong(path, f"{_short(value)} is not a list")
            for at, item in enumerate(value):
                self._check(schema["items"], item, f"{path}[{at}]", answer)
        elif kind == "boolean":
            if not isinstance(value, bool):
                raise Wrong(path, f"{_short(value)} is not true or false")
        elif kind in ("integer", "number"):
            _check_number(schema, value, path)
        elif kind == "string":
            _check_string(schema, value, path, answer)

    def _check_object(self, schema, value, path, answer):
        if not isinstance(value, dict):
            raise Wrong(path, f"{_short(value)} is not an object")
        properties = schema.get("properties", {})
        others = schema.get("additionalProperties")
        for key, part in value.items():
            inner = properties.get(key, others)
            if inner is None:
                message = f"Invalid JSON payload received. Unknown name \"{key}\" at '{path}': Cannot find field."
                raise Wrong(f"{path}.{key}", message)
            self._check(inner, part, f"{path}.{key}", answer)


def _route(method):
    parts = re.split(r"\{(\w+)\}", method["flatPath"])
    pattern = "".join(f"(?P<{part}>[^/]+)" if at % 2 else re.escape(part) for at, part in enumerate(parts))
    return re.compile(pattern)


def _parameter(key, schema, text):
    if schema["type"] == "boolean":
        if text not in ("true", "false"):
            raise Wrong(key, f"'{text}' is not true or false")
        return text == "true"
    if schema["type"] == "integer":
        low, high = INTEGER_RANGES[schema["format"]]
        low = int(schema.get("minimum", low))
        high = int(schema.get("maximum", high))
        if not re.fullmatch(r"-?\d+", text) or not low <= int(text) <= high:
            raise Wrong(key, f"'{text}' is not a number from {low} to {high}")
        return int(text)
    if "enum" in schema and key != "alt" and text not in schema["enum"]:
        raise Wrong(key, f"'{text}' is not one of {schema['enum']}")
    return text


def _check_number(schema, value, path):
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise Wrong(path, f"{_short(value)} is not a number")
    if schema["type"] == "integer":
        low, high = INTEGER_RANGES[schema["format"]]
        if not isinstance(value, int) or not low <= value <= high:
            raise Wrong(path, f"{value} is not a whole number from {low} to {high}")


def _check_string(schema, value, path, answer):
    form = schema.get("format")
    # Requests may bear numbers of 64 bits as numbers; answers have them as texts always.
    if form in ("int64", "uint64") and not answer and isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise Wrong(path, f"{_short(value)} is not a text")
    if form in ("int64", "uint64"):
        low, high = INTEGER_RANGES[form]
        if not re.fullmatch(r"-?\d+", value) or not low <= int(value) <= high:
            raise Wrong(path, f"'{value}' is not a number of the format {form}")
    elif form == "byte":
        try:
            base64.b64decode(value, altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            raise Wrong(path, "is not base64") from None
    if "enum" in schema and value not in schema["enum"]:
        raise Wrong(path, f"'{value}' is not one of {', '.join(schema['enum'])}")
    if schema.get("pattern") and not re.fullmatch(schema["pattern"], value):
        raise Wrong(path, f"'{value}' must be a match of regex '{schema['pattern']}'")


def _short(value):
    return json.dumps(value)[:60]
