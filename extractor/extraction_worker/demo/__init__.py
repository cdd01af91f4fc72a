"""A PostgreSQL of our own and a data set for ``extraction demo``, the tests and the benchmarks."""
