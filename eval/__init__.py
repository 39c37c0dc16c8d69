"""Looking at the corpus and, later, measuring the agent."""
