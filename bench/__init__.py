"""Side-by-side speed: every row is the median ratio of paired runs in one process, never an absolute time."""
