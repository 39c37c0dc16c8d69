"""Trajectories to token ids, images and labels."""
