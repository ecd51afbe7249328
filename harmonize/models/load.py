"""Loading a causal language model and its tokenizer from a folder or, if the user says so, from the hub."""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from harmonize.data.corpus import content_hash
from harmonize.data.render import PlainTemplate, Renderer
from harmonize.errors import ModelError, did_you_mean, nearest
from harmonize.models import packing
from harmonize.models.body import blocks_of
from harmonize.models.lora import apply_peft, has_adapters, plain

HUB = "hf:"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
_NOT_CONTENT = ("_name_or_path", "transformers_version", "architectures", "use_cache", "dtype", "torch_dtype")


@dataclass(eq=False)
class LoadedModel:
    """A model with everything that is needed to talk to it.

    Attributes:
        model: A causal LM, wrapped by peft where adapters were asked for.
        tokenizer: Its tokenizer.
        renderer: Turns questions and answers into ids.
        name: As the user wrote it.
    """

    model: Any
    tokenizer: Any
    renderer: Renderer
    name: str = ""
    _digest: str | None = field(default=None, repr=False)

    @property
    def digest(self) -> str:
        """Content hash of configuration and base weights (without adapters), taken on first use and then kept."""
        if self._digest is None:
            self._digest = model_digest(self.model)
        return self._digest

    @digest.setter
    def digest(self, value: str) -> None:
        """Told to a process that has no weights, or a share of them."""
        self._digest = value


def load_model(cfg: Any, peft_cfg: Any = None, path: str | None = None, empty: bool = False) -> LoadedModel:
    """Loads a model, its tokenizer and its adapters.

    Local folders never cause a network request; only `hf:owner/name` does. Weights are safetensors.

    Args:
        cfg: The `model` configuration.
        peft_cfg: The `peft` configuration, or None for the plain model.
        path: Overrides `cfg.name_or_path`.
        empty: The model's form alone, without weights (on torch's device `meta`).

    Raises:
        ModelError: Not found, incomplete, unreadable, or not usable as asked.
    """
    name = str(path or cfg.name_or_path)
    source, options = _source(name, cfg)
    dtype = getattr(cfg, "dtype", None)
    if dtype is not None and dtype not in DTYPES:
        raise ModelError(f"model.dtype={dtype} is unknown. {did_you_mean(str(dtype), DTYPES)}")
    chosen = plain(peft_cfg)
    tokenizer = _load_tokenizer(source, name, options)
    if empty:
        options = {**options, "device_map": "meta"}
    model = _load_weights(source, name, options, cfg, DTYPES[dtype] if dtype else "auto", chosen)
    _check_vocabulary(name, model, tokenizer)
    renderer = Renderer(
        tokenizer,
        stop_ids=stop_ids(model),
        plain=PlainTemplate(cfg.plain_instruction, cfg.plain_question),
        chat=cfg.chat_template,
    )
    if getattr(cfg, "gradient_checkpointing", False):
        enable_checkpointing(model)
    model = apply_peft(model, chosen)
    return LoadedModel(model, tokenizer, renderer, name)


def enable_checkpointing(model: Any) -> None:
    """Non-reentrant activation checkpointing; embeddings pass gradients on, so that adapters get theirs.

    Raises:
        ModelError: The architecture does not support it.
    """
    kwargs = {"use_reentrant": False}
    try:
        if hasattr(model, "activation_checkpointing_enable"):
            model.activation_checkpointing_enable(kwargs)
        else:  # transformers before 5.20 or so
            model.gradient_checkpointing_enable(kwargs)
    except ValueError as error:
        raise ModelError(f"{error} Set model.gradient_checkpointing=false.") from error
    model.enable_input_require_grads()


def stop_ids(model: Any) -> tuple[int, ...]:
    """Every id that ends a generation, from the generation config or else the model config."""
    found: Any = None
    for config in (getattr(model, "generation_config", None), getattr(model, "config", None)):
        found = getattr(config, "eos_token_id", None)
        if found is not None:
            break
    if found is None:
        return ()
    return tuple(int(i) for i in found) if isinstance(found, Iterable) else (int(found),)


