"""What a text is as Python: whether it parses, and which modules it imports."""

import ast
import warnings
from collections.abc import Iterator

_BLOCKS = ("body", "orelse", "finalbody", "handlers", "cases")


def parse(text: str) -> ast.Module | None:
    """The syntax tree of a text, or None where this Python can't parse it.

    A byte order mark at the start is no part of the source, and a line that names an encoding
    means nothing. It is syntax only: a `return` outside of a function parses. What nests too deep
    for the parser does not.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return ast.parse(text.removeprefix("\ufeff"))
        # ValueError: NUL or half a surrogate pair; the other two: the parser's stacks are full.
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return None


def imported_modules(tree: ast.Module) -> Iterator[str]:
    """The modules that are imported anywhere in a tree, by their full names, maybe repeatedly.

    `from a import b` gives both a and a.b, which may be a module. A relative import gives none,
    nor does an import by a call, as of `importlib.import_module`.
    """
    # Imports are statements, so that expressions, which are most of a tree, needn't be searched.
    blocks: list[list[ast.AST]] = [list(tree.body)]
    while blocks:
        for node in blocks.pop():
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                if node.module and not node.level:
                    yield node.module
                    yield from (f"{node.module}.{alias.name}" for alias in node.names)
            else:
                blocks.extend(getattr(node, name, []) for name in _BLOCKS)


def is_or_is_below(module: str, name: str) -> bool:
    """Whether a module is the one that is called `name`, or a part of it."""
    return module == name or module.startswith(f"{name}.")
