"""moto's own server, with two things put right that many instances at once need.

    serve.py PORT

- What moto finds of the tags of one resource, it finds without a look at the tags of all others. It asks for them by a
  search of everything, for each instance and each filter: looks at some of 500 instances take seconds each. Here such a search is
  given that resource alone to look through. It is moto's own search all the same, so that answers are what they were.
- Requests are answered one after the other. moto does so in threads, but what it keeps is not made for them: two
  instances started at once can trip over each other's address, which answers 500 to one of them.
"""

import inspect
import re
import sys
import threading

from moto.ec2.models.tags import TagBackend
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import make_server

search = TagBackend.describe_tags


def describe_tags(self, filters=None):
    match (filters or {}).get("resource-id"):
        case [str(resource)] if re.fullmatch("[a-z0-9-]+", resource):
            one = TagBackend()
            one.tags.update({resource: self.tags[resource]} if resource in self.tags else {})
            return search(one, filters)
        case _:  # several, or with wildcards
            return search(self, filters)


def check():
    """Another version of moto may search otherwise: better none at all than one whose answers are not its own."""
    assert list(inspect.signature(search).parameters) == ["self", "filters"], "moto's search of tags has changed"
    some = TagBackend()
    assert vars(some) == {"tags": {}}, "moto keeps tags otherwise"
    some.create_tags(["i-1", "i-12"], {"a": "1", "b": "2"})
    for resources in (["i-1"], ["i-12"], ["i-2"], ["i-1", "i-12"], ["i-1*"], []):
        for filters in ({"resource-id": resources}, {"resource-id": resources, "key": ["a"]}):
            told, meant = describe_tags(some, filters), search(some, filters)
            assert told == meant, f"tags are found otherwise: {filters}: {told}, not {meant}"
    assert len(search(some, {"resource-id": ["i-1"]})) == 2, "moto finds no tags"


check()
TagBackend.describe_tags = describe_tags
moto, turn = DomainDispatcherApplication(create_backend_app), threading.Lock()


def answer(environ, start_response):
    with turn:
        return moto(environ, start_response)


def server(port):
    return make_server("127.0.0.1", port, answer, threaded=True, request_handler=MotoRequestHandler)


if __name__ == "__main__":
    server(int(sys.argv[1])).serve_forever()
