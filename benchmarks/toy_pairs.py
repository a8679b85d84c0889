"""Train the default Transformer on the shipped pairs, and count the held-out targets it gets right.

    python benchmarks/toy_pairs.py [--seeds 3]

Each seed is a run of `gptlab-train --architecture transformer --seed N` in a fresh process, whose
newest checkpoint then writes the target of every held-out source, token by token (temperature 0)
and by beam search. A target is right if it is the expected one, to the letter. Writes
results/toy_pairs-cpu.json.
"""

import argparse
import json
import sys
import tempfile
import time
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from measure import available_cores, machine, run_task, summary
from report import publish

BEAMS = 4
_KINDS = ("words to numbers", "words to dates", "numbers to words", "dates to words")


def kind_of(source: str) -> str:
    if source[0].isdigit():
        return "dates to words" if "-" in source else "numbers to words"
    is_date = any(word in source for word in MONTHS)
    return "words to dates" if is_date else "words to numbers"


MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September",
    "October", "November", "December",
)  # fmt: skip


def run(seed: int) -> dict[str, Any]:
    """Train, then write; what came of it."""
    import gptlab
    from gptlab.corpus.pairs import PairFields, read_pairs
    from gptlab.training.metrics import read_metrics
    from gptlab.training.translations import write_targets

    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        config = gptlab.TrainConfig(
            architecture="transformer", seed=seed, device="cpu", runs_dir=folder
        )
        # What a run says is for who watches; standard output is for the result.
        with redirect_stdout(sys.stderr):
            result = gptlab.train(config)
        seconds = time.perf_counter() - start
        curve = [
            [record["step"], record["elapsed_seconds"], record["loss"], record["sequence_accuracy"]]
            for record in read_metrics(result.path)
            if record["split"] == "eval"
        ]
        pairs = read_pairs([config.eval_data], fields=PairFields())
        generator = gptlab.Generator.load(result.path)
        length = generator.model.config.seq_len
        written = write_targets(generator, [pair.source for pair in pairs], length=length)
        found = [
            generator.beam_search(pair.source, beams=BEAMS, max_new_tokens=length - 1)[0].text
            for pair in pairs
        ]
    right = {kind: [0, 0] for kind in _KINDS}
    for pair, target in zip(pairs, written, strict=True):
        counts = right[kind_of(pair.source)]
        counts[0] += target == pair.target
        counts[1] += 1
    return {
        "seconds": seconds,
        "steps": result.steps,
        "parameters": generator.model.num_parameters(),
        "curve": curve,
        "right": {kind: counts[0] / counts[1] for kind, counts in right.items()},
        "exact_match": sum(counts[0] for counts in right.values()) / len(pairs),
        "beam_exact_match": sum(
            text == pair.target for text, pair in zip(found, pairs, strict=True)
        )
        / len(pairs),
        "wrong": [
            [pair.source, target, pair.target]
            for pair, target in zip(pairs, written, strict=True)
            if target != pair.target
        ][:5],
    }


def main() -> None:
    if len(sys.argv) == 2 and sys.argv[1].startswith("{"):
        print(json.dumps(run(json.loads(sys.argv[1])["seed"])))
        return
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    cores = available_cores()
    runs = [
        run_task(Path(__file__), {"seed": seed}, cores=cores).result
        for seed in range(options.seeds)
    ]
    publish(
        "toy_pairs-cpu",
        {
            "benchmark": "toy_pairs",
            "machine": machine(["torch"], cores=cores),
            "seeds": options.seeds,
            "beams": BEAMS,
            "parameters": runs[0]["parameters"],
            "steps": runs[0]["steps"],
            "curves": [one["curve"] for one in runs],
            "wrong": [one["wrong"] for one in runs],
            "results": {
                "seconds, start to end": summary(one["seconds"] for one in runs),
                "exact match": summary(one["exact_match"] for one in runs),
                f"exact match, {BEAMS} beams": summary(one["beam_exact_match"] for one in runs),
                **{kind: summary(one["right"][kind] for one in runs) for kind in _KINDS},
            },
        },
    )


if __name__ == "__main__":
    main()
