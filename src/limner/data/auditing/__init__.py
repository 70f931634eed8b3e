"""What ``check`` looks at, and what it says. ``check`` is the door."""
