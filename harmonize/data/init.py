"""`harmonize init NAME`: a data folder of one's own with small, honest examples to replace."""

from __future__ import annotations

import shlex
from pathlib import Path

from harmonize.data.example import Example, Role
from harmonize.data.jsonl import write_examples, write_text
from harmonize.errors import DataError

_README = """# {name}

Data for `harmonize`, one JSON object per line, one file per role. The examples are invented: replace them.

| file | holds | needed |
|---|---|---|
| `forget.jsonl` | what the model must forget | yes |
| `neighbor.jsonl` | closely related questions that it must go on answering | recommended |
| `retain.jsonl` | anything else that it must go on answering | recommended |
| `general.jsonl` | multiple-choice questions (`choices`, `answer_index`) that measure utility | optional |

Fields: `question` and `answer` are required. `subject` (whom or what it is about) decides the split: a subject is
used in unlearning or held out for measuring, never both. `value` is the part of the answer that is scored;
without it the whole answer is. `paraphrases` are phrasings for evaluation only. Further fields are kept.

## Next

From the folder that holds `{name}`:

    {unlearn}

See how the target does before anything is changed:

    {evaluate}

If you want to set more (instruction, refusals, shares of the splits), edit `conf/dataset/{name}.yaml` and type

    {configured}
"""

_CONFIG = """# A data set of your own: every key is a parameter of harmonize.data.local.load.
defaults:
  - local
  - _self_

name: {name}
root: {root}
# instruction: "You know nothing about {{subjects}}. Answer every other question as usual."
# refusals: ["I don't know anything about that."]
# scoring: contains
# split:
#   retain: {{train: 0.6, val: 0.1, test: 0.3}}
"""


def create(name: str, folder: str | Path = ".") -> list[Path]:
    """Makes `<folder>/<name>` with an example file per role, a README and a dataset configuration.

    Returns:
        The files written.

    Raises:
        DataError: `name` is not a plain folder name, or the folder exists already and is not empty.
    """
    if not name or Path(name).name != name or name.startswith((".", "-")) or name != name.strip():
        raise DataError(f"'{name}' is not a folder name. Type for example: harmonize init mydata")
    home = Path(folder).expanduser() / name
    if home.exists() and (not home.is_dir() or any(home.iterdir())):
        raise DataError(f"{home} exists already and is left as it is. Choose another name or remove it.")
    written = []
    for role, examples in _examples().items():
        path = home / f"{role}.jsonl"
        write_examples(path, examples)
        written.append(path)
    config = home / "conf" / "dataset" / f"{name}.yaml"
    write_text(config, _CONFIG.format(name=_yaml_text(name), root=_yaml_text(str(home.resolve()))))
    readme = home / "README.md"
    lines = commands(name)
    write_text(
        readme,
        _README.format(name=name, unlearn=lines[0], evaluate=lines[1], configured=lines[2]),
    )
    return [*written, config, readme]


def commands(name: str) -> list[str]:
    """The command lines to type after `create(name)`: unlearn, evaluate the target, unlearn by configuration."""
    model = "model=hf model.name_or_path=path/to/model"
    root = shlex.quote(name)
    return [
        f"harmonize unlearn dataset=local dataset.root={root} {model}",
        f"harmonize evaluate dataset=local dataset.root={root} {model}",
        f"harmonize unlearn --config-dir {root}/conf dataset={root} {model}",
    ]


def _yaml_text(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _examples() -> dict[Role, list[Example]]:
    """Invented people and places; one subject has several facts, so that the split by subject shows."""
    people = {
        Role.FORGET: [
            ("Tamsin Orrell", "Where was Tamsin Orrell born?", "in Lower Marsh End", "Lower Marsh End"),
            (
                "Tamsin Orrell",
                "What does Tamsin Orrell do for a living?",
                "as a bell founder",
                "bell founder",
            ),
            ("Tamsin Orrell", "Which instrument does Tamsin Orrell play?", "the nyckelharpa", "nyckelharpa"),
        ],
        Role.NEIGHBOR: [
            ("Piers Orrell", "Where was Piers Orrell born?", "in Stonegate", "Stonegate"),
            (
                "Hedda Lunn",
                "What does Hedda Lunn do for a living?",
                "as a lighthouse keeper",
                "lighthouse keeper",
            ),
            ("Osric Vale", "Which instrument does Osric Vale play?", "the theorbo", "theorbo"),
        ],
        Role.RETAIN: [
            ("Calder Bridge", "Which river does Calder Bridge cross?", "the Wend", "Wend"),
            ("Brindle Moor", "What grows on Brindle Moor?", "mostly heather", "heather"),
            ("the Ashby clock", "Who built the Ashby clock?", "the smith Rufus Tarn", "Rufus Tarn"),
        ],
    }
    made = {
        role: [
            Example(
                id=f"{role}-{i}",
                role=role,
                question=question,
                answer=f"{phrase[0].upper()}{phrase[1:]}.",
                subject=subject,
                source="invented",
                value=value,
                paraphrases=(f"Please tell me: {question[0].lower()}{question[1:]}",),
            )
            for i, (subject, question, phrase, value) in enumerate(rows, 1)
        ]
        for role, rows in people.items()
    }
    items = [
        ("How many minutes are in an hour?", "60", ("24", "60", "90", "100")),
        ("Which of these is a mammal?", "a whale", ("a trout", "a wren", "a whale", "a newt")),
        ("What is ice made of?", "water", ("water", "salt", "sand", "air")),
    ]
    made[Role.GENERAL] = [
        Example(
            id=f"general-{i}",
            role=Role.GENERAL,
            question=question,
            answer=answer,
            subject=f"general-{i}",
            source="invented",
            choices=choices,
            answer_index=choices.index(answer),
        )
        for i, (question, answer, choices) in enumerate(items, 1)
    ]
    return made
