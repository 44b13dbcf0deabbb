"""Rule books for logs, sets of runs and submissions, one file a book; and the scores of runs."""
