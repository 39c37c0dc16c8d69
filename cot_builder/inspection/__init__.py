"""What an inspector does: the tools, the toolbox, the episode, the chat rendering."""
