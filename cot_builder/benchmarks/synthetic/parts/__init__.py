"""Procedural parts and textures. Each function draws one kind of part, recognisable by its name."""
