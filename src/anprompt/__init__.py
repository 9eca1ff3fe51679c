"""Prompt tuning of CLIP-like models that stays right under noise and on unseen classes."""
