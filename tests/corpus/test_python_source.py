"""Imports are statements: what strings, comments and calls say doesn't count."""

import ast
import warnings

import pytest

from gptlab.corpus.python_source import imported_modules, is_or_is_below, parse

NESTED = """
import one, two.three as four
from five.six import seven, eight as nine

class Outer:
    import in_class
    def method(self):
        if self:
            import in_if
        elif other:
            import in_elif
        else:
            import in_else
        for _ in ():
            import in_for
        else:
            import in_for_else
        while False:
            import in_while
        with open():
            import in_with
        try:
            import in_try
        except ImportError:
            import in_except
        else:
            import in_try_else
        finally:
            import in_finally
        match self:
            case 1:
                import in_case

async def run():
    async with a:
        async for b in c:
            import in_async
    try:
        pass
    except* ValueError:
        import in_group
"""


def modules(text):
    return set(imported_modules(parse(text)))


def slow_modules(text):
    """The same by looking at each node of the tree."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def test_an_import_counts_wherever_it_stands():
    found = modules(NESTED)
    assert found == slow_modules(NESTED)
    assert {"one", "two.three", "five.six", "five.six.seven", "in_case", "in_group"} <= found
    assert len([name for name in found if name.startswith("in_")]) == NESTED.count("import in_")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", set()),
        ("'import a'", set()),
        ("'''\nimport a\n'''", set()),
        ("# import a\nx = 1  # import b", set()),
        ("importlib.import_module('a')", set()),
        ("__import__('a')", set()),
        ("import importlib", {"importlib"}),
        ("from . import a", set()),
        ("from .a import b", set()),
        ("from ...a.b import c", set()),
        ("import a.b", {"a.b"}),
        ("import a . b", {"a.b"}),
        ("import a as pandas", {"a"}),
        ("import \\\n  a", {"a"}),
        ("from a import (\n  b,\n  c,\n)", {"a", "a.b", "a.c"}),
        ("x = 1; import a", {"a"}),
        ("if 1: import a", {"a"}),
        ("\ufeffimport a", {"a"}),
        ("# coding: latin-1\nimport a\n'\u20ac'", {"a"}),
    ],
)
def test_imports_of_a_line(text, expected):
    assert modules(text) == expected


def test_all_names_of_a_module():
    assert modules("from a import *") == {"a", "a.*"}
    assert modules("import ｐandas") == {"pandas"}


@pytest.mark.parametrize(
    "text",
    [
        "print 'Python 2'",
        "%matplotlib inline\nimport a",
        "def f(:",
        "a\n  b",
        "'unended",
        "x = 1\0",
        "'\ud800'",
        "(" * 100_000,
        "(" * 100_000 + ")" * 100_000,
        "-" * 100_000 + "1",
        "a" + ".a" * 100_000,
        "1" + "+1" * 100_000,
        "lambda: " * 100_000 + "1",
        "if a: pass\n" + "elif a: pass\n" * 100_000,
        "".join(" " * depth + "if a:\n" for depth in range(1000)),
        "9" * 5000,
        "\ufeff\ufeffa = 1",
    ],
    ids=lambda text: ascii(text[:12]),
)
def test_what_does_not_parse(text):
    assert parse(text) is None


def test_doubtful_python_parses_without_a_warning():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert parse("x = '\\d'\n1 is 1\nreturn") is not None
        warnings.simplefilter("error")
        assert parse("x = '\\d'") is not None
    assert not caught


@pytest.mark.parametrize(
    ("module", "name", "expected"),
    [
        ("a", "a", True),
        ("a.b", "a", True),
        ("a.b.c", "a.b", True),
        ("ab", "a", False),
        ("a", "a.b", False),
        ("b.a", "a", False),
    ],
)
def test_below(module, name, expected):
    assert is_or_is_below(module, name) is expected
