"""What prefill and decode cost on a device: measured or estimated, in one format."""
