"""The house rules that no linter knows, each as one test over the tree that lists every place it is broken."""

import ast
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest

import planner

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "planner"

MAX_LINES = 300
LONGER: dict[str, str] = {}
"""Module -> why it may be longer than `MAX_LINES`."""

JAX_ROOMS = frozenset({"adapters", "api", "check", "checkpoint", "cli", "compat", "emit", "fitting", "footprint",
                       "interpret", "joint", "measure", "mixing", "model", "models", "moving", "offloading", "planned",
                       "processes", "replanning", "rewrites", "rewriting", "runtime", "shares", "sweeping", "trace",
                       "verify", "whatif", "would_fit"})
"""The top-level modules of `planner` that may import JAX; `__init__` imports what they define."""

VAGUE_NAMES = frozenset({"util", "utils", "helper", "helpers", "common", "misc"})
MACHINE_PATHS = re.compile(r"(?<![\w.~}])/(?:work|home|root|Users|tmp|opt|mnt)/")
TEXT_SUFFIXES = frozenset({"", ".cfg", ".csv", ".json", ".lock", ".md", ".py", ".sh", ".svg", ".toml", ".yaml", ".yml"})
MUTABLE_CALLS = frozenset({"bytearray", "Counter", "defaultdict", "deque", "dict", "list", "OrderedDict", "set"})
MUTABLE_LITERALS = (ast.List, ast.Dict, ast.Set, ast.ListComp, ast.DictComp, ast.SetComp)


def parsed(folder: Path) -> dict[Path, ast.Module]:
    return {path: ast.parse(path.read_text(), filename=str(path)) for path in sorted(folder.rglob("*.py"))}


@cache  # read by the first test, not by every worker that collects
def trees() -> dict[Path, ast.Module]:
    """The package."""
    return parsed(PACKAGE)


@cache
def scripts() -> dict[Path, ast.Module]:
    """What is run beside it."""
    return {path: tree for room in ("examples", "benchmarks", "plots") for path, tree in parsed(ROOT / room).items()}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def complain(trees: dict[Path, ast.Module], faults: Callable[[Path, ast.Module], Iterable[str]]) -> None:
    """Fail with every fault of every module, one a line."""
    fail_with([f"{name_of(path)}: {fault}" for path, tree in trees.items() for fault in faults(path, tree)])


def fail_with(faults: list[str]) -> None:
    if faults:
        pytest.fail("\n".join(faults), pytrace=False)


