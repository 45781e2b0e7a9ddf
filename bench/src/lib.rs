//! Measuring wove: micro-benchmarks of the data plane and of gossip.
