"""The house rules that can be checked on the files: imports between rooms, sizes, docstrings, names."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "airank_fast"
MODULES = sorted([*PACKAGE.rglob("*.py"), *(ROOT / "models").glob("*.py")])

LEAVES = {"errors", "numeric", "processor", "walk"}  # every room may import these
# Room -> rooms it may import. A room may always import itself.
ARROWS = {
    "errors": set(),
    "numeric": set(),
    "processor": set(),
    "walk": set(),
    "cli": set(),
    "tasks": set(),
    "job": {"tasks"},
    "quality": {"job", "data"},
    "record": {"tasks"},
    "rules": {"record", "tasks"},
    "reports": {"record", "rules", "tasks"},
    "submission": {"record", "rules", "tasks"},
    "ops": set(),
    "nn": {"ops"},
    "optim": {"ops"},
    "models": {"nn"},
    "data": set(),
    "sources": {"data"},
    "engine": {"record", "tasks", "job"},
    "recipes": {"models", "data", "optim", "nn", "record", "tasks", "job", "quality"},
    "inference": {"job", "tasks", "record", "rules", "engine", "recipes", "models", "data", "nn", "quality"},
    "commands": {"recipes", "engine", "job", "record", "rules", "cli", "tasks"},
    "info": {"ops", "engine", "cli"},  # a command that reports on the ops
    "prepare": {"sources", "data", "cli"},  # a command that makes data sets
    "report": {"reports", "record", "rules", "cli", "tasks"},
    "infer": {"inference", "recipes", "engine", "job", "record", "rules", "cli", "tasks"},
    "package": {"submission", "reports", "record", "rules", "optim", "cli", "tasks"},
}
STANDARD_LIBRARY_ONLY = {"record", "rules", "submission", "tasks"}
LAZY = {"record/console.py": {"tqdm"}, "record/tensorboard.py": {"tensorboard"}}  # inside functions only


def path_of(module: Path) -> str:
    return str(module.relative_to(PACKAGE) if module.is_relative_to(PACKAGE) else module.relative_to(ROOT))


def room_of(module: Path) -> str:
    first = Path(path_of(module)).parts[0].removesuffix(".py")
    return first if first in ARROWS or first == "__init__" else "commands"


def imports(module: Path) -> list[tuple[str, bool]]:
    """Each imported module by its full name, and whether the import is inside a function."""
    tree = ast.parse(module.read_text(encoding="utf-8"))
    inside = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
    }
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, id(node) in inside) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path_of(module)}:{node.lineno}: imports are absolute here"
            # `from airank_fast import data` imports airank_fast.data; elsewhere the module itself is enough.
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found += [(name, id(node) in inside) for name in (names if node.module == "airank_fast" else [node.module])]
    return found


def test_the_readers_of_this_file_see_imports(tmp_path):
    module = tmp_path / "example.py"
    module.write_text("import a.b\nfrom airank_fast import data, x\ndef f():\n    from airank_fast.c import d\n")
    assert imports(module) == [
        ("a.b", False),
        ("airank_fast.data", False),
        ("airank_fast.x", False),
        ("airank_fast.c", True),
    ]


@pytest.mark.parametrize("module", MODULES, ids=path_of)
def test_import_arrows(module):
    room = room_of(module)
    for name, _ in imports(module):
        top, _, rest = name.partition(".")
        assert top not in {"bench", "tests", "models"}, f"{path_of(module)} imports {name}"
        if top != "airank_fast" or name in {"airank_fast.__version__", "airank_fast._C", "airank_fast._host"}:
            continue
        target = rest.split(".")[0]
        assert target in ARROWS, f"{path_of(module)} imports {name}: nothing imports a command"
        assert target in LEAVES | {room} | ARROWS.get(room, set()), f"{path_of(module)} imports {name}"


@pytest.mark.parametrize("module", [m for m in MODULES if room_of(m) in STANDARD_LIBRARY_ONLY], ids=path_of)
def test_readers_of_logs_need_the_standard_library_only(module):
    lazy = LAZY.get(path_of(module), set())
    for name, inside_function in imports(module):
        top = name.split(".")[0]
        allowed = top in sys.stdlib_module_names or top == "airank_fast" or (top in lazy and inside_function)
        assert allowed, f"{path_of(module)} imports {name}"


def test_the_extension_is_imported_in_one_place():
    places = [path_of(m) for m in MODULES if any(name == "airank_fast._C" for name, _ in imports(m))]
    assert places == ["ops/__init__.py"]


def tracked(*patterns: str) -> list[Path]:
    """Files of the project: tracked by git, or untracked and not ignored; without git, all files of the folders."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *patterns]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("not a git checkout")
    return sorted(path for name in set(done.stdout.splitlines()) if (path := ROOT / name).is_file())


