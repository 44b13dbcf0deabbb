"""What a log, a set of runs or a submission must satisfy, one file a rule book; and the scores made of them."""
