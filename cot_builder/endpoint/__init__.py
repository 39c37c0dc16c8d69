"""The client for any OpenAI-compatible server: answers are cached, cost is counted and capped."""
