"""The rule book of MLPerf inference, rounds 4.0 and 6.1: the logs of a test, and submission trees."""
