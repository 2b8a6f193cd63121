"""Data given by URL: what is there, and a mirror of it in the cache, which is then read like any folder."""
