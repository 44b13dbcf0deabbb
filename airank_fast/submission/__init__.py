"""What is handed in: submission trees, the description of the system, checksums. Standard library only."""
