"""One question-answer representation: tasks for rewriters, the rewriters, and the checks on what they return."""
