"""Values and helpers that several tests share."""
