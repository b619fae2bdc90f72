"""What `barograph doctor` checks, and how it judges. Pure."""
