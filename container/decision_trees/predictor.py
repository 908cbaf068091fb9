"""Answers with the tree in model.onnx. What is not here is the stack's: model_fn, input_fn, predict_fn, output_fn."""

ROWS_ARE_INDEPENDENT = True  # so a large request may be cut, and its pieces answered side by side