def model_digest(model: nn.Module) -> str:
    """SHA-256 over configuration and base weights, the same with adapters as without."""
    base = model.get_base_model() if has_adapters(model) else model  # type: ignore[operator]
    config = {k: v for k, v in base.config.to_dict().items() if k not in _NOT_CONTENT}  # type: ignore[union-attr, operator]
    state = {k.replace(".base_layer.", "."): v for k, v in base.state_dict().items() if ".lora_" not in k}
    return tensors_digest(state, content_hash(config))


def tensors_digest(state: Mapping[str, Any], head: str = "") -> str:
    """SHA-256 over `head` and the tensors by name: names, dtypes, shapes and bytes."""
    digest = hashlib.sha256(head.encode())
    for name in sorted(state):
        value = state[name]
        if isinstance(value, Tensor):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _source(name: str, cfg: Any) -> tuple[str, dict[str, Any]]:
    """What to hand to transformers: a checked local folder, or a hub name with its revision."""
    trust = bool(getattr(cfg, "trust_remote_code", False))
    if name.startswith(HUB):
        hub = name.removeprefix(HUB)
        if not re.fullmatch(r"([\w.-]+/)?[\w.-]+", hub):
            raise ModelError(
                f"'{name}' is not a hub name; write hf:owner/name, for example hf:openai-community/gpt2."
            )
        revision = getattr(cfg, "revision", None)
        return hub, {"trust_remote_code": trust, **({"revision": revision} if revision else {})}
    folder = Path(name).expanduser()
    if not folder.is_dir():
        raise ModelError(_not_found(name, folder))
    _check_folder(folder)
    return str(folder), {"trust_remote_code": trust, "local_files_only": True}


def _not_found(name: str, folder: Path) -> str:
    what = "is a file, not a model folder" if folder.exists() else "does not exist"
    message = f"The model folder '{name}' {what}."
    wrong, parent = folder.name, folder.parent
    while not parent.is_dir() and parent != parent.parent:
        wrong, parent = parent.name, parent.parent
    if parent.is_dir():
        close = nearest(
            wrong, [p.name for p in parent.iterdir() if p.is_dir() and not p.name.startswith(".")]
        )
        if close:
            message += f" Did you mean '{parent / close}'?"
    if _HUB_NAME.fullmatch(name):
        message += f" For a model on the Hugging Face hub write model.name_or_path=hf:{name}."
    else:
        message += " Give a folder made by save_pretrained, or hf:owner/name for the hub."
    return message


