"""MLPerf's rule book: the rules as data, the log, its contents, a result's set of logs, the reference points."""
