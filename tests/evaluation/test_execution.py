import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from gptlab.errors import ConfigError
from gptlab.evaluation import execution
from gptlab.evaluation.execution import Limits, Program, run_program, run_programs

# Only what would never end is given little time: a busy machine may be slow to begin.
LIMITS = Limits(seconds=20)
LITTLE = Limits(seconds=1)
TEST = "def check(candidate):\n    assert candidate(2, 3) == 5\n    assert candidate(-1, 1) == 0\n"
RIGHT = "def add(a, b):\n    return a + b\n"
ESCAPES = {
    "wrong": "def add(a, b):\n    return a - b\n",
    "endless": "def add(a, b):\n    while True: pass\n",
    "asleep": "import time\ndef add(a, b):\n    time.sleep(60)\n",
    "memory": "def add(a, b):\n    bytearray(10 << 30)\n    return a + b\n",
    "files": (
        "def add(a, b):\n    with open('huge', 'wb') as f:\n"
        "        f.seek(1 << 30)\n        f.write(b'x')\n    return a + b\n"
    ),
    "descriptors": (
        "import os\ndef add(a, b):\n    kept = [open(os.devnull) for _ in range(99)]\n"
        "    return a + b\n"
    ),
    "forks": "import os\ndef add(a, b):\n    os.fork()\n    return a + b\n",
    "shell": "import os\ndef add(a, b):\n    os.system('true')\n    return a + b\n",
    "subprocess": (
        "import subprocess, sys\ndef add(a, b):\n    subprocess.run([sys.executable, '-c', ''])\n"
        "    return a + b\n"
    ),
    "kill": "import os\ndef add(a, b):\n    os.kill(os.getppid(), 0)\n    return a + b\n",
    "network": "import socket\ndef add(a, b):\n    socket.socket()\n    return a + b\n",
    "_exit": "import os\nos._exit(0)\n",
    "_exit inside": "import os\ndef add(a, b):\n    os._exit(0)\n",
    "exit": "import sys\nsys.exit(0)\n",
    "exit inside": "import sys\ndef add(a, b):\n    sys.exit(0)\n",
    "prints": "print('passed')\nimport sys\nsys.stdout.flush()\nsys.exit(0)\n",
    "writes everywhere": (
        "import os\nfor fd in range(3, 32):\n    try: os.write(fd, b'passed')\n"
        "    except OSError: pass\nos._exit(0)\n"
    ),
    "claims": "class passed(BaseException): pass\nraise passed\n",
    "reads": "value = input()\ndef add(a, b):\n    return a + b\n",
    "crash": "import os, signal\nsignal.raise_signal(signal.SIGSEGV)\n",
    "syntax": "def add(a, b) return",
    "open text": "def add(a, b):\n    return 7\n'''",
    "own check": "def check(candidate): pass\ndef add(a, b): return 0\n",
    "NUL": "\0",
    "surrogate": "'\ud800'\n",
    "nothing": "",
}
OUTCOMES = {
    "wrong": "raised AssertionError",
    "endless": "timed out",
    "asleep": "timed out",
    "memory": "raised MemoryError",
    "files": "raised OSError",
    "descriptors": "raised OSError",
    "_exit": "ended early",
    "exit": "raised SystemExit",
    "claims": "raised passed",
    "reads": "raised EOFError",
    "crash": "ended early",
    "open text": "raised SyntaxError",
}


def program(solution: str, test: str = TEST) -> Program:
    return Program(solution, test, "add")


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch) -> Path:
    """Where programs have their folders; nothing is left in it."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def descendants() -> set[int]:
    """Processes that belong to a harness."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if b"harness.py" in (folder / "cmdline").read_bytes():
                found.add(int(folder.name))
        except OSError:
            continue
    return found


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_the_right_solution_passes():
    assert run_program(program(RIGHT), limits=LIMITS) == "passed"


@pytest.mark.parametrize("name", ESCAPES)
def test_whatever_else_it_does_it_does_not_pass(temporary, name):
    is_endless = OUTCOMES.get(name) == "timed out"
    outcome = run_program(program(ESCAPES[name]), limits=LITTLE if is_endless else LIMITS)
    assert outcome != "passed"
    assert outcome == OUTCOMES.get(name, outcome)
    assert descendants() == set()
    assert list(temporary.iterdir()) == []


def test_a_process_made_around_python_is_killed_with_its_group(temporary):
    forks = (
        "import _posixsubprocess, ctypes, time\nlibc = ctypes.CDLL(None)\n"
        "def add(a, b):\n    libc.fork()\n    time.sleep(60)\n"
    )
    assert run_program(program(forks), limits=LITTLE) == "timed out"
    deadline = time.monotonic() + 10
    while descendants() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert descendants() == set()


