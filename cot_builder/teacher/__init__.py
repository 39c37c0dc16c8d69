"""Teachers, and the gates their drafts must pass."""
