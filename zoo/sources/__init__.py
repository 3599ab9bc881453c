"""Where entries come from besides local folders: the Hugging Face Hub, S3, HTTPS."""
