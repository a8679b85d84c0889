import ast
import functools
import io
import sysconfig
import tokenize
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptlab.generation.code_blocks import BlockEnd, until_block_ends

LIBRARY = Path(sysconfig.get_path("stdlib"))
FILES = ["argparse.py", "ast.py", "contextlib.py", "dataclasses.py", "difflib.py", "enum.py"]
FILES += ["functools.py", "heapq.py", "inspect.py", "textwrap.py", "typing.py", "unittest/mock.py"]
BLOCKS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
VISIBLE = (tokenize.NAME, tokenize.OP, tokenize.NUMBER, tokenize.STRING, tokenize.NEWLINE)


def cut(prompt, rest):
    return "".join(until_block_ends(prompt, [rest]))


@functools.cache
def parsed(name):
    """A file's text, its visible tokens and its blocks, with places as offsets."""
    source = (LIBRARY / name).read_text()
    starts = [0, 0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))

    def offset(line, column, *, in_bytes=False):
        text = source[starts[line] : starts[line + 1]]
        return starts[line] + (
            len(text.encode()[:column].decode(errors="ignore")) if in_bytes else column
        )

    tokens = [
        (token.type, offset(*token.start), offset(*token.end))
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type in VISIBLE
    ]
    blocks = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, BLOCKS):
            end = offset(node.end_lineno, node.end_col_offset, in_bytes=True)
            first = offset(node.lineno, node.col_offset, in_bytes=True)
            begun = first + source[first:].index(" ") + 1
            if source[first:begun] == "async ":
                begun += len("def ")
            lines = sum(kind == tokenize.NEWLINE and first < a < end for kind, a, _ in tokens)
            decorated = min([offset(d.lineno, 0) for d in node.decorator_list], default=begun)
            blocks.append((decorated, begun, end, lines > 0, bool(node.decorator_list)))
    return source, tokens, blocks


def is_end_of_line(kind, between):
    """Whether a token is the end of the line that a block ends in; a comment may stand between."""
    return kind == tokenize.NEWLINE and "\n" not in between


@st.composite
def cuts(draw):
    """A file, a place behind a visible character inside of a block of it, and where that ends."""
    source, tokens, blocks = parsed(draw(st.sampled_from(FILES)))
    _, begun, end, *_ = draw(st.sampled_from(blocks))
    inside = [token for token in tokens if begun <= token[1] < end]
    kind, start, stop = draw(st.sampled_from(inside))
    place = draw(st.integers(start + 1, stop))
    around = [
        (first, stop_at)
        for _, first, stop_at, has_lines, _ in blocks
        if first < place and (place <= stop_at or is_end_of_line(kind, source[stop_at:start]))
        if has_lines or kind != tokenize.NEWLINE
    ]
    # Behind a decorator the block is the one that is decorated.
    around += [
        (decorated, stop_at)
        for decorated, first, stop_at, _, is_decorated in blocks
        if is_decorated and decorated < place < first and "@" in source[decorated:place]
    ]
    return source, place, max(around)[1]


def only_comments(text):
    return all(line.strip() == "" or line.lstrip().startswith("#") for line in text.split("\n"))


