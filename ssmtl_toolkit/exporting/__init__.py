"""Trained weights written for other libraries, and the words that go with them."""
