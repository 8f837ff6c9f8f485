"""Many fits that look for good settings, and what they teach."""