def test_it_begins_in_an_empty_folder_with_a_bare_environment(monkeypatch):
    monkeypatch.setenv("PYTHONSTARTUP", "secret")
    monkeypatch.setenv("TOKEN", "secret")
    bare = (
        "import os, sys\ndef add(a, b):\n    assert os.listdir() == []\n"
        "    assert 'secret' not in ''.join(os.environ.values())\n"
        "    assert os.path.samefile(os.environ['HOME'], os.getcwd())\n"
        "    assert sys.flags.isolated and os.getsid(0) == os.getpid()\n"
        "    open('here', 'w').write('x')\n    os.remove('here')\n    return a + b\n"
    )
    assert run_program(program(bare), limits=LIMITS) == "passed"


def test_limits_can_not_be_raised():
    raises = (
        "import resource\ndef add(a, b):\n    for name in ('AS', 'FSIZE', 'CPU', 'NOFILE'):\n"
        "        kind = getattr(resource, 'RLIMIT_' + name)\n"
        "        soft, hard = resource.getrlimit(kind)\n"
        "        assert soft == hard != resource.RLIM_INFINITY\n"
        "    assert resource.getrlimit(resource.RLIMIT_CORE) == (0, 0)\n"
        "    assert resource.getrlimit(resource.RLIMIT_NPROC) == (1, 1)\n    return a + b\n"
    )
    assert run_program(program(raises), limits=LIMITS) == "passed"


def test_a_thread_that_goes_on_holds_nothing_up():
    thread = "import threading, time\nthreading.Thread(target=time.sleep, args=(60,)).start()\n"
    outcome = run_program(program(RIGHT + thread), limits=LIMITS)
    # Where the limit of processes holds, no thread begins.
    assert outcome in ("passed", "raised RuntimeError")


def test_many_come_back_in_order():
    programs = [program(RIGHT), program(ESCAPES["wrong"]), program(ESCAPES["exit"])] * 3
    outcomes = run_programs(programs, limits=LIMITS, workers=3)
    assert outcomes == ["passed", "raised AssertionError", "raised SystemExit"] * 3
    assert run_programs([], limits=LIMITS) == []


def test_an_interruption_starts_no_further_program(monkeypatch):
    begun = []

    def interrupted(program: Program, *, limits: Limits) -> str:
        begun.append(program)
        if len(begun) > 1:
            # As a program that runs, while the interruption is answered.
            time.sleep(0.2)
        raise KeyboardInterrupt

    monkeypatch.setattr(execution, "run_program", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_programs([program(RIGHT)] * 50, limits=LIMITS, workers=1)
    assert len(begun) < 50


def test_no_file_descriptor_is_left_open():
    run_program(program(RIGHT), limits=LIMITS)
    before = open_descriptors()
    for solution in (RIGHT, ESCAPES["_exit"], ESCAPES["wrong"]):
        run_program(program(solution), limits=LIMITS)
    assert open_descriptors() == before


def test_an_interpreter_that_can_not_start_is_an_error_and_leaves_nothing(temporary, monkeypatch):
    before = open_descriptors()
    monkeypatch.setattr(sys, "executable", str(temporary / "none"))
    with pytest.raises(FileNotFoundError):
        run_program(program(RIGHT), limits=LIMITS)
    assert open_descriptors() == before
    assert list(temporary.iterdir()) == []


def test_elsewhere_it_is_refused(monkeypatch):
    monkeypatch.setattr(execution.os, "name", "nt")
    with pytest.raises(ConfigError, match="which this system lacks; write --samples_only FILE"):
        run_program(program(RIGHT), limits=LIMITS)


def test_the_harness_ends_by_itself_where_nobody_waits():
    """Its alarm, without whoever would kill it."""
    limits = Limits(seconds=0.5)
    job = tempfile.TemporaryFile("w+")  # noqa: SIM115 (passed on)
    execution.json.dump(execution._job(program(ESCAPES["asleep"]), limits, "s"), job)
    job.seek(0)
    reading, writing = os.pipe()
    argv = [sys.executable, "-I", str(execution._HARNESS), str(job.fileno()), str(writing)]
    run = subprocess.run(argv, pass_fds=(job.fileno(), writing), timeout=30, check=False)
    assert run.returncode < 0
    for fd in (reading, writing):
        os.close(fd)
    job.close()
