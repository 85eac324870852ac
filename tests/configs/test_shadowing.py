"""Other packages with our names are noticed: those imported instead of ours, and those installed on top of ours."""

import subprocess
import sys
import tomllib
from pathlib import Path

from configs.places import HOME
from configs.shadowing import PACKAGES, find_shadowed

PRESENT = tuple(name for name in PACKAGES if (HOME / name).is_dir())


def find_with(folder: Path) -> list[str]:
    """What a fresh process finds if `folder` is first on its path."""
    code = (
        f"import sys; sys.path[:0] = [{str(HOME)!r}]; from configs.shadowing import find_shadowed\n"
        f"sys.path[:0] = [{str(folder)!r}]; print('\\n'.join(find_shadowed({PRESENT})))"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_nothing_shadows_this_tree() -> None:
    assert find_shadowed(PRESENT) == []


def test_another_package_or_module_with_our_name_is_reported_with_its_path(tmp_path: Path) -> None:
    (tmp_path / "storage").mkdir()
    (tmp_path / "storage" / "__init__.py").touch()
    (tmp_path / "ingest.py").touch()
    ingest, storage = find_with(tmp_path)
    assert ingest.startswith(f"ingest is imported from {tmp_path / 'ingest.py'}")
    assert storage.startswith(f"storage is imported from {tmp_path / 'storage'}")


def test_a_distribution_that_installs_into_our_folder_is_reported(tmp_path: Path) -> None:
    info = tmp_path / "someone_elses-2.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: someone-elses\nVersion: 2.0\n")
    (info / "top_level.txt").write_text("api\n")
    (message,) = find_with(tmp_path)
    assert message.startswith("api is also installed by someone-elses,")


def test_a_missing_package_is_reported() -> None:
    assert find_shadowed(["no_such_part"]) == ["no_such_part cannot be imported: install Longwatch again"]


def test_every_package_of_the_wheel_is_checked() -> None:
    tools = tomllib.loads((HOME / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert {name.rstrip("*") for name in tools["packages"]["find"]["include"]} == {*PACKAGES, "checkpoints"}
