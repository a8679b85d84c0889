import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex, normalizers, pre_tokenizers

from gptlab.tokenizer.chunks.steps import BEHAVIORS, NORMALIZERS, normalise
from gptlab.tokenizer.formats.huggingface_steps import split_step

texts = st.text(st.sampled_from("aAbsSßẞſT中é1²3 \t\n\r.,()|[]^'\u0301\u2028ΣİﬁÅ"), max_size=20)
THEIR_BEHAVIORS = {
    "Isolated": "isolated",
    "Removed": "removed",
    "MergedWithPrevious": "merged_with_previous",
    "MergedWithNext": "merged_with_next",
    "Contiguous": "contiguous",
}
EXPRESSIONS = [
    r"^[ab]",
    r"[a-zé ]+$",
    r"'(?i:[sdmt]|ll|ve|re)",
    r"[\p{L}](?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"^[ab]|\^|[^^\]a\s]",
    r"[^a[b^]&&[^s]]+",
    r"[\]^]|\\pL",
    r" ?[^(\s|[.,])]+",
    r"[\p{L}&&[^\p{Han}]]+",
    r"(?=(\d{2})+(?!\d))",
    r"\s+(?!\S)|\n",
    r"a(?>b|bs)s|.",
]


@pytest.mark.parametrize("expression", EXPRESSIONS)
@given(text=texts, behavior=st.sampled_from(BEHAVIORS), invert=st.booleans())
def test_split_is_hugging_faces(expression, text, behavior, invert):
    theirs = pre_tokenizers.Split(Regex(expression), THEIR_BEHAVIORS[behavior], invert)
    expected = [chunk for chunk, _ in theirs.pre_tokenize_str(text)]
    assert list(split_step(expression, behavior=behavior, invert=invert)(text)) == expected


@given(texts, st.lists(st.sampled_from(NORMALIZERS), max_size=3))
def test_normalise_is_hugging_faces(text, names):
    theirs = normalizers.Sequence([getattr(normalizers, name)() for name in names])
    assert normalise(text, names) == theirs.normalize_str(text)
