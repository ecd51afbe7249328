"""Typed schemas of the configuration groups; unknown keys and wrong types fail when Hydra composes.

Groups whose keys depend on the choice (dataset, method objectives, optimizer, scheduler, ...) are open
mappings with a `_target_`; their parameters are checked against the target's signature in
`harmonize.config.instantiate`, at the same moment.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from omegaconf import MISSING


class PrefillMode(Enum):
    """How prefilled views are chosen in training."""

    none = "none"
    random = "random"
    worst_of_n = "worst_of_n"


class CacheMode(Enum):
    """What the teacher cache stores: hidden states (exact), top-K' only (bounded), nothing (live teacher)."""

    hidden = "hidden"
    topk = "topk"
    none = "none"


class OverBudget(Enum):
    """What becomes of a cache that the budget or the disk does not allow: an error, top-K' lists, a live model."""

    error = "error"
    topk = "topk"
    none = "none"


class Earlier(Enum):
    """What becomes of the examples of earlier requests: left alone, or forgotten once more."""

    leave = "leave"
    forget = "forget"


@dataclass
class SequenceConfig:
    """`sequence`: deletion requests, one after another.

    order: Their ids; null = all, as they occur in the data.
    earlier: leave (the default: their data may be gone) or forget (their training examples are trained on as forget
        again, in every later run).
    request: Whose turn it is. `harmonize sequence` sets it for each of its runs; null = all requests at once, as one
        forget set.
    """

    order: list[str] | None = None
    earlier: Earlier = Earlier.leave
    request: str | None = None


@dataclass
class PrefillConfig:
    """`dataset.prefill`: prefilled views, available to every method alike.

    mode: none, random, or worst_of_n (the candidate under which the current student leaks most).
    share: Share of a role's rows that are shown prefilled.
    roles: Roles whose rows may be prefilled.
    openers, prefixes: Which kinds are used in training.
    depths: Answer-prefix depths in training, as shares of the tokens before the scored value.
    eval_depths: Depths in evaluation.
    heldout_share: Share of trained forget facts whose own answer prefixes are never trained on.
    n, every: worst_of_n draws n candidates and probes every so many steps.
    """

    mode: PrefillMode = PrefillMode.random
    share: float = 0.5
    roles: list[str] = field(default_factory=lambda: ["forget", "neighbor", "retain"])
    openers: bool = True
    prefixes: bool = True
    depths: list[float] = field(default_factory=lambda: [0.25, 0.5, 0.75, 1.0])
    eval_depths: list[float] = field(default_factory=lambda: [0.3, 0.6, 1.0])
    heldout_share: float = 0.0
    n: int = 4
    every: int = 1


@dataclass
class SplitShares:
    """Shares of a role's subjects for training, choosing and reporting; they sum to 1."""

    train: float = 0.6
    val: float = 0.1
    test: float = 0.3


@dataclass
class DatasetConfig(dict[str, Any]):
    """`dataset`: a reader (`_target_`) with its parameters, plus what every data set has.

    Open: further keys are parameters of the reader.
    """

    _target_: str = MISSING
    name: str = MISSING
    prefill: PrefillConfig = field(default_factory=PrefillConfig)


@dataclass
class ModelConfig:
    """`model`: the target model.

    name_or_path: A folder, `hf:owner/name` for the hub, or `sandbox:target`.
    gold: The same model never trained on the forget set (a folder, `sandbox:gold`), or null.
    dtype: float32, bfloat16 or float16; null keeps the checkpoint's own.
    attention: sdpa, eager, varlen (no padding is computed: torch's flash kernel on CUDA, row by row elsewhere),
        flash_attention_2 or 3 (no padding either; needs the flash-attn package); null lets transformers choose.
    chat_template: null uses the tokenizer's where it has one; false forces the plain template.
    plain_instruction, plain_question: The plain template's turns.
    gradient_checkpointing: Trade time for memory in the backward pass.
    trust_remote_code: Run code that ships with the model. Off unless you turn it on.
    device: auto, cpu, cuda, or sharded (a share on each of trainer.devices, with trainer.strategy=fsdp2).
    """

    name_or_path: str = MISSING
    gold: str | None = None
    revision: str | None = None
    dtype: str | None = "float32"
    attention: str | None = "sdpa"
    chat_template: bool | None = None
    plain_instruction: str = "{instruction}\n\n"
    plain_question: str = "Question: {question}\nAnswer:"
    gradient_checkpointing: bool = False
    trust_remote_code: bool = False
    device: str = "auto"


