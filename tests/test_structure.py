"""The shape of the package: who imports whom, what importing costs, what is public."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import gradcam
from gradcam import backends
from gradcam.backends import environment

ROOT = Path(gradcam.__file__).parent
FRAMEWORKS = {row.module for row in environment.FRAMEWORKS} | {"jaxlib"}
ARRAYS = {"numpy", "array_api_compat", "gradcam"}


def modules():
    return sorted(ROOT.rglob("*.py"))


def name_of(path):
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path, top_level=False):
    """Modules that a file imports: all, or only those that importing it imports."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if top_level else list(ast.walk(tree))
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def roots(names):
    return {name.split(".")[0] for name in names if name} - set(sys.stdlib_module_names)


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_no_framework_outside_backends_and_zoo(path):
    if name_of(path) == "gradcam.tracking.keras":
        return  # a callback is a class of its framework; this module is imported by name alone
    if path.relative_to(ROOT).parts[0] not in ("backends", "zoo"):
        assert not roots(imports(path)) & FRAMEWORKS


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_array_math_imports_numpy_and_the_array_api_alone(path):
    name = name_of(path)
    if name.startswith(("gradcam.methods", "gradcam.maps", "gradcam.layouts", "gradcam._arrays")):
        assert roots(imports(path)) <= ARRAYS
        rooms = {room_of(n) for n in imports(path) if n.startswith("gradcam.")}
        assert rooms <= {"methods", *FLOORS[0], *FLOORS[1]}


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_backends_import_the_seam_alone(path):
    if path.relative_to(ROOT).parts[0] == "backends":
        seam = ("model", "inputs", "layouts", "targets", "backends", "methods")
        helpers = ("_types", "_arrays", "_functions", "_warnings")
        ours = {name.split(".")[1] for name in imports(path) if name.startswith("gradcam.")}
        assert ours <= {*seam, *helpers}


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_nothing_imports_the_command_line(path):
    if not name_of(path).startswith("gradcam.cli"):
        assert not any(name.startswith("gradcam.cli") for name in imports(path))


def loaded_by(code):
    command = f"{code}; import sys; print(*sorted({{m.split('.')[0] for m in sys.modules}}))"
    return set(
        subprocess.run(
            [sys.executable, "-c", command], capture_output=True, text=True, check=True
        ).stdout.split()
    )


def test_importing_gradcam_imports_no_framework_and_no_pictures():
    heavy = FRAMEWORKS | {"matplotlib", "PIL", "scipy", "rich", "typer"}
    assert not loaded_by("from gradcam import *") & heavy
    assert "torch" in loaded_by("import gradcam.backends.torch")  # this test would notice


def test_importing_gradcam_imports_nothing_else():
    """What it costs is held by what is loaded, not by a clock: the rest comes when it is asked
    for.
    """
    code = (
        "import sys; before = set(sys.modules); import gradcam; print(*(set(sys.modules) - before))"
    )
    new = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert {name for name in new if name.split(".")[0] not in sys.stdlib_module_names} == {
        "gradcam"
    }


def test_every_public_name_is_there_when_it_is_asked_for():
    assert set(gradcam.__all__) <= set(dir(gradcam))
    for name, home in gradcam._HOME.items():
        assert getattr(gradcam, name) is getattr(importlib.import_module(f"gradcam.{home}"), name)
    assert set(gradcam._HOME) <= set(gradcam.__all__)
    with pytest.raises(AttributeError, match="module 'gradcam' has no attribute 'explian'"):
        _ = gradcam.explian


def test_explaining_numpy_functions_imports_no_framework():
    code = (
        "import numpy as np, gradcam; gradcam.explain(gradcam.Split(lambda x: x, lambda a: "
        "a.mean((2, 3))), "
        "np.ones((1, 2, 3, 3)), target=0)"
    )
    assert not loaded_by(code) & FRAMEWORKS


def test_all_is_what_is_public():
    for info in pkgutil.walk_packages([str(ROOT)], "gradcam."):
        if info.name.startswith("gradcam.zoo.demo"):
            continue
        module = importlib.import_module(info.name)
        for name in getattr(module, "__all__", []):
            assert hasattr(module, name), f"{info.name}.{name}"
    for name in gradcam.__all__:
        assert getattr(gradcam, name).__doc__ or name == "METHODS", name


def test_public_functions_have_docstrings():
    for path in modules():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert ast.get_docstring(tree), path
        public = (
            importlib.import_module(name_of(path)).__dict__.get("__all__", [])
            if "demo" not in str(path)
            else []
        )
        for node in tree.body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name in public:
                assert ast.get_docstring(node) or "backends" in str(path) or "zoo" in str(path), (
                    f"{path}: {node.name}"
                )


