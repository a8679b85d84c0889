"""Several things to train on: their weights, tokenizers, windows and held-out parts."""

import json
import math
import re
from fractions import Fraction
from pathlib import Path

import pytest

from gptlab.config import TrainConfig
from gptlab.data import WindowSampler, shards
from gptlab.errors import ConfigError, DataError
from gptlab.tokenizer import BPETokenizer
from gptlab.training import loop, train
from gptlab.training.cost import Cost
from gptlab.training.inputs import Inputs, load_inputs
from gptlab.training.metrics import read_metrics
from gptlab.training.plan import describe
from gptlab.training.session import open_session
from gptlab.training.sources import weighted_paths

TEXTS = [f"the cat number {number} sat on the mat\n" * 3 for number in range(20)]
OTHERS = [f"a dog saw {number} mice\n" * 3 for number in range(20)]


def load(config: TrainConfig) -> tuple[Inputs, list[str]]:
    lines: list[str] = []
    return load_inputs(config, saved=None, say=lines.append), lines


def write(name: str, text: str) -> str:
    Path(name).write_text(text)
    return name


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.txt", ("a.txt", None)),
        ("a.txt:0.25", ("a.txt", Fraction(1, 4))),
        ("a.txt:3", ("a.txt", Fraction(3))),
        ("a:b:1e-2", ("a:b", Fraction(1, 100))),
        ("a.txt:", ("a.txt:", None)),
        ("a.txt:more", ("a.txt:more", None)),
        (r"C:\data", (r"C:\data", None)),
    ],
)
def test_a_weight_follows_the_last_colon(name, expected):
    assert weighted_paths([name]) == [expected]


def test_a_path_that_exists_has_no_weight(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write("C:0.5", "text")
    assert weighted_paths(["C:0.5"]) == [("C:0.5", None)]
    assert weighted_paths(["C:0.5:2"]) == [("C:0.5", Fraction(2))]


@pytest.mark.parametrize("weight", ["0", "-1", "nan", "inf", "1e-999"])
def test_a_weight_is_a_positive_number(weight):
    message = f"the weight of a is '{weight}'; write a positive number, as in a:0.5"
    with pytest.raises(ConfigError, match=message):
        weighted_paths([f"a:{weight}"])


def test_what_is_no_number_behind_a_path_that_exists_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"the weight of .* is 'half'; write a positive number"):
        weighted_paths([f"{tmp_path}:half"])


def test_all_have_a_weight_or_none():
    with pytest.raises(ConfigError, match=r"^b has no weight, but others of train_data have one"):
        weighted_paths(["a:1", "b"])


def test_texts_without_weights_are_one(tiny):
    write("dogs.txt", "the dog ran\n" * 30)
    found, lines = load(tiny(train_data=["cats.txt", "dogs.txt"]))
    (source,) = found.train
    assert source.name == "cats.txt and 1 more"
    assert source.dataset.num_documents == len(found.evaluation) == 1
    assert "evaluation text: 1 of 2 files of cats.txt and 1 more, held out" in lines[0]


def test_texts_with_weights_share_a_tokenizer_and_each_holds_out_a_part(tiny):
    write("dogs.txt", "zz ÿÿ\n" * 40)
    found, lines = load(tiny(train_data=["cats.txt:3", "dogs.txt:1"]))
    assert [(source.name, source.weight) for source in found.train] == [
        ("cats.txt", 3),
        ("dogs.txt", 1),
    ]
    assert len(found.evaluation) == 2
    whole = sum(
        dataset.manifest["characters"]
        for dataset in [*(source.dataset for source in found.train), *found.evaluation]
    )
    assert whole == sum(len(Path(name).read_text()) for name in ("cats.txt", "dogs.txt"))
    assert {(b"a", b"t"), (b"\xc3", b"\xbf")} <= set(found.tokenizer.merges)
    assert sum("evaluation text: the last 10% of" in line for line in lines) == 2
    assert found.floor is None


