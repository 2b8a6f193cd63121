"""What comes after pre-training: transfer, fine-tuning, prediction."""
