import json
import math
from itertools import pairwise
from pathlib import Path

import pytest
from head_tasks import Hinge, rows_of, write

from gptlab.config import preset
from gptlab.errors import ConfigError
from gptlab.training import lr_find
from gptlab.training.lr_find import SearchPoint, find_learning_rate, suggest


@pytest.fixture
def without_plot(monkeypatch) -> None:
    """Searches draw nothing, which is most of a tiny one's time."""
    monkeypatch.setattr(lr_find, "_plot", lambda _search: None)


def curve(loss_of, *, steps: int = 100) -> list[SearchPoint]:
    rates = [10 ** (-6 + 6 * step / (steps - 1)) for step in range(steps)]
    return [SearchPoint(rate, loss_of(math.log10(rate))) for rate in rates]


def contents(folder) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_suggestion_is_a_fifth_of_the_rate_with_the_lowest_loss():
    points = curve(lambda x: 4 + (x + 2) ** 2)
    assert suggest(points) == pytest.approx(2e-3, rel=0.15)


def test_one_lucky_batch_does_not_decide():
    smooth = curve(lambda x: 4 + (x + 2) ** 2 / 10)
    lucky = [
        SearchPoint(point.learning_rate, point.loss - (0.3 if index == 40 else 0))
        for index, point in enumerate(smooth)
    ]
    assert min(lucky, key=lambda point: point.loss).learning_rate < 1e-3
    assert suggest(lucky) == suggest(smooth)


def test_what_lies_behind_the_first_valley_does_not_count():
    points = curve(lambda x: 4 + min((x + 2.5) ** 2, 3 * (x + 0.7) ** 2 - 0.2))
    assert suggest(points) == pytest.approx(10**-2.5 / 5, rel=0.15)


@pytest.mark.parametrize(
    "losses", [[], [3.0], [3.0] * 20, [3.0, 2.99] * 10, [3.0 + n for n in range(20)]]
)
def test_nothing_is_suggested_where_no_loss_falls(losses):
    assert suggest([SearchPoint(10.0**n, loss) for n, loss in enumerate(losses)]) is None


def test_a_search_finds_a_rate_and_writes_its_curve(tiny):
    search = find_learning_rate(tiny(batch_size=8), steps=60)
    rates = [point.learning_rate for point in search.points]
    assert rates[0] == pytest.approx(1e-6)
    factors = [later / former for former, later in pairwise(rates)]
    assert factors == pytest.approx([1e6 ** (1 / 59)] * len(factors))
    assert 1e-4 < search.suggestion < 0.3
    assert search.folder.name == "tiny-lr_find"
    lines = (search.folder / "lr_find.jsonl").read_text().splitlines()
    assert [SearchPoint(**json.loads(line)) for line in lines] == list(search.points)
    assert {path.name for path in search.folder.iterdir()} == {"lr_find.jsonl", "lr_find.png"}
    assert (search.folder / "lr_find.png").read_bytes().startswith(b"\x89PNG")


def test_an_exploding_loss_ends_the_search(tiny, without_plot):
    # Without a norm of queries and keys nor a bound on gradients, the largest rates break it.
    config = tiny(optimizer="sgd", qk_norm=False, grad_clip=0.0)
    search = find_learning_rate(config, steps=60)
    assert len(search.points) < 60
    assert all(math.isfinite(point.loss) for point in search.points)
    assert search.points[0].learning_rate == pytest.approx(1e-4)
    assert [path.name for path in search.folder.iterdir()] == ["lr_find.jsonl"]


def test_a_run_of_the_same_name_stays_as_it_is(tiny, text_file, without_plot):
    run = text_file.parent / "runs" / "tiny"
    run.mkdir(parents=True)
    (run / "config.json").write_text("{}")
    before = contents(run)
    first = find_learning_rate(tiny(resume=True, ema_decay=0.9), steps=10)
    second = find_learning_rate(tiny(), steps=10)
    assert contents(run) == before
    assert (first.folder.name, second.folder.name) == ("tiny-lr_find", "tiny-lr_find-2")
    assert first.points == second.points


def test_the_rate_and_the_schedule_of_the_run_do_not_matter(tiny, without_plot):
    changes = {"learning_rate": 0.5, "schedule": "wsd", "warmup_steps": 7, "max_steps": 3}
    changed = find_learning_rate(tiny(**changes), steps=10)
    assert changed.points == find_learning_rate(tiny(), steps=10).points


def test_too_few_steps_are_refused(tiny, text_file):
    with pytest.raises(ConfigError, match="steps is 9, but a curve takes at least 10; give more"):
        find_learning_rate(tiny(), steps=9)
    assert not (text_file.parent / "runs").exists()


def test_it_says_what_it_found(tiny, capsys, without_plot):
    search = find_learning_rate(tiny(quiet=False, experiment_name=None, batch_size=8), steps=60)
    assert search.folder.name == "lr_find"
    out = capsys.readouterr().out
    assert f"--learning_rate {search.suggestion:g}" in out
    assert str(search.folder / "lr_find.png") in out


def test_the_warm_up_of_a_preset_does_not_matter(tiny, without_plot):
    own = {"max_steps": 3, "eval_steps": 5, "batch_size": 4}
    changes = {name: value for name, value in preset("finetune").items() if name != "epochs"} | own
    search = find_learning_rate(tiny(**changes), steps=10)
    assert len(search.points) == 10


def test_a_head_of_ones_own_is_searched_too(head_run, without_plot):
    task = write(Path("task.jsonl"), rows_of("sequence_classification"))
    config = head_run("own", train_data=task)
    search = find_learning_rate(config, steps=10, head=Hinge)
    assert len(search.points) == 10
