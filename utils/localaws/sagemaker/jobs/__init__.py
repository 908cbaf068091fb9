"""What ends by itself: training, batch transform and tuning jobs."""
