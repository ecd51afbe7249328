"""`harmonize init NAME`: a data folder of one's own."""

from __future__ import annotations

from harmonize.commands.arguments import Parser


def run(argv: list[str]) -> int:
    """Makes the folder, lists what was written and what to type next."""
    parser = Parser("init", "Makes a data folder with an example file per role.", "  harmonize init mydata")
    parser.add_argument("name", help="name of the folder and of the data set")
    parser.add_argument("--folder", default=".", help="where to make it (default: here)")
    given = parser.parse(argv)

    from harmonize.data.init import commands, create

    for path in create(given.name, given.folder):
        print(path)
    print("\nReplace the examples by your own, then type one of:")
    for line in commands(given.name):
        print(f"  {line}")
    return 0
