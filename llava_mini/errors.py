"""What can go wrong with a model.

ModelError
 ├─ CheckpointError   the checkpoint cannot be read, or is not one of this architecture
 ├─ PartMissing       the half that is asked for was not loaded
 ├─ DeviceError       device, dtype, attention or quantisation that this machine does not offer
 ├─ InputError        pictures or token ids that this checkpoint cannot take
 ├─ NonFinite         the model computed what is no usable number: infinite, not a number, or beyond float16
 └─ PromptTooLong     more positions than the context holds; `would_fit` says how many frames would
"""


class ModelError(Exception):
    """Base of this package's errors; `code` is stable."""

    code = "model"


class CheckpointError(ModelError):
    """The checkpoint cannot be read, or is not one of this architecture."""

    code = "checkpoint"


class PartMissing(ModelError):
    """The half of the model that is asked for was not loaded."""

    code = "model-part-missing"


class DeviceError(ModelError):
    """Device, dtype, attention or quantisation that this machine does not offer."""

    code = "device"


class InputError(ModelError):
    """Pictures or token ids that this checkpoint cannot take."""

    code = "model-input"


class NonFinite(ModelError):
    """The model computed what is no usable number: infinite, not a number, or beyond what a record holds.

    frames   places of the frames at fault among those given; empty if it is not about frames
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

    frames      asked for
    would_fit   frames that fit beside the same text
    limit       positions of the context
    """

    code = "stretch-too-long"

    def __init__(self, frames: int, would_fit: int, limit: int) -> None:
        self.frames, self.would_fit, self.limit = frames, would_fit, limit
        super().__init__(
            f"{frames} frames do not fit into the model's context of {limit} positions together with the prompt; "
            f"{would_fit} frames would: ask about a shorter stretch"
        )
