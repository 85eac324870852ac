"""Environment variables: a mistyped setting stops the start, another program's variable does not."""

import logging

import pytest

from configs.loading import SettingsError, load_settings

SERVICE = {
    "SERVICE_HOST": "10.0.171.239",
    "SERVICE_PORT": "8000",
    "SERVICE_PORT_HTTP": "8000",
    "PORT": "tcp://10.0.171.239:8000",
    "PORT_8000_TCP": "tcp://10.0.171.239:8000",
    "PORT_8000_TCP_PROTO": "tcp",
    "PORT_8000_TCP_PORT": "8000",
    "PORT_8000_TCP_ADDR": "10.0.171.239",
}


@pytest.mark.parametrize("service", ["LONGWATCH", "LONGWATCH_API", "LONGWATCH_REDIS", "LONGWATCH_INGEST_2"])
def test_variables_that_kubernetes_sets_for_a_service_change_nothing(
    service: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    before = load_settings()
    for ending, value in SERVICE.items():
        monkeypatch.setenv(f"{service}_{ending}", value)
    monkeypatch.setenv(f"{service}_SERVICE_HOST", "fd00::17")
    assert load_settings() == before
    assert not caplog.records


def test_a_setting_is_read_beside_a_service_variable_of_a_similar_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONGWATCH_API_PORT", "tcp://10.0.171.239:8000")
    monkeypatch.setenv("LONGWATCH_API__PORT", "9000")
    assert load_settings().api.port == 9000


@pytest.mark.parametrize(
    ("variable", "value", "meant"),
    [
        ("LONGWATCH_API_PORT", "9000", "LONGWATCH_API__PORT"),
        ("LONGWATCH_PORT", "9000", "LONGWATCH_API__PORT"),
        ("LONGWATCH_API_HOST", "0.0.0.0", "LONGWATCH_API__HOST"),
        ("LONGWATCH_DATADIR", "/data", "LONGWATCH_DATA_DIR"),
        ("LONGWATCH_DATA_DRI", "/data", "LONGWATCH_DATA_DIR"),
        ("LONGWATCH_CONFIG_FILE", "mine.yaml", "LONGWATCH_CONFIG"),
        ("LONGWATCH_CHECKPOINT", "/models/8b", "LONGWATCH_MODEL__CHECKPOINT"),
        ("LONGWATCH_INGEST_SAMPEL_FPS", "2", "LONGWATCH_INGEST__SAMPLE_FPS"),
        ("LONGWATCH_INGETS__SAMPLE_FPS", "2", "LONGWATCH_INGEST__SAMPLE_FPS"),
        ("longwatch_data_dri", "/data", "LONGWATCH_DATA_DIR"),
        ("LONGWATCH_WEATHER__FORECAST", "rain", "the parts are"),
    ],
)
def test_a_mistyped_setting_stops_the_start_and_the_message_names_the_right_one(
    variable: str, value: str, meant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert variable in str(caught.value)
    assert meant in str(caught.value)


@pytest.mark.parametrize("variable", ["LONGWATCH_VERSION", "LONGWATCH_IMAGE_TAG", "LONGWATCH_NAMESPACE"])
def test_a_variable_that_resembles_no_setting_is_ignored_with_a_warning(
    variable: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    before = load_settings()
    monkeypatch.setenv(variable, "2026.11")
    with caplog.at_level(logging.WARNING):
        assert load_settings() == before
    assert variable in caplog.text
