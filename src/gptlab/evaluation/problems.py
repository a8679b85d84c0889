"""Programming problems in the format of HumanEval: an object on each line of a file."""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from gptlab.corpus.compression import opened
from gptlab.errors import DataError
from gptlab.evaluation.execution import Program


@dataclass(frozen=True)
class Problem:
    """A function to write, and how it is tested."""

    task_id: str
    prompt: str
    """The beginning of the program, up to the function's body."""
    entry_point: str
    """The function's name."""
    canonical_solution: str
    """A body that is right."""
    test: str
    """Defines `check`, which takes the function."""

    def program(self, completion: str) -> Program:
        """What is run to test `completion`."""
        return Program(self.prompt + completion, self.test, self.entry_point)


@dataclass(frozen=True)
class Sample:
    """What a model wrote for a problem."""

    task_id: str
    completion: str

    def line(self) -> str:
        """It as a line of JSON."""
        return json.dumps(asdict(self)) + "\n"


def read_problems(path: str | Path) -> list[Problem]:
    """The problems in a file of JSON lines, plain or compressed; further keys are passed over.

    Raises:
        DataError: The file can't be read, has no problem, or a line of it is none.
    """
    problems: dict[str, Problem] = {}
    with opened(Path(path)) as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            where = f"{path}, line {number}"
            problem = _problem(line, where)
            if problem.task_id in problems:
                raise DataError(f"{where} has task_id '{problem.task_id}' once more; rename one")
            problems[problem.task_id] = problem
    if not problems:
        raise DataError(f"{path} has no problem; give one as a JSON object on each line")
    return list(problems.values())


def _problem(line: bytes, where: str) -> Problem:
    try:
        value: Any = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        raise DataError(f"{where} is no JSON; write one object on each line") from None
    if not isinstance(value, dict):
        raise DataError(f"{where} is no JSON object; write one on each line")
    names = [field.name for field in fields(Problem)]
    for name in names:
        if not isinstance(value.get(name), str):
            problem = "is no string" if name in value else "is missing"
            raise DataError(f"{where}: {name} {problem}; it needs {', '.join(names)}")
    return Problem(**{name: value[name] for name in names})
