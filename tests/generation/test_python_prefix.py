import ast
import inspect
import json
import keyword
import random
import textwrap
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptlab.generation import python_scan
from gptlab.generation.python_prefix import PythonPrefix
from gptlab.generation.python_scan import Position, scan

SAMPLES = [
    'x = r"\\d" R"" if 1else b"\\x41"  # why\n',
    "if x :\n\tpass\nelif y:\n  z = 1; w = 2\n\n# done\nelse :  # not\n    pass\n",
    "try:\n    a\nexcept* (A, B) as e:\n    raise\nelse: b\nfinally:\n    c\n",
    "@d.e(1)\n@f\nasync def g(a, /, b: int = 3, *c, d, **e) -> x[1:2, ...]:\n    await b\n",
    "match x, y:\n    case {'a': 1, **r} if r: pass\n"
    "    case C(d=-1 + 2j) | 'e' 'f' as g:\n        h\n"
    "    case [1, *_] | (None): pass\nk = match\n",
    "x = [i for i in range(0xfF) if i != 1e-5 if not i] + [*a, *b]\nx @= y // z ** -2\n",
    "lambda x, *y, z=1, **w: (yield x)\nx = y = yield\nprint(a := 3, *b, **c)\n",
    "f'a{{b}}{x!r:>{w}}{y = }{z=!s}{\"q\"}' '\\N{DIGIT ONE}\\u00e9\\U0001F642\\x41\\101\\\n'\n",
    "'''a\n'b' \"\"\" \\'''''''''c'''\nx = '' \"\" ''''''\n",
    "with (a as b, c as d,): e\nwith f(): g\nfor h, *i in j, k: continue\nelse: del l[0], m\n",
    "from . import a\nfrom ...b import (c as d,\n   e)\nimport f.g as h, i\nglobal j, k\n",
    "x = \\\n  1 + \\\n  2\nif a and \\\n   b: c\n",
    "class A(B, metaclass=C):\n    '''doc'''\n    x: int\n    y: 'z' = {1: 2, **k}\n"
    "\n\n    def f(self): ...\n",
    "é = ªb = 1_000.5_0j\nx = -1if not 0 or 1else~2\nassert a<b<=c!=d, 'no'\n",
    "a\r\nif b:\r\n    c\r\nd\re\n",
    "if x:\n  y\n\\\n# z\n\\\n  w\n  \\\nv\n",
    "\f\nif x:\n    \f\n    y\n",
    "f'''{\nx\n}''' f\"{'a' 'b'}\" f'{x:%H:%M}' f'{d[\"a\"]}{(lambda: 1)()}'\n",
]


def pieces(text, seed):
    rng = random.Random(seed)
    while text:
        size = rng.choice([1, 2, 3, 5, 9, 40])
        yield text[:size]
        text = text[size:]


def refused(text, parts):
    """What stands before the first refusal, or None."""
    state, before = PythonPrefix(), ""
    for part in parts:
        before += part
        state = state.extended(part)
        if state is None:
            return before
    assert before == text
    assert state.is_complete
    return None


@pytest.mark.filterwarnings("ignore::SyntaxWarning")
@pytest.mark.parametrize("text", SAMPLES)
def test_every_beginning_of_a_program_is_permitted(text):
    ast.parse(text)
    assert refused(text, text) is None
    for seed in range(20):
        assert refused(text, pieces(text, seed)) is None


@pytest.mark.parametrize("module", [textwrap, inspect, ast, json.decoder])
def test_real_programs_are_permitted(module):
    text = "".join(inspect.getsource(module)[:25_000].rpartition("\n\n\n")[:1]) + "\n"
    assert refused(text, pieces(text, 1)) is None


@pytest.mark.parametrize("function", [textwrap.dedent, inspect.getmro, json.decoder.JSONObject])
def test_real_functions_are_permitted_sign_by_sign(function):
    text = inspect.getsource(function)
    assert refused(text, text) is None


@pytest.mark.parametrize(
    "broken",  # What stands before | can be completed, and what follows is refused.
    [
        "x |y",
        "x =|= = 1",
        "f(x) =| 1",
        "1 +|*",
        "for x() |in y",
        "print |x",
        "foo(a |b)",
        "def f(a=1, b|):",
        "if x:\n|y",
        "x = 1\n  |y",
        "if a:\n    b\n  |c",
        "try:\n  a\n|x",
        "try:\n  a\nf|or",
        "@d\n|x",
        "'\\x|q",
        "'\\x4|'",
        "'\\U001|1",
        "'a\\\\\\N{DIGIT|}",
        "b'|é",
        "'abc|\n'",
        "f'{|)",
        "f'{a|)",
        "f'{a |b",
        "f'{x!|z",
        "f'{x}}|'",
        "f'{x:{y |z",
        "'a' |b'b'",
        "a|))",
        "(|]",
        "x: int|:",
        "lambda |(",
        "import a.b as c|.d",
        "077|\n",
        "1_|_",
        "0x|g",
        "x|?",
        "x|\0",
        "class |1",
        "match x:\n  |foo",
        "match x:\n  case 1 + 2|:",
        "a if b|\n",
        "from x import a,|\n",
        "def f():\n    if x:\n        pass\n    else:\n        pass\n    else|:",
        "if x: # y\n|z",
        "x # y\n  |z",
    ],
)
def test_what_is_broken_is_refused_where_it_breaks(broken):
    before, _, after = broken.partition("|")
    state = PythonPrefix()
    for sign in before:
        state = state.extended(sign)
        assert state is not None
    if after:
        assert state.extended(after) is None


