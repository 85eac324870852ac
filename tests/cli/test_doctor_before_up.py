"""What `longwatch doctor` says before the first `longwatch up`."""

from pathlib import Path

import yaml

from tests.cli.conftest import spawn


def test_private_servers_that_do_not_run_yet_are_no_reason_to_warn(folder: Path) -> None:
    config = folder / "doctor.yaml"
    config.write_text(yaml.safe_dump({"data_dir": str(folder / "data")}))
    process = spawn(config, "doctor")
    out, err = process.communicate(timeout=60)
    assert err == ""
    lines = [line.split(maxsplit=2)[:2] for line in out.splitlines()]
    assert ["ok", "state"] in lines
    assert ["ok", "cache"] in lines
    assert ["ok", "archive"] in lines
    assert "`longwatch up` will run " in out


def test_an_archive_that_cannot_be_written_is_found_without_the_state(folder: Path) -> None:
    (folder / "file").touch()
    config = folder / "doctor.yaml"
    config.write_text(yaml.safe_dump({"data_dir": str(folder / "data"), "archive": {"url": str(folder / "file")}}))
    process = spawn(config, "doctor")
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert ["no", "archive"] in [line.split(maxsplit=2)[:2] for line in out.splitlines()]
