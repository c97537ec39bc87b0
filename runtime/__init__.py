"""What bytes mean, what a model computes, and running it: numpy and our own C++ kernels, no torch."""
