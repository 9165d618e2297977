"""Errors of the engine. Each has a stable `code`, says whether a retry can help, and a `hint` a person can act on.

EngineError
├── SpecError(ValueError)            bad option or combination of options
├── DataError(ValueError)            a row cannot be used; names the source and the row
│   ├── EmptyDatasetError            no rows
│   ├── MaskedLabelsError            no position would be trained
│   └── OverlongRowError             a row exceeds the context
├── TemplateError(ValueError)        a chat template is missing or does not train its stop token
├── ModelError(ValueError)           weights cannot be loaded
│   ├── ModelNotFoundError           no such folder
│   ├── UnsafeWeightsError           pickle instead of safetensors
│   └── UnsupportedModelError        an architecture that the packed path cannot do exactly
├── NonFiniteError(ArithmeticError)  loss or gradient is NaN or infinite
├── RewardError(RuntimeError)        too many answers of a rollout could not be judged
├── CheckpointError(ValueError)      a checkpoint is damaged or of another job
├── DiskFullError(OSError)           no space left
└── CancelledError                   the attempt was asked to stop
"""

from __future__ import annotations

from typing import ClassVar


class EngineError(Exception):
    """Base class; `str(error)` says what happened, `hint` what to do."""

    code: ClassVar[str] = "ENGINE"
    retryable: ClassVar[bool] = False
    hint: str = ""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        if hint:
            self.hint = hint


class SpecError(EngineError, ValueError):
    code = "BAD_SPEC"
    hint = "`posttrain init KIND` writes a spec with all options and their meaning"


class DataError(EngineError, ValueError):
    code = "BAD_DATA"
    hint = "mend the row and add the dataset again"


class EmptyDatasetError(DataError):
    code = "EMPTY_DATASET"
    hint = "add at least one row"


class MaskedLabelsError(DataError):
    code = "ALL_LABELS_MASKED"
    hint = "each row needs an assistant turn (or a completion) with text to train on"


class OverlongRowError(DataError):
    code = "ROW_TOO_LONG"
    hint = (
        "raise batch.max_tokens up to the model's context, shorten the row, or set batch.overlong to truncate or skip"
    )


class TemplateError(EngineError, ValueError):
    code = "BAD_TEMPLATE"
    hint = "name a built-in template: template: {type: builtin, name: chatml}"


class ModelError(EngineError, ValueError):
    code = "BAD_MODEL"
    hint = "check the folder: config.json, *.safetensors and tokenizer files of a causal language model"


class ModelNotFoundError(ModelError, FileNotFoundError):
    code = "MODEL_NOT_FOUND"
    hint = "check the path or the version's name (`posttrain models list`)"


class UnsafeWeightsError(ModelError):
    code = "UNSAFE_WEIGHTS"
    hint = "convert the checkpoint to safetensors; pickle files can run code and are never loaded"


class UnsupportedModelError(ModelError):
    code = "UNSUPPORTED_MODEL"
    hint = "use an architecture that the packed path reproduces exactly"


class NonFiniteError(EngineError, ArithmeticError):
    code = "NON_FINITE"
    hint = "lower optimizer.learning_rate or check the rows named"


class RewardError(EngineError, RuntimeError):
    code = "REWARD_FAILED"
    hint = "mend the reward or the targets of the rows, or raise max_failed_rewards"


class CheckpointError(EngineError, ValueError):
    code = "BAD_CHECKPOINT"
    hint = "remove the damaged checkpoint; training then resumes from the one before"


class DiskFullError(EngineError, OSError):
    code = "DISK_FULL"
    retryable = True
    hint = "free space on the data folder's disk and submit again"


class CancelledError(EngineError):
    code = "CANCELLED"
    hint = "submit again to start over"


def first_line(error: BaseException) -> str:
    """What a library's error says first, for a message of our own."""
    return str(error).strip().split("\n")[0][:300]
