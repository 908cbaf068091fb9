"""What stays: endpoints, their instances, what waits for them and what they leave behind."""
