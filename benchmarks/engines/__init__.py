"""The engine without the platform: what `batching`, `engine`, `steps` and `gpu_check` draw with."""
