"""The `darkroom` command: starts and talks to the platform's processes, never imports them."""
