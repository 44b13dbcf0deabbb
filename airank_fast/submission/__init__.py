"""Builds a submission: its trees, the description of the system, checksums. Standard library only."""
