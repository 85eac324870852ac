"""The encoder worker process: `python -m encoder_worker`."""

import torch

from configs.loading import settings_from_command_line
from configs.privacy import keep_files_private
from configs.settings import Settings
from encoder_worker.encoder import Encoder
from encoder_worker.jobs import EncoderJobs
from encoder_worker.live_encoding import KIND, LiveEncoder
from jobs.names import ENCODE, FUSE
from jobs.runner import Handler
from jobs.worker import Pool, name_worker, run_worker
from llava_mini.model import LlavaMini
from llava_mini.prompt import PromptBuilder
from storage.store import Store


def load_encoder(settings: Settings) -> Encoder:
    """The vision half and the tokenizer that the settings name; raises ModelError."""
    chosen = settings.model
    model = LlavaMini.from_pretrained(
        chosen.checkpoint, dtype=chosen.dtype, device=chosen.device, attention=chosen.attention, parts=("vision",)
    )
    prompts = PromptBuilder.from_pretrained(
        model.folder,
        system=chosen.system_prompt,
        generation_prompt=chosen.generation_prompt,
        chat_template=chosen.chat_template,
    )
    return Encoder(model, prompts, settings.encoder.batch_frames)


def run(settings: Settings) -> None:
    """Works on the queues until a signal stops it. Questions go before segments and have one thread of their own."""
    keep_files_private(settings.data_dir)
    if settings.encoder.threads:
        torch.set_num_threads(settings.encoder.threads)
    store = Store.open(settings)
    encoder = load_encoder(settings)
    jobs = EncoderJobs(settings, store, encoder)
    handlers = {
        "fuse_question": Handler(jobs.fuse_question, jobs.give_up_fusions),
        "encode_segment": Handler(jobs.encode_segment, jobs.give_up_segment),
    }
    pools = [Pool((FUSE,), 1), Pool((FUSE, ENCODE), settings.encoder.concurrent_jobs)]
    live = LiveEncoder(settings, store, encoder, name_worker(KIND))
    run_worker(settings, store, KIND, pools, handlers, encoder.fingerprint, services=[live.run_forever])


if __name__ == "__main__":
    run(settings_from_command_line(__doc__))
