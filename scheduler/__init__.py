"""Pure decisions: what shares a batch and when it runs. No I/O; time comes in as an argument."""
