"""What `longwatch doctor` finds: a working service, and each thing that stops it from working."""

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from cli import doctor
from cli.doctor import Finding, examine
from cli.redis_server import ROLES
from configs.settings import RedisSettings, Settings
from storage.documents import Video
from storage.ids import new_video_id
from storage.store import Store
from storage.workers import Worker
from tests.cli.conftest import spawn
from tests.cli.test_up import running

QUICK = {"retries": 0, "connect_timeout_s": 1.0, "command_timeout_s": 1.0}


@pytest.fixture
def settings(folder: Path) -> Iterator[Settings]:
    """Both private servers run, and the checkpoint is complete."""
    folder.chmod(0o700)
    checkpoint = folder / "checkpoint"
    checkpoint.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"):
        (checkpoint / name).touch()
    values = {"data_dir": folder, "redis": QUICK, "model": {"checkpoint": str(checkpoint), "device": "cpu"}}
    settings = Settings.model_validate(values)
    with running(settings, ROLES[0]), running(settings, ROLES[1]):
        yield settings


@pytest.fixture
def store(settings: Settings) -> Store:
    """A store that knows a live worker of each kind."""
    store = Store.open(settings)
    for kind in ("ingest", "encode", "reason"):
        store.workers.announce(a_worker(kind), alive_s=60)
    return store


def a_worker(kind: str, **fields: Any) -> Worker:
    return replace(Worker(name=f"{kind}-1", kind=kind, host="here", pid=1, queues=(kind,)), **fields)


def faults(settings: Settings) -> list[Finding]:
    return [finding for finding in examine(settings) if not finding.fine]


def test_a_working_service_has_no_faults(settings: Settings, store: Store, folder: Path) -> None:
    config = folder / "doctor.yaml"
    config.write_text(yaml.safe_dump(settings.model_dump(mode="json", exclude_unset=True)))
    process = spawn(config, "doctor")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, ""), out
    for part in ("state", "cache", "archive", "checkpoint", "workers", "packages", "data_dir", "gpu", "attention"):
        assert part in out
    store.workers.withdraw("encode-1")
    process = spawn(config, "doctor")
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "no encode worker is alive: start `longwatch worker encode`" in out


def test_waiting_workers_and_different_models_are_named(settings: Settings, store: Store) -> None:
    store.workers.announce(a_worker("reason", fingerprint="aaaa"), alive_s=60)
    store.workers.announce(a_worker("encode", fingerprint="bbbb", trouble="the archive is read-only"), alive_s=60)
    waits, models = faults(settings)
    assert (waits.words, waits.needed) == ("encode worker waits: the archive is read-only", False)
    assert ("aaaa, bbbb" in models.words, models.needed) == (True, False)


@pytest.mark.parametrize("ahead_s", [60, -60])
def test_a_clock_that_differs_from_that_of_redis_is_a_fault(
    ahead_s: int, settings: Settings, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + ahead_s)
    (state,) = faults(settings)
    assert (state.part, state.needed) == ("state", True)
    assert "this host's clock and that of the state's Redis differ" in state.words
    assert "NTP" in state.words


def test_damaged_and_newer_documents_are_named_by_path(settings: Settings, store: Store) -> None:
    archive = store.archive
    newer, damaged = new_video_id(), new_video_id()
    fine = Video(id=new_video_id(), kind="url", source="https://a.example/", location="", sample_fps=1.0, mode="exact")
    archive.write_video(fine)
    archive.files.write(f"{newer}/video.json", fine.model_copy(update={"version": 99}).model_dump_json().encode())
    archive.files.write(f"{damaged}/video.json", b"{")
    said = {finding.words for finding in faults(settings)}
    assert len(said) == 2
    assert any(f"{newer}/video.json was written by a newer Longwatch" in words for words in said)
    assert any(f"{damaged}/video.json is damaged" in words for words in said)


def test_it_warns_of_one_redis_for_both_roles_and_of_one_that_evicts(settings: Settings, store: Store) -> None:
    both = RedisSettings(state_url=settings.state_url, cache_url=f"{settings.state_url}?db=1", **QUICK)
    (roles,) = faults(settings.model_copy(update={"redis": both}))
    assert ("a full cache then stops all jobs" in roles.words, roles.needed) == (True, False)
    store.state.config_set("maxmemory-policy", "allkeys-lru")
    (evicting,) = faults(settings)
    assert ("allkeys-lru" in evicting.words, evicting.needed) == (True, False)


def test_missing_parts_are_named_with_what_to_do_and_without_secrets(settings: Settings, store: Store) -> None:
    (Path(settings.model.checkpoint) / "tokenizer.json").unlink()
    settings.data_dir.chmod(0o755)
    said = {finding.part: finding for finding in faults(settings)}
    assert said["checkpoint"].words.endswith("lacks tokenizer.json")
    assert ("chmod 700" in said["data_dir"].words, said["data_dir"].needed) == (True, False)

    away = {"state_url": "redis://:secret@127.0.0.1:1/0", "cache_url": "redis://:secret@127.0.0.1:2/0", **QUICK}
    values = settings.model_dump() | {"redis": away, "archive": {"url": "/dev/null/archive"}}
    findings = list(examine(Settings.model_validate(values)))
    parts = {finding.part for finding in findings if finding.needed and not finding.fine}
    assert parts == {"state", "cache", "archive", "workers", "checkpoint"}
    assert not any("secret" in finding.words for finding in findings)


def test_before_the_first_start_it_says_what_up_will_do(folder: Path) -> None:
    settings = Settings.model_validate({"data_dir": folder / "new", "redis": QUICK})
    findings = {finding.part: finding for finding in examine(settings)}
    assert findings["state"].words.startswith("`longwatch up` will run")
    assert findings["data_dir"].fine
    assert not findings["workers"].fine
    assert not (folder / "new" / "redis").exists()


def test_a_shadowed_package_is_a_fault(settings: Settings, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "find_shadowed", lambda: ["api is imported from /elsewhere"])
    (packages,) = faults(settings)
    assert (packages.part, packages.needed) == ("packages", True)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this PyTorch can use the card")
@pytest.mark.parametrize(
    ("device", "card", "fine", "needed"),
    [
        ("cpu", True, True, False),
        ("auto", True, False, False),  # the service runs, but on the CPU
        ("cuda", True, False, True),
        ("auto", False, True, False),
        ("cuda", False, False, True),
    ],
)
def test_a_card_that_this_pytorch_cannot_use_is_reported(
    device: str,
    card: bool,
    fine: bool,
    needed: bool,
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The environment of the tests has PyTorch for the CPU; the card's own tool is a stand-in."""
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho NVIDIA GeForce RTX 3090, 24576 MiB\n")
    tool.chmod(0o700 if card else 0o600)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    chosen = settings.model_copy(update={"model": settings.model.model_copy(update={"device": device})})
    (found,) = [finding for finding in examine(chosen) if finding.part == "gpu"]
    assert (found.fine, found.needed) == (fine, needed)
    assert ("RTX 3090" in found.words) is card
