"""What clients and webhook receivers are shown. Pure."""
