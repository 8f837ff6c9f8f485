"""Vertex AI: what submits a job, and what a job's container does differently. Loads no torch."""
