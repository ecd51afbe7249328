"""Guards: what stands around a model's weights when it speaks. A guarded model is measured as a model is."""
