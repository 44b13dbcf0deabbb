"""MLPerf's rule book: the rules as data, and the checks of a log, of a set of logs and of its convergence."""
