"""The client to any OpenAI-compatible model: answers kept, cost known and capped."""
