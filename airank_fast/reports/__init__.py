"""Reports for people: what runs left behind, as one HTML page and as Markdown, in Chinese and English."""
