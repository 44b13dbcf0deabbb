"""What a run leaves behind: events, the figures made from them, and log formats. Standard library only."""
