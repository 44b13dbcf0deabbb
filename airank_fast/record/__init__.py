"""The record of a run: events, the figures made from them, and log formats. Standard library only."""
