"""What makes the model fast on a GPU: compiled parts and captured CUDA graphs."""
