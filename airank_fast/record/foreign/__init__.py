"""Logs of other programs: recognised, completed, read as events, and converted."""
