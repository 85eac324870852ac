"""How the command line prints videos, progress and answers."""

from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

console = Console(highlight=False)


def videos(rows: list[dict[str, Any]]) -> None:
    """A table of videos."""
    table = Table("id", "source", "status", "frames", "encoded", box=None)
    for row in rows:
        progress = row["progress"]
        status = row["status"] + (f": {row['problem']['message']}" if row["problem"] else "")
        table.add_row(
            row["id"], row["source"], status, str(progress["frames_sampled"]), str(progress["frames_encoded"])
        )
    console.print(table)


def progress(states: Iterator[dict[str, Any]]) -> dict[str, Any]:
    """A bar for sampling and one for encoding while `states` (the video at each change) come; the last of them."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    state: dict[str, Any] = {}
    with Progress(*columns, console=console) as bars:
        sampled, encoded = bars.add_task("sampled", total=None), bars.add_task("encoded", total=None)
        for state in states:
            now = state["progress"]
            bars.update(sampled, completed=now["frames_sampled"], total=now["frames_expected"])
            bars.update(encoded, completed=now["frames_encoded"], total=now["frames_expected"])
    return state


def grounds(question: dict[str, Any]) -> None:
    """What an answer rests on, in two lines."""
    answer = question["answer"]
    times = answer["timings"]
    seen = ", ".join(f"{item['t_s']:g} s" for item in answer["evidence"])
    whole = "" if answer["video_complete"] else f"; encoded up to {answer['encoded_until_s']:g} s so far"
    console.print(
        f"[dim]{answer['frames']} frames, {answer['start_s']:g} to {answer['end_s']:g} s{whole}; looked at {seen}\n"
        f"{answer['fusion']} over {answer['fusion_frames']} frames; first token {times['first_token_s']:.2f} s, "
        f"total {times['total_s']:.2f} s; {question['id']}[/dim]"
    )
