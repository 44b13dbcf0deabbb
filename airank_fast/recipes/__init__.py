"""Recipes, one file per benchmark: model, data, optimizer, schedule, loss, evaluation and targets."""