@dataclass
class PeftConfig(dict[str, Any]):
    """`peft`: `peft_type: none` trains all weights; otherwise peft's own `LoraConfig` names.

    init: A function (`_target_`, settings) that gives each layer's adapter its first matrices, from the layer's weight
        and what its outputs look like on forget and retain rows. The base weights stay as they are.
    merge: Export with the adapter merged into the base (an adapter alone leaves the knowledge in the base).
    load_in_4bit: QLoRA: the base is loaded in 4-bit NF4 (needs the `qlora` extra and CUDA).
    """

    peft_type: str = "none"
    merge: bool = True
    load_in_4bit: bool = False


class Evidence(Enum):
    """The best source of a method that was read (`harmonize.reporting.catalogue.EVIDENCE` says what each means)."""

    code = "code"
    paper = "paper"
    several = "several"
    note = "note"
    abstract = "abstract"
    ours = "ours"


@dataclass
class MethodConfig:
    """`method`: objectives by name, and what each role's rows answer with.

    objectives: name -> {_target_, weight, roles, parameters of the function}.
    response: role -> reference (the data's answer), teacher (the instructed teacher's own answer), refusal, alternate
        (another plausible answer, `meta.alternates` of the data), or random (random tokens in place of question and
        answer). A list gives each drawn example a row per source, in one pair: [refusal, reference].
        A role that is left out is not trained on.
    description, paper, evidence, fidelity: What it does, its source, how the source was read, and what differs from it;
        for `harmonize ls methods`, docs/methods.md and the results.
    variants: What a known variant is -> the overrides that give it.
    """

    name: str = MISSING
    description: str = ""
    paper: str = ""
    evidence: Evidence | None = None
    fidelity: str = ""
    variants: dict[str, str] = field(default_factory=dict)
    objectives: dict[str, Any] = field(default_factory=dict)
    response: dict[str, Any] = field(default_factory=dict)


@dataclass
class TeacherConfig:
    """`teacher`: the frozen start model plus an instruction.

    instruction: Text; null takes the data set's first instruction.
    ensemble: Several teachers, one for each instruction; their logits are averaged.
    instructions: Those of an ensemble; an empty list takes all of the data set's.
    instruct_roles: Roles whose questions the teacher reads with the instruction.
    cache: hidden (exact for every id), topk (bounded by the last kept value) or none (live).
    cache_top_k: Length K' of the stored top list; null = 64, and with topk at least four times the longest list that an
        objective reads.
    cache_budget: What one cache, of the teacher or of the reference, may take on the disk (20GB); null leaves it to the
        disk. Its size is known before it is built.
    cache_over_budget: What becomes of one that would take more, or more than is free: error, topk (as `cache: topk`;
        a reference has no such form) or none (as `cache: none`).
    max_new_tokens: Limit of the teacher's own responses.
    report: Measure the teacher on the axes before training.
    leak_limit, overrefusal_limit: A teacher beyond these is reported with a warning.
    """

    name: str = "instructed"
    instruction: str | None = None
    ensemble: bool = False
    instructions: list[str] = field(default_factory=list)
    instruct_roles: list[str] = field(default_factory=lambda: ["forget", "neighbor", "retain"])
    cache: CacheMode = CacheMode.hidden
    cache_top_k: int | None = None
    cache_budget: str | None = None
    cache_over_budget: OverBudget = OverBudget.error
    max_new_tokens: int = 64
    batch_size: int = 64
    report: bool = True
    leak_limit: float = 0.05
    overrefusal_limit: float = 0.05


@dataclass
class StatisticsConfig:
    """`statistics`: what is measured of the start model over the data (Fisher, mean gradient, covariance), and kept.

    path: A folder of statistics made elsewhere (`<cache_dir>/statistics`, or one of those in it), looked at first; of
        another model it is refused.
    batch_size: Rows of one forward pass.
    """

    path: str | None = None
    batch_size: int = 64