def test_a_prepared_dataset_brings_its_tokenizer_and_its_held_out_part(tiny, prepare):
    tokenizer = BPETokenizer([(b"t", b"h")])
    prepare("cats", TEXTS, dev=TEXTS[:2], tokenizer=tokenizer)
    found, lines = load(tiny(train_data="cats", vocab_size=261))
    assert found.tokenizer.fingerprint() == tokenizer.fingerprint()
    assert found.evaluation[0].folder == Path("cats/dev")
    assert lines == ["evaluation data: cats/dev, held out (--eval_data names another)"]
    with pytest.raises(ConfigError, match=r"tokenizer cats/tokenizer has 261 tokens, but the voca"):
        load(tiny(train_data="cats", vocab_size=270))


def test_prepared_datasets_must_agree_on_their_tokenizer(tiny, prepare):
    prepare("cats", TEXTS, dev=TEXTS[:2])
    prepare("dogs", OTHERS, dev=TEXTS[:2], tokenizer=BPETokenizer([(b"t", b"h")]))
    with pytest.raises(DataError, match="cats and dogs were prepared with different tokenizers"):
        load(tiny(train_data=["cats", "dogs"], vocab_size=260))
    BPETokenizer([]).save("tok")
    with pytest.raises(DataError, match="dogs was prepared with another tokenizer"):
        load(tiny(train_data=["cats", "dogs"], tokenizer="tok", vocab_size=260))


def test_a_text_beside_a_prepared_dataset_takes_its_tokenizer(tiny, prepare):
    prepare("dogs", OTHERS, dev=OTHERS[:2])
    found, _ = load(tiny(train_data=["cats.txt:1", "dogs:1"], vocab_size=260))
    prints = {source.dataset.manifest["tokenizer"] for source in found.train}
    assert prints == {BPETokenizer([]).fingerprint()}
    prepare("bare", OTHERS, dev=OTHERS[:2], saved=False)
    with pytest.raises(ConfigError, match="bare is prepared already, without its tokenizer"):
        load(tiny(train_data=["cats.txt:1", "bare:1"], vocab_size=260))


@pytest.mark.parametrize("name", ["dogs/tokens-00000.bin", "dogs/dev/tokens-00000.bin"])
def test_a_damaged_shard_is_refused_before_training(tiny, prepare, name):
    prepare("dogs", OTHERS, dev=OTHERS[:2])
    data = bytearray(Path(name).read_bytes())
    data[-1] ^= 1
    Path(name).write_bytes(data)
    with pytest.raises(DataError, match=f"{name} is missing or damaged"):
        train(tiny(train_data="dogs", vocab_size=260))
    assert not Path("runs/tiny").exists()


def hold_out_windows(folder: str, *, share: float) -> None:
    """Make `folder`/dev a part of the same tokens, of which each has windows of its own."""
    path = Path(folder, "manifest.json")
    manifest = json.loads(path.read_text())
    manifest["held_out"] = {"share": share, "seed": 0, "part": "train"}
    path.write_text(json.dumps(manifest))
    for file in [*manifest["shards"], manifest["document_ends"]]:
        file["file"] = f"../{file['file']}"
    manifest["held_out"]["part"] = "dev"
    Path(folder, "dev").mkdir()
    Path(folder, "dev", "manifest.json").write_text(json.dumps(manifest))


def test_files_that_datasets_share_are_read_once(tiny, prepare, monkeypatch):
    prepare("cats", TEXTS, mode="segment", segment_len=16, stride=4)
    hold_out_windows("cats", share=0.5)
    prepare("dogs", OTHERS, dev=OTHERS[:2], mode="segment", segment_len=16, stride=4)
    read = []
    plain = shards.digest_payload
    monkeypatch.setattr(shards, "digest_payload", lambda p: read.append(p.resolve()) or plain(p))
    load(tiny(train_data=["cats", "dogs"], vocab_size=260))
    assert sorted(read) == sorted(path.resolve() for path in Path().glob("*/**/*.bin"))


