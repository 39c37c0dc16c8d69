"""The inspection tools as an environment that TRL drives."""
