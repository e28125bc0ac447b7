"""The vote as a communication hook of DistributedDataParallel."""
