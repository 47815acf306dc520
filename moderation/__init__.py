"""Moderation: what prompts and pictures may not be, who looks, and what follows."""