@settings(max_examples=150, deadline=None)
@given(cuts(), st.data())
def test_real_code_ends_where_the_parser_says(example, data):
    source, place, end = example
    block = BlockEnd(source[:place])
    result, at = "", place
    while at < len(source) and not block.is_over:
        size = data.draw(st.integers(1, 1 + (end - place) // 3)) if at < end else 7
        result += block.push(source[at : at + size])
        at += size
    result += block.finish()
    expected = source[place:end]
    assert result.startswith(expected.rstrip())
    assert source.startswith(result, place)
    assert only_comments(result[len(expected.rstrip()) :])


@settings(max_examples=300, deadline=None)
@given(
    st.text("def f(x):\n\t #'\"[]\\@else", max_size=30),
    st.lists(st.text("def f(x):\n\t #'\"[]\\@else", max_size=9), max_size=9),
)
def test_pieces_do_not_matter(prompt, pieces):
    """Of any text, however broken."""
    text = "".join(pieces)
    whole = BlockEnd(prompt)
    expected = whole.push(text) + whole.finish()
    block = BlockEnd(prompt)
    assert "".join(map(block.push, pieces)) + block.finish() == expected
    assert block.is_over == whole.is_over
    assert text.startswith(expected)
    assert whole.is_over or expected == text


NEXT = "\n\ndef g():\n    pass\n"


@pytest.mark.parametrize(
    ("prompt", "body"),
    [
        ("def f(x):\n", "    return x"),
        ("def f(x):", "\n    return x"),
        ("def f(x):\n    ", "return x"),
        ("def f(x):\n    ret", "urn x"),
        ("def f(", "x,\ny):\n    return x"),
        ("de", "f f(x):\n    return x"),
        ("async def f(x):\n", "\treturn x"),
        ("class A:\n    x = 1\n", "    y = 2\n\n    def f(self):\n        pass"),
        ("@cache\n", "@other(\n1)\ndef f():\n    pass"),
        ("def f():\n    x = 1\n", "    if x:\n        pass\n    else:\n        pass"),
        ("def f():\n    ", "def inner():\n        pass\n    return inner"),
        ('def f():\n    """Of\n', 'no\ndef g\n"""\n    return 1'),
        ("def f():\n    x = [\n", "1,\n]\n    return '''\nx\n'''"),
        ("def f():\n    x = 1 + \\\n", "2\n    return x"),
        ("def f():\n    x = 'a\\\n", "b'\n    return x"),
        ("def f():\n    x = 'a\n", "    return x"),
        ("def f():\n    x = 1  # (\n", "    return x  # '''"),
        ("def f():\n", "\n\n# not the end\n\n    return 1\n    # but this"),
        ("def f(x):\r\n", "    y = 'a\\\r\nb'\r\n\r\n    return x"),
        ("def f(x):\n    # first", " part\n    return x"),
        ("def f(x): return", " 1"),
        ("    def f(self):\n", "        return 1"),
        ("    def f(self):\n", "\tx = 1\n        return x"),
        ("def f():\n    x = 1)\n", "    return x"),
        # nothing is open
        ("    x = 1\n", "    y = 2"),
        ("def f(): return lambda: 'a'\n", "x = 1"),
        ("", "import os"),
        ("import os\n", "x = [\n1]"),
        ("import os\nx = ", "1"),
        ("import os\n", "# it\n@cache\ndef f():\n    pass"),
        ("if x:\n", "    y = 1\nelse:\n    y = 2"),
        ("try:\n    x = 1\n", "except ValueError:\n    pass\nfinally:\n    pass"),
        ("x = 1  # :\n", "y = 1"),
        ("def f(): return 1\n", "x = 1"),
    ],
)
def test_a_block_and_what_follows(prompt, body):
    assert cut(prompt, body + NEXT) == body
    assert cut(prompt, body + NEXT.replace("def g", "elsewhere = 1 #")) == body
    for end in ("", "\n", "\n\n   ", "\n# and\n"):
        assert cut(prompt, body + end) == body + end


def test_a_fragment_ends_at_the_left_margin():
    assert cut("    x = 1\n", "\ny = 2\n") == ""


def test_methods():
    prompt = "class A:\n    def f(self):\n        return 1\n"
    method, variable = "\n    def g(self):\n        return 2\n", "\n    x = 1\n"
    assert cut(prompt, method) == ""
    assert cut(prompt.replace("1", "1  # why"), method) == ""
    assert cut(prompt, "        # more\n" + method) == "        # more"
    # At the indentation of methods the class goes on, and deeper the method.
    assert cut(prompt + "    ", "x = 1\n" + method + "y = 2\n") == ("x = 1\n" + method).rstrip()
    assert cut(prompt + "    ", "    x = 1\n" + method) == "    x = 1"
    assert cut(prompt + "    x = 1\n", method + variable + "y = 2\n") == (method + variable)[:-1]
    assert cut(prompt + "    @property\n    ", method[5:] + variable) == method[5:-1]
    assert cut("class A:\n    def f(self): pass\n", variable + "y = 2") == variable[:-1]


def test_what_is_not_decided_is_held_back():
    block = BlockEnd("def f():\n    x = 1")
    assert block.push("0  \n\n") == "0"
    assert block.push("# a comment\n  ") == ""
    assert block.push("  y") == "  \n\n# a comment\n    y"
    assert block.push("\n") == ""
    assert not block.is_over
    assert block.push("z = 1\n") == ""
    assert block.is_over
    assert block.push("    y") == block.finish() == ""


def test_a_word_that_may_become_else_is_held_back():
    for word, result in [("elif x:", "\nelif x:"), ("elsewhere", ""), ("el", "\nel")]:
        block = BlockEnd("if x:\n    y = 1")
        pieces = [block.push(piece) for piece in "\n" + word]
        assert "".join(pieces) + block.finish() == result
