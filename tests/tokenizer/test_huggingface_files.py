import pytest
import tokenizers
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from gptlab.errors import TokenizerError
from gptlab.tokenizer import BPETokenizer, train_bpe

CORPUS = "The cat's naïve 🙂 aaaa baaab, 12345 cats!\r\n\n\tThe 中文字 end.  " * 3
FILES = [
    "merges.txt",
    "tokenizer.json",
    "tokenizer.tiktoken",
    "tokenizer_config.json",
    "vocab.json",
]

# Letters and numbers that all current Unicode tables know: libraries differ on the newest ones.
texts = st.text(st.characters(max_codepoint=0x24F) | st.sampled_from(CORPUS + "ſ\u2028\u0301👩‍👧"))


@pytest.fixture(scope="module", params=["gpt2", "gpt4"])
def saved(request, tmp_path_factory):
    tokenizer = train_bpe(texts=[CORPUS], vocab_size=300, pattern=request.param)
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
        ids = tokenizer.encode(text, allowed_special="all")
        assert theirs.encode(text).ids == ids
        assert theirs.decode(ids, skip_special_tokens=False) == text

    check()
    special = "<BOS>The <PAD> cat<EOS>"
    assert theirs.encode(special).ids == tokenizer.encode(special, allowed_special="all")


def test_transformers_agrees(saved):
    tokenizer, folder = saved
    classes = [transformers.AutoTokenizer, transformers.PreTrainedTokenizerFast]
    # transformers 5 gives this class GPT-2's split, whatever the folder says.
    if tokenizer.pattern == "gpt2":
        classes.append(transformers.GPT2TokenizerFast)
    for cls in classes:
        theirs = cls.from_pretrained(str(folder))
        special = (theirs.pad_token_id, theirs.unk_token_id, theirs.bos_token_id)
        assert special == (tokenizer.pad_id, tokenizer.unk_id, tokenizer.bos_id)
        assert theirs.eos_token_id == tokenizer.eos_id
        assert len(theirs) == tokenizer.vocab_size
        check_transformers(theirs, tokenizer)


def check_transformers(theirs, tokenizer):
    @given(texts)
    @settings(max_examples=30)
    def check(text):
        ids = tokenizer.encode(text, allowed_special="all")
        assert theirs(text)["input_ids"] == ids
        assert theirs.decode(ids) == text

    check()
    for text in (CORPUS, " it 's .", "<BOS>The <PAD> cat<EOS> <|user|>  x"):
        assert theirs(text)["input_ids"] == tokenizer.encode(text, allowed_special="all")


@pytest.mark.parametrize("special_tokens", [[], ["<|endoftext|>"], ["<s>", "<PAD>"]])
def test_transformers_adds_no_special_tokens_of_its_own(tmp_path, special_tokens):
    plain = BPETokenizer([(b"T", b"h")], pattern="gpt2", special_tokens=special_tokens)
    tokenizer = plain.with_special_tokens(["<|user|>"])
    tokenizer.save(tmp_path)
    for cls in (transformers.AutoTokenizer, transformers.GPT2TokenizerFast):
        theirs = cls.from_pretrained(str(tmp_path))
        assert len(theirs) == tokenizer.vocab_size
        assert (theirs.eos_token_id, theirs.unk_token_id) == (tokenizer.eos_id, None)
        check_transformers(theirs, tokenizer)


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
