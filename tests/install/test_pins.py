"""Every package is pinned and declared. This holds only in the environment that `make setup` makes."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import distributions, packages_distributions
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
NOT_LOCKED = {"longwatch", "pip", "wheel", "flash-attn", "einops"}  # the last two: docs/gpu.md
PIN = re.compile(r"([\w.-]+)==(\S+)")


def canonical(name: str) -> str:
    """A package's name as the packaging standard spells it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def read_pins(name: str) -> dict[str, str]:
    """Package -> version in a file of constraints/."""
    lines = (ROOT / "constraints" / f"{name}.txt").read_text().splitlines()
    found = [PIN.fullmatch(line) for line in lines if not line.startswith("#")]
    return {canonical(match[1]): match[2] for match in found if match is not None}


def test_every_installed_package_is_pinned_at_its_version() -> None:
    public = {canonical(found.metadata["Name"]): found.version.partition("+")[0] for found in distributions()}
    installed = {name: version for name, version in public.items() if name not in NOT_LOCKED}
    assert installed.items() <= (read_pins("cuda") | read_pins("cpu")).items()


def test_the_installed_packages_agree_with_each_other() -> None:
    done = subprocess.run([sys.executable, "-m", "pip", "check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_locks_hold_exact_versions_and_the_chosen_pytorch() -> None:
    for name in ("cpu", "cuda"):
        lines = (ROOT / "constraints" / f"{name}.txt").read_text().splitlines()
        assert all(line.startswith(("#", "-c cpu.txt")) or PIN.fullmatch(line) for line in lines)
        assert "torchvision" not in read_pins(name)  # with a CPU build of PyTorch it breaks the imports of transformers
    assert read_pins("cpu")["torch"] == read_pins("torch")["torch"]


def test_the_cuda_lock_adds_only_cuda_packages() -> None:
    assert all(name.startswith(("nvidia-", "cuda-", "triton", "bitsandbytes")) for name in read_pins("cuda"))
    assert "-c cpu.txt" in (ROOT / "constraints" / "cuda.txt").read_text().splitlines()


def test_every_package_that_the_service_imports_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    stated = [*project["project"]["dependencies"], *project["project"]["optional-dependencies"]["gpu"]]
    declared = {canonical(re.split(r"[\[<>=; ]", line)[0]) for line in stated}
    packages = {name.rstrip("*") for name in project["tool"]["setuptools"]["packages"]["find"]["include"]}
    providers = packages_distributions()
    for file in (file for package in packages for file in (ROOT / package).rglob("*.py")):
        for module in find_imports(file) - packages - sys.stdlib_module_names:
            owners = {canonical(name) for name in providers.get(module, [module])}
            assert owners & declared, f"{file.relative_to(ROOT)} imports {module}: add it to pyproject.toml"


def find_imports(file: Path) -> set[str]:
    """The top-level names of all modules that a file imports."""
    nodes = list(ast.walk(ast.parse(file.read_text())))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    members = {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
    return {name.partition(".")[0] for name in plain | members}
