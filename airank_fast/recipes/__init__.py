"""One file per benchmark: the model, data, optimizer, schedule, loss, evaluation and targets it trains with."""
