"""What can go wrong with a model.

ModelError
 ├─ CheckpointError   the checkpoint cannot be read, or is not one of this architecture
 ├─ PartMissing       the half that is asked for was not loaded
 ├─ DeviceError       device, attention or quantisation that this machine does not offer
 └─ PromptTooLong     more positions than the context holds; `fits` says how many frames would fit
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
    """Device, attention or quantisation that this machine does not offer."""

    code = "device"


class PromptTooLong(ModelError):
    """The stretch does not fit into the context; nothing is ever cut silently."""

    code = "stretch-too-long"

    def __init__(self, frames: int, fits: int, context: int) -> None:
        self.frames, self.fits, self.context = frames, fits, context
        super().__init__(
            f"{frames} frames do not fit into the model's context of {context} positions together with the prompt; "
            f"{fits} frames would: ask about a shorter stretch"
        )
