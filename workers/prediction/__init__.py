"""What a step would take on a network and a machine that are not there."""
