"""What makes a test say nothing, or something else later: a clock that is read when its module is imported, which is
compared with that of minutes later, and a function of its own that nothing calls."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from typing import Final

import pytest

from ..pages import ROOT

FILES: Final = sorted((ROOT / "tests").rglob("*.py"))
CLOCKS: Final = frozenset(
    ("time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "now", "utcnow", "today", "now_ms", "moment")
)


def read_at_import(node: ast.AST) -> Iterator[ast.Call]:
    """Yield the calls of a clock below a node, but for those in functions, which run later."""
    if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in CLOCKS:
        yield node
    own: Iterable[ast.AST] = [node.args] if isinstance(node, ast.Lambda) else ast.iter_child_nodes(node)
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        own = [node.args, *node.decorator_list]
    for each in own:
        yield from read_at_import(each)


def uncalled(tree: ast.Module) -> Iterator[str]:
    """Yield the functions inside of tests that nothing names."""
    for test in tree.body:
        if isinstance(test, ast.FunctionDef | ast.AsyncFunctionDef) and test.name.startswith("test_"):
            named = {node.id for node in ast.walk(test) if isinstance(node, ast.Name)}
            inner = (node for node in test.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
            yield from (f"{test.name}: {node.name}" for node in inner if node.name not in named)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("NOW = int(time.time() * 1000)", 1),
        ("class A:\n    at = datetime.now(tz=UTC)", 1),
        ("def made(at: int = now_ms()): ...", 1),
        ("@pytest.mark.parametrize('at', [moment(), moment() + 1])\ndef test(at): ...", 2),
        ("def made():\n    return time.time()", 0),
        ("CLOCK = time.time\nLATER = [lambda: moment() + 1]", 0),
    ],
)
def test_a_clock_that_is_read_at_import_is_found(text: str, found: int) -> None:
    assert len(list(read_at_import(ast.parse(text)))) == found


def test_a_function_that_nothing_calls_is_found() -> None:
    assert list(uncalled(ast.parse("def test_a():\n    async def story(): ..."))) == ["test_a: story"]
    assert list(uncalled(ast.parse("def test_a():\n    async def story(): ...\n    run(story())"))) == []


def test_no_module_reads_a_clock_when_it_is_imported_and_no_test_has_a_function_that_nothing_calls() -> None:
    wrong = []
    for path in FILES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        place = path.relative_to(ROOT)
        wrong += [f"{place}:{call.lineno}: {ast.unparse(call)} at import" for call in read_at_import(tree)]
        wrong += [f"{place}: {name} is not called" for name in uncalled(tree)]
    assert wrong == []