def test_what_serves_no_model_says_what_would():
    with pytest.raises(
        TypeError,
        match=r"`model` of type builtins.int is served by no backend; pass .*a torch.nn.Module, ",
    ):
        gradcam.explain(3, __import__("numpy").ones((1, 3, 4, 4)))
    with pytest.raises(TypeError) as caught:
        gradcam.explain(({}, 3), __import__("numpy").ones((1, 3, 4, 4)))
    swapped = "`model`, a tuple of 2 with its first part of type builtins.dict, is served by no"
    assert str(caught.value).startswith(swapped)
    for library in backends.LIBRARIES:
        assert library.passed_as in str(caught.value)
    with pytest.raises(TypeError, match=r"`inputs` must be an array \(N, ...\)"):
        gradcam.explain(lambda x: x, "photo.jpg")


# ------------------------------------------------------------------------------------------ who may
# import whom

FLOORS = [
    (
        "_types",
        "_arrays",
        "_faults",
        "_factories",
        "_files",
        "_functions",
        "_numbers",
        "_progress",
        "_warnings",
    ),
    ("maps", "layouts", "inputs"),
    ("methods", "targets"),
    ("model",),
    ("metrics", "pictures", "backends", "classifier"),
    ("space", "diagnosis", "identity"),
    ("explaining",),
    ("verification", "evaluation", "runs", "tracking"),
    ("benchmark", "reports"),
    ("zoo",),
    ("app",),
    ("cli",),
]
"""The rooms of the house, lowest floor first, as docs/house.md has them."""


def floor_of(room):
    return next(n for n, rooms in enumerate(FLOORS) if room in rooms)


def may_import(room, other):
    """From lower floors; on the lowest two also from rooms to its left."""
    floor, below = floor_of(room), floor_of(other)
    if room == other or below < floor:
        return True
    rooms = FLOORS[floor]
    return below == floor < 2 and rooms.index(other) < rooms.index(room)


def room_of(module):
    return module.split(".")[1]


def imported_modules(path, known):
    """The modules of the library that a file imports, at its top and inside of its functions."""
    found = set()
    for name in imports(path):
        while name and name not in known:
            name = name.rpartition(".")[0]
        if name and name != "gradcam":
            found.add(name)
    return found - {name_of(path)}


def import_graph():
    known = {name_of(path) for path in modules()}
    return {name_of(path): imported_modules(path, known) for path in modules()}


def circle(graph):
    """Modules that import each other in a circle, or None."""
    done = set()

    def visit(module, trail):
        if module in trail:
            return [*trail[trail.index(module) :], module]
        if module in done:
            return None
        for below in sorted(graph.get(module, ())):
            if (found := visit(below, [*trail, module])) is not None:
                return found
        done.add(module)
        return None

    for module in sorted(graph):
        if (found := visit(module, [])) is not None:
            return found
    return None


def test_every_room_is_on_one_floor():
    rooms = {path.relative_to(ROOT).parts[0].removesuffix(".py") for path in modules()}
    assert rooms - {"__init__"} == set().union(*FLOORS)


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_imports_go_down(path):
    if name_of(path) == "gradcam":
        return
    room = room_of(name_of(path))
    known = {name_of(path) for path in modules()}
    assert not {m for m in imported_modules(path, known) if not may_import(room, room_of(m))}


def test_the_page_of_the_house_has_the_same_floors():
    page = (ROOT.parent / "docs" / "house.md").read_text(encoding="utf-8")
    drawn = page.partition("```text\n")[2].partition("```")[0]
    floors = []
    for line in drawn.splitlines():
        rooms = re.split(r" {3,}", line.strip())[0]  # what stands further right explains
        floors.append(tuple(rooms.partition("  ")[2].split(", ")))
    assert floors == FLOORS


def test_no_module_imports_itself_in_a_circle():
    graph = import_graph()
    # a package's __init__ gives out the names of its modules, which import each other directly
    packages = {name for name in graph if any(other.startswith(f"{name}.") for other in graph)}
    plain = {
        name: {m for m in below if m not in packages}
        for name, below in graph.items()
        if name not in packages
    }
    assert circle(plain) is None
    first, second = sorted(plain)[:2]  # this test would notice
    assert circle({**plain, first: {second}, second: {first}}) == [first, second, first]


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_no_module_takes_another_ones_private_names(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    private = [
        f"{node.module}.{alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("gradcam")
        for alias in node.names
        if alias.name.startswith("_") and (ROOT / f"{alias.name}.py").exists() is False
    ]
    assert not private


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_no_framework_is_asked_for_by_name_outside_backends(path):
    room = path.relative_to(ROOT).parts[0].removesuffix(".py")
    if room in ("backends", "zoo", "_arrays", "cli"):
        return
    text = path.read_text(encoding="utf-8")
    assert "sys.modules" not in text
    tree = ast.parse(text)
    docstrings = {
        ast.get_docstring(node, clean=False)
        for node in ast.walk(tree)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
    }
    strings = {
        n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)
    }
    assert not (strings - docstrings) & FRAMEWORKS


