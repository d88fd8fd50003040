"""Who may know whom: imports between the folders of the package point down, and no two modules import each other."""

import ast
from pathlib import Path

import pytest

import mpirecon

FOLDER = Path(mpirecon.__file__).parent

#: from the top down; those of one line know nothing of each other
FLOORS = [
    ("cli",),
    ("api",),
    ("batch",),
    ("solvers",),
    ("report",),
    ("simulation",),
    ("search",),
    ("validate",),
    ("backend",),
    ("io",),
    ("robust",),
    ("operators",),
    ("parallel",),
    ("model",),
    ("kernels",),
]


def module_name(path: Path) -> str:
    parts = ("mpirecon", *path.relative_to(FOLDER).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {
    module_name(path): path
    for room in FOLDER.iterdir()
    for path in ([room] if room.suffix == ".py" else room.rglob("*.py"))
}


def statements(tree: ast.AST, at_load: bool):
    """Import statements; at_load : those alone that are run when the module is loaded."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield node
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from () if at_load else statements(node, at_load)
        elif not (at_load and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))):
            yield from statements(node, at_load)


def imported(path: Path, at_load: bool = True) -> set[str]:
    """The package's modules that a module imports."""
    found = set()
    for node in statements(ast.parse(path.read_text(encoding="utf-8")), at_load):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            names = [f"{node.module}.{alias.name}" for alias in node.names] + [str(node.module)]
        found |= {name for name in names if name in MODULES and not (name == "mpirecon" and len(names) > 1)}
    return found


def floor_of(module: str) -> int | None:
    parts = module.split(".")
    return next((n for n, rooms in enumerate(FLOORS) if len(parts) > 1 and parts[1] in rooms), None)


def test_every_folder_has_its_floor():
    rooms = {name.split(".")[1] for name in MODULES if name.count(".") > 1}
    assert rooms - {"jobs"} == {room for floor in FLOORS for room in floor}


@pytest.mark.parametrize("at_load", [True, False], ids=["when loaded", "ever"])
def test_imports_point_down(at_load):
    up = []
    for module, path in MODULES.items():
        own = floor_of(module)
        for other in sorted(imported(path, at_load)):
            its = floor_of(other)
            same = module.split(".")[1:2] == other.split(".")[1:2]
            if own is not None and its is not None and not same and its <= own:
                up.append(f"{module} imports {other}")
    assert not up, "\n".join(up)


def test_no_modules_import_each_other():
    """Of those that are imported when a module is loaded: a circle works or fails by who comes first."""
    graph, circles, done = {module: imported(path) for module, path in MODULES.items()}, [], set()

    def follow(module: str, way: list[str]) -> None:
        if module in way:
            circles.append(" → ".join([*way[way.index(module):], module]))
        elif module not in done:
            for other in sorted(graph[module]):
                follow(other, [*way, module])
            done.add(module)

    for module in graph:
        follow(module, [])
    assert not circles, "\n".join(circles)
