from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class JobSpec(_message.Message):
    __slots__ = ("ift", "sft", "tool_use", "dpo", "reward", "grpo", "ppo", "evaluate")
    IFT_FIELD_NUMBER: _ClassVar[int]
    SFT_FIELD_NUMBER: _ClassVar[int]
    TOOL_USE_FIELD_NUMBER: _ClassVar[int]
    DPO_FIELD_NUMBER: _ClassVar[int]
    REWARD_FIELD_NUMBER: _ClassVar[int]
    GRPO_FIELD_NUMBER: _ClassVar[int]
    PPO_FIELD_NUMBER: _ClassVar[int]
    EVALUATE_FIELD_NUMBER: _ClassVar[int]
    ift: IftSpec
    sft: SftSpec
    tool_use: ToolUseSpec
    dpo: DpoSpec
    reward: RewardSpec
    grpo: GrpoSpec
    ppo: PpoSpec
    evaluate: EvaluateSpec
    def __init__(self, ift: _Optional[_Union[IftSpec, _Mapping]] = ..., sft: _Optional[_Union[SftSpec, _Mapping]] = ..., tool_use: _Optional[_Union[ToolUseSpec, _Mapping]] = ..., dpo: _Optional[_Union[DpoSpec, _Mapping]] = ..., reward: _Optional[_Union[RewardSpec, _Mapping]] = ..., grpo: _Optional[_Union[GrpoSpec, _Mapping]] = ..., ppo: _Optional[_Union[PpoSpec, _Mapping]] = ..., evaluate: _Optional[_Union[EvaluateSpec, _Mapping]] = ...) -> None: ...

class DataSource(_message.Message):
    __slots__ = ("dataset", "weight")
    DATASET_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    dataset: str
    weight: float
    def __init__(self, dataset: _Optional[str] = ..., weight: _Optional[float] = ...) -> None: ...

