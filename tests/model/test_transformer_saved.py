"""A Transformer that is copied, converted, saved, loaded or quantized computes what it did."""

import copy

import pytest
import torch

import gptlab
from gptlab.checkpoint import add_special_tokens, load_with_head
from gptlab.config import HeadSettings, LoRA, ModelConfig, TransformerConfig
from gptlab.errors import CheckpointError, ConfigError
from gptlab.interop import load_gpt, write_huggingface
from gptlab.interop.export import export
from gptlab.model import GPT, Encoder, Transformer, add_lora, grow_vocabulary, quantize
from gptlab.model.heads import add_head
from gptlab.model.settings import with_settings
from gptlab.tokenizer.pair import PairTokenizer, source_of

TARGETS = gptlab.train_bpe(texts=["the cat sat on the mat. " * 9], vocab_size=270)
SOURCES = gptlab.train_bpe(texts=["eine Katze sitzt auf der Matte. " * 9], vocab_size=264)
SHAPE = {"vocab_size": 270, "seq_len": 12, "embed_dim": 16, "num_layers": 2, "n_heads": 2}
KINDS = {
    "shared": {"tie_embeddings": True, "positions": "learned"},
    "separate": {"src_vocab_size": 264, "norm_place": "post", "activation": "relu", "bias": True},
}


def make(kind="shared", **changes):
    return Transformer(TransformerConfig(**SHAPE, **KINDS[kind], **changes), seed=0).eval()


def logits(model):
    generator = torch.Generator().manual_seed(0)
    source, target = (torch.randint(260, (2, n), generator=generator) for n in (7, 5))
    with torch.no_grad():
        return model(source, target, source_lengths=torch.tensor([7, 3]))


def shares(model):
    return model.encoder._embedding is model.decoder.embedding


def tokenizer_of(kind):
    return PairTokenizer(TARGETS, SOURCES) if kind == "separate" else TARGETS


