"""One page that shows what there is to choose from: accuracy against latency, and how the chosen point errs."""
