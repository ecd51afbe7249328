"""`python -m harmonize` is the same as the `harmonize` command."""

from harmonize.cli import main

if __name__ == "__main__":
    main()
