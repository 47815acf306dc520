"""Webhooks: tells receivers that jobs have ended. A process of its own, so that no receiver can slow API or workers."""
