"""Answers with the forest in model.onnx. All of it is the stack's: model_fn, input_fn, predict_fn, output_fn."""
