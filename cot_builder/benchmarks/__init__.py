"""The data sets: one file each, with licence, citation, layout and quirks."""
