"""What tests need to talk to either framework."""