def test_the_plan_counts_what_an_evaluation_reads(tiny, prepare):
    prepare("cats", TEXTS, mode="segment", segment_len=16, stride=2)
    hold_out_windows("cats", share=0.3)
    config = tiny(train_data="cats", vocab_size=260, eval_strategy="no", max_steps=20)
    session = open_session(config)
    (dev,) = session.inputs.evaluation
    windows = WindowSampler(dev, seq_len=16, batch_size=1, seed=0, shuffle=False).num_windows
    plan = describe(session, Cost(1.0, 0))
    assert f"training tokens, {windows * 16:,} evaluation tokens" in plan
    assert windows * 16 > 2 * len(dev)
    assert _seconds(plan) == round(20 + windows / 4 / 3)


@pytest.mark.parametrize("short", ["keep", "drop"])
def test_the_plan_counts_the_targets_of_chunks(tiny, prepare, short):
    texts = ["x" * 20, "y" * 40, "z"]
    prepare("cats", TEXTS, dev=texts, mode="chunk", seq_len=16, short=short)
    session = open_session(tiny(train_data="cats", vocab_size=260, max_steps=1))
    targets, windows = (62 - 1, 2 + 3 + 1) if short == "keep" else (3 * 16, 3)
    plan = describe(session, Cost(12.0, 0))
    assert f"training tokens, {targets:,} evaluation tokens" in plan
    assert _seconds(plan) == 12 + windows


def _seconds(plan: str) -> int:
    return int(re.search(r"time +about (\d+) s", plan)[1])


@pytest.mark.usefixtures("without_plots")
def test_a_run_reports_bits_of_the_text_that_it_predicts(tiny, prepare):
    dev = ["a long text of evaluation " * 4, *(["\xff"] * 30)]
    prepare("cats", TEXTS, dev=dev, mode="chunk", seq_len=16, short="drop")
    record = read_metrics(train(tiny(train_data="cats", vocab_size=260)).path)[-1]
    # Six windows of the first document, whose first token is no target.
    assert record["bits_per_byte"] == pytest.approx(record["loss"] / math.log(2))
    assert record["nats_per_character"] == pytest.approx(record["loss"])


def without_seq_len(config: TrainConfig) -> TrainConfig:
    given = {name: getattr(config, name) for name in config.model_fields_set}
    return TrainConfig(**{name: value for name, value in given.items() if name != "seq_len"})


@pytest.mark.parametrize(
    "windows", [{"mode": "chunk", "seq_len": 24}, {"mode": "segment", "segment_len": 24}]
)
def test_the_windows_of_a_dataset_decide_the_length_unless_the_user_does(tiny, prepare, windows):
    prepare("cats", TEXTS, dev=TEXTS[:2], **windows)
    config = tiny(train_data="cats", vocab_size=260, seq_len=30)
    assert load(without_seq_len(config))[0].seq_len == 24
    assert load(config)[0].seq_len == 30
    session = open_session(without_seq_len(config))
    assert session.config.seq_len == session.model.config.seq_len == 24
    with pytest.raises(ConfigError) as error:
        load(tiny(train_data="cats", vocab_size=260, seq_len=20))
    assert str(error.value) == (
        "the windows of cats have 24 tokens, but seq_len is 20; write --seq_len 24"
    )


def test_datasets_without_weights_are_read_as_one(tiny, prepare):
    sizes = {"mode": "chunk", "seq_len": 8, "short": "drop"}
    prepare("cats", TEXTS, dev=TEXTS[:2], **sizes)
    prepare("dogs", OTHERS[:5], dev=OTHERS[:2], **sizes)
    config = tiny(train_data=["cats", "dogs"], vocab_size=260, seq_len=8, batch_size=5)
    session = open_session(config)
    windows = [sampler.num_windows for sampler, _ in session.mixture]
    assert [weight for _, weight in session.mixture] == windows
    steps = session.sampler.num_windows // 5
    assert steps * 5 == sum(windows)
    rows = [tuple(row) for step in range(steps) for row in session.batch(step).inputs.tolist()]
    expected = [
        tuple(row)
        for sampler, _ in session.mixture
        for row in sampler.rows(range(sampler.num_windows)).inputs.tolist()
    ]
    assert sorted(rows) == sorted(expected)


