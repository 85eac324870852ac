"""Decides whether an evaluation of a watch is worth an event. Pure."""

import logging
from datetime import datetime, timedelta
from typing import NamedTuple
from zoneinfo import ZoneInfo

import regex

from storage.live_documents import Match, Schedule, Watch
from storage.watches import WatchStatus

log = logging.getLogger(__name__)

REGEX_S = 0.2  # some expressions take exponential time
MATCHES, DIFFERS = "match", "no match"  # the values of a watch with `match`
DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


class Verdict(NamedTuple):
    """What follows from an evaluation."""

    status: WatchStatus
    event: str | None  # the type of the event: "match", or "answer" for a watch without `match`


def judge(watch: Watch, before: WatchStatus, interval: int, answer: str, probability: float, at: datetime) -> Verdict:
    """The new status, and the event to publish, if any.

    An answer below `min_probability` counts as no evaluation. The value of an answer is the answer itself or, with
    `match`, whether it matches. It must be the same `hold` times in a row. There is no event within `cooldown_s` of the
    last one, and none outside the schedule. Else `notify` decides: with `change` there is an event when the value is
    not that of the last event (a new watch's first value is no change), with `match` at each evaluation that matches,
    with `always` at each evaluation.
    """
    if probability < watch.min_probability:
        return Verdict(before.model_copy(update={"interval": interval}), None)
    value = normalise(answer) if watch.match is None else MATCHES if matches(watch.match, answer) else DIFFERS
    streak = before.streak + 1 if value == before.value else 1
    status = before.model_copy(update={"interval": interval, "value": value, "streak": streak})
    if streak < watch.hold:
        return Verdict(status, None)
    if watch.notify == "change" and before.notified is None:
        return Verdict(status.model_copy(update={"notified": value}), None)
    wanted = {
        "change": value != before.notified,
        "always": True,
        "match": watch.match is None or value == MATCHES,
    }[watch.notify]
    resting = before.event_at is not None and at < before.event_at + timedelta(seconds=watch.cooldown_s)
    if not wanted or resting or not is_scheduled(watch.schedule, at):
        return Verdict(status, None)
    return Verdict(
        status.model_copy(update={"notified": value, "event_at": at}), "match" if value == MATCHES else "answer"
    )


def matches(match: Match, answer: str) -> bool:
    """Whether the answer matches; case and outer white space do not matter."""
    text = normalise(answer)
    if match.equals is not None:
        return text == normalise(match.equals)
    if match.contains is not None:
        return normalise(match.contains) in text
    try:
        return regex.search(match.regex or "", answer, regex.IGNORECASE, timeout=REGEX_S) is not None
    except TimeoutError:
        log.error("the regular expression %r takes too long on an answer, and counts as not matching", match.regex)
        return False


def normalise(text: str) -> str:
    """The text in lower case, without outer white space and a full stop at its end."""
    return text.strip().removesuffix(".").strip().casefold()


def is_scheduled(schedule: Schedule | None, at: datetime) -> bool:
    """Whether events may be published at this time. A span over midnight belongs to the day on which it begins."""
    if schedule is None:
        return True
    local = at.astimezone(ZoneInfo(schedule.timezone))
    now, start, end = f"{local:%H:%M}", schedule.start, schedule.end
    today, yesterday = DAYS[local.weekday()], DAYS[local.weekday() - 1]
    if start < end:
        return today in schedule.days and start <= now < end
    return (today in schedule.days and now >= start) or (yesterday in schedule.days and now < end)
