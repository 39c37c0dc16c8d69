"""The stages, in order: pull, select, patch, prior, draft, assemble."""
