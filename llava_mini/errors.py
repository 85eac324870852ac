"""The errors of a model.

ModelError
 ├─ CheckpointError   the checkpoint cannot be read, or is not one of this architecture
 ├─ PartMissing       the requested half was not loaded
 ├─ DeviceError       this machine does not offer the device, dtype, attention or quantisation
 ├─ InputError        this checkpoint cannot take the pictures or token ids
 ├─ NonFinite         the model computed an unusable number: infinite, NaN, or beyond float16
 └─ PromptTooLong     the prompt has more positions than the context; `would_fit` says how many frames would fit
"""


class ModelError(Exception):
    """Base of this package's errors; `code` is stable."""

    code = "model"


class CheckpointError(ModelError):
    """The checkpoint cannot be read, or is not one of this architecture."""

    code = "checkpoint"


class PartMissing(ModelError):
    """The requested half of the model was not loaded."""

    code = "model-part-missing"


class DeviceError(ModelError):
    """This machine does not offer the device, dtype, attention or quantisation."""

    code = "device"


class InputError(ModelError):
    """This checkpoint cannot take the pictures or token ids."""

    code = "model-input"


class NonFinite(ModelError):
    """The model computed an unusable number: infinite, NaN, or beyond what a record holds.

    frames   places of the faulty frames among those given; empty if no frame is at fault
    """

    code = "model-non-finite"

    def __init__(self, what: str, frames: tuple[int, ...] = ()) -> None:
        self.frames = frames
        super().__init__(
            f"{what}: the model's numbers overflow. If model.dtype is float16, use bfloat16 or float32; "
            "otherwise the checkpoint is damaged or does not belong to this architecture"
        )


class PromptTooLong(ModelError):
    """The stretch does not fit into the context; nothing is ever cut silently.

    frames      frames in the stretch
    would_fit   frames that fit beside the same text
    limit       positions of the context
    """

    code = "stretch-too-long"

    def __init__(self, frames: int, would_fit: int, limit: int) -> None:
        self.frames, self.would_fit, self.limit = frames, would_fit, limit
        cure = f"{would_fit} frames would fit: ask about a shorter stretch"
        if not would_fit:
            cure = "not even one frame would fit: shorten the question or the conversation, or lower max_tokens"
        super().__init__(
            f"{frames} frames do not fit into the model's context of {limit} positions together with the prompt; {cure}"
        )
