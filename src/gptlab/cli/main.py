"""What every command does around its work: parse, report an error in one line, exit."""

import errno
import io
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn, TypeVar

import gptlab
from gptlab.cli.flags import CommandLine, parse
from gptlab.errors import GptlabError, PeerError

INTERNAL_ERROR = 1
USER_ERROR = 2
INTERRUPTED = 130
# What helps where the system's own words say what is wrong, but not what to do.
_REMEDIES: Mapping[int | None, str] = MappingProxyType(
    {
        errno.ENOSPC: "free some space on that disk, or write to another one",
        errno.EDQUOT: "free some of your space on that disk, or write to another one",
        errno.EACCES: "change its permissions, or choose another place",
        errno.EROFS: "choose another place",
    }
)


Line = TypeVar("Line", bound=CommandLine)


def run(main: Callable[[Line], int | None], command: type[Line], *, prog: str) -> None:
    """Parse the process's arguments into `command`, call `main` with it, and exit.

    An error is one line on standard error: exit code 2 for a user's mistake, 1 for a fault of
    gptlab, 130 for Ctrl-C. With `--debug` the traceback is shown as well. A warning of gptlab's is
    one line too, and says that it is one. Of the processes of a job, one shows what is wrong with
    all.
    """
    settings: Line | None = None
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A model may say what a terminal's encoding lacks.
            stream.reconfigure(errors="replace")
    try:
        settings = parse(command, sys.argv[1:], prog=prog)
        with _plain_warnings(prog):
            code = main(settings)
        sys.stdout.flush()
        sys.exit(code)
    except KeyboardInterrupt:
        _fail(f"{prog}: interrupted", code=INTERRUPTED)
    except BrokenPipeError:
        # The reader (head, less) has left: nothing is wrong. Python would complain once more when
        # it flushes standard output at exit, so that goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:
        if settings is not None and settings.debug:
            raise
        if isinstance(error, PeerError) or (settings is None and not _is_first_process()):
            sys.exit(_exit_code(error))
        _fail(f"{prog}: {_one_line(error)}", code=_exit_code(error))


def _is_first_process() -> bool:
    """Whether torchrun started this process alone or before all others of a job."""
    return os.environ.get("WORLD_SIZE", "1") == "1" or os.environ.get("RANK", "0") == "0"


@contextmanager
def _plain_warnings(prog: str) -> Iterator[None]:
    """Show what gptlab warns of without a place in the source; others warn as ever."""
    package = Path(gptlab.__file__).parent

    def show(
        message: Warning | str, category: type[Warning], filename: str, *place: Any, **more: Any
    ) -> None:
        if issubclass(category, UserWarning) and Path(filename).is_relative_to(package):
            if _is_first_process():
                print(f"{prog}: warning: {' '.join(str(message).split())}", file=sys.stderr)
        else:
            show_as_ever(message, category, filename, *place, **more)

    with warnings.catch_warnings():
        show_as_ever, warnings.showwarning = warnings.showwarning, show
        yield


def _one_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        remedy = _REMEDIES.get(error.errno)
        return f"{where}{error.strerror}" + (f"; {remedy}" if remedy else "")
    text = " ".join(str(error).split())
    if isinstance(error, GptlabError):
        return text
    return f"{type(error).__name__}: {text}; run again with --debug for the traceback"


def _exit_code(error: BaseException) -> int:
    return USER_ERROR if isinstance(error, GptlabError | OSError) else INTERNAL_ERROR


def _fail(line: str, *, code: int) -> NoReturn:
    print(line, file=sys.stderr)
    sys.exit(code)
