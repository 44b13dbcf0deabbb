"""One file a log format: events to lines and lines back to events."""
