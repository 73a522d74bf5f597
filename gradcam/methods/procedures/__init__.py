"""What methods run that one capture is not enough for: at a layer, at the input, at attention."""
