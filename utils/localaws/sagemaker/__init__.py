"""The SageMaker control plane, executing: one method an operation, and what all of it shares."""
