"""The networks' seams, the training loop and what it keeps."""
