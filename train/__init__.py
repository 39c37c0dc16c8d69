"""Trains the inspection agent: supervised fine-tuning on Indus-CoT, then reinforcement learning with the real tools."""