# ------------------------------------------------------------------------------------------ what is
# public


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_what_others_import_is_public(path):
    """Every name that another module imports is in its home's `__all__`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("gradcam"):
            continue
        home = importlib.import_module(node.module)
        for alias in node.names:
            if hasattr(home, "__path__") and importlib.util.find_spec(
                f"{node.module}.{alias.name}"
            ):
                continue
            assert alias.name in getattr(home, "__all__", ()), f"{node.module}.{alias.name}"


def test_explain_and_explainer_take_the_same():
    explain = inspect.signature(gradcam.explain).parameters
    explainer = inspect.signature(gradcam.Explainer).parameters
    compare = inspect.signature(gradcam.compare).parameters
    assert list(explain) == ["model", "inputs", "layer", "target", *list(explainer)[2:]]
    for name in explainer:
        assert explain[name] == explainer[name], name
    shared = [name for name in explainer if name not in ("method", "parameters")]
    # `unknown` takes nothing: its error says what was meant
    assert set(compare) == {*shared, "inputs", "target", "methods", "unknown"}
    for name in shared:
        assert compare[name] == explainer[name], name


def test_what_shares_a_keyword_with_the_explainer_shares_its_default_and_type():
    explainer = inspect.signature(gradcam.Explainer).parameters
    guided = inspect.signature(gradcam.guided_grad_cam).parameters
    assert set(explainer) <= set(guided)
    shared = ("layer", "layout", "size", "batch", "progress", "allow_training")
    for function in (
        gradcam.guided_grad_cam,
        gradcam.guided_backprop,
        gradcam.verify,
        gradcam.words,
        gradcam.factorise,
    ):
        parameters = inspect.signature(function).parameters
        for name in (*shared, "fusion", "smoothing", "relu", "check"):
            if name in parameters:
                assert parameters[name] == explainer[name], f"{function.__name__}: {name}"


def test_every_methods_parameters_can_be_checked():
    """`MethodParameters`, which editors and type checkers read, has those of all methods and no
    others.
    """
    own = {name for spec in gradcam.methods.TABLE for name in spec.parameters}
    assert own <= set(gradcam.methods.MethodParameters.__annotations__)


# ------------------------------------------------------------------------- the language of the code

PRONOUNS = frozenset(
    [
        "each",
        "every",
        "found",
        "given",
        "held",
        "it",
        "known",
        "made",
        "one",
        "other",
        "rest",
        "seen",
        "some",
        "such",
        "taken",
        "that",
        "these",
        "thing",
        "this",
        "those",
        "told",
        "wanted",
        "what",
        "which",
        "whole",
    ]
)


def measured():
    """Per 1000 lines of code: conditional expressions, comprehensions, double assignments; share of
    pronouns.
    """
    lines = conditional = comprehensions = doubles = names = pronouns = 0
    for path in modules():
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text)
        prose = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
                prose |= set(range(node.lineno, node.end_lineno + 1))
            conditional += isinstance(node, ast.IfExp)
            comprehensions += isinstance(
                node, (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
            )
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Tuple):
                doubles += isinstance(node.targets[0], ast.Tuple)
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                names += 1
                pronouns += node.id.strip("_") in PRONOUNS
        lines += sum(
            bool(line.strip()) and not line.strip().startswith("#") and n not in prose
            for n, line in enumerate(text.splitlines(), 1)
        )
    return {
        "conditional expressions": 1000 * conditional / lines,
        "comprehensions": 1000 * comprehensions / lines,
        "double assignments": 1000 * doubles / lines,
        "pronouns": 100 * pronouns / names,
    }


def test_things_are_said_in_statements_with_names():
    bounds = {
        "conditional expressions": 22,
        "comprehensions": 26,
        "double assignments": 7,
        "pronouns": 5.5,
    }
    for what, value in measured().items():
        assert value <= bounds[what], f"{what}: {value:.1f}"


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_a_module_fits_a_few_screens(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


def complexity(function):
    """Branches of statements and of expressions: what a reader has to keep in mind."""
    count = 1
    for node in ast.walk(function):
        if isinstance(node, (ast.If, ast.For, ast.While, ast.IfExp, ast.ExceptHandler, ast.Assert)):
            count += 1
        elif isinstance(node, ast.BoolOp):
            count += len(node.values) - 1
        elif isinstance(node, ast.comprehension):
            count += 1 + len(node.ifs)
    return count


def test_no_function_does_too_much():
    functions = [
        (complexity(node), f"{name_of(path)}:{node.name}")
        for path in modules()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef)
    ]
    assert max(functions)[0] <= 20, max(functions)
    assert sum(count > 10 for count, _ in functions) <= 0.03 * len(functions)
