"""What the discovery document is read to allow, and what the filters mean."""

import unittest

from discovery import Document, Wrong
from filters import BadFilter, parse

METHODS = ["instances.insert", "instances.get", "instances.aggregatedList", "zoneOperations.wait"]


class Discovery(unittest.TestCase):
    document = Document(METHODS)

    def test_methods_are_found_by_their_paths(self):
        found = self.document.match("POST", "projects/p/zones/z/instances")
        self.assertEqual(found, ("instances.insert", {"project": "p", "zone": "z"}))
        self.assertEqual(self.document.match("GET", "projects/p/aggregated/instances")[0], "instances.aggregatedList")
        self.assertIsNone(self.document.match("PUT", "projects/p/zones/z/instances"))

    def test_queries_are_read_as_what_they_mean(self):
        path = {"project": "p"}
        query = {"maxResults": ["2"], "includeAllScopes": ["true"], "alt": ["json"], "$alt": ["json"]}
        read = self.document.check_query("instances.aggregatedList", path, query)
        self.assertEqual((read["maxResults"], read["includeAllScopes"]), (2, True))
        for wrong in ({"maxResults": ["-1"]}, {"includeAllScopes": ["yes"]}, {"fliter": ["x"]}):
            with self.assertRaises(Wrong):
                self.document.check_query("instances.aggregatedList", path, wrong)
        with self.assertRaises(Wrong):
            self.document.check_query("instances.get", {"project": "p", "zone": "z", "instance": "No_name"}, {})

    def test_bodies_are_checked_to_the_bottom(self):
        right = {"name": "a-1", "disks": [{"boot": True, "diskSizeGb": "20"}], "labels": {"a": "b"}}
        self.document.check_request("instances.insert", right)
        self.document.check_request("instances.insert", {"disks": [{"diskSizeGb": 20}]})
        for path, wrong in (
            ("resource.nmae", {"nmae": "x"}),
            ("resource.name", {"name": "A"}),
            ("resource.disks[0].boot", {"disks": [{"boot": "yes"}]}),
            ("resource.disks[0].diskSizeGb", {"disks": [{"diskSizeGb": "big"}]}),
            ("resource.scheduling.provisioningModel", {"scheduling": {"provisioningModel": "CHEAP"}}),
            ("resource.labels.a", {"labels": {"a": 1}}),
        ):
            with self.assertRaises(Wrong) as refused:
                self.document.check_request("instances.insert", wrong)
            self.assertEqual(refused.exception.path, path)

    def test_answers_have_numbers_of_64_bits_as_texts(self):
        self.document.check_answer("zoneOperations.wait", {"id": "1", "status": "DONE"})
        for wrong in ({"id": 1}, {"status": "ENDED"}):
            with self.assertRaises(Wrong):
                self.document.check_answer("zoneOperations.wait", wrong)


class Filters(unittest.TestCase):
    resource = {"name": "a-1", "labels": {"owner": "x", "k": "long value"}, "scheduling": {"automaticRestart": False}}
    fields = {"name", "labels", "scheduling"}

    def holds(self, text):
        return parse(text, self.fields)(self.resource)

    def test_what_holds(self):
        for text in (
            "name = a-1", 'name="a-*"', "labels.owner:*", "labels.k:long", "labels.none != x",
            "(labels.owner = x) (name = a-1)", "labels.owner = x AND name = a-1", "NOT name = b",
            "scheduling.automaticRestart = false", "name eq 'a-[0-9]'", "name ne b.*", 'labels.k = "long value"',
            "(name = b) OR (name = a-1) AND (labels.owner = x)",
        ):
            self.assertTrue(self.holds(text), text)

    def test_what_does_not(self):
        for text in (
            "name = a", "name eq a", "labels.none:*", "labels.none = x", "(labels.owner = x) (name = b)",
            "name = a-1 OR name = b AND labels.owner = y",
        ):
            self.assertFalse(self.holds(text), text)

    def test_what_is_no_filter(self):
        for text in ("", "name", "name =", "nmae = x", "name = a) (", "(name = a", "(name = a) (name eq a)", "name eq ("):
            with self.assertRaises(BadFilter):
                parse(text, self.fields)


if __name__ == "__main__":
    unittest.main()
