"""Rules that no linter checks: every job has a worker, imports have no effects, names are unique, no code is unused."""

import ast
import importlib
import re
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from configs.shadowing import PACKAGES
from jobs.names import JOBS, QUEUES

ROOT = Path(__file__).parent.parent
WORKERS = ("encoder_worker", "ingest", "reasoner")
# File names that mean the same in every package that has them.
SHARED_NAMES = {
    "__init__",
    "__main__",
    "errors",
    "events",
    "jobs",
    "questions",
    "recordings",
    "scheduler",
    "streams",
    "videos",
    "watches",
}
# The parity tests compare each intermediate of an answer. Outside the model, `trace` would need its private parts.
FOR_TESTS = {"llava_mini/model.py trace"}
ROUTERS = {"router", "source_router", "stream_router"}
REGISTRARS = {"app", *ROUTERS, "worker"}  # FastAPI and Typer objects, whose decorators register routes and commands
VALIDATORS = {"field_validator", "model_validator"}  # of pydantic


def list_files(*folders: str) -> list[Path]:
    return sorted(file for folder in folders for file in (ROOT / folder).rglob("*.py"))


def list_modules(package: str) -> list[str]:
    names = [".".join(file.relative_to(ROOT).with_suffix("").parts) for file in list_files(package)]
    return [name.removesuffix(".__init__") for name in names if not name.endswith("__main__")]


def find_handlers(package: str) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """(job name, (class, method) that run it and give it up), read from the worker's `__main__`."""
    tree = ast.parse((ROOT / package / "__main__.py").read_text())
    classes = {
        ast.unparse(node.targets[0]): ast.unparse(node.value.func)
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(value, ast.Call) and ast.unparse(value.func) == "Handler":
                    assert isinstance(key, ast.Constant)
                    parts = [ast.unparse(part).split(".") for part in value.args]
                    yield str(key.value), [(classes[owner], method) for owner, method in parts]


def test_every_job_is_handled_by_one_kind_of_worker_with_existing_methods() -> None:
    bound: Counter[str] = Counter()
    for package in WORKERS:
        module = importlib.import_module(f"{package}.__main__")
        for name, methods in find_handlers(package):
            bound[name] += 1
            assert len(methods) == 2, f"{name} needs one method to run and one to give up"
            assert all(callable(getattr(getattr(module, owner), method)) for owner, method in methods), name
    assert bound == Counter(dict.fromkeys(JOBS, 1))


def test_every_queue_is_served_by_one_kind_of_worker() -> None:
    listened: defaultdict[str, set[str]] = defaultdict(set)
    for package in WORKERS:
        for node in ast.walk(ast.parse((ROOT / package / "__main__.py").read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "Pool":
                for queue in _names_in(node.args[0]):
                    listened[queue.lower()].add(package)
    assert {queue: len(packages) for queue, packages in listened.items()} == dict.fromkeys(QUEUES, 1)
    assert set(JOBS.values()) == set(QUEUES)


def _names_in(node: ast.AST) -> list[str]:
    return [part.id for part in ast.walk(node) if isinstance(part, ast.Name)]


def test_imports_point_down_only() -> None:
    """The contracts in pyproject.toml hold, and they name every package."""
    done = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()", "--no-cache"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    layers = re.search(r"^layers = \[(.*)\]$", (ROOT / "pyproject.toml").read_text(), re.M)
    assert layers is not None
    assert set(re.findall(r"\w+", layers[1])) == set(PACKAGES)


@pytest.mark.parametrize("package", ["api", "cli", "ingest", "jobs", "playback", "storage", "configs"])
def test_the_light_parts_never_load_the_model(package: str) -> None:
    code = f"import sys, {', '.join(list_modules(package))}\n"
    code += "print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"


def test_importing_a_module_does_nothing() -> None:
    names = [name for package in PACKAGES for name in list_modules(package)]
    names += [f"{package}.__main__" for package in WORKERS]
    code = (
        "import cv2, transformers.models.llama.modeling_llama\n"  # these two set environment variables
        "import os, sys, logging, threading\n"
        "before = dict(os.environ), list(logging.getLogger().handlers), threading.active_count()\n"
        f"import {', '.join(names)}\n"
        "assert before == (dict(os.environ), list(logging.getLogger().handlers), threading.active_count())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_every_module_begins_with_a_docstring() -> None:
    for file in list_files(*PACKAGES, "demo", "training", "benchmarks", "tests"):
        text = file.read_text()
        assert not text or text.startswith('"""'), file


def test_a_file_name_means_one_thing() -> None:
    places: defaultdict[str, set[str]] = defaultdict(set)
    for file in list_files(*PACKAGES):
        places[file.stem].add(str(file.parent.relative_to(ROOT)))
    twice = {name for name, folders in places.items() if len(folders) > 1}
    assert twice <= SHARED_NAMES


def test_no_public_code_is_used_only_by_tests() -> None:
    """The program itself mentions every public function, class and method of its packages.

    There are three exceptions. Methods of a class with a foreign base may be called by that base. Routes, commands and
    validators are called by the library of their decorator. Another implementation's results are compared with `trace`.
    """
    trees = {file: ast.parse(file.read_text()) for file in list_files(*PACKAGES, "demo", "training", "benchmarks")}
    mentioned = Counter(name for tree in trees.values() for name in _mentions(tree))
    ours = {node.name for tree in trees.values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
    unused = {
        f"{file.relative_to(ROOT)} {node.name}"
        for file, tree in trees.items()
        if file.relative_to(ROOT).parts[0] in PACKAGES
        for node in _definitions(tree, ours)
        if not mentioned[node.name]
    }
    assert unused == FOR_TESTS


Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def _mentions(tree: ast.AST) -> Iterator[str]:
    """Every name that is read, used as an attribute, imported, or written in a string."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.alias):
            yield node.name
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isidentifier():
            yield node.value


def _registers(decorator: ast.expr) -> bool:
    """Whether the decorator hands the function to a library that calls it."""
    if not isinstance(decorator, ast.Call):
        return False
    registrar, _, method = ast.unparse(decorator.func).rpartition(".")
    return registrar in REGISTRARS or method in VALIDATORS


def _definitions(tree: ast.AST, ours: set[str], foreign: bool = False) -> Iterator[Definition]:
    for node in ast.iter_child_nodes(tree):
        if not isinstance(node, Definition):
            yield from _definitions(node, ours, foreign)
            continue
        is_class = isinstance(node, ast.ClassDef)
        called_elsewhere = foreign or any(map(_registers, node.decorator_list))
        if not node.name.startswith("_") and (is_class or not called_elsewhere):
            yield node
        if isinstance(node, ast.ClassDef):
            bases = {ast.unparse(base).split("[")[0] for base in node.bases}
            yield from _definitions(node, ours, bool(bases - ours))