@pytest.mark.parametrize("kind", KINDS)
def test_copies_and_other_numbers(kind):
    model = make(kind)
    copied = copy.deepcopy(model)
    assert torch.equal(logits(copied), logits(model))
    assert shares(copied) is shares(model) is (kind == "shared")
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.zero_()
    assert not torch.equal(logits(copied), logits(model))
    for dtype in (torch.float64, torch.bfloat16):
        other = copy.deepcopy(model).to(dtype)
        assert (other.dtype, shares(other)) == (dtype, kind == "shared")
        assert (logits(other) - logits(model)).norm() < 0.02 * logits(model).norm()
    without_memory = copy.deepcopy(model).to("meta")
    assert {p.device.type for p in without_memory.parameters()} == {"meta"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", ["fp32", "bf16", "int8", "int4"])
def test_saved_and_loaded(kind, form, tmp_path):
    model = make(kind)
    if form == "bf16":
        model.to(torch.bfloat16)
    if form in ("int8", "int4"):
        exact, model = model, quantize(model, bits=int(form[3]))
        far = (logits(model) - logits(exact)).norm() / logits(exact).norm()
        assert 0 < far < {"int8": 0.02, "int4": 0.3}[form]
        assert model.num_parameters() == exact.num_parameters()
    gptlab.save(tmp_path / "model", model, tokenizer_of(kind))
    loaded, tokenizer = gptlab.load(tmp_path / "model")
    assert type(loaded) is Transformer
    assert loaded.config == model.config
    assert torch.equal(logits(loaded), logits(model))
    assert (shares(loaded), loaded.dtype) == (kind == "shared", model.dtype)
    assert tokenizer.fingerprint() == tokenizer_of(kind).fingerprint()
    assert source_of(tokenizer) == (SOURCES if kind == "separate" else TARGETS)
    assert loaded.state_dict().keys() == model.state_dict().keys()
    names = [name for name in loaded.state_dict() if "embedding.weight" in name]
    assert len(names) == (3 if kind == "shared" else 2)
    # A copy of what was loaded is as whole as the first one.
    assert torch.equal(logits(copy.deepcopy(loaded)), logits(model))


def test_other_settings_without_other_weights():
    model = make()
    shorter = with_settings(copy.deepcopy(model), seq_len=7, dropout=0.5, attention="reference")
    assert (shorter.config.seq_len, shorter.attention) == (7, "reference")
    assert shares(shorter)
    torch.testing.assert_close(logits(shorter), logits(model))
    with pytest.raises(ConfigError, match="but the model has learned 12 positions"):
        with_settings(model, seq_len=20, dropout=0.0, attention="auto")
    longer = with_settings(make("separate"), seq_len=20, dropout=0.0, attention="auto")
    assert torch.equal(logits(longer), logits(make("separate")))


def test_a_named_tokenizer_is_for_targets_where_sources_have_their_own(tmp_path):
    gptlab.save(tmp_path / "model", make("separate"), PairTokenizer(TARGETS, SOURCES))
    TARGETS.save(tmp_path / "named")
    for named in (TARGETS, tmp_path / "named"):
        _, tokenizer = gptlab.load(tmp_path / "model", tokenizer=named)
        assert tokenizer.fingerprint() == PairTokenizer(TARGETS, SOURCES).fingerprint()
    pair = PairTokenizer(SOURCES, SOURCES)
    with pytest.warns(UserWarning, match="7 of 264 ids of the tokenizer stand for other texts"):
        assert gptlab.load(tmp_path / "model", tokenizer=pair)[1] is pair


def test_damage_and_tokenizers_that_do_not_fit(tmp_path):
    gptlab.save(tmp_path / "model", make("separate"), PairTokenizer(TARGETS, TARGETS))
    with pytest.raises(
        ConfigError, match=r"for sources has 270 tokens, but the model knows 264; g"
    ):
        gptlab.load(tmp_path / "model")
    for part in (make().encoder, make().decoder):
        with pytest.raises(
            ConfigError, match=r"^the model is a part of an encoder-decoder, which i"
        ):
            gptlab.save(tmp_path / "part", part, TARGETS)
    assert not (tmp_path / "part").exists()
    file = tmp_path / "model" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\1")
    with pytest.raises(CheckpointError, match="is damaged; use another checkpoint"):
        gptlab.load(tmp_path / "model")


LORA = LoRA(rank=2, alpha=4, modules=("o_proj",), vocab_size=270, fingerprint="")
ALONE = r"^an encoder-decoder, or a part of one, can't {}; give a GPT or an encoder alone$"


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda model: gptlab.ModelWithHead(model, TARGETS), ALONE.format("have a head")),
        (
            lambda model: add_head(model, HeadSettings(head="regression")),
            ALONE.format("have a he.d"),
        ),
        (lambda model: add_lora(model, LORA), ALONE.format("have adapters")),
        (lambda model: grow_vocabulary(model, 300), ALONE.format("get a larger vocabulary")),
        (
            lambda model: add_special_tokens(model, TARGETS, ["<A>"]),
            ALONE.format("get a larger .*"),
        ),
    ],
    ids=["ModelWithHead", "add_head", "add_lora", "grow_vocabulary", "add_special_tokens"],
)
def test_what_is_done_with_one_stack_alone(act, message):
    model = make()
    for refused in (model, model.encoder, model.decoder):
        with pytest.raises(ConfigError, match=message):
            act(refused)
    act(GPT(ModelConfig(**SHAPE)))
    act(Encoder(ModelConfig(**SHAPE)))


@pytest.mark.parametrize("format", ["hf", "gguf", "onnx", "pth"])
def test_other_tools_have_no_such_model(format, tmp_path):
    for model in (make(), make().decoder, Encoder(ModelConfig(**SHAPE))):
        message = f"^the model is of architecture '{model.architecture}', which is not written for"
        with pytest.raises(ConfigError, match=message):
            export(model, TARGETS, tmp_path / "out", format=format)
        with pytest.raises(ConfigError, match=message):
            write_huggingface(tmp_path / "out", model, TARGETS)
    assert list(tmp_path.iterdir()) == []


def test_what_is_for_gpts_alone_says_so(tmp_path):
    gptlab.save(tmp_path / "model", make(), TARGETS)
    with pytest.raises(
        CheckpointError, match=r"is no GPT but of architecture transformer, with whi"
    ):
        load_gpt(tmp_path / "model")
    for load in (load_with_head, gptlab.ModelWithHead.load):
        with pytest.raises(
            CheckpointError, match=r"on which no head stands; give a GPT or an encod"
        ):
            load(tmp_path / "model")
    with pytest.raises(
        CheckpointError, match=r"on which no head stands; give a GPT or an encoder a"
    ):
        gptlab.ModelWithHead.from_backbone(tmp_path / "model", head="regression")
    with pytest.raises(
        CheckpointError, match=r"is an encoder-decoder, which has no adapters; leave th"
    ):
        gptlab.load(tmp_path / "model", adapter=tmp_path)
