"""Parts of suites: one evaluator a file."""
