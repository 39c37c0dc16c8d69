"""Read, check and write the corpus, its drafts, reviews and priors."""
