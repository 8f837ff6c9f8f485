"""From a model package to engines that need no torch, each behind a gate."""
