"""The `darkroom` command. It starts the platform's processes and talks to them, and never imports them."""
