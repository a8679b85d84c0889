"""From words to the ids of key tokens."""

import io
import warnings

import pytest
import sentencepiece

from gptlab.errors import ConfigError
from gptlab.tokenizer import BPETokenizer, SentencePieceTokenizer, train_bpe
from gptlab.training.key_tokens import KeyTokens, find_key_ids, read_words

LINES = [
    "import matplotlib.pyplot as plt",
    "import pandas as pd",
    "model.fit(x)",
    " fit plt.plot(x) pd",
    "plt.show(fit)",
    "pd.read_csv(y)",
    "fit(x, _fit)",
]


@pytest.fixture(scope="module")
def bpe() -> BPETokenizer:
    text = "\n".join(LINES * 50)
    return train_bpe(texts=[text], vocab_size=310)


def spelled(tokens: KeyTokens, tokenizer) -> set[str]:
    return {tokenizer.decode([id]) for id in tokens.ids}


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        ((), ()),
        (("plt,pd",), ("plt", "pd")),
        (("plt", "pd"), ("plt", "pd")),
        ((" plt , pd,,plt",), ("plt", "pd")),
        (("fit,pd", "pd,fit,sk"), ("fit", "pd", "sk")),
        ((",".join(f"word{n}" for n in range(999)),), tuple(f"word{n}" for n in range(999))),
    ],
)
def test_words_keep_their_order_and_come_once(items, expected):
    assert read_words(items) == expected


def test_a_file_has_a_word_a_line(tmp_path):
    file = tmp_path / "words"
    file.write_bytes("\ufeff# libraries\nplt\r\n\n  pd \n  # verbs\n fit,now\nplt\n".encode())
    assert read_words([str(file)]) == ("plt", "pd", "fit,now")
    assert read_words(["sk", str(file)]) == ("sk", "plt", "pd", "fit,now")


@pytest.mark.parametrize("item", [",", "  ", "EMPTY"])
def test_an_item_without_a_word_is_refused(item, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "EMPTY").write_text("# nothing\n\n")
    with pytest.raises(ConfigError, match=f"key_tokens has no word in '{item}'"):
        read_words([item])


def test_a_file_that_is_no_text_is_refused(tmp_path):
    file = tmp_path / "words"
    file.write_bytes(b"plt\xff")
    with pytest.raises(ConfigError, match=r"names the file .*words, .* UTF-8") as error:
        read_words([str(file)])
    assert "\n" not in str(error.value)


def test_a_folder_is_a_word(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fit").mkdir()
    assert read_words(["fit"]) == ("fit",)


def test_all_spellings_that_are_one_token_count(bpe):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tokens = find_key_ids(["plt", "fit"], bpe)
    assert tokens.split == ()
    assert list(tokens.ids) == sorted(set(tokens.ids))
    found = spelled(tokens, bpe)
    assert {"plt", " plt", "fit", " fit", ".fit"} <= found
    assert all(text[-3:] in ("plt", "fit") and len(text) <= 4 for text in found)


def test_they_are_found_wherever_they_stand(bpe):
    ids = set(find_key_ids(["fit"], bpe).ids)
    for text in ("fit", " fit", "model.fit(x)", "x\nfit(y)", "show(fit)"):
        assert sum(id in ids for id in bpe.encode(text)) == 1
    assert not ids & set(bpe.encode("import show pd x"))


def test_an_underscore_makes_another_word():
    bpe = BPETokenizer([(b"i", b"t"), (b"f", b"it"), (b".", b"fit"), (b"_", b"fit")])
    assert bpe.decode(bpe.encode("_fit")[:1]) == "_fit"
    assert spelled(find_key_ids(["fit"], bpe), bpe) == {"fit", ".fit"}


def test_a_sign_is_no_part_of_a_longer_one():
    bpe = BPETokenizer([(b"=", b"="), (b"==", b"="), (b" ", b"==")])
    assert spelled(find_key_ids(["=="], bpe), bpe) == {"==", " =="}


def test_a_word_that_is_split_is_named(bpe):
    with pytest.warns(UserWarning, match=r": zfit \(z\|fit\), q{3} \(q\|q\|q\)$"):
        tokens = find_key_ids(["zfit", "plt", "qqq"], bpe)
    assert tokens.split == ("zfit", "qqq")
    assert tokens.ids == find_key_ids(["plt"], bpe).ids


def test_many_such_words_are_counted(bpe):
    words = [f"zz{n}" for n in range(25)]
    with pytest.warns(UserWarning, match=r"zz9 \(z\|z\|9\) and 15 more$"):
        find_key_ids([*words, "fit"], bpe)


def test_no_word_that_is_one_token_is_an_error(bpe):
    with pytest.raises(ConfigError, match=r"words\.txt .* choose others, or a tokenizer"):
        find_key_ids(["words.txt"], bpe)


def test_no_words_have_no_ids(bpe):
    assert find_key_ids([], bpe) == KeyTokens((), ())


def pieces(**options: object) -> SentencePieceTokenizer:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(LINES * 20),
        model_writer=model,
        minloglevel=2,
        **{"vocab_size": 60, "model_type": "bpe", "hard_vocab_limit": False, **options},
    )
    return SentencePieceTokenizer(model.getvalue())


def test_sentencepiece_has_a_piece_for_the_start_of_a_word_and_one_for_its_middle():
    tokenizer = pieces()
    ids = find_key_ids(["fit"], tokenizer).ids
    assert len(ids) == 2
    for text in ("fit", "a fit", "model.fit(x)", "(fit)"):
        assert sum(id in ids for id in tokenizer.encode(text)) == 1


def test_the_unknown_token_is_no_key_token():
    tokenizer = pieces()
    assert tokenizer.encode("(ü")[-1] == tokenizer.unk_id
    with pytest.warns(UserWarning, match="ü"):
        tokens = find_key_ids(["ü", "fit"], tokenizer)
    assert tokens.split == ("ü",)
    assert tokenizer.unk_id not in tokens.ids
