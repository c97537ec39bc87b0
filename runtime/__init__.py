"""What bytes mean, what a model computes, and how it runs: numpy and our C++ kernels, no torch."""
