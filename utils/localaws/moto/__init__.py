"""The services that moto answers for, made durable, and what it answers wrongly."""