def _check_folder(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        if (folder / "adapter_config.json").is_file():
            raise ModelError(f"'{folder}' holds an adapter, not a model. Merge it into its base model first.")
        raise ModelError(
            f"'{folder}' has no config.json, so it is not a model folder made by save_pretrained."
        )
    if not any(folder.glob("*.safetensors")):
        other = [p.name for p in (*folder.glob("*.bin"), *folder.glob("*.pt"), *folder.glob("*.pth"))]
        hint = (
            f"{other[0]} is a pickle, which can run code and is not loaded; save the model again with "
            "model.save_pretrained(folder), which writes safetensors."
            if other
            else "Expected model.safetensors or its shards; is the download complete?"
        )
        raise ModelError(f"'{folder}' has no weights. {hint}")
    if not any((folder / f).is_file() for f in _TOKENIZER_FILES):
        raise ModelError(
            f"'{folder}' has no tokenizer. Save it there: tokenizer.save_pretrained('{folder}')."
        )


def _load_tokenizer(source: str, name: str, options: dict[str, Any]) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(source, **options)
    except Exception as error:
        raise ModelError(_explain(name, "tokenizer", error)) from error


def _load_weights(
    source: str, name: str, options: dict[str, Any], cfg: Any, dtype: Any, peft: dict[str, Any]
) -> Any:
    from transformers import AutoModelForCausalLM

    options = {**options, **_quantization(peft), "dtype": dtype, "use_safetensors": True}
    if getattr(cfg, "attention", None):
        packing.register()
        options["attn_implementation"] = cfg.attention
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            model, info = AutoModelForCausalLM.from_pretrained(source, output_loading_info=True, **options)
    except Exception as error:
        raise ModelError(_explain(name, "model", error)) from error
    missing = sorted(info.get("missing_keys") or ())
    mismatched = sorted(str(k) for k in info.get("mismatched_keys") or ())
    if missing or mismatched:
        raise ModelError(
            f"The weights of '{name}' do not fit its config.json: {len(missing)} missing, {len(mismatched)} of another "
            f"shape ({', '.join((missing + mismatched)[:3])}, ...). Is this the right folder, and complete?"
        )
    if getattr(cfg, "attention", None) in packing.KERNELS:
        packing.check(model, blocks_of(model)[0])
    return model.eval()


def _check_vocabulary(name: str, model: Any, tokenizer: Any) -> None:
    """Refuses a tokenizer with ids that the model has no embedding for."""
    rows = int(model.get_input_embeddings().weight.shape[0])
    largest = max(tokenizer.get_vocab().values(), default=-1)
    if largest >= rows:
        raise ModelError(
            f"The tokenizer of '{name}' has ids up to {largest}, but the model has embeddings for {rows} tokens. "
            "It belongs to another model, or tokens were added without model.resize_token_embeddings."
        )


def _quantization(peft: dict[str, Any]) -> dict[str, Any]:
    """Options of QLoRA: the base in 4-bit NF4."""
    if not peft.get("load_in_4bit"):
        return {}
    if not torch.cuda.is_available():
        raise ModelError("peft.load_in_4bit=true needs a CUDA GPU, and torch sees none. Use peft=lora.")
    try:
        import bitsandbytes  # type: ignore[import-not-found]  # noqa: F401
    except ImportError:
        raise ModelError(
            "peft.load_in_4bit=true needs bitsandbytes: pip install 'harmonize[qlora]', or use peft=lora."
        ) from None
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    return {"quantization_config": config, "device_map": {"": torch.cuda.current_device()}}


def _explain(name: str, part: str, error: Exception) -> str:
    """One sentence for what transformers, the hub or safetensors raised."""
    text = str(error)
    kind = type(error).__name__
    line = " ".join(text.split())[:300]
    if "trust_remote_code" in text:
        return (
            f"'{name}' ships its own code, which would run on this machine. If you trust it, set "
            "model.trust_remote_code=true."
        )
    offline = (
        "offline",
        "connect to",
        "LocalEntryNotFound",
        "couldn't connect",
        "Max retries",
        "ConnectError",
    )
    if name.startswith(HUB) and any(w.lower() in f"{kind} {text}".lower() for w in offline):
        return (
            f"The {part} '{name}' is not in the local Hugging Face cache and the hub cannot be reached. Connect, "
            "unset HF_HUB_OFFLINE, or give a local folder: model.name_or_path=/path/to/model."
        )
    if name.startswith(HUB):
        return f"The hub has no usable {part} under '{name}', or access to it is restricted: {line}"
    if "flash" in text.lower() and "install" in text:
        return (
            "model.attention asks for a kernel that is not installed: pip install flash-attn, or use "
            "model.attention=varlen, which reads rows without padding with torch's own."
        )
    if kind == "SafetensorError":
        return f"The weights of '{name}' are damaged ({line}). Copy or download the folder again."
    if isinstance(error, json.JSONDecodeError):
        return f"A JSON file of '{name}' is malformed: {line}"
    return f"The {part} of '{name}' cannot be loaded ({kind}: {line})."
