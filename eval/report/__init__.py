"""The HTML report: the corpus, trainings and evaluations on self-contained pages."""
