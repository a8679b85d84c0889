"""gptlab-prepare --check: text of the held-out part that is in the training part as well."""

from pathlib import Path

from gptlab.data import TokenDataset
from gptlab.data.leaks import Leak, LeakReport, find_leaks
from gptlab.errors import DataError
from gptlab.tokenizer import load_tokenizer

_SHOWN_TOKENS = 40


def check(folder: Path, *, n: int) -> None:
    """Print how many runs of `n` tokens leak, and examples.

    Raises:
        DataError: There is no dataset, or nothing of it was held out.
    """
    train = TokenDataset(folder)
    if train.dev is None:
        raise DataError(f"{folder} has no held-out part; prepare it with --dev_size")
    dev = TokenDataset(train.dev)
    report = find_leaks(train, dev, n=n)
    print(_summary(report, dev.folder))
    tokenizer = None if train.tokenizer is None else load_tokenizer(str(train.tokenizer))
    for leak in report.examples:
        print(f"  document {leak.dev_document} of dev, {_where(leak)}")
        if tokenizer is not None:
            tokens = dev.read(leak.dev_start, min(leak.length, _SHOWN_TOKENS))
            more = "..." if leak.length > _SHOWN_TOKENS else ""
            print(f"    {tokenizer.decode(tokens.tolist())!r}{more}")


def _summary(report: LeakReport, folder: Path) -> str:
    return (
        f"{folder}: {report.share:.2%} of {report.ngrams:,} runs of {report.n} tokens are in the "
        f"training part too; {report.covered_share:.2%} of its tokens are in such a run, and "
        f"{report.leaked_documents:,} of {report.documents:,} documents have one"
    )


def _where(leak: Leak) -> str:
    return (
        f"{leak.covered_tokens:,} tokens covered, {leak.length:,} in a row from document "
        f"{leak.train_document} of train:"
    )
