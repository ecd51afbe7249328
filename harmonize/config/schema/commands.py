"""What each command's configuration holds: one dataclass a command, made of groups and keys of its own."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from harmonize.config.schema.groups import (
    DatasetConfig,
    LoggerConfig,
    MethodConfig,
    ModelConfig,
    PathsConfig,
    PeftConfig,
    SamplerConfig,
    SequenceConfig,
    StatisticsConfig,
    SuiteConfig,
    TeacherConfig,
    TrainerConfig,
)


@dataclass
class UnlearnConfig:
    """Everything of `harmonize unlearn` and `harmonize sequence`.

    split: Whose figures the run reports. A trial of a tuning sweep reports val, so that test stays unseen.
    assistant: A model that is trained in the place of the target; empty = none.
    guard: What stands around the model when it is measured, val looks included, and exported; empty = nothing.
    """

    seed: int = 0
    study: str = "default"
    job: str | None = None
    resume: bool = False
    overwrite: bool = False
    split: str = "test"
    save_model: bool = True
    allow: list[str] = field(default_factory=list)
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    sequence: SequenceConfig = field(default_factory=SequenceConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    peft: PeftConfig = field(default_factory=PeftConfig)
    assistant: dict[str, Any] = field(default_factory=dict)
    guard: dict[str, Any] = field(default_factory=dict)
    method: MethodConfig = field(default_factory=MethodConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    gradient: dict[str, Any] = field(default_factory=dict)
    controller: dict[str, Any] = field(default_factory=dict)
    weighter: dict[str, Any] = field(default_factory=dict)
    statistics: StatisticsConfig = field(default_factory=StatisticsConfig)
    edit: dict[str, Any] = field(default_factory=dict)
    repair: dict[str, Any] = field(default_factory=dict)
    optimizer: dict[str, Any] = field(default_factory=dict)
    scheduler: dict[str, Any] = field(default_factory=dict)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    callbacks: dict[str, Any] = field(default_factory=dict)
    suite: SuiteConfig = field(default_factory=SuiteConfig)
    attack: dict[str, Any] = field(default_factory=dict)
    logger: LoggerConfig = field(default_factory=LoggerConfig)
    paths: PathsConfig = field(default_factory=PathsConfig)


@dataclass
class EvaluateConfig:
    """Everything of `harmonize evaluate`: any checkpoint, any data set, any suite.

    instructed: Measure the model under the teacher's instruction.
    target: The untouched model (a folder, `hf:owner/name`, `sandbox:target`), measured beside; an attack proves
        nothing where it fails on that one. null = none.
    cache: Read the evaluation of the same model, suite, attacks, data and code where there is one; keep this one, and
        go on with one that was stopped. false does none of it.
    guard: What stands around the model; empty = nothing, or what its folder brings (guard.json).
    backend: What generates the model's answers: torch, or vllm (extra `vllm`, a GPU; no guards). Probabilities, and
        models that an attack changed, are torch's all the same; so are target and model.gold.
    backend_memory: Share of the GPU's memory that vllm may take.
    """

    seed: int = 0
    study: str = "default"
    job: str | None = None
    overwrite: bool = False
    resume: bool = False
    split: str = "test"
    instructed: bool = False
    backend: str = "torch"
    backend_memory: float = 0.5
    target: str | None = None
    cache: bool = True
    allow: list[str] = field(default_factory=list)
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    sequence: SequenceConfig = field(default_factory=SequenceConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    guard: dict[str, Any] = field(default_factory=dict)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    suite: SuiteConfig = field(default_factory=SuiteConfig)
    attack: dict[str, Any] = field(default_factory=dict)
    logger: LoggerConfig = field(default_factory=LoggerConfig)
    paths: PathsConfig = field(default_factory=PathsConfig)


class DiagnoseLoss(Enum):
    """Which loss's gradients are compared: of each row's own response, of its scored value alone, or the method's."""

    nll = "nll"
    value = "value"
    method = "method"


