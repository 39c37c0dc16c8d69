"""From benchmark archives to Indus-CoT."""
