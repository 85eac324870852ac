"""Settings: defaults, the order of sources, and messages that name the key."""

import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from configs.loading import SettingsError, load_settings
from configs.places import CONFIGS


def test_the_bundled_files_load() -> None:
    for path in CONFIGS.glob("*.yaml"):
        assert load_settings(path.stem).model.checkpoint


def test_the_environment_overrides_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("ingest: {sample_fps: 2, jpeg_quality: 80}\n")
    monkeypatch.setenv("LONGWATCH_INGEST__SAMPLE_FPS", "3")
    ingest = load_settings(file).ingest
    assert (ingest.sample_fps, ingest.jpeg_quality) == (3.0, 80)


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        load_settings().data_dir = Path("elsewhere")  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("ingest: {sample_fsp: 1}", "ingest.sample_fsp"),
        ("ingest: {sample_fps: fast}", "ingest.sample_fps"),
        ("ingets: {}", "ingets"),
        ("api: {port: 0}", "api.port"),
        ("- a list", "mine.yaml"),
        ("model: [", "mine.yaml"),
    ],
)
def test_the_error_names_a_wrong_key_or_value(text: str, named: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(SettingsError) as caught:
        load_settings(file)
    assert named in str(caught.value)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("ingest: {sample_fsp: 1}", "ingest.sample_fsp: there is no such setting; did you mean ingest.sample_fps?"),
        ("ingets: {}", "ingets: there is no such setting; did you mean ingest?"),
        ("sample_fps: 1", "sample_fps: there is no such setting; did you mean ingest.sample_fps?"),
        ("api: {zzz: 1}", "api.zzz: there is no such setting"),
        ("data_dir: {zzz: 1}", "data_dir: "),
    ],
)
def test_an_unknown_key_is_answered_with_the_one_that_was_meant(text: str, hint: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(SettingsError) as caught:
        load_settings(file)
    (said,) = str(caught.value).splitlines()[1:]
    assert said.startswith(f"  {hint}")
    assert ("did you mean" in said) == ("did you mean" in hint)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("LONGWATCH_INGEST__SAMPLE_FSP", "1"),
        ("LONGWATCH_INGETS__SAMPLE_FPS", "1"),
        ("LONGWATCH_INGEST__ALLOWED_ROOTS", "not json"),
    ],
)
def test_the_error_names_a_wrong_variable(variable: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert variable.split("__", maxsplit=1)[0].removeprefix("LONGWATCH_").lower() in str(caught.value).lower()


def test_the_error_for_a_missing_file_lists_the_bundled_ones() -> None:
    with pytest.raises(SettingsError, match="llava-mini-8b, tiny"):
        load_settings("nowhere.yaml")


def test_a_bare_name_means_the_bundled_file_even_if_the_working_directory_has_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tiny").write_text("ingest: {sample_fsp: 1}")
    monkeypatch.chdir(tmp_path)
    assert load_settings("tiny").ingest.sample_fps == 1.0
    with pytest.raises(SettingsError, match="sample_fsp"):
        load_settings("./tiny")


def test_a_process_stops_and_names_the_wrong_key(tmp_path: Path) -> None:
    file = tmp_path / "wrong.yaml"
    file.write_text("ingest: {sample_fsp: 2}")
    for worker in ("ingest", "encoder_worker", "reasoner"):
        line = [sys.executable, "-m", worker, "--config", str(file)]
        result = subprocess.run(line, capture_output=True, text=True, check=False)
        assert result.returncode == 2
        assert "ingest.sample_fsp" in result.stderr
        assert "Traceback" not in result.stderr
