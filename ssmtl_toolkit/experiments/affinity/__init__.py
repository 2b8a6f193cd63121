"""Which pretext tasks go together: what each mix is worth by real runs, and how far cheap scores could tell."""
