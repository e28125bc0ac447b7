"""One run: options, data, models, the training loop of a process, results, the command."""
