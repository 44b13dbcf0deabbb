"""Reports on runs as one HTML page and as Markdown, in Chinese and English."""
