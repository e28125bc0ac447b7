"""What the benchmarks measure, and how: times, and memory at its peak."""
