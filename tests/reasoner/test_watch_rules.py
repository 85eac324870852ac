"""When an evaluation of a watch becomes an event."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from reasoner.watch_rules import is_scheduled, judge, matches
from storage.live_documents import Match, Schedule, Watch
from storage.watches import WatchStatus

START = datetime(2026, 11, 21, 12, tzinfo=UTC)  # a Saturday


def make_watch(**values: Any) -> Watch:
    return Watch.model_validate({"id": "w", "stream_id": "s", "question": "?"} | values)


def run(watch: Watch, answers: str, every_s: float = 10, probabilities: dict[int, float] | None = None) -> list[str]:
    """The event types (or "-") for answers, given as one letter each."""
    status, found = WatchStatus(), []
    for number, letter in enumerate(answers):
        at = START + timedelta(seconds=every_s * number)
        answer = {"y": "Yes.", "n": "no"}.get(letter, letter)
        status, event = judge(watch, status, number, answer, (probabilities or {}).get(number, 1.0), at)
        found.append({"match": "m", "answer": "a"}.get(event or "", "-"))
        assert status.interval == number
    return found


YES = {"match": {"equals": "yes"}}


@pytest.mark.parametrize(
    ("values", "answers", "events"),
    [
        ({"notify": "change"}, "nnynyy", "--aaa-"),
        ({"notify": "change", **YES}, "nnyynn", "--m-a-"),
        ({"notify": "change", **YES}, "yyn", "--a"),
        ({"notify": "always"}, "nyn", "aaa"),
        ({"notify": "always", **YES}, "nyn", "ama"),
        ({"notify": "match", **YES}, "nyyn", "-mm-"),
        ({"notify": "match"}, "ny", "aa"),
        ({"notify": "change", "hold": 2, **YES}, "nnynyyyn", "-----m--"),
        ({"notify": "match", "hold": 3, **YES}, "yyyynyyy", "--mm---m"),
        ({"notify": "match", "cooldown_s": 25, **YES}, "yyyyyy", "m--m--"),
        ({"notify": "change", "cooldown_s": 25, **YES}, "nynynyy", "-m--a--"),
    ],
)
def test_events_follow_the_rules(values: dict[str, Any], answers: str, events: str) -> None:
    assert "".join(run(make_watch(**values), answers)) == events


def test_a_change_during_the_cooldown_is_told_after_it() -> None:
    watch = make_watch(notify="change", cooldown_s=25, **YES)
    assert "".join(run(watch, "nynnnnn")) == "-m--a--"


def test_improbable_answers_count_as_no_evaluation() -> None:
    watch = make_watch(notify="change", min_probability=0.7, hold=2, **YES)
    assert "".join(run(watch, "nnyynny", probabilities={3: 0.6})) == "-" * 7
    assert "".join(run(watch, "nnyyy", probabilities={3: 0.6})) == "----m"


@pytest.mark.parametrize(
    ("match", "answer", "fits"),
    [
        ({"equals": "yes"}, " YES. ", True),
        ({"equals": "yes"}, "yes, two", False),
        ({"contains": "red"}, "A Red Circle", True),
        ({"regex": r"\btwo|three\b"}, "Three cars", True),
        ({"regex": r"^two$"}, "two cars", False),
    ],
)
def test_answers_match_whatever_their_case(match: dict[str, str], answer: str, fits: bool) -> None:
    assert matches(Match.model_validate(match), answer) == fits


def test_an_expression_that_takes_exponential_time_does_not_match_and_does_not_hang() -> None:
    assert not matches(Match(regex=r"(a|aa)+$"), "a" * 60 + "b")


@pytest.mark.parametrize(
    ("schedule", "times"),
    [
        ({"days": ["sat"]}, {"21T00:00": True, "21T23:59": True, "20T12:00": False}),
        ({"start": "08:00", "end": "12:00"}, {"21T07:59": False, "21T08:00": True, "21T12:00": False}),
        (
            {"days": ["sat"], "start": "22:00", "end": "06:00"},
            {"21T21:59": False, "21T22:00": True, "22T05:59": True, "22T06:00": False, "21T03:00": False},
        ),
        ({"days": ["sat"], "timezone": "Asia/Tokyo"}, {"20T15:00": True, "20T14:59": False, "21T15:00": False}),
    ],
)
def test_a_schedule_holds_in_its_time_zone(schedule: dict[str, Any], times: dict[str, bool]) -> None:
    for text, expected in times.items():
        at = datetime.fromisoformat(f"2026-11-{text}:00+00:00")
        assert is_scheduled(Schedule.model_validate(schedule), at) == expected, text
