"""Image shards, atomic stage output, data sources and other storage helpers."""
