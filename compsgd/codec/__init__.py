"""Levels, codes and packed bytes: one worker's gradient to a ballot, and ballots to a result."""
