"""Publishing on the Hugging Face Hub: what leaves the machine, how, and what a stranger can check of it."""