def imported(tree: ast.Module) -> Iterator[str]:
    """Every dotted name that is imported anywhere in a module, inside functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_modules_are_found() -> None:
    assert PACKAGE / "registry.py" in trees(), "the other tests would look at nothing"


def test_every_module_says_what_it_is() -> None:
    def faults(_: Path, tree: ast.Module) -> Iterator[str]:
        if len((ast.get_docstring(tree) or "").split()) < 3:
            yield "start with a docstring: the one idea, what flows in and out, the source"

    complain(trees() | scripts(), faults)


def test_modules_are_short() -> None:
    def faults(path: Path, _: ast.Module) -> Iterator[str]:
        lines = len(path.read_text().splitlines())
        if (lines > MAX_LINES) != (name_of(path) in LONGER):
            yield f"{lines} lines: " + ("split it, or say in LONGER why it is one thing" if lines > MAX_LINES
                                        else "short enough now, take it out of LONGER")

    complain(trees() | scripts(), faults)


def test_names_tell() -> None:
    complain(trees(), lambda path, _: VAGUE_NAMES & set(path.relative_to(ROOT).with_suffix("").parts))


def test_only_the_command_line_and_reports_print() -> None:
    def faults(path: Path, tree: ast.Module) -> Iterator[str]:
        if room_of(path) not in {"cli", "report"}:
            yield from (f"print in line {node.lineno}" for node in ast.walk(tree) if isinstance(node, ast.Call)
                        and isinstance(node.func, ast.Name) and node.func.id == "print")

    complain(trees(), faults)


def test_environment_is_not_read() -> None:
    def faults(_: Path, tree: ast.Module) -> Iterator[str]:
        names = {"environ", "environb", "getenv", "getenvb"}
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and node.attr in names:
                yield f"options are arguments; {ast.unparse(node)} in line {node.lineno}"
        yield from (f"options are arguments; {name}" for name in imported(tree) if name in {f"os.{n}" for n in names})

    complain(trees(), faults)


def test_jax_is_imported_only_where_it_may_be() -> None:
    def faults(path: Path, tree: ast.Module) -> Iterator[str]:
        if room_of(path) not in JAX_ROOMS:
            yield from (f"this room computes on data; it imports {name}" for name in imported(tree)
                        if name.split(".")[0] in {"jax", "jaxlib"})

    complain(trees(), faults)


def test_undocumented_jax_goes_through_compat() -> None:
    def faults(path: Path, tree: ast.Module) -> Iterator[str]:
        if path == PACKAGE / "compat.py":
            return
        attributes = (ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute))
        names = {*imported(tree), *attributes}
        yield from (f"{name} belongs in compat.py, with version and reason" for name in sorted(names)
                    if name.startswith(("jax._src", "jax.extend", "jax.interpreters", "jaxlib")))

    complain(trees(), faults)


def mutable_globals(tree: ast.Module) -> Iterator[str]:
    """Names that a module binds to something mutable, or rebinds from inside a function."""
    for node in tree.body:
        if not isinstance(node, ast.Assign | ast.AnnAssign) or node.value is None:
            continue
        made_by = ast.unparse(node.value.func).split(".")[-1] if isinstance(node.value, ast.Call) else ""
        target = ast.unparse(node.targets[0] if isinstance(node, ast.Assign) else node.target)
        if (isinstance(node.value, MUTABLE_LITERALS) or made_by in MUTABLE_CALLS) and target != "__all__":
            yield f"{target} in line {node.lineno}"
    yield from (f"global {', '.join(node.names)} in line {node.lineno}" for node in ast.walk(tree)
                if isinstance(node, ast.Global))


def test_no_module_holds_mutable_state() -> None:
    def faults(_: Path, tree: ast.Module) -> Iterator[str]:
        yield from (f"use a tuple, frozenset, MappingProxyType or Table for {name}" for name in mutable_globals(tree))

    complain(trees(), faults)


@pytest.mark.parametrize("source", ["x = []", "x: dict[str, int] = {}", "x = dict(a=1)", "x = collections.deque()",
                                    "x = {i for i in y}", "def f():\n    global x\n    x = 1"])
def test_mutable_globals_are_found(source: str) -> None:
    assert list(mutable_globals(ast.parse(source)))


@pytest.mark.parametrize("source", ["x = ()", "x = frozenset({1})", "x = MappingProxyType({1: 2})",
                                    "x = Table('a', 'b')", "__all__ = ['a']", "def f():\n    x = []"])
def test_constants_and_locals_are_not_mutable_globals(source: str) -> None:
    assert not list(mutable_globals(ast.parse(source)))


def test_public_names_are_reexported_as_themselves() -> None:
    """For type checkers as imports, for whoever runs it as a table: the same names from the same modules."""
    def faults(_: Path, tree: ast.Module) -> Iterator[str]:
        (block,) = (node for node in tree.body if isinstance(node, ast.If))
        shown = {a.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for a in node.names}
        yield from (f"write `import {a.name} as {a.name}`" for node in block.body if isinstance(node, ast.ImportFrom)
                    for a in node.names if a.asname != a.name)
        if shown != dict(planner.NAMES):
            yield f"imports and NAMES differ in {sorted(set(shown.items()) ^ set(planner.NAMES.items()))}"
        yield from (f"line {node.lineno}: the package's front holds names, no logic" for node in tree.body
                    if not isinstance(node, ast.ImportFrom | ast.Expr | ast.Assign | ast.AnnAssign | ast.If))

    complain({PACKAGE / "__init__.py": trees()[PACKAGE / "__init__.py"]}, faults)


def test_public_names_are_what_they_say() -> None:
    assert all(getattr(planner, name).__name__ == name for name in planner.NAMES)
    with pytest.raises(AttributeError, match="module 'planner' has no attribute 'plam'"):
        _ = planner.plam


def project_files() -> list[Path]:
    """Every file of the project's own folders, and those beside them at the top."""
    rooms = (".ci", "planner", "tests", "examples", "benchmarks", "profiles", "plots")
    inside = [path for room in rooms for path in sorted((ROOT / room).rglob("*"))]
    return [path for path in [*sorted(ROOT.iterdir()), *inside] if path.is_file()]


def test_nothing_names_a_path_of_one_machine() -> None:
    texts = [path for path in project_files()
             if path.suffix in TEXT_SUFFIXES and path != Path(__file__).resolve() and path.name != ".git"]
    found = [f"{name_of(path)}:{number}: {line.strip()[:100]}" for path in texts
             for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
             if MACHINE_PATHS.search(line)]
    fail_with(found)


@pytest.mark.parametrize(("line", "is_one"), [("open('/work/a')", True), ("see /home/me/x", True), ("../tmp/a", False),
                                              ("~/tmp/x", False), ("https://a.org/home/x", False), ("a/opt/b", False)])
def test_machine_paths_are_told_from_others(line: str, is_one: bool) -> None:
    assert bool(MACHINE_PATHS.search(line)) == is_one


def test_import_contract_guards_every_room_without_jax() -> None:
    """The contract catches what is imported through others; this keeps its list of rooms complete."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    guarded = {name for contract in contracts if contract["id"] == "no-jax" for name in contract["source_modules"]}
    rooms = {room_of(path) for path in trees()} - {"__init__", "__main__"}
    assert guarded == {f"planner.{room}" for room in rooms - JAX_ROOMS}
