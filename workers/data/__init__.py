"""Data sets, which batch goes to which worker, and damage to the files."""