def test_sizes():
    too_long = {}
    for path in tracked("*.py", "*.h", "*.cpp", "*.cu", "*.cuh"):
        num_lines = len(path.read_text(encoding="utf-8").splitlines())
        if num_lines > 450:
            too_long[str(path.relative_to(ROOT))] = num_lines
    assert not too_long


def test_every_file_opens_with_what_it_is_for():
    without = []
    for path in tracked("*.py", "*.h", "*.cpp", "*.cu", "*.cuh"):
        text = path.read_text(encoding="utf-8")
        opens = ast.get_docstring(ast.parse(text)) if path.suffix == ".py" else text.startswith("//")
        if text.strip() and not opens:
            without.append(str(path.relative_to(ROOT)))
    assert not without


def test_public_functions_and_classes_have_docstrings():
    without = []
    for module in MODULES:
        for node in ast.parse(module.read_text(encoding="utf-8")).body:
            public = isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
            if public and node.name != "main" and not ast.get_docstring(node):
                without.append(f"{path_of(module)}:{node.lineno} {node.name}")
    assert not without


def test_no_file_turns_the_formatter_off():
    marks = [f"{mark}: {word}" for mark in ("# fmt", "# ruff") for word in ("skip", "off")]
    found = [str(path.relative_to(ROOT)) for path in tracked("*.py") if any(m in path.read_text() for m in marks)]
    assert not found


def test_no_circle():
    """There are no circular imports, imports for type checkers included."""
    names = {
        ".".join(("airank_fast", *Path(path_of(m)).with_suffix("").parts)).removesuffix(".__init__"): m
        for m in MODULES
        if path_of(m) != "models.py"
    }

    def of_project(name: str) -> str | None:
        return name if name in names else of_project(name.rpartition(".")[0]) if "." in name else None

    graph = {}
    for name, module in names.items():
        targets = set()
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                targets |= {of_project(f"{node.module}.{alias.name}") for alias in node.names}
            elif isinstance(node, ast.Import):
                targets |= {of_project(alias.name) for alias in node.names}
        graph[name] = targets - {None, name, "airank_fast"}
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join((*path[path.index(name) :], name))
        if name not in done:
            for target in sorted(graph[name]):
                visit(target, (*path, name))
            done.add(name)

    for name in sorted(graph):
        visit(name, ())


def test_no_file_names_a_machine():
    # In pieces, so that this file does not match itself.
    folders = "|".join(["wo" + "rk", "ro" + "ot", "ho" + "me", "opt/whe" + "els", "opt/py" + "pi"])
    pattern = re.compile(rf"(?<![\w.}}~$<-])/(?:{folders})/\w")
    found = []
    for path in tracked():
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            continue
        found += [f"{path.relative_to(ROOT)}:{n}" for n, line in enumerate(lines, 1) if pattern.search(line)]
    assert not found


def test_every_room_is_packaged():
    """Wheels carry exactly the packages that pyproject.toml lists."""
    listed = set(re.findall(r'^    "(airank_fast[\w.]*)",$', (ROOT / "pyproject.toml").read_text(), flags=re.MULTILINE))
    rooms = {path.parent.relative_to(ROOT) for path in tracked("airank_fast/**/__init__.py", "airank_fast/__init__.py")}
    assert listed == {".".join(room.parts) for room in rooms} | {"airank_fast.models"}


def test_every_job_is_checked_against_the_protocol():
    """By the type checker, which sees a class named Job only where something requires it to be one."""
    recipes = [path.read_text(encoding="utf-8") for path in (PACKAGE / "recipes").glob("*.py")]
    jobs = [text for text in recipes if re.search(r"\nclass Job[(:]", text)]
    assert len(jobs) >= 2
    assert all("\n    _checked: type[job.Job] = Job\n" in text for text in jobs)


INLINE_FUNCTION = re.compile(r"^(?:inline|HOST_DEVICE|IN_LINES) [^;={}()]*?(\w+)\(([^()]*)\)[^;]*?\{", re.MULTILINE)


def test_no_two_headers_of_the_ops_define_the_same_function():
    """All ops are linked into one module: of two inline functions with one signature the linker keeps either."""
    homes: dict[tuple[str, ...], set[Path]] = {}
    for header in [*(ROOT / "csrc").glob("*.h"), *(ROOT / "csrc/cpu").glob("*.h")]:
        for name, parameters in INLINE_FUNCTION.findall(header.read_text(encoding="utf-8")):
            types = (re.sub(r"\s*\w+( = .*)?$", "", parameter.strip()) for parameter in parameters.split(","))
            homes.setdefault((name, *types), set()).add(header)
    assert ("check_rows", "const char*", "const Tensor&", "int64_t") in homes
    twice = {function: sorted(map(str, files)) for function, files in homes.items() if len(files) > 1}
    assert not twice