def parses(text):
    try:
        ast.parse(text)
    except (SyntaxError, ValueError, MemoryError):
        return False
    return True


@pytest.mark.filterwarnings("ignore::SyntaxWarning", "ignore::DeprecationWarning")
@settings(deadline=None, max_examples=300)
@given(st.sampled_from(SAMPLES), st.integers(0, 10**6))
def test_a_changed_program_is_whole_exactly_if_it_parses(text, seed):
    rng = random.Random(seed)
    place = rng.randrange(len(text))
    cut = rng.choice([0, 1, 4])
    inserted = rng.choice(["", " ", "\n", "(", ")", "'", '"', "x", ":", "1", "else", "\\", "  "])
    text = text[:place] + inserted + text[place + cut :]
    state = PythonPrefix()
    for piece in pieces(text, seed):
        state = state.extended(piece)
        if state is None:
            break
    assert (state is not None and state.is_complete) == parses(text)


SIGNS = (*map(chr, range(32, 127)), *"\n\té")
# A walk may come to \N, from which only a name in braces leads on.
WORDS = (*SIGNS, "f'", "'''", "\\x", "\n    ", "b'", "{DIGIT ONE}", *keyword.kwlist)


@pytest.mark.filterwarnings("ignore::SyntaxWarning", "ignore::DeprecationWarning")
@settings(deadline=None, max_examples=40)
@given(st.sampled_from(SAMPLES), st.integers(0, 10**6))
def test_what_was_permitted_never_leads_into_a_dead_end(text, seed):
    rng = random.Random(seed)
    text = text[: rng.randrange(len(text))]
    state = PythonPrefix().extended(text)
    for _ in range(25):
        # A name in braces is looked up only when it is whole, so none is begun sign by sign.
        words = [word for word in rng.sample(WORDS, len(WORDS)) if not (text + word).endswith("N{")]
        found = next((word for word in words if state.extended(word)), None)
        assert found is not None
        state, text = state.extended(found), text + found
        assert not state.is_complete or parses(text)


@pytest.mark.parametrize(
    "before", ["'\\N", "f'\\N", "'''a\n'b' \"\"\" \\''''''''delWwith]syield\\N"]
)
def test_only_a_name_in_braces_leads_on_from_its_escape(before):
    state = PythonPrefix().extended(before)
    assert [word for word in WORDS if state.extended(word)] == ["{", "{DIGIT ONE}"]
    quote = "'''" if before.startswith("'''") else "'"
    whole = state.extended("{DIGIT ONE}" + quote)
    assert whole.is_complete
    assert parses(before + "{DIGIT ONE}" + quote)


@pytest.mark.parametrize("text", ["'\\d'", "1if 1else 2", "f'{1if 1else 2}'", "f'\\d'"])
def test_warnings_of_the_parser_are_no_mistakes_and_those_of_others_stay(text):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert refused(text, text) is None
        with pytest.raises(SyntaxError):
            ast.parse("'\\d'")


def test_a_text_that_is_not_whole():
    assert PythonPrefix().extended("") == PythonPrefix()
    assert PythonPrefix().is_complete
    for text in ("if x:", "(", "'''a", "x = ", "try:\n  a\n", "@d\n", "x \\", "x \\\n", "f'{"):
        state = PythonPrefix().extended(text)
        assert state is not None
        assert not state.is_complete


def test_what_only_the_compiler_refuses_is_not_looked_for():
    for text in ("return", "break\n", "def f(x, x): pass"):
        assert PythonPrefix().extended(text).is_complete


def test_the_skeleton_stays_small():
    state = PythonPrefix()
    for number in range(200):
        state = state.extended(f"class A{number}:\n    def f(self):\n        x = {number}\n")
        state = state.extended("    def g(self):\n        if x:\n            y\n        z\n")
    assert sum(len(level.lines) for level in state._levels) < 10


def test_quotes_in_the_fields_of_f_strings(monkeypatch):
    text = "f'{a['b']:{'c'}}' + f'{"
    monkeypatch.setattr(python_scan, "NESTED_FSTRINGS", True)
    assert scan(text + "d}'\nnext") == len(text) + 4
    assert scan(text) == Position("string", 20, 22, python_scan.Opener("f", "'"))
    with pytest.raises(python_scan.BrokenStringError):
        scan("f'a\n")
    monkeypatch.setattr(python_scan, "NESTED_FSTRINGS", False)
    assert scan("f'{a['\n") == 7
