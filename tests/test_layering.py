"""Layering and habits of the code, read from its syntax: nothing is imported here."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("agents", "envs", "mpc", "scripts", "world_models")
# Which of our packages each may import beside itself.
ALLOWED = {
    "mpc": set(),
    "envs": set(),
    "world_models": {"mpc"},
    "agents": {"mpc"},
    "scripts": {"agents", "configs", "envs", "mpc", "world_models"},
}
LIBRARY = ("agents", "envs", "mpc", "world_models")
FILES = sorted(f for package in PACKAGES for f in (ROOT / package).rglob("*.py"))

every_file = pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(ROOT)))


def module_of(file: Path) -> str:
    """Dotted name of a file."""
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(f): f for f in FILES}


def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(), str(file))


def imports(file: Path) -> Iterator[str]:
    """Modules that a file imports anywhere in it, functions included."""
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: relative import"
            name = node.module or ""
            for alias in node.names:
                inner = f"{name}.{alias.name}"
                yield inner if inner in MODULES else name


def test_all_packages_are_looked_at() -> None:
    """A package that setup.cfg ships and nobody checks would be a hole in this test."""
    shipped = (ROOT / "setup.cfg").read_text().split("packages = ")[1].splitlines()[0]
    folders = {module_of(f) for f in FILES if f.name == "__init__.py"}
    assert {p.strip() for p in shipped.split(",")} - {"configs"} == folders >= set(PACKAGES)
    assert {module.split(".")[0] for module in MODULES} == set(PACKAGES)


@every_file
def test_imports_follow_the_arrows(file: Path) -> None:
    package = file.relative_to(ROOT).parts[0]
    ours = {name.split(".")[0] for name in imports(file)} & {*PACKAGES, "configs", "tests"}
    assert ours - {package} <= ALLOWED[package]


@pytest.mark.parametrize("file", [f for m, f in MODULES.items() if m.startswith("mpc")], ids=str)
def test_planners_need_nothing_but_torch(file: Path) -> None:
    """No gymnasium, no simulator: a planner cannot touch an environment that it cannot name."""
    outside = {name.split(".")[0] for name in imports(file)} - set(sys.stdlib_module_names)
    assert outside <= {"mpc", "torch"}


def test_no_module_imports_itself_in_a_circle() -> None:
    edges = {m: {n for n in imports(f) if n in MODULES and n != m} for m, f in MODULES.items()}
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join([*path[path.index(module) :], module])
        if module not in done:
            for other in sorted(edges[module]):
                visit(other, (*path, module))
            done.add(module)

    for module in sorted(MODULES):
        visit(module, ())
    assert done == set(MODULES)


def compared(file: Path) -> set[int]:
    """Ids of the nodes within comparisons, which ask for a device and do not choose one."""
    comparisons = (n for n in ast.walk(tree_of[file]) if isinstance(n, ast.Compare))
    return {id(inner) for n in comparisons for inner in ast.walk(n)}


tree_of = {file: tree(file) for file in FILES}


@every_file
def test_no_device_is_wired_in(file: Path) -> None:
    """Only the resolver of the settings turns a name into a device."""
    resolver: set[int] = set()
    if file == ROOT / "scripts" / "settings.py":
        functions = (n for n in ast.walk(tree_of[file]) if isinstance(n, ast.FunctionDef))
        found = [n for n in functions if n.name == "resolve_device"]
        assert len(found) == 1
        resolver = {id(inner) for inner in ast.walk(found[0])}
    asked = compared(file)
    for node in ast.walk(tree_of[file]):
        if isinstance(node, ast.Constant) and id(node) not in resolver | asked:
            literal = isinstance(node.value, str) and node.value.split(":")[0] in ("cuda", "mps")
            assert not literal, f"{file}:{node.lineno}: {node.value!r}"
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            assert node.func.attr != "cuda", f"{file}:{node.lineno}: .cuda()"


@pytest.mark.parametrize(
    "file", [f for f in FILES if f.relative_to(ROOT).parts[0] in LIBRARY], ids=str
)
def test_library_code_does_not_print(file: Path) -> None:
    for node in ast.walk(tree_of[file]):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id != "print", f"{file}:{node.lineno}"


SEEDING = {"seed", "manual_seed", "seed_all", "manual_seed_all"}


@pytest.mark.parametrize(
    "file", [f for f in FILES if f.relative_to(ROOT).parts[0] in LIBRARY], ids=str
)
def test_library_code_seeds_no_global_generator(file: Path) -> None:
    """`torch.manual_seed` and `np.random.seed` reach into everybody's randomness."""
    for node in ast.walk(tree_of[file]):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner = ast.unparse(node.func.value)
            shared = owner in ("torch", "torch.cuda", "np.random", "numpy.random", "random")
            assert not (shared and node.func.attr in SEEDING), f"{file}:{node.lineno}"


@every_file
def test_no_error_is_swallowed_whole(file: Path) -> None:
    for node in ast.walk(tree_of[file]):
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"{file}:{node.lineno}: bare except"
