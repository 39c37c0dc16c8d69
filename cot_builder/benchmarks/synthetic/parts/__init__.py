"""Procedural parts and textures: one function draws one kind of part that a person would recognise by its name."""