def test_weights_are_shares_of_the_rows(tiny, prepare):
    prepare("cats", TEXTS, dev=TEXTS[:2])
    prepare("dogs", ["\0" * 400], dev=OTHERS[:2])
    config = tiny(train_data=["cats:0.75", "dogs:0.25"], vocab_size=260, batch_size=8)
    session = open_session(config)
    (zero,) = session.inputs.tokenizer.encode("\0")
    for step in range(10):
        assert int((session.batch(step).inputs == zero).any(1).sum()) == 2


@pytest.mark.usefixtures("without_plots")
def test_a_run_on_several_sources_says_so_and_resumes(tiny, prepare, capsys, monkeypatch):
    prepare("dogs", OTHERS, dev=OTHERS[:2])
    mixed = {"train_data": ["cats.txt:0.7", "dogs:0.3"], "vocab_size": 260}
    straight = train(tiny(**mixed, quiet=False, experiment_name="straight"))
    out = capsys.readouterr().out
    assert "data     cats.txt 70%, dogs 30%: " in out
    plain = loop.train_step

    def stopping(session, forward):
        if session.state.step == 5:
            raise KeyboardInterrupt
        return plain(session, forward)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", stopping)
        with pytest.raises(KeyboardInterrupt):
            train(tiny(**mixed))
    resumed = train(tiny(**mixed, resume=True))
    name = "last-12/model.safetensors"
    assert (resumed.path / name).read_bytes() == (straight.path / name).read_bytes()
    record = read_metrics(straight.path)[-1]
    assert record["loss"] == pytest.approx(resumed.eval_loss)
    with pytest.raises(ConfigError) as error:
        train(tiny(**mixed | {"train_data": ["cats.txt:0.6", "dogs:0.4"]}, resume=True))
    assert "train_data (cats.txt:0.7 dogs:0.3, not cats.txt:0.6 dogs:0.4)" in str(error.value)


@pytest.mark.usefixtures("without_plots")
@pytest.mark.parametrize(
    "windows",
    [
        {"mode": "chunk", "seq_len": 16, "short": "pad"},
        {"mode": "chunk", "seq_len": 16, "short": "keep"},
        {"mode": "segment", "segment_len": 16, "stride": 4},
    ],
)
def test_runs_on_windows_of_a_datasets_own(tiny, prepare, capsys, windows):
    prepare("cats", TEXTS, dev=TEXTS[:2], **windows)
    result = train(tiny(train_data="cats", vocab_size=260, quiet=False, max_steps=3))
    assert result.steps == 3
    out = capsys.readouterr().out
    session = open_session(tiny(train_data="cats", vocab_size=260, experiment_name="other"))
    count, tokens = session.sampler.num_windows, len(session.mixture[0][0].dataset)
    assert f"data     {count:,} windows of 16 in {tokens:,} training tokens, " in out
    different = f"{tokens / session.model.num_parameters():.3g} of them different"
    assert different in out


def test_a_file_of_rows_with_another_field_and_bad_bytes(tiny):
    rows = [json.dumps({"body": f"line {n} of the rows"}).encode() + b"\n" for n in range(40)]
    Path("rows.jsonl").write_bytes(b"".join(rows))
    found, _ = load(tiny(train_data="rows.jsonl", field="body"))
    assert found.train[0].dataset.num_documents + found.evaluation[0].num_documents == 40
    Path("bad.txt").write_bytes(b"caf\xe9 and more text of it\n" * 30)
    with pytest.raises(DataError, match="0xe9"):
        load(tiny(train_data="bad.txt"))
    found, _ = load(tiny(train_data="bad.txt", errors="replace"))
    first = found.train[0].dataset.read(0, 12).tolist()
    assert "caf\ufffd" in found.tokenizer.decode(first)
