"""Models trained by us, safetensors with their cards."""