@dataclass
class DiagnoseConfig:
    """Everything of `harmonize diagnose`: do the roles' gradients agree, and how far apart are the roles?

    compare: The same data in another form, shown beside it: another `dataset.rendering`, or for data sets without one
        another `dataset.root` (such as a folder of `harmonize prepare`).
    loss: nll (of each row's own response), value (of the scored part of it alone, which leaves out the words that all
        answers share), or method (the configured method's weighted objectives, with its teacher).
    rows, share: A draw takes at most so many rows of each role, and at most this share of them.
    draws: Draws; figures are means and standard deviations over them.
    batch_rows: Rows of one forward and backward pass.
    gradient, controller, edit, peft, assistant, guard: Not read, nor are terms on weights; a method may choose an
        option of them.
    """

    seed: int = 0
    study: str = "diagnose"
    job: str | None = None
    resume: bool = False
    overwrite: bool = False
    compare: str | None = None
    loss: DiagnoseLoss = DiagnoseLoss.nll
    rows: int = 128
    share: float = 0.8
    draws: int = 5
    batch_rows: int = 32
    allow: list[str] = field(default_factory=list)
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    gradient: dict[str, Any] = field(default_factory=dict)
    controller: dict[str, Any] = field(default_factory=dict)
    edit: dict[str, Any] = field(default_factory=dict)
    peft: dict[str, Any] = field(default_factory=dict)
    assistant: dict[str, Any] = field(default_factory=dict)
    guard: dict[str, Any] = field(default_factory=dict)
    method: MethodConfig = field(default_factory=MethodConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    paths: PathsConfig = field(default_factory=PathsConfig)


@dataclass
class FinetuneConfig:
    """Everything of `harmonize finetune`: makes a target, or with `gold=true` a gold model.

    from_scratch: Start from random weights of `architecture` (a transformers LlamaConfig mapping) and the
        data set's own tokenizer.
    batch_rows: Rows of one step. output: Folder for the model; null = the run's model/ folder.
    """

    seed: int = 0
    study: str = "finetune"
    job: str | None = None
    resume: bool = False
    overwrite: bool = False
    gold: bool = False
    from_scratch: bool = False
    architecture: dict[str, Any] = field(default_factory=dict)
    batch_rows: int = 64
    output: str | None = None
    allow: list[str] = field(default_factory=list)
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    peft: PeftConfig = field(default_factory=PeftConfig)
    optimizer: dict[str, Any] = field(default_factory=dict)
    scheduler: dict[str, Any] = field(default_factory=dict)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    logger: LoggerConfig = field(default_factory=LoggerConfig)
    paths: PathsConfig = field(default_factory=PathsConfig)


@dataclass
class PrepareConfig:
    """Everything of `harmonize prepare`: raw corpora become a folder of unified question-answer examples.

    source: Where the raw material is; `extra`: further sources by name (`+source@extra.mmlu=mmlu`).
    rewriter: What turns it into questions; anchors: contrastive anchors for the forget questions.
    name: Of the data set; null takes the first source's.
    output: The folder to write; null takes prepared/<name>. overwrite: Replace a prepared data set that is there.
    workers: Processes for the rewriters rules and none; null = one per core. The output does not depend on it.
    chunk_words: Words of a part of a passage.
    max_records: Records read of each source; null = all.
    limits: Bounds of validation that differ from the defaults (min_question_words, max_answer_words, ...).
    split, split_seed: Shares per role as in `dataset.split`, and another choice of held-out subjects.
    embedding: Model folder whose hidden states help to mine anchors; null goes by words alone.
    """

    source: dict[str, Any] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)
    rewriter: dict[str, Any] = field(default_factory=dict)
    anchors: dict[str, Any] = field(default_factory=dict)
    name: str | None = None
    output: str | None = None
    overwrite: bool = False
    workers: int | None = None
    chunk_words: int = 300
    max_records: int | None = None
    limits: dict[str, Any] = field(default_factory=dict)
    split: dict[str, Any] = field(default_factory=dict)
    split_seed: int = 0
    embedding: str | None = None
    allow: list[str] = field(default_factory=list)
    paths: PathsConfig = field(default_factory=PathsConfig)
