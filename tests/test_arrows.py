"""Imports follow the arrows between rooms; the picture is drawn from the source.

::

    observe, integrations -> checkpoint -> tracker -> kernel -> abi -> pages, errors
                                                      model  -> abi -> pages, errors
"""

from __future__ import annotations

import ast
import functools
import pathlib
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from typing import NamedTuple

import pytest

import writewatch

SOURCE = pathlib.Path(writewatch.__file__).parent

#: Room -> rooms that it may know.
BELOW = {
    "pages": {"errors"},
    "errors": {"pages"},  # for a type annotation only
    "abi": {"pages", "errors"},
    "kernel": {"abi", "pages", "errors"},
    "model": {"abi", "pages", "errors"},
    "tracker": {"kernel", "abi", "pages", "errors"},
    "checkpoint": {"tracker", "kernel", "abi", "pages", "errors"},
    # "" is the package itself: its public face, as every user sees it.
    "observe": {"", "checkpoint", "tracker", "kernel", "model", "abi", "pages", "errors", "integrations"},
    "__main__": {"observe"},  # python -m writewatch
    "integrations": {"", "checkpoint", "tracker", "kernel", "abi", "pages", "errors"},
}
OPTIONAL = {"click", "rich", "xxhash", "torch", "textual", "pyarrow", "matplotlib", "fsspec", "obstore"}
#: Run by path in a process of its own, with an interpreter that ignores the environment.
STAND_ALONE = "writewatch.tracker.uffd_sync_helper"


class Import(NamedTuple):
    """One imported module; ``eager`` when importing the importer imports it too."""

    target: str
    eager: bool


@functools.cache
def modules() -> dict[str, pathlib.Path]:
    """Dotted name -> file of every module of the package."""
    found = {}
    for path in SOURCE.rglob("*.py"):
        parts = ("writewatch", *path.relative_to(SOURCE).with_suffix("").parts)
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@functools.cache
def tree_of(module: str) -> ast.Module:
    return ast.parse(modules()[module].read_text(encoding="utf-8"))


def imports_of(module: str) -> list[Import]:
    return list(_imports_in(tree_of(module), module, eager=True))


def _imports_in(node: ast.AST, module: str, *, eager: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (Import(alias.name, eager) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            base = _base_of(child, module)
            yield from (Import(_module_or_its_parent(base, alias.name), eager) for alias in child.names)
        else:
            deferred = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) or _is_for_types(child)
            yield from _imports_in(child, module, eager=eager and not deferred)


def _base_of(node: ast.ImportFrom, module: str) -> str:
    if not node.level:
        return node.module or ""
    package = module if modules()[module].name == "__init__.py" else module.rpartition(".")[0]
    parts = package.split(".")
    kept = parts[: len(parts) - node.level + 1]
    return ".".join([*kept, node.module] if node.module else kept)


def _module_or_its_parent(base: str, name: str) -> str:
    """``from base import name`` imports a module of that name where there is one."""
    return f"{base}.{name}" if f"{base}.{name}" in modules() else base


def _is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def room_of(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


every_module = pytest.mark.parametrize("module", sorted(modules()))


@every_module
def test_imports_follow_the_arrows(module: str) -> None:
    room = room_of(module)
    if not room:
        return  # the package itself re-exports from every room
    assert room in BELOW, f"{room} is a room that the picture lacks"
    inside = [one.target for one in imports_of(module) if one.target.split(".")[0] == "writewatch"]
    above = {target for target in inside if room_of(target) not in BELOW[room] | {room}}
    assert not above, f"{module} imports {sorted(above)}"


def test_kernel_and_model_never_meet() -> None:
    pairs = {(room_of(m), room_of(one.target)) for m in modules() for one in imports_of(m)}
    assert not pairs & {("kernel", "model"), ("model", "kernel")}


@every_module
def test_optional_dependencies_are_imported_on_use(module: str) -> None:
    if room_of(module) in {"observe", "integrations"}:
        return
    eager = {one.target.split(".")[0] for one in imports_of(module) if one.eager}
    assert not eager & OPTIONAL


def test_there_is_no_import_cycle() -> None:
    graph = {
        module: {one.target for one in imports_of(module) if one.eager and one.target in modules()} - {module}
        for module in modules()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


@every_module
def test_every_module_says_what_it_knows(module: str) -> None:
    assert ast.get_docstring(tree_of(module)), f"{module} has no docstring"


def test_the_helper_that_is_run_by_path_needs_the_standard_library_alone() -> None:
    roots = {one.target.split(".")[0] for one in imports_of(STAND_ALONE)}
    assert roots <= sys.stdlib_module_names


def test_nobody_imports_the_helper_that_is_run_by_path() -> None:
    importers = [m for m in modules() for one in imports_of(m) if one.target == STAND_ALONE]
    assert not importers


def test_a_fresh_interpreter_imports_no_optional_dependency() -> None:
    program = "import sys, writewatch; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = set(answer.stdout.split())
    assert "numpy" in loaded
    assert not loaded & OPTIONAL


def test_every_public_name_is_there() -> None:
    assert sorted(writewatch.__all__) == list(writewatch.__all__)
    assert all(hasattr(writewatch, name) for name in writewatch.__all__)
