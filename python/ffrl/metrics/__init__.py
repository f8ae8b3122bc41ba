"""What a model is judged by, beside the equivariance error of `ffrl.evaluation`; docs/measures.md defines each."""