class BuiltinTemplate(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class OwnTemplate(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class TrainTemplate(_message.Message):
    __slots__ = ("builtin", "own")
    BUILTIN_FIELD_NUMBER: _ClassVar[int]
    OWN_FIELD_NUMBER: _ClassVar[int]
    builtin: BuiltinTemplate
    own: OwnTemplate
    def __init__(self, builtin: _Optional[_Union[BuiltinTemplate, _Mapping]] = ..., own: _Optional[_Union[OwnTemplate, _Mapping]] = ...) -> None: ...

class BatchOptions(_message.Message):
    __slots__ = ("num_rows", "micro_tokens", "max_tokens", "overlong")
    NUM_ROWS_FIELD_NUMBER: _ClassVar[int]
    MICRO_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    OVERLONG_FIELD_NUMBER: _ClassVar[int]
    num_rows: int
    micro_tokens: int
    max_tokens: int
    overlong: str
    def __init__(self, num_rows: _Optional[int] = ..., micro_tokens: _Optional[int] = ..., max_tokens: _Optional[int] = ..., overlong: _Optional[str] = ...) -> None: ...

class FullAdapter(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class LoraAdapter(_message.Message):
    __slots__ = ("rank", "alpha", "dropout", "rank_stabilized", "weight_decomposed", "targets", "quantization")
    RANK_FIELD_NUMBER: _ClassVar[int]
    ALPHA_FIELD_NUMBER: _ClassVar[int]
    DROPOUT_FIELD_NUMBER: _ClassVar[int]
    RANK_STABILIZED_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_DECOMPOSED_FIELD_NUMBER: _ClassVar[int]
    TARGETS_FIELD_NUMBER: _ClassVar[int]
    QUANTIZATION_FIELD_NUMBER: _ClassVar[int]
    rank: int
    alpha: float
    dropout: float
    rank_stabilized: bool
    weight_decomposed: bool
    targets: _containers.RepeatedScalarFieldContainer[str]
    quantization: str
    def __init__(self, rank: _Optional[int] = ..., alpha: _Optional[float] = ..., dropout: _Optional[float] = ..., rank_stabilized: _Optional[bool] = ..., weight_decomposed: _Optional[bool] = ..., targets: _Optional[_Iterable[str]] = ..., quantization: _Optional[str] = ...) -> None: ...

class Adapter(_message.Message):
    __slots__ = ("full", "lora")
    FULL_FIELD_NUMBER: _ClassVar[int]
    LORA_FIELD_NUMBER: _ClassVar[int]
    full: FullAdapter
    lora: LoraAdapter
    def __init__(self, full: _Optional[_Union[FullAdapter, _Mapping]] = ..., lora: _Optional[_Union[LoraAdapter, _Mapping]] = ...) -> None: ...

class EpochsDuration(_message.Message):
    __slots__ = ("num_epochs",)
    NUM_EPOCHS_FIELD_NUMBER: _ClassVar[int]
    num_epochs: float
    def __init__(self, num_epochs: _Optional[float] = ...) -> None: ...

class StepsDuration(_message.Message):
    __slots__ = ("max_steps",)
    MAX_STEPS_FIELD_NUMBER: _ClassVar[int]
    max_steps: int
    def __init__(self, max_steps: _Optional[int] = ...) -> None: ...

class Duration(_message.Message):
    __slots__ = ("epochs", "steps")
    EPOCHS_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    epochs: EpochsDuration
    steps: StepsDuration
    def __init__(self, epochs: _Optional[_Union[EpochsDuration, _Mapping]] = ..., steps: _Optional[_Union[StepsDuration, _Mapping]] = ...) -> None: ...

class OptimizerOptions(_message.Message):
    __slots__ = ("learning_rate", "weight_decay", "beta1", "beta2", "epsilon", "max_grad_norm", "schedule", "warmup_ratio", "final_ratio", "name")
    LEARNING_RATE_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_DECAY_FIELD_NUMBER: _ClassVar[int]
    BETA1_FIELD_NUMBER: _ClassVar[int]
    BETA2_FIELD_NUMBER: _ClassVar[int]
    EPSILON_FIELD_NUMBER: _ClassVar[int]
    MAX_GRAD_NORM_FIELD_NUMBER: _ClassVar[int]
    SCHEDULE_FIELD_NUMBER: _ClassVar[int]
    WARMUP_RATIO_FIELD_NUMBER: _ClassVar[int]
    FINAL_RATIO_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    learning_rate: float
    weight_decay: float
    beta1: float
    beta2: float
    epsilon: float
    max_grad_norm: float
    schedule: str
    warmup_ratio: float
    final_ratio: float
    name: str
    def __init__(self, learning_rate: _Optional[float] = ..., weight_decay: _Optional[float] = ..., beta1: _Optional[float] = ..., beta2: _Optional[float] = ..., epsilon: _Optional[float] = ..., max_grad_norm: _Optional[float] = ..., schedule: _Optional[str] = ..., warmup_ratio: _Optional[float] = ..., final_ratio: _Optional[float] = ..., name: _Optional[str] = ...) -> None: ...

class CheckpointOptions(_message.Message):
    __slots__ = ("every_steps", "keep")
    EVERY_STEPS_FIELD_NUMBER: _ClassVar[int]
    KEEP_FIELD_NUMBER: _ClassVar[int]
    every_steps: int
    keep: int
    def __init__(self, every_steps: _Optional[int] = ..., keep: _Optional[int] = ...) -> None: ...

class ThenNothing(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ThenGate(_message.Message):
    __slots__ = ("suites", "policy", "alias")
    SUITES_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    ALIAS_FIELD_NUMBER: _ClassVar[int]
    suites: _containers.RepeatedScalarFieldContainer[str]
    policy: str
    alias: str
    def __init__(self, suites: _Optional[_Iterable[str]] = ..., policy: _Optional[str] = ..., alias: _Optional[str] = ...) -> None: ...

class Then(_message.Message):
    __slots__ = ("register", "gate")
    REGISTER_FIELD_NUMBER: _ClassVar[int]
    GATE_FIELD_NUMBER: _ClassVar[int]
    register: ThenNothing
    gate: ThenGate
    def __init__(self, register: _Optional[_Union[ThenNothing, _Mapping]] = ..., gate: _Optional[_Union[ThenGate, _Mapping]] = ...) -> None: ...

class NoHeldOut(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class HeldOutShare(_message.Message):
    __slots__ = ("every_steps", "patience", "min_delta", "keep_best", "save", "ratio")
    EVERY_STEPS_FIELD_NUMBER: _ClassVar[int]
    PATIENCE_FIELD_NUMBER: _ClassVar[int]
    MIN_DELTA_FIELD_NUMBER: _ClassVar[int]
    KEEP_BEST_FIELD_NUMBER: _ClassVar[int]
    SAVE_FIELD_NUMBER: _ClassVar[int]
    RATIO_FIELD_NUMBER: _ClassVar[int]
    every_steps: int
    patience: int
    min_delta: float
    keep_best: int
    save: str
    ratio: float
    def __init__(self, every_steps: _Optional[int] = ..., patience: _Optional[int] = ..., min_delta: _Optional[float] = ..., keep_best: _Optional[int] = ..., save: _Optional[str] = ..., ratio: _Optional[float] = ...) -> None: ...

class HeldOutData(_message.Message):
    __slots__ = ("every_steps", "patience", "min_delta", "keep_best", "save", "datasets")
    EVERY_STEPS_FIELD_NUMBER: _ClassVar[int]
    PATIENCE_FIELD_NUMBER: _ClassVar[int]
    MIN_DELTA_FIELD_NUMBER: _ClassVar[int]
    KEEP_BEST_FIELD_NUMBER: _ClassVar[int]
    SAVE_FIELD_NUMBER: _ClassVar[int]
    DATASETS_FIELD_NUMBER: _ClassVar[int]
    every_steps: int
    patience: int
    min_delta: float
    keep_best: int
    save: str
    datasets: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, every_steps: _Optional[int] = ..., patience: _Optional[int] = ..., min_delta: _Optional[float] = ..., keep_best: _Optional[int] = ..., save: _Optional[str] = ..., datasets: _Optional[_Iterable[str]] = ...) -> None: ...

class HeldOut(_message.Message):
    __slots__ = ("none", "share", "data")
    NONE_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    none: NoHeldOut
    share: HeldOutShare
    data: HeldOutData
    def __init__(self, none: _Optional[_Union[NoHeldOut, _Mapping]] = ..., share: _Optional[_Union[HeldOutShare, _Mapping]] = ..., data: _Optional[_Union[HeldOutData, _Mapping]] = ...) -> None: ...

class NoAveraging(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class EmaAveraging(_message.Message):
    __slots__ = ("decay",)
    DECAY_FIELD_NUMBER: _ClassVar[int]
    decay: float
    def __init__(self, decay: _Optional[float] = ...) -> None: ...

class Averaging(_message.Message):
    __slots__ = ("none", "ema")
    NONE_FIELD_NUMBER: _ClassVar[int]
    EMA_FIELD_NUMBER: _ClassVar[int]
    none: NoAveraging
    ema: EmaAveraging
    def __init__(self, none: _Optional[_Union[NoAveraging, _Mapping]] = ..., ema: _Optional[_Union[EmaAveraging, _Mapping]] = ...) -> None: ...

class MemoryOptions(_message.Message):
    __slots__ = ("gradient_checkpointing", "offload_activations")
    GRADIENT_CHECKPOINTING_FIELD_NUMBER: _ClassVar[int]
    OFFLOAD_ACTIVATIONS_FIELD_NUMBER: _ClassVar[int]
    gradient_checkpointing: bool
    offload_activations: bool
    def __init__(self, gradient_checkpointing: _Optional[bool] = ..., offload_activations: _Optional[bool] = ...) -> None: ...

class IftSpec(_message.Message):
    __slots__ = ("display_name", "seed", "timeout_s", "dtype", "base", "output", "data", "adapter", "duration", "optimizer", "batch", "checkpoint", "held_out", "averaging", "memory", "trackers", "then", "template", "loss_on")
    DISPLAY_NAME_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_S_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    ADAPTER_FIELD_NUMBER: _ClassVar[int]
    DURATION_FIELD_NUMBER: _ClassVar[int]
    OPTIMIZER_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    HELD_OUT_FIELD_NUMBER: _ClassVar[int]
    AVERAGING_FIELD_NUMBER: _ClassVar[int]
    MEMORY_FIELD_NUMBER: _ClassVar[int]
    TRACKERS_FIELD_NUMBER: _ClassVar[int]
    THEN_FIELD_NUMBER: _ClassVar[int]
    TEMPLATE_FIELD_NUMBER: _ClassVar[int]
    LOSS_ON_FIELD_NUMBER: _ClassVar[int]
    display_name: str
    seed: int
    timeout_s: int
    dtype: str
    base: str
    output: str
    data: _containers.RepeatedCompositeFieldContainer[DataSource]
    adapter: Adapter
    duration: Duration
    optimizer: OptimizerOptions
    batch: BatchOptions
    checkpoint: CheckpointOptions
    held_out: HeldOut
    averaging: Averaging
    memory: MemoryOptions
    trackers: _containers.RepeatedScalarFieldContainer[str]
    then: Then
    template: TrainTemplate
    loss_on: str
    def __init__(self, display_name: _Optional[str] = ..., seed: _Optional[int] = ..., timeout_s: _Optional[int] = ..., dtype: _Optional[str] = ..., base: _Optional[str] = ..., output: _Optional[str] = ..., data: _Optional[_Iterable[_Union[DataSource, _Mapping]]] = ..., adapter: _Optional[_Union[Adapter, _Mapping]] = ..., duration: _Optional[_Union[Duration, _Mapping]] = ..., optimizer: _Optional[_Union[OptimizerOptions, _Mapping]] = ..., batch: _Optional[_Union[BatchOptions, _Mapping]] = ..., checkpoint: _Optional[_Union[CheckpointOptions, _Mapping]] = ..., held_out: _Optional[_Union[HeldOut, _Mapping]] = ..., averaging: _Optional[_Union[Averaging, _Mapping]] = ..., memory: _Optional[_Union[MemoryOptions, _Mapping]] = ..., trackers: _Optional[_Iterable[str]] = ..., then: _Optional[_Union[Then, _Mapping]] = ..., template: _Optional[_Union[TrainTemplate, _Mapping]] = ..., loss_on: _Optional[str] = ...) -> None: ...

class SftSpec(_message.Message):
    __slots__ = ("display_name", "seed", "timeout_s", "dtype", "base", "output", "data", "adapter", "duration", "optimizer", "batch", "checkpoint", "held_out", "averaging", "memory", "trackers", "then", "template", "loss_on")
    DISPLAY_NAME_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_S_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    ADAPTER_FIELD_NUMBER: _ClassVar[int]
    DURATION_FIELD_NUMBER: _ClassVar[int]
    OPTIMIZER_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    HELD_OUT_FIELD_NUMBER: _ClassVar[int]
    AVERAGING_FIELD_NUMBER: _ClassVar[int]
    MEMORY_FIELD_NUMBER: _ClassVar[int]
    TRACKERS_FIELD_NUMBER: _ClassVar[int]
    THEN_FIELD_NUMBER: _ClassVar[int]
    TEMPLATE_FIELD_NUMBER: _ClassVar[int]
    LOSS_ON_FIELD_NUMBER: _ClassVar[int]
    display_name: str
    seed: int
    timeout_s: int
    dtype: str
    base: str
    output: str
    data: _containers.RepeatedCompositeFieldContainer[DataSource]
    adapter: Adapter
    duration: Duration
    optimizer: OptimizerOptions
    batch: BatchOptions
    checkpoint: CheckpointOptions
    held_out: HeldOut
    averaging: Averaging
    memory: MemoryOptions
    trackers: _containers.RepeatedScalarFieldContainer[str]
    then: Then
    template: TrainTemplate
    loss_on: str
    def __init__(self, display_name: _Optional[str] = ..., seed: _Optional[int] = ..., timeout_s: _Optional[int] = ..., dtype: _Optional[str] = ..., base: _Optional[str] = ..., output: _Optional[str] = ..., data: _Optional[_Iterable[_Union[DataSource, _Mapping]]] = ..., adapter: _Optional[_Union[Adapter, _Mapping]] = ..., duration: _Optional[_Union[Duration, _Mapping]] = ..., optimizer: _Optional[_Union[OptimizerOptions, _Mapping]] = ..., batch: _Optional[_Union[BatchOptions, _Mapping]] = ..., checkpoint: _Optional[_Union[CheckpointOptions, _Mapping]] = ..., held_out: _Optional[_Union[HeldOut, _Mapping]] = ..., averaging: _Optional[_Union[Averaging, _Mapping]] = ..., memory: _Optional[_Union[MemoryOptions, _Mapping]] = ..., trackers: _Optional[_Iterable[str]] = ..., then: _Optional[_Union[Then, _Mapping]] = ..., template: _Optional[_Union[TrainTemplate, _Mapping]] = ..., loss_on: _Optional[str] = ...) -> None: ...

class ToolUseSpec(_message.Message):
    __slots__ = ("display_name", "seed", "timeout_s", "dtype", "base", "output", "data", "adapter", "duration", "optimizer", "batch", "checkpoint", "held_out", "averaging", "memory", "trackers", "then", "template", "loss_on", "call_format", "on_bad_call", "require_tools")
    DISPLAY_NAME_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_S_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    ADAPTER_FIELD_NUMBER: _ClassVar[int]
    DURATION_FIELD_NUMBER: _ClassVar[int]
    OPTIMIZER_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    HELD_OUT_FIELD_NUMBER: _ClassVar[int]
    AVERAGING_FIELD_NUMBER: _ClassVar[int]
    MEMORY_FIELD_NUMBER: _ClassVar[int]
    TRACKERS_FIELD_NUMBER: _ClassVar[int]
    THEN_FIELD_NUMBER: _ClassVar[int]
    TEMPLATE_FIELD_NUMBER: _ClassVar[int]
    LOSS_ON_FIELD_NUMBER: _ClassVar[int]
    CALL_FORMAT_FIELD_NUMBER: _ClassVar[int]
    ON_BAD_CALL_FIELD_NUMBER: _ClassVar[int]
    REQUIRE_TOOLS_FIELD_NUMBER: _ClassVar[int]
    display_name: str
    seed: int
    timeout_s: int
    dtype: str
    base: str
    output: str
    data: _containers.RepeatedCompositeFieldContainer[DataSource]
    adapter: Adapter
    duration: Duration
    optimizer: OptimizerOptions
    batch: BatchOptions
    checkpoint: CheckpointOptions
    held_out: HeldOut
    averaging: Averaging
    memory: MemoryOptions
    trackers: _containers.RepeatedScalarFieldContainer[str]
    then: Then
    template: TrainTemplate
    loss_on: str
    call_format: str
    on_bad_call: str
    require_tools: bool
    def __init__(self, display_name: _Optional[str] = ..., seed: _Optional[int] = ..., timeout_s: _Optional[int] = ..., dtype: _Optional[str] = ..., base: _Optional[str] = ..., output: _Optional[str] = ..., data: _Optional[_Iterable[_Union[DataSource, _Mapping]]] = ..., adapter: _Optional[_Union[Adapter, _Mapping]] = ..., duration: _Optional[_Union[Duration, _Mapping]] = ..., optimizer: _Optional[_Union[OptimizerOptions, _Mapping]] = ..., batch: _Optional[_Union[BatchOptions, _Mapping]] = ..., checkpoint: _Optional[_Union[CheckpointOptions, _Mapping]] = ..., held_out: _Optional[_Union[HeldOut, _Mapping]] = ..., averaging: _Optional[_Union[Averaging, _Mapping]] = ..., memory: _Optional[_Union[MemoryOptions, _Mapping]] = ..., trackers: _Optional[_Iterable[str]] = ..., then: _Optional[_Union[Then, _Mapping]] = ..., template: _Optional[_Union[TrainTemplate, _Mapping]] = ..., loss_on: _Optional[str] = ..., call_format: _Optional[str] = ..., on_bad_call: _Optional[str] = ..., require_tools: _Optional[bool] = ...) -> None: ...

class DpoSigmoidLoss(_message.Message):
    __slots__ = ("beta",)
    BETA_FIELD_NUMBER: _ClassVar[int]
    beta: float
    def __init__(self, beta: _Optional[float] = ...) -> None: ...

class DpoHingeLoss(_message.Message):
    __slots__ = ("beta",)
    BETA_FIELD_NUMBER: _ClassVar[int]
    beta: float
    def __init__(self, beta: _Optional[float] = ...) -> None: ...

class DpoIpoLoss(_message.Message):
    __slots__ = ("beta",)
    BETA_FIELD_NUMBER: _ClassVar[int]
    beta: float
    def __init__(self, beta: _Optional[float] = ...) -> None: ...

class DpoRobustLoss(_message.Message):
    __slots__ = ("beta", "label_smoothing")
    BETA_FIELD_NUMBER: _ClassVar[int]
    LABEL_SMOOTHING_FIELD_NUMBER: _ClassVar[int]
    beta: float
    label_smoothing: float
    def __init__(self, beta: _Optional[float] = ..., label_smoothing: _Optional[float] = ...) -> None: ...

class DpoSigmoidNormLoss(_message.Message):
    __slots__ = ("beta",)
    BETA_FIELD_NUMBER: _ClassVar[int]
    beta: float
    def __init__(self, beta: _Optional[float] = ...) -> None: ...

class SimpoLoss(_message.Message):
    __slots__ = ("beta", "margin")
    BETA_FIELD_NUMBER: _ClassVar[int]
    MARGIN_FIELD_NUMBER: _ClassVar[int]
    beta: float
    margin: float
    def __init__(self, beta: _Optional[float] = ..., margin: _Optional[float] = ...) -> None: ...

class OrpoLoss(_message.Message):
    __slots__ = ("beta",)
    BETA_FIELD_NUMBER: _ClassVar[int]
    beta: float
    def __init__(self, beta: _Optional[float] = ...) -> None: ...

class KtoLoss(_message.Message):
    __slots__ = ("beta", "desirable_weight", "undesirable_weight")
    BETA_FIELD_NUMBER: _ClassVar[int]
    DESIRABLE_WEIGHT_FIELD_NUMBER: _ClassVar[int]
    UNDESIRABLE_WEIGHT_FIELD_NUMBER: _ClassVar[int]
    beta: float
    desirable_weight: float
    undesirable_weight: float
    def __init__(self, beta: _Optional[float] = ..., desirable_weight: _Optional[float] = ..., undesirable_weight: _Optional[float] = ...) -> None: ...

class DpoLoss(_message.Message):
    __slots__ = ("sigmoid", "hinge", "ipo", "robust", "sigmoid_norm", "simpo", "orpo", "kto")
    SIGMOID_FIELD_NUMBER: _ClassVar[int]
    HINGE_FIELD_NUMBER: _ClassVar[int]
    IPO_FIELD_NUMBER: _ClassVar[int]
    ROBUST_FIELD_NUMBER: _ClassVar[int]
    SIGMOID_NORM_FIELD_NUMBER: _ClassVar[int]
    SIMPO_FIELD_NUMBER: _ClassVar[int]
    ORPO_FIELD_NUMBER: _ClassVar[int]
    KTO_FIELD_NUMBER: _ClassVar[int]
    sigmoid: DpoSigmoidLoss
    hinge: DpoHingeLoss
    ipo: DpoIpoLoss
    robust: DpoRobustLoss
    sigmoid_norm: DpoSigmoidNormLoss
    simpo: SimpoLoss
    orpo: OrpoLoss
    kto: KtoLoss
    def __init__(self, sigmoid: _Optional[_Union[DpoSigmoidLoss, _Mapping]] = ..., hinge: _Optional[_Union[DpoHingeLoss, _Mapping]] = ..., ipo: _Optional[_Union[DpoIpoLoss, _Mapping]] = ..., robust: _Optional[_Union[DpoRobustLoss, _Mapping]] = ..., sigmoid_norm: _Optional[_Union[DpoSigmoidNormLoss, _Mapping]] = ..., simpo: _Optional[_Union[SimpoLoss, _Mapping]] = ..., orpo: _Optional[_Union[OrpoLoss, _Mapping]] = ..., kto: _Optional[_Union[KtoLoss, _Mapping]] = ...) -> None: ...

class DpoSpec(_message.Message):
    __slots__ = ("display_name", "seed", "timeout_s", "dtype", "base", "output", "data", "adapter", "duration", "optimizer", "batch", "checkpoint", "held_out", "averaging", "memory", "trackers", "then", "template", "loss", "reference", "nll_weight")
    DISPLAY_NAME_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_S_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    ADAPTER_FIELD_NUMBER: _ClassVar[int]
    DURATION_FIELD_NUMBER: _ClassVar[int]
    OPTIMIZER_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    HELD_OUT_FIELD_NUMBER: _ClassVar[int]
    AVERAGING_FIELD_NUMBER: _ClassVar[int]
    MEMORY_FIELD_NUMBER: _ClassVar[int]
    TRACKERS_FIELD_NUMBER: _ClassVar[int]
    THEN_FIELD_NUMBER: _ClassVar[int]
    TEMPLATE_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    REFERENCE_FIELD_NUMBER: _ClassVar[int]
    NLL_WEIGHT_FIELD_NUMBER: _ClassVar[int]
    display_name: str
    seed: int
    timeout_s: int
    dtype: str
    base: str
    output: str
    data: _containers.RepeatedCompositeFieldContainer[DataSource]
    adapter: Adapter
    duration: Duration
    optimizer: OptimizerOptions
    batch: BatchOptions
    checkpoint: CheckpointOptions
    held_out: HeldOut
    averaging: Averaging
    memory: MemoryOptions
    trackers: _containers.RepeatedScalarFieldContainer[str]
    then: Then
    template: TrainTemplate
    loss: DpoLoss
    reference: str
    nll_weight: float
    def __init__(self, display_name: _Optional[str] = ..., seed: _Optional[int] = ..., timeout_s: _Optional[int] = ..., dtype: _Optional[str] = ..., base: _Optional[str] = ..., output: _Optional[str] = ..., data: _Optional[_Iterable[_Union[DataSource, _Mapping]]] = ..., adapter: _Optional[_Union[Adapter, _Mapping]] = ..., duration: _Optional[_Union[Duration, _Mapping]] = ..., optimizer: _Optional[_Union[OptimizerOptions, _Mapping]] = ..., batch: _Optional[_Union[BatchOptions, _Mapping]] = ..., checkpoint: _Optional[_Union[CheckpointOptions, _Mapping]] = ..., held_out: _Optional[_Union[HeldOut, _Mapping]] = ..., averaging: _Optional[_Union[Averaging, _Mapping]] = ..., memory: _Optional[_Union[MemoryOptions, _Mapping]] = ..., trackers: _Optional[_Iterable[str]] = ..., then: _Optional[_Union[Then, _Mapping]] = ..., template: _Optional[_Union[TrainTemplate, _Mapping]] = ..., loss: _Optional[_Union[DpoLoss, _Mapping]] = ..., reference: _Optional[str] = ..., nll_weight: _Optional[float] = ...) -> None: ...

class RewardSpec(_message.Message):
    __slots__ = ("display_name", "seed", "timeout_s", "dtype", "base", "output", "data", "adapter", "duration", "optimizer", "batch", "checkpoint", "held_out", "averaging", "memory", "trackers", "template", "centring")
    DISPLAY_NAME_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_S_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    ADAPTER_FIELD_NUMBER: _ClassVar[int]
    DURATION_FIELD_NUMBER: _ClassVar[int]
    OPTIMIZER_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    HELD_OUT_FIELD_NUMBER: _ClassVar[int]
    AVERAGING_FIELD_NUMBER: _ClassVar[int]
    MEMORY_FIELD_NUMBER: _ClassVar[int]
    TRACKERS_FIELD_NUMBER: _ClassVar[int]
    TEMPLATE_FIELD_NUMBER: _ClassVar[int]
    CENTRING_FIELD_NUMBER: _ClassVar[int]
    display_name: str
    seed: int
    timeout_s: int
    dtype: str
    base: str
    output: str
    data: _containers.RepeatedCompositeFieldContainer[DataSource]
    adapter: Adapter
    duration: Duration
    optimizer: OptimizerOptions
    batch: BatchOptions
    checkpoint: CheckpointOptions
    held_out: HeldOut
    averaging: Averaging
    memory: MemoryOptions
    trackers: _containers.RepeatedScalarFieldContainer[str]
    template: TrainTemplate
    centring: float
    def __init__(self, display_name: _Optional[str] = ..., seed: _Optional[int] = ..., timeout_s: _Optional[int] = ..., dtype: _Optional[str] = ..., base: _Optional[str] = ..., output: _Optional[str] = ..., data: _Optional[_Iterable[_Union[DataSource, _Mapping]]] = ..., adapter: _Optional[_Union[Adapter, _Mapping]] = ..., duration: _Optional[_Union[Duration, _Mapping]] = ..., optimizer: _Optional[_Union[OptimizerOptions, _Mapping]] = ..., batch: _Optional[_Union[BatchOptions, _Mapping]] = ..., checkpoint: _Optional[_Union[CheckpointOptions, _Mapping]] = ..., held_out: _Optional[_Union[HeldOut, _Mapping]] = ..., averaging: _Optional[_Union[Averaging, _Mapping]] = ..., memory: _Optional[_Union[MemoryOptions, _Mapping]] = ..., trackers: _Optional[_Iterable[str]] = ..., template: _Optional[_Union[TrainTemplate, _Mapping]] = ..., centring: _Optional[float] = ...) -> None: ...

class RolloutOptions(_message.Message):
    __slots__ = ("num_completions", "max_new_tokens", "temperature", "top_p", "top_k", "min_p", "batch_rows", "num_samples", "max_resamples")
    NUM_COMPLETIONS_FIELD_NUMBER: _ClassVar[int]
    MAX_NEW_TOKENS_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    TOP_P_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    MIN_P_FIELD_NUMBER: _ClassVar[int]
    BATCH_ROWS_FIELD_NUMBER: _ClassVar[int]
    NUM_SAMPLES_FIELD_NUMBER: _ClassVar[int]
    MAX_RESAMPLES_FIELD_NUMBER: _ClassVar[int]
    num_completions: int
    max_new_tokens: int
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    batch_rows: int
    num_samples: int
    max_resamples: int
    def __init__(self, num_completions: _Optional[int] = ..., max_new_tokens: _Optional[int] = ..., temperature: _Optional[float] = ..., top_p: _Optional[float] = ..., top_k: _Optional[int] = ..., min_p: _Optional[float] = ..., batch_rows: _Optional[int] = ..., num_samples: _Optional[int] = ..., max_resamples: _Optional[int] = ...) -> None: ...

class UpdateOptions(_message.Message):
    __slots__ = ("num_minibatches", "num_epochs", "truncated_importance", "max_logp_difference", "mask_truncated")
    NUM_MINIBATCHES_FIELD_NUMBER: _ClassVar[int]
    NUM_EPOCHS_FIELD_NUMBER: _ClassVar[int]
    TRUNCATED_IMPORTANCE_FIELD_NUMBER: _ClassVar[int]
    MAX_LOGP_DIFFERENCE_FIELD_NUMBER: _ClassVar[int]
    MASK_TRUNCATED_FIELD_NUMBER: _ClassVar[int]
    num_minibatches: int
    num_epochs: int
    truncated_importance: float
    max_logp_difference: float
    mask_truncated: bool
    def __init__(self, num_minibatches: _Optional[int] = ..., num_epochs: _Optional[int] = ..., truncated_importance: _Optional[float] = ..., max_logp_difference: _Optional[float] = ..., mask_truncated: _Optional[bool] = ...) -> None: ...

class CheckerReward(_message.Message):
    __slots__ = ("weight",)
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    weight: float
    def __init__(self, weight: _Optional[float] = ...) -> None: ...

class RegexReward(_message.Message):
    __slots__ = ("weight", "pattern")
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    PATTERN_FIELD_NUMBER: _ClassVar[int]
    weight: float
    pattern: str
    def __init__(self, weight: _Optional[float] = ..., pattern: _Optional[str] = ...) -> None: ...

class OverlongReward(_message.Message):
    __slots__ = ("weight", "buffer_tokens")
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    BUFFER_TOKENS_FIELD_NUMBER: _ClassVar[int]
    weight: float
    buffer_tokens: int
    def __init__(self, weight: _Optional[float] = ..., buffer_tokens: _Optional[int] = ...) -> None: ...

class ModelReward(_message.Message):
    __slots__ = ("weight", "model")
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    weight: float
    model: str
    def __init__(self, weight: _Optional[float] = ..., model: _Optional[str] = ...) -> None: ...

class LengthReward(_message.Message):
    __slots__ = ("weight", "unit", "low", "high", "falloff")
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    LOW_FIELD_NUMBER: _ClassVar[int]
    HIGH_FIELD_NUMBER: _ClassVar[int]
    FALLOFF_FIELD_NUMBER: _ClassVar[int]
    weight: float
    unit: str
    low: int
    high: int
    falloff: int
    def __init__(self, weight: _Optional[float] = ..., unit: _Optional[str] = ..., low: _Optional[int] = ..., high: _Optional[int] = ..., falloff: _Optional[int] = ...) -> None: ...

class PythonReward(_message.Message):
    __slots__ = ("weight", "function")
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    FUNCTION_FIELD_NUMBER: _ClassVar[int]
    weight: float
    function: str
    def __init__(self, weight: _Optional[float] = ..., function: _Optional[str] = ...) -> None: ...

class RewardPart(_message.Message):
    __slots__ = ("checker", "regex", "overlong", "model", "length", "python")
    CHECKER_FIELD_NUMBER: _ClassVar[int]
    REGEX_FIELD_NUMBER: _ClassVar[int]
    OVERLONG_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    PYTHON_FIELD_NUMBER: _ClassVar[int]
    checker: CheckerReward
    regex: RegexReward
    overlong: OverlongReward
    model: ModelReward
    length: LengthReward
    python: PythonReward
    def __init__(self, checker: _Optional[_Union[CheckerReward, _Mapping]] = ..., regex: _Optional[_Union[RegexReward, _Mapping]] = ..., overlong: _Optional[_Union[OverlongReward, _Mapping]] = ..., model: _Optional[_Union[ModelReward, _Mapping]] = ..., length: _Optional[_Union[LengthReward, _Mapping]] = ..., python: _Optional[_Union[PythonReward, _Mapping]] = ...) -> None: ...

class GrpoLoss(_message.Message):
    __slots__ = ("clip_low", "clip_high")
    CLIP_LOW_FIELD_NUMBER: _ClassVar[int]
    CLIP_HIGH_FIELD_NUMBER: _ClassVar[int]
    clip_low: float
    clip_high: float
    def __init__(self, clip_low: _Optional[float] = ..., clip_high: _Optional[float] = ...) -> None: ...

class DrGrpoLoss(_message.Message):
    __slots__ = ("clip_low", "clip_high")
    CLIP_LOW_FIELD_NUMBER: _ClassVar[int]
    CLIP_HIGH_FIELD_NUMBER: _ClassVar[int]
    clip_low: float
    clip_high: float
    def __init__(self, clip_low: _Optional[float] = ..., clip_high: _Optional[float] = ...) -> None: ...

class DapoLoss(_message.Message):
    __slots__ = ("clip_low", "clip_high")
    CLIP_LOW_FIELD_NUMBER: _ClassVar[int]
    CLIP_HIGH_FIELD_NUMBER: _ClassVar[int]
    clip_low: float
    clip_high: float
    def __init__(self, clip_low: _Optional[float] = ..., clip_high: _Optional[float] = ...) -> None: ...

class GspoLoss(_message.Message):
    __slots__ = ("clip_low", "clip_high")
    CLIP_LOW_FIELD_NUMBER: _ClassVar[int]
    CLIP_HIGH_FIELD_NUMBER: _ClassVar[int]
    clip_low: float
    clip_high: float
    def __init__(self, clip_low: _Optional[float] = ..., clip_high: _Optional[float] = ...) -> None: ...

class RlooLoss(_message.Message):
    __slots__ = ("clip_low", "clip_high")
    CLIP_LOW_FIELD_NUMBER: _ClassVar[int]
    CLIP_HIGH_FIELD_NUMBER: _ClassVar[int]
    clip_low: float
    clip_high: float
    def __init__(self, clip_low: _Optional[float] = ..., clip_high: _Optional[float] = ...) -> None: ...

class PolicyLoss(_message.Message):
    __slots__ = ("grpo", "dr_grpo", "dapo", "gspo", "rloo")
    GRPO_FIELD_NUMBER: _ClassVar[int]
    DR_GRPO_FIELD_NUMBER: _ClassVar[int]
    DAPO_FIELD_NUMBER: _ClassVar[int]
    GSPO_FIELD_NUMBER: _ClassVar[int]
    RLOO_FIELD_NUMBER: _ClassVar[int]
    grpo: GrpoLoss
    dr_grpo: DrGrpoLoss
    dapo: DapoLoss
    gspo: GspoLoss
    rloo: RlooLoss
    def __init__(self, grpo: _Optional[_Union[GrpoLoss, _Mapping]] = ..., dr_grpo: _Optional[_Union[DrGrpoLoss, _Mapping]] = ..., dapo: _Optional[_Union[DapoLoss, _Mapping]] = ..., gspo: _Optional[_Union[GspoLoss, _Mapping]] = ..., rloo: _Optional[_Union[RlooLoss, _Mapping]] = ...) -> None: ...

class NoEnvironment(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ToolEnvironment(_message.Message):
    __slots__ = ("tools", "max_turns", "max_result_tokens", "on_bad_call", "timeout_s")
    TOOLS_FIELD_NUMBER: _ClassVar[int]
    MAX_TURNS_FIELD_NUMBER: _ClassVar[int]
    MAX_RESULT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    ON_BAD_CALL_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_S_FIELD_NUMBER: _ClassVar[int]
    tools: _containers.RepeatedScalarFieldContainer[str]
    max_turns: int
    max_result_tokens: int
    on_bad_call: str
    timeout_s: float
    def __init__(self, tools: _Optional[_Iterable[str]] = ..., max_turns: _Optional[int] = ..., max_result_tokens: _Optional[int] = ..., on_bad_call: _Optional[str] = ..., timeout_s: _Optional[float] = ...) -> None: ...

class Environment(_message.Message):
    __slots__ = ("none", "tools")
    NONE_FIELD_NUMBER: _ClassVar[int]
    TOOLS_FIELD_NUMBER: _ClassVar[int]
    none: NoEnvironment
    tools: ToolEnvironment
    def __init__(self, none: _Optional[_Union[NoEnvironment, _Mapping]] = ..., tools: _Optional[_Union[ToolEnvironment, _Mapping]] = ...) -> None: ...

class GrpoSpec(_message.Message):
    __slots__ = ("display_name", "seed", "timeout_s", "dtype", "base", "output", "data", "adapter", "duration", "optimizer", "batch", "checkpoint", "held_out", "averaging", "memory", "trackers", "then", "template", "rewards", "max_failed_rewards", "rollout", "update", "environment", "loss", "beta", "kl_correction")
    DISPLAY_NAME_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_S_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    ADAPTER_FIELD_NUMBER: _ClassVar[int]
    DURATION_FIELD_NUMBER: _ClassVar[int]
    OPTIMIZER_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    HELD_OUT_FIELD_NUMBER: _ClassVar[int]
    AVERAGING_FIELD_NUMBER: _ClassVar[int]
    MEMORY_FIELD_NUMBER: _ClassVar[int]
    TRACKERS_FIELD_NUMBER: _ClassVar[int]
    THEN_FIELD_NUMBER: _ClassVar[int]
    TEMPLATE_FIELD_NUMBER: _ClassVar[int]
    REWARDS_FIELD_NUMBER: _ClassVar[int]
    MAX_FAILED_REWARDS_FIELD_NUMBER: _ClassVar[int]
    ROLLOUT_FIELD_NUMBER: _ClassVar[int]
    UPDATE_FIELD_NUMBER: _ClassVar[int]
    ENVIRONMENT_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    BETA_FIELD_NUMBER: _ClassVar[int]
    KL_CORRECTION_FIELD_NUMBER: _ClassVar[int]
    display_name: str
    seed: int
    timeout_s: int
    dtype: str
    base: str
    output: str
    data: _containers.RepeatedCompositeFieldContainer[DataSource]
    adapter: Adapter
    duration: Duration
    optimizer: OptimizerOptions
    batch: BatchOptions
    checkpoint: CheckpointOptions
    held_out: HeldOut
    averaging: Averaging
    memory: MemoryOptions
    trackers: _containers.RepeatedScalarFieldContainer[str]
    then: Then
    template: TrainTemplate
    rewards: _containers.RepeatedCompositeFieldContainer[RewardPart]
    max_failed_rewards: float
    rollout: RolloutOptions
    update: UpdateOptions
    environment: Environment
    loss: PolicyLoss
    beta: float
    kl_correction: bool
    def __init__(self, display_name: _Optional[str] = ..., seed: _Optional[int] = ..., timeout_s: _Optional[int] = ..., dtype: _Optional[str] = ..., base: _Optional[str] = ..., output: _Optional[str] = ..., data: _Optional[_Iterable[_Union[DataSource, _Mapping]]] = ..., adapter: _Optional[_Union[Adapter, _Mapping]] = ..., duration: _Optional[_Union[Duration, _Mapping]] = ..., optimizer: _Optional[_Union[OptimizerOptions, _Mapping]] = ..., batch: _Optional[_Union[BatchOptions, _Mapping]] = ..., checkpoint: _Optional[_Union[CheckpointOptions, _Mapping]] = ..., held_out: _Optional[_Union[HeldOut, _Mapping]] = ..., averaging: _Optional[_Union[Averaging, _Mapping]] = ..., memory: _Optional[_Union[MemoryOptions, _Mapping]] = ..., trackers: _Optional[_Iterable[str]] = ..., then: _Optional[_Union[Then, _Mapping]] = ..., template: _Optional[_Union[TrainTemplate, _Mapping]] = ..., rewards: _Optional[_Iterable[_Union[RewardPart, _Mapping]]] = ..., max_failed_rewards: _Optional[float] = ..., rollout: _Optional[_Union[RolloutOptions, _Mapping]] = ..., update: _Optional[_Union[UpdateOptions, _Mapping]] = ..., environment: _Optional[_Union[Environment, _Mapping]] = ..., loss: _Optional[_Union[PolicyLoss, _Mapping]] = ..., beta: _Optional[float] = ..., kl_correction: _Optional[bool] = ...) -> None: ...

class CompletionOptions(_message.Message):
    __slots__ = ("num_completions", "max_new_tokens", "temperature", "top_p", "top_k", "min_p", "batch_rows", "num_samples")
    NUM_COMPLETIONS_FIELD_NUMBER: _ClassVar[int]
    MAX_NEW_TOKENS_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    TOP_P_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    MIN_P_FIELD_NUMBER: _ClassVar[int]
    BATCH_ROWS_FIELD_NUMBER: _ClassVar[int]
    NUM_SAMPLES_FIELD_NUMBER: _ClassVar[int]
    num_completions: int
    max_new_tokens: int
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    batch_rows: int
    num_samples: int
    def __init__(self, num_completions: _Optional[int] = ..., max_new_tokens: _Optional[int] = ..., temperature: _Optional[float] = ..., top_p: _Optional[float] = ..., top_k: _Optional[int] = ..., min_p: _Optional[float] = ..., batch_rows: _Optional[int] = ..., num_samples: _Optional[int] = ...) -> None: ...

class PpoUpdateOptions(_message.Message):
    __slots__ = ("num_minibatches", "num_epochs", "truncated_importance", "max_logp_difference", "max_kl")
    NUM_MINIBATCHES_FIELD_NUMBER: _ClassVar[int]
    NUM_EPOCHS_FIELD_NUMBER: _ClassVar[int]
    TRUNCATED_IMPORTANCE_FIELD_NUMBER: _ClassVar[int]
    MAX_LOGP_DIFFERENCE_FIELD_NUMBER: _ClassVar[int]
    MAX_KL_FIELD_NUMBER: _ClassVar[int]
    num_minibatches: int
    num_epochs: int
    truncated_importance: float
    max_logp_difference: float
    max_kl: float
    def __init__(self, num_minibatches: _Optional[int] = ..., num_epochs: _Optional[int] = ..., truncated_importance: _Optional[float] = ..., max_logp_difference: _Optional[float] = ..., max_kl: _Optional[float] = ...) -> None: ...

class PpoLossOptions(_message.Message):
    __slots__ = ("clip_low", "clip_high", "dual_clip", "entropy_weight")
    CLIP_LOW_FIELD_NUMBER: _ClassVar[int]
    CLIP_HIGH_FIELD_NUMBER: _ClassVar[int]
    DUAL_CLIP_FIELD_NUMBER: _ClassVar[int]
    ENTROPY_WEIGHT_FIELD_NUMBER: _ClassVar[int]
    clip_low: float
    clip_high: float
    dual_clip: float
    entropy_weight: float
    def __init__(self, clip_low: _Optional[float] = ..., clip_high: _Optional[float] = ..., dual_clip: _Optional[float] = ..., entropy_weight: _Optional[float] = ...) -> None: ...

class FixedKl(_message.Message):
    __slots__ = ("coefficient", "estimator")
    COEFFICIENT_FIELD_NUMBER: _ClassVar[int]
    ESTIMATOR_FIELD_NUMBER: _ClassVar[int]
    coefficient: float
    estimator: str
    def __init__(self, coefficient: _Optional[float] = ..., estimator: _Optional[str] = ...) -> None: ...

class AdaptiveKl(_message.Message):
    __slots__ = ("coefficient", "estimator", "target", "gain")
    COEFFICIENT_FIELD_NUMBER: _ClassVar[int]
    ESTIMATOR_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    GAIN_FIELD_NUMBER: _ClassVar[int]
    coefficient: float
    estimator: str
    target: float
    gain: float
    def __init__(self, coefficient: _Optional[float] = ..., estimator: _Optional[str] = ..., target: _Optional[float] = ..., gain: _Optional[float] = ...) -> None: ...

class KlPenalty(_message.Message):
    __slots__ = ("fixed", "adaptive")
    FIXED_FIELD_NUMBER: _ClassVar[int]
    ADAPTIVE_FIELD_NUMBER: _ClassVar[int]
    fixed: FixedKl
    adaptive: AdaptiveKl
    def __init__(self, fixed: _Optional[_Union[FixedKl, _Mapping]] = ..., adaptive: _Optional[_Union[AdaptiveKl, _Mapping]] = ...) -> None: ...

class ScoreOptions(_message.Message):
    __slots__ = ("whiten", "clip", "missing_stop_penalty")
    WHITEN_FIELD_NUMBER: _ClassVar[int]
    CLIP_FIELD_NUMBER: _ClassVar[int]
    MISSING_STOP_PENALTY_FIELD_NUMBER: _ClassVar[int]
    whiten: bool
    clip: float
    missing_stop_penalty: float
    def __init__(self, whiten: _Optional[bool] = ..., clip: _Optional[float] = ..., missing_stop_penalty: _Optional[float] = ...) -> None: ...

class AdvantageOptions(_message.Message):
    __slots__ = ("gamma", "lam", "whiten")
    GAMMA_FIELD_NUMBER: _ClassVar[int]
    LAM_FIELD_NUMBER: _ClassVar[int]
    WHITEN_FIELD_NUMBER: _ClassVar[int]
    gamma: float
    lam: float
    whiten: bool
    def __init__(self, gamma: _Optional[float] = ..., lam: _Optional[float] = ..., whiten: _Optional[bool] = ...) -> None: ...

class ValueOptions(_message.Message):
    __slots__ = ("learning_rate", "clip")
    LEARNING_RATE_FIELD_NUMBER: _ClassVar[int]
    CLIP_FIELD_NUMBER: _ClassVar[int]
    learning_rate: float
    clip: float
    def __init__(self, learning_rate: _Optional[float] = ..., clip: _Optional[float] = ...) -> None: ...

class PpoSpec(_message.Message):
    __slots__ = ("display_name", "seed", "timeout_s", "dtype", "base", "output", "data", "adapter", "duration", "optimizer", "batch", "checkpoint", "held_out", "averaging", "memory", "trackers", "then", "template", "rewards", "max_failed_rewards", "rollout", "update", "environment", "loss", "kl", "score", "advantage", "value")
    DISPLAY_NAME_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_S_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    ADAPTER_FIELD_NUMBER: _ClassVar[int]
    DURATION_FIELD_NUMBER: _ClassVar[int]
    OPTIMIZER_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    HELD_OUT_FIELD_NUMBER: _ClassVar[int]
    AVERAGING_FIELD_NUMBER: _ClassVar[int]
    MEMORY_FIELD_NUMBER: _ClassVar[int]
    TRACKERS_FIELD_NUMBER: _ClassVar[int]
    THEN_FIELD_NUMBER: _ClassVar[int]
    TEMPLATE_FIELD_NUMBER: _ClassVar[int]
    REWARDS_FIELD_NUMBER: _ClassVar[int]
    MAX_FAILED_REWARDS_FIELD_NUMBER: _ClassVar[int]
    ROLLOUT_FIELD_NUMBER: _ClassVar[int]
    UPDATE_FIELD_NUMBER: _ClassVar[int]
    ENVIRONMENT_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    KL_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    ADVANTAGE_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    display_name: str
    seed: int
    timeout_s: int
    dtype: str
    base: str
    output: str
    data: _containers.RepeatedCompositeFieldContainer[DataSource]
    adapter: Adapter
    duration: Duration
    optimizer: OptimizerOptions
    batch: BatchOptions
    checkpoint: CheckpointOptions
    held_out: HeldOut
    averaging: Averaging
    memory: MemoryOptions
    trackers: _containers.RepeatedScalarFieldContainer[str]
    then: Then
    template: TrainTemplate
    rewards: _containers.RepeatedCompositeFieldContainer[RewardPart]
    max_failed_rewards: float
    rollout: CompletionOptions
    update: PpoUpdateOptions
    environment: Environment
    loss: PpoLossOptions
    kl: KlPenalty
    score: ScoreOptions
    advantage: AdvantageOptions
    value: ValueOptions
    def __init__(self, display_name: _Optional[str] = ..., seed: _Optional[int] = ..., timeout_s: _Optional[int] = ..., dtype: _Optional[str] = ..., base: _Optional[str] = ..., output: _Optional[str] = ..., data: _Optional[_Iterable[_Union[DataSource, _Mapping]]] = ..., adapter: _Optional[_Union[Adapter, _Mapping]] = ..., duration: _Optional[_Union[Duration, _Mapping]] = ..., optimizer: _Optional[_Union[OptimizerOptions, _Mapping]] = ..., batch: _Optional[_Union[BatchOptions, _Mapping]] = ..., checkpoint: _Optional[_Union[CheckpointOptions, _Mapping]] = ..., held_out: _Optional[_Union[HeldOut, _Mapping]] = ..., averaging: _Optional[_Union[Averaging, _Mapping]] = ..., memory: _Optional[_Union[MemoryOptions, _Mapping]] = ..., trackers: _Optional[_Iterable[str]] = ..., then: _Optional[_Union[Then, _Mapping]] = ..., template: _Optional[_Union[TrainTemplate, _Mapping]] = ..., rewards: _Optional[_Iterable[_Union[RewardPart, _Mapping]]] = ..., max_failed_rewards: _Optional[float] = ..., rollout: _Optional[_Union[CompletionOptions, _Mapping]] = ..., update: _Optional[_Union[PpoUpdateOptions, _Mapping]] = ..., environment: _Optional[_Union[Environment, _Mapping]] = ..., loss: _Optional[_Union[PpoLossOptions, _Mapping]] = ..., kl: _Optional[_Union[KlPenalty, _Mapping]] = ..., score: _Optional[_Union[ScoreOptions, _Mapping]] = ..., advantage: _Optional[_Union[AdvantageOptions, _Mapping]] = ..., value: _Optional[_Union[ValueOptions, _Mapping]] = ...) -> None: ...

class OwnEvalTemplate(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class VersionEvalTemplate(_message.Message):
    __slots__ = ("version",)
    VERSION_FIELD_NUMBER: _ClassVar[int]
    version: str
    def __init__(self, version: _Optional[str] = ...) -> None: ...

class PlainEvalTemplate(_message.Message):
    __slots__ = ("num_shots",)
    NUM_SHOTS_FIELD_NUMBER: _ClassVar[int]
    num_shots: int
    def __init__(self, num_shots: _Optional[int] = ...) -> None: ...

class EvalTemplate(_message.Message):
    __slots__ = ("own", "version", "plain")
    OWN_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PLAIN_FIELD_NUMBER: _ClassVar[int]
    own: OwnEvalTemplate
    version: VersionEvalTemplate
    plain: PlainEvalTemplate
    def __init__(self, own: _Optional[_Union[OwnEvalTemplate, _Mapping]] = ..., version: _Optional[_Union[VersionEvalTemplate, _Mapping]] = ..., plain: _Optional[_Union[PlainEvalTemplate, _Mapping]] = ...) -> None: ...

class EvaluateSpec(_message.Message):
    __slots__ = ("display_name", "seed", "timeout_s", "dtype", "version", "suites", "template", "shard", "max_rows", "max_new_tokens", "batch_rows", "repeat")
    DISPLAY_NAME_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_S_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SUITES_FIELD_NUMBER: _ClassVar[int]
    TEMPLATE_FIELD_NUMBER: _ClassVar[int]
    SHARD_FIELD_NUMBER: _ClassVar[int]
    MAX_ROWS_FIELD_NUMBER: _ClassVar[int]
    MAX_NEW_TOKENS_FIELD_NUMBER: _ClassVar[int]
    BATCH_ROWS_FIELD_NUMBER: _ClassVar[int]
    REPEAT_FIELD_NUMBER: _ClassVar[int]
    display_name: str
    seed: int
    timeout_s: int
    dtype: str
    version: str
    suites: _containers.RepeatedScalarFieldContainer[str]
    template: EvalTemplate
    shard: str
    max_rows: int
    max_new_tokens: int
    batch_rows: int
    repeat: bool
    def __init__(self, display_name: _Optional[str] = ..., seed: _Optional[int] = ..., timeout_s: _Optional[int] = ..., dtype: _Optional[str] = ..., version: _Optional[str] = ..., suites: _Optional[_Iterable[str]] = ..., template: _Optional[_Union[EvalTemplate, _Mapping]] = ..., shard: _Optional[str] = ..., max_rows: _Optional[int] = ..., max_new_tokens: _Optional[int] = ..., batch_rows: _Optional[int] = ..., repeat: _Optional[bool] = ...) -> None: ...