@dataclass
class SamplerConfig(dict[str, Any]):
    """`sampler`: how many rows of each role make one optimizer step (`rows`), and the sampler's `_target_`."""

    _target_: str = MISSING
    rows: dict[str, int] = field(default_factory=dict)


@dataclass
class TrainerConfig:
    """`trainer`: Lightning's names.

    max_steps: Optimizer steps. accumulate_grad_batches: Micro-batches per step.
    max_tokens_per_batch: Tokens of a micro-batch at most, padding included: a step is cut into as many as that takes,
        which changes memory and not what is learned. null = no limit.
    compile: Run the model's blocks through torch.compile in training. Pays on a GPU after a few minutes of training.
    val_check_interval: Steps between looks at the val axes (0 = never).
    early_stop_patience: Looks without improvement before stopping (0 = never).
    neighbor_floor, utility_floor: Keep-best considers only states with at least this share of the
        target's own val figures.
    floor_patience: Looks in a row below utility_floor after which the run is given up and marked rejected (0 = never).
    checkpoint_every: Steps between resume checkpoints (0 = only the last).
    devices, num_nodes: Devices of a machine, and machines (docs/scale.md). strategy: auto (one device, or ddp), ddp,
        deepspeed_stage_1, deepspeed_stage_2 or fsdp2.
    cosines_every_n_steps: Steps between logs of the cosines between the terms' gradients (0 = never; such a step costs
        one backward pass per term and role more, and changes nothing in training).
    """

    max_steps: int = 400
    accumulate_grad_batches: int = 1
    max_tokens_per_batch: int | None = None
    compile: bool = False
    gradient_clip_val: float | None = 1.0
    precision: str = "32-true"
    accelerator: str = "auto"
    devices: int = 1
    num_nodes: int = 1
    strategy: str = "auto"
    deterministic: bool = True
    val_check_interval: int = 100
    early_stop_patience: int = 0
    keep_best: bool = True
    neighbor_floor: float = 0.9
    utility_floor: float = 0.9
    floor_patience: int = 0
    checkpoint_every: int = 100
    log_every_n_steps: int = 10
    cosines_every_n_steps: int = 0
    enable_progress_bar: bool = True
    num_threads: int | None = None


@dataclass
class SuiteConfig:
    """`suite`: what is measured, and how long answers may get.

    axes: Of the five (forget, retain, neighbor, asr, utility) and relearn; null = all, an empty list = the parts alone.
        What chooses (val) always looks at the five.
    parts: name -> {_target_, settings}: further evaluators, measured on test (harmonize.evaluation.suite.Part).
    reference: Run folder or results.json of a model that never saw the forget set, measured with the same parts; null
        takes model.gold where there is one.
    relearn_*: The relearning probe: steps on so many forget facts, learning rate, then accuracy on the others.
    leak_*: Sampled answers to each forget question, and at which temperature (0 draws = none).
    max_examples: Cap per axis and split (null = all), drawn by a fixed hash.
    """

    name: str = "five_axes"
    _target_: str = MISSING
    axes: list[str] | None = None
    parts: dict[str, Any] = field(default_factory=dict)
    reference: str | None = None
    max_new_tokens: int = 32
    batch_size: int = 256
    max_examples: int | None = None
    val_max_examples: int | None = 200
    relearn: bool = True
    relearn_steps: int = 30
    relearn_facts: int = 10
    relearn_lr: float = 1e-3
    leak_draws: int = 8
    leak_temperature: float = 1.0
    confidence: float = 0.95
    bootstrap: int = 1000


@dataclass
class WandbConfig:
    """`logger.wandb`: the real client. mode: offline, online or disabled."""

    enabled: bool = True
    mode: str = "offline"
    project: str = "harmonize"
    entity: str | None = None
    group: str | None = None
    tags: list[str] = field(default_factory=list)
    upload_samples: bool = False


@dataclass
class LoggerConfig:
    """`logger`: CSV is always possible; W&B is offline unless put online; tensorboard writes event files."""

    csv: bool = True
    tensorboard: bool = False
    wandb: WandbConfig = field(default_factory=WandbConfig)


@dataclass
class PathsConfig:
    """`paths`: where runs and caches go. `cache_dir` follows HARMONIZE_CACHE."""

    runs: str = "runs"
    cache_dir: str = MISSING
