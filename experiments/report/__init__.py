"""A sweep's report: one HTML document that tells the post's story with the sweep's own numbers and pictures."""
