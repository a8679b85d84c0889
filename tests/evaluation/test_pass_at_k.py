import gzip
import json
from itertools import combinations
from pathlib import Path

import pytest

from gptlab.config import SamplingConfig
from gptlab.errors import ConfigError, DataError
from gptlab.evaluation import Sample, open_subject, read_problems, score_samples, write_samples
from gptlab.evaluation.execution import Limits
from gptlab.evaluation.pass_at_k import STOP, pass_at_k, require_sound

LIMITS = Limits(seconds=20)
ADD = {
    "task_id": "Own/0",
    "prompt": 'def add(a, b):\n    """The sum."""\n',
    "entry_point": "add",
    "canonical_solution": "    return a + b\n",
    "test": "def check(candidate):\n    assert candidate(2, 3) == 5\n",
}
SIGN = {
    "task_id": "Own/1",
    "prompt": "def sign(x):\n",
    "entry_point": "sign",
    "canonical_solution": "    return (x > 0) - (x < 0)\n",
    "test": "def check(candidate):\n    assert candidate(-3) == -1\n",
}


def written(*values: object, path: str = "problems.jsonl") -> str:
    Path(path).write_text("".join(f"{json.dumps(value)}\n" for value in values))
    return path


@pytest.fixture
def problems(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return read_problems(written(ADD, SIGN))


# The estimator.


@pytest.mark.parametrize("n", range(1, 8))
def test_pass_at_k_is_the_share_of_subsets_with_one_that_passed(n):
    for c in range(n + 1):
        samples = [True] * c + [False] * (n - c)
        for k in range(1, n + 1):
            subsets = list(combinations(samples, k))
            assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, subsets)) / len(subsets))


def test_pass_at_k_of_many_samples_is_exact():
    assert pass_at_k(10_000, 1, 100) == pytest.approx(0.01)
    assert pass_at_k(200, 200, 100) == 1
    assert pass_at_k(200, 0, 100) == 0


@pytest.mark.parametrize("k", [0, 4])
def test_there_must_be_k_samples(k):
    with pytest.raises(ConfigError, match=f"k is {k}, but there are 3 samples of a problem"):
        pass_at_k(3, 1, k)


# The file.


def test_problems_are_read_plain_and_compressed(problems):
    assert [problem.task_id for problem in problems] == ["Own/0", "Own/1"]
    Path("p.jsonl.gz").write_bytes(gzip.compress(Path("problems.jsonl").read_bytes() + b"\n\n"))
    assert read_problems("p.jsonl.gz") == problems
    assert read_problems(written({**ADD, "more": 1})) == problems[:1]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([json.dumps(ADD), "", "{"], "p.jsonl, line 3 is no JSON; write one object on each line"),
        (["[" * 100_000], "p.jsonl, line 1 is no JSON;"),
        (["[1]"], "p.jsonl, line 1 is no JSON object; write one on each line"),
        ([json.dumps({**ADD, "test": 1})], "p.jsonl, line 1: test is no string; it needs task_id,"),
        (['{"task_id": "x"}'], "p.jsonl, line 1: prompt is missing; it needs task_id, prompt,"),
        ([json.dumps(ADD)] * 2, "p.jsonl, line 2 has task_id 'Own/0' once more; rename one"),
        ([" "], "p.jsonl has no problem; give one as a JSON object on each line"),
    ],
)
def test_a_bad_file_is_named_with_its_line(tmp_path, monkeypatch, lines, message):
    monkeypatch.chdir(tmp_path)
    Path("p.jsonl").write_text("\n".join(lines))
    with pytest.raises(DataError) as error:
        read_problems("p.jsonl")
    assert str(error.value).startswith(message)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match="can't be read: No such file"):
        read_problems(tmp_path / "none.jsonl")


# The samples and their scores.


def test_canonical_solutions_pass_and_one_that_does_not_is_named(problems):
    require_sound(problems, limits=LIMITS)
    bad = read_problems(written(ADD, {**SIGN, "canonical_solution": "    return 0\n"}))
    with pytest.raises(DataError, match="the canonical_solution of Own/1 does not pass its test"):
        require_sound(bad, limits=LIMITS)


def test_scores_count_the_samples_of_each_problem(problems):
    right, wrong = problems[0].canonical_solution, "    return None\n"
    samples = [Sample("Own/0", text) for text in (right, wrong, right, wrong)]
    samples += [Sample("Own/1", wrong)] * 3 + [Sample("Own/1", "    exit(0)\n")]
    scores = score_samples(problems, samples, ks=(1, 2), limits=LIMITS, workers=2)
    assert scores.passed == {"Own/0": 2, "Own/1": 0}
    assert scores.pass_at == {1: pytest.approx(0.25), 2: pytest.approx((1 - 1 / 6) / 2)}
    assert scores.pass_at_error[1] == pytest.approx(0.25)
    assert scores.outcomes["passed"] == 2
    assert scores.outcomes["raised AssertionError"] == 5
    assert sum(scores.outcomes.values()) == 8
    assert (scores.problems, scores.samples) == (2, 4)


def test_a_k_beyond_the_samples_is_refused_before_any_runs(problems, monkeypatch):
    monkeypatch.setattr("gptlab.evaluation.pass_at_k.run_programs", None)
    with pytest.raises(ConfigError, match="k is 3, but there are 1 samples"):
        score_samples(problems, [Sample(p.task_id, "") for p in problems], ks=[3], limits=LIMITS)


def test_samples_are_those_of_the_seed_and_differ(trained):
    subject = open_subject(trained, device="cpu", precision="fp32")
    problems = read_problems(written(ADD, SIGN))

    def sampled(seed: int, count: int = 2) -> list[Sample]:
        config = SamplingConfig(max_new_tokens=12, stop=STOP, seed=seed)
        return write_samples(subject, problems[-count:], samples=5, config=config, batch_size=2)

    first, again, other = sampled(1), sampled(1), sampled(2)
    assert first == again != other
    assert sampled(1, count=1) == first[5:]
    assert [sample.task_id for sample in first] == ["Own/0"] * 5 + ["Own/1"] * 5
    assert len({sample.completion for sample in first[:5]}) > 2
    assert json.loads(first[0].line()).keys() == {"task_id", "completion"}


@pytest.mark.parametrize("rest", ["class A:", "def g():", "# done", "if x:", "print(1)"])
def test_a_body_ends_where_something_else_begins(rest):
    text = "    return 1\n" + rest
    assert min(text.find(stop) for stop in STOP if stop in text) == len("    return 1")
