"""What data are like and what suits them, from their headers and, when asked, their voxels; without torch."""
