"""The benchmark suite: the store, the ceilings of the machine and the peers, same work, same run, interleaved. See bench/README.md."""
