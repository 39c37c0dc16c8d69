"""Training the agent: supervised fine-tuning on Indus-CoT, then reinforcement learning with real tools."""
