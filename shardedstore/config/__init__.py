"""The config: its document, what it must not say, and its JSON Schema."""
