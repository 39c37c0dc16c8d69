"""Scripts that do the one job of `bench.endpoint` with other libraries, each in an environment of its own."""
