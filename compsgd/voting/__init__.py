"""One round of N workers: encoders, ballots, exchange, aggregator."""
