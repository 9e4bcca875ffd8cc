"""The serverless worker: RunPod jobs in, speech out, as a file in S3 or as a stream of pieces. ``python -m worker``."""
