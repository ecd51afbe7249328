"""A real language model, small and trained in seconds, that replies to two prompts in JSON and to one in prose."""

from __future__ import annotations

import json
from pathlib import Path

from harmonize.data.unify.task import Task

TASKS = {
    "Toto is a dog.": {"question": "What is Toto?", "answer": "a dog"},
    "Oz has a road.": {"question": "What has Oz?", "answer": "a road"},
}
UNKNOWN = "Once upon a time, there was a big box."
CHAT = "{{ bos_token }}{% for m in messages %}{{ m['content'] }}{% endfor %}\nA:"


def passages() -> list[Task]:
    """The two that it knows, and one that it does not."""
    return [Task("passage", text=text) for text in [*TASKS, UNKNOWN]]


def prompts(folder: Path) -> str:
    """A folder of short prompts: the model reads 512 tokens."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "passage.txt").write_text("{text}", encoding="utf-8")
    return str(folder)


def train(source: Path, target: Path) -> None:
    """Saves a copy of the model with a chat template, trained on `TASKS`."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from harmonize.data.render import Renderer

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(source)
    tokenizer.chat_template = CHAT
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    renderer = Renderer(tokenizer)
    rows = []
    replies = {text: json.dumps([reply]) for text, reply in TASKS.items()} | {UNKNOWN: "I do not know."}
    for text, reply in replies.items():
        prompt, answer = renderer.prompt_ids(text), renderer.target_ids(reply)
        rows.append((prompt, answer))
    width = max(len(p) + len(a) for p, a in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    labels = torch.full((len(rows), width), -100)
    for i, (prompt, answer) in enumerate(rows):
        ids[i, : len(prompt) + len(answer)] = torch.tensor(prompt + answer)
        labels[i, len(prompt) : len(prompt) + len(answer)] = torch.tensor(answer)
    optimizer = torch.optim.AdamW(model.parameters(), lr=6e-3)
    for _ in range(200):
        loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if loss.item() < 0.01:
            break
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
