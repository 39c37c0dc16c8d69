"""Inspection: the tools, the toolbox, the agent loop, and the rendering and parsing of chats."""
