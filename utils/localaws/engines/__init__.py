"""What runs an image's `train` and `serve`: processes of this machine, or containers; and where their lines go."""
