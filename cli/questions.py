"""The commands for questions: ask, questions, answer, cancel."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Literal

import typer

from cli import show
from cli.client import Client
from cli.errors import ServiceError, Unreachable
from cli.options import ApiUrl, AsJson, From, QuestionId, To, VideoId, read_settings
from cli.prefixes import find_question, find_video
from cli.readiness import FOR_ANSWERS, missing_parts_said
from cli.safe_text import escape_lines
from cli.status import StatusLine
from cli.tables import waiting_words

app = typer.Typer()

ENDED = ("done", "failed", "cancelled")


@app.command()
def ask(
    context: typer.Context,
    video_id: VideoId,
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="The question, in quotes.")],
    start: From = None,
    end: To = None,
    last: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Of a stream: the last seconds; default: the last minute.")
    ] = None,
    fusion: Annotated[
        Literal["focused", "sampled", "exact"] | None, typer.Option(help="Default: as the service is configured.")
    ] = None,
    partial: Annotated[
        bool,
        typer.Option("--partial", help="Wait only for the stretch's first segment; answer over what is encoded then."),
    ] = False,
    follow: Annotated[
        str | None, typer.Option(metavar="QUESTION_ID", help="An answered question to follow up.")
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Maximum length; default: as configured.")] = None,
    as_json: AsJson = False,
    api_url: ApiUrl = None,
) -> None:
    """Ask about a video or a stream, and print the answer as it is generated. Ctrl-C cancels the question."""
    if not question.strip():
        raise typer.BadParameter("the question is empty", param_hint="QUESTION")
    with Client.of(read_settings(context), api_url) as client:
        found = find_video(client, video_id)
        given = {
            "start": start,
            "end": end,
            "last_s": last,
            "fusion": fusion,
            "max_tokens": max_tokens,
            "previous_question_id": follow and find_question(client, follow),
        }
        body = {"question": question, "partial": partial} | {
            k: value for k, value in given.items() if value is not None
        }
        asked: dict[str, Any] = {}
        with _cancelled_by_ctrl_c(client, asked):
            events = client.events("POST", f"/v1/videos/{found}/questions", json=body)
            _print_answer(client, events, asked, as_json=as_json)


@app.command()
def answer(context: typer.Context, question_id: QuestionId, as_json: AsJson = False, api_url: ApiUrl = None) -> None:
    """Show the answer to a question; if it is still being generated, print it as it comes."""
    with Client.of(read_settings(context), api_url) as client:
        path = f"/v1/questions/{find_question(client, question_id)}"
        _print_answer(client, client.events("GET", path), {}, as_json=as_json)


@app.command()
def questions(context: typer.Context, video_id: VideoId, as_json: AsJson = False, api_url: ApiUrl = None) -> None:
    """List the questions about a video, newest first."""
    with Client.of(read_settings(context), api_url) as client:
        rows = client.pages(f"/v1/videos/{find_video(client, video_id)}/questions", "questions")
        if as_json:
            typer.echo(json.dumps(list(rows)))
        else:
            show.questions(rows)


@app.command()
def cancel(context: typer.Context, question_id: QuestionId, as_json: AsJson = False, api_url: ApiUrl = None) -> None:
    """Cancel a question that has no answer yet; prints its status."""
    with Client.of(read_settings(context), api_url) as client:
        question = client.call("DELETE", f"/v1/questions/{find_question(client, question_id)}")
    typer.echo(json.dumps(question) if as_json else question["status"])


@contextmanager
def _cancelled_by_ctrl_c(client: Client, asked: dict[str, Any]) -> Iterator[None]:
    """On Ctrl-C, cancels the question if `asked` holds one by then."""
    try:
        yield
    except KeyboardInterrupt:
        if asked:
            client.call("DELETE", f"/v1/questions/{asked['id']}")
            show.note(f"cancelled; {asked['id']}")
        raise


def _print_answer(client: Client, events: Iterator[tuple[str, str]], asked: dict[str, Any], *, as_json: bool) -> None:
    """Prints the answer as it comes, then its grounds; `asked` is kept up to date with the question.

    Raises ServiceError if the question fails.
    """
    try:
        with StatusLine() as line, missing_parts_said(client, FOR_ANSWERS, line) as answered:
            for event, data in events:
                if event in ("text", "answer", "error"):
                    answered.set()
                    line.clear()
                if event == "text" and not as_json:
                    typer.echo(escape_lines(data), nl=False)
                elif event == "restart" and not as_json:
                    typer.echo("\n(starting over)")
                elif event in ("question", "waiting", "answer", "error"):
                    asked.update(json.loads(data))
                if event in ("question", "waiting") and asked["status"] not in ENDED:
                    line.update(waiting_words(asked))
            if asked.get("status") not in ENDED:
                raise Unreachable("the service ended the stream before the answer was complete")
    except Unreachable as error:
        if not asked:
            raise
        raise Unreachable(
            f"{error}; the question is kept: `longwatch answer {asked['id']}` shows its answer"
        ) from error
    if as_json:
        typer.echo(json.dumps(asked))
    elif not asked["problem"]:
        typer.echo()
        show.grounds(asked)
    if asked["problem"]:
        raise ServiceError(asked["problem"]["message"])
