"""Protocol definitions (posttrain.v1) and the code generated from them (`make proto`)."""
