"""What several tests share: parts to check, files to read, scans made on the spot."""
