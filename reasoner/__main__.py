"""The reasoner process: `python -m reasoner`."""

import torch

from configs.loading import settings_from_command_line
from configs.privacy import keep_files_private
from configs.settings import Settings
from jobs.names import ANSWER, WATCH
from jobs.runner import Handler
from jobs.worker import Pool, run_worker
from llava_mini.model import LlavaMini
from llava_mini.prompt import PromptBuilder
from reasoner.engine import Engine, Limits
from reasoner.jobs import ReasonerJobs
from reasoner.watch_jobs import WatchJobs
from reasoner.watch_trial_jobs import WatchTrialJobs
from storage.store import Store

CONCURRENT_STREAMS = 2  # whose watches are evaluated at once by one worker


def load_engine(settings: Settings) -> Engine:
    """Loads the language half and the tokenizer that the settings name; raises ModelError."""
    chosen, reasoner = settings.model, settings.reasoner
    model = LlavaMini.from_pretrained(
        chosen.checkpoint,
        dtype=chosen.dtype,
        device=chosen.device,
        attention=chosen.attention,
        parts=("language",),
        language_weights=chosen.language_weights,
    )
    prompts = PromptBuilder.from_pretrained(
        model.folder,
        system=chosen.system_prompt,
        generation_prompt=chosen.generation_prompt,
        chat_template=chosen.chat_template,
    )
    limits = Limits(
        sample_frames=reasoner.sample_frames,
        focus_frames=reasoner.focus_frames,
        focus_baseline=reasoner.focus_baseline,
        max_tokens=reasoner.max_tokens,
        prefix_cache_bytes=reasoner.prefix_cache_mb * 1024**2,
    )
    return Engine(model, prompts, limits)


def run(settings: Settings) -> None:
    """Works on the queue of questions until a signal stops it."""
    keep_files_private(settings.data_dir)
    if settings.reasoner.threads:
        torch.set_num_threads(settings.reasoner.threads)
    store = Store.open(settings)
    engine = load_engine(settings)
    jobs = ReasonerJobs(settings, store, engine)
    watches = WatchJobs(settings, store, engine)
    trials = WatchTrialJobs(settings, store, engine)
    handlers = {
        "answer_question": Handler(jobs.answer_question, jobs.give_up_question),
        "evaluate_watches": Handler(watches.evaluate_watches, watches.give_up_watches),
        "try_watch": Handler(trials.try_watch, trials.give_up_trial),
    }
    pools = [Pool((ANSWER,), settings.reasoner.concurrent_questions), Pool((WATCH,), CONCURRENT_STREAMS)]
    run_worker(settings, store, "reason", pools, handlers, engine.fingerprint, engine.max_frames)


if __name__ == "__main__":
    run(settings_from_command_line(__doc__))
