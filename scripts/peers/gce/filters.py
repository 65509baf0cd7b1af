"""The filters of Compute's lists: AIP-160 expressions, and the older ones with `eq` and `ne`.

As the description of `filter` in the discovery document says; of AIP-160 without functions and without bare
values. OR binds tighter than AND, as AIP-160 has it.
"""

import operator
import re

TOKEN = re.compile(r"""\s*(?:(?P<punctuation>\(|\)|!=|<=|>=|=|<|>|:)|"(?P<double>(?:\\.|[^"\\])*)"|'(?P<single>[^']*)'|(?P<word>[^\s()=!<>:"']+))""")
ORDER = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
OPERATORS = {"=", "!=", ":", *ORDER}


class BadFilter(Exception):
    """A filter that is none."""


def parse(text, fields):
    """The predicate of a filter over resources that have these fields at their top."""
    parser = _Parser(text, fields)
    predicate = parser.sequence()
    if parser.peek() is not None or len(parser.styles) > 1:
        raise BadFilter(text)
    return predicate


class _Parser:
    def __init__(self, text, fields):
        self.text = text
        self.fields = fields
        self.styles = set()
        self.tokens = []
        at = 0
        while text[at:].strip():
            found = TOKEN.match(text, at)
            if not found:
                raise BadFilter(text)
            kind = found.lastgroup
            value = found[kind]
            self.tokens.append((kind, re.sub(r"\\(.)", r"\1", value) if kind == "double" else value))
            at = found.end()

    def peek(self):
        return self.tokens[0] if self.tokens else None

    def take(self):
        if not self.tokens:
            raise BadFilter(self.text)
        return self.tokens.pop(0)

    def sequence(self):
        """Expressions one after the other, with or without AND between them."""
        parts = [self.alternatives()]
        while self.peek() not in (None, ("punctuation", ")")):
            if self.peek() == ("word", "AND"):
                self.take()
            parts.append(self.alternatives())
        return lambda resource: all(part(resource) for part in parts)

    def alternatives(self):
        parts = [self.term()]
        while self.peek() == ("word", "OR"):
            self.take()
            parts.append(self.term())
        return lambda resource: any(part(resource) for part in parts)

    def term(self):
        if self.peek() == ("word", "NOT"):
            self.take()
            inner = self.term()
            return lambda resource: not inner(resource)
        if self.peek() == ("punctuation", "("):
            self.take()
            inner = self.sequence()
            if self.take() != ("punctuation", ")"):
                raise BadFilter(self.text)
            return inner
        return self.comparison()

    def comparison(self):
        kind, path = self.take()
        if kind != "word" or path.split(".")[0] not in self.fields:
            raise BadFilter(self.text)
        _, comparator = self.take()
        value_kind, value = self.take()
        if value_kind == "punctuation":
            raise BadFilter(self.text)
        if comparator in ("eq", "ne"):
            self.styles.add("regex")
            return _by_regex(path, comparator, value, self.text)
        if comparator not in OPERATORS:
            raise BadFilter(self.text)
        self.styles.add("aip-160")
        return _by_value(path, comparator, value)


def _by_regex(path, comparator, value, text):
    try:
        pattern = re.compile(value)
    except re.error:
        raise BadFilter(text) from None

    def matches(resource):
        found = _look(resource, path)
        full = found is not None and pattern.fullmatch(_text(found)) is not None
        return full == (comparator == "eq")

    return matches


def _by_value(path, comparator, value):
    def matches(resource):
        found = _look(resource, path)
        if comparator == ":":
            return found is not None and (value == "*" or value in _text(found))
        if comparator == "!=":
            return found is None or not _equal(found, value)
        if found is None:
            return False
        if comparator == "=":
            return _equal(found, value)
        if _number(found) is not None and _number(value) is not None:
            return ORDER[comparator](_number(found), _number(value))
        return ORDER[comparator](_text(found), value)

    return matches


def _look(resource, path):
    for step in path.split("."):
        if not isinstance(resource, dict) or step not in resource:
            return None
        resource = resource[step]
    return resource


def _equal(found, value):
    pattern = ".*".join(re.escape(part) for part in value.split("*"))
    return re.fullmatch(pattern, _text(found)) is not None


def _text(value):
    return str(value).lower() if isinstance(value, bool) else str(value)


def _number(value):
    try:
        return float(value)
    except (TypeError, ValueError):
        return None
