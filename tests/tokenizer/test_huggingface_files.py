import json

import pytest
import tokenizers
import transformers
from hypothesis import given
from hypothesis import strategies as st

from gptlab.errors import TokenizerError
from gptlab.tokenizer import BPETokenizer, train_bpe

CORPUS = "The cat's naïve 🙂 aaaa baaab, 12345 cats!\r\n\n\tThe 中文字 end.  " * 3
FILES = ["merges.txt", "tokenizer.json", "tokenizer_config.json", "vocab.json"]

# Letters and numbers that all current Unicode tables know: libraries differ on the newest ones.
texts = st.text(st.characters(max_codepoint=0x24F) | st.sampled_from(CORPUS + "ſ\u2028\u0301👩‍👧"))


@pytest.fixture(scope="module", params=["gpt2", "gpt4"])
def saved(request, tmp_path_factory):
    tokenizer = train_bpe(texts=[CORPUS], vocab_size=330, pattern=request.param)
    folder = tmp_path_factory.mktemp("saved") / "new" / "folder"
    tokenizer.save(folder)
    return tokenizer, folder


def test_load_gives_the_same_tokenizer(saved):
    tokenizer, folder = saved
    loaded = BPETokenizer.load(folder)
    assert loaded == tokenizer
    assert loaded.fingerprint() == tokenizer.fingerprint()


def test_the_same_tokenizer_gives_the_same_files(saved, tmp_path):
    _, folder = saved
    assert sorted(path.name for path in folder.iterdir()) == FILES
    BPETokenizer.load(folder).save(tmp_path)
    BPETokenizer.load(folder).save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == FILES
    for name in FILES:
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


def test_hugging_face_tokenizers_agrees(saved):
    tokenizer, folder = saved
    theirs = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert theirs.get_vocab_size() == tokenizer.vocab_size

    @given(texts)
    def check(text):
        ids = tokenizer.encode(text, allow_special=True)
        assert theirs.encode(text).ids == ids
        assert theirs.decode(ids, skip_special_tokens=False) == text

    check()
    special = "<BOS>The <PAD> cat<EOS>"
    assert theirs.encode(special).ids == tokenizer.encode(special, allow_special=True)


def test_transformers_agrees(saved):
    tokenizer, folder = saved
    for cls in (transformers.AutoTokenizer, transformers.PreTrainedTokenizerFast):
        theirs = cls.from_pretrained(str(folder))
        special = (theirs.pad_token_id, theirs.unk_token_id, theirs.bos_token_id)
        assert special == (tokenizer.pad_id, tokenizer.unk_id, tokenizer.bos_id)
        assert theirs.eos_token_id == tokenizer.eos_id
        assert len(theirs) == tokenizer.vocab_size
        assert theirs(CORPUS)["input_ids"] == tokenizer.encode(CORPUS)
        assert theirs.decode(tokenizer.encode(" it 's .")) == " it 's ."


def test_vocab_and_merges_files_make_the_same_model(saved):
    tokenizer, folder = saved
    model = tokenizers.models.BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt"))
    theirs = tokenizers.Tokenizer(model)
    assert theirs.get_vocab_size() == tokenizer.vocab_size
    assert theirs.token_to_id("<EOS>") == tokenizer.eos_id
    assert theirs.encode("cat").ids == tokenizer.encode("cat")


def test_a_folder_saved_again_by_transformers_loads(saved, tmp_path):
    tokenizer, folder = saved
    transformers.AutoTokenizer.from_pretrained(str(folder)).save_pretrained(str(tmp_path))
    assert BPETokenizer.load(tmp_path) == tokenizer


def change_decoder(document):
    document["decoder"] = None


def change_pattern(document):
    document["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = r"\w+"


def change_vocab(document):
    document["model"]["vocab"]["!"] = 0


def change_special(document):
    document["added_tokens"].pop()


def change_merge_alphabet(document):
    document["model"]["merges"][0] = [" ", "a"]


def change_merge_order(document):
    document["model"]["merges"].reverse()


def change_merges(document):
    document["model"]["merges"] = 3


def change_model(document):
    del document["model"]


def change_version(document):
    document["extra"] = None


@pytest.mark.parametrize(
    "change",
    [
        change_decoder,
        change_pattern,
        change_vocab,
        change_special,
        change_merge_alphabet,
        change_merge_order,
        change_merges,
        change_model,
        change_version,
    ],
)
def test_changed_files_are_refused(saved, tmp_path, change):
    _, folder = saved
    document = json.loads((folder / "tokenizer.json").read_bytes())
    change(document)
    (tmp_path / "tokenizer.json").write_text(json.dumps(document))
    with pytest.raises(TokenizerError) as caught:
        BPETokenizer.load(tmp_path)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"\xff\xfe", b"[" * 100_000])
def test_garbled_files_are_refused(tmp_path, content):
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(TokenizerError, match=r"tokenizer\.json"):
        BPETokenizer.load(tmp_path)


def test_missing_file_and_unwritable_folder(saved, tmp_path):
    tokenizer, _ = saved
    with pytest.raises(TokenizerError, match="missing"):
        BPETokenizer.load(tmp_path / "missing")
    (tmp_path / "file").touch()
    with pytest.raises(TokenizerError, match="can't write"):
        tokenizer.save(tmp_path / "file" / "folder")
