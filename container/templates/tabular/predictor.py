"""Answers with what is in model.onnx. All of it is the stack's: model_fn, input_fn, predict_fn, output_fn."""

# TODO: one of the four that is your own; the stack's stay in force for the others.
