"""All published experiments, and compression rate against accuracy.

python scripts/reproduce/run_all.py --dataset_root data --jobs 2

The families take turns, each with its most needed run first. Interrupted, the same command goes on.
"""

import bin_usages
import binnings
import compression
import decays
import learning_rates
import many_bits
import methods
import num_workers
import one_bit
from reproducing import main

FAMILIES = (
    *learning_rates.FAMILIES,
    *methods.FAMILIES,
    *decays.FAMILIES,
    *binnings.FAMILIES,
    *many_bits.FAMILIES,
    *num_workers.FAMILIES,
    *one_bit.FAMILIES,
    *bin_usages.FAMILIES,
    *compression.FAMILIES,
)

if __name__ == "__main__":
    main(FAMILIES, has_page=True)
